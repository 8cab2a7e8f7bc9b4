"""Differentiable measures of the solver's effort, to train SDEs that are quick to solve."""

import dataclasses
import math
import numbers

import torch

from neurosde.errors import DataError
from neurosde.noise import StepNoise, as_seed, chain
from neurosde.sde import SDE
from neurosde.solve.grid import TimeGrid
from neurosde.solve.stepper import AbstractStepper, Step, Stepped
from neurosde.typing import Literal, Tensor

KINDS = ("error", "squared_error", "stiffness")
SAMPLES = ("all", "one_step", "one_time")


@dataclasses.dataclass(frozen=True)
class StepPenalty:
    """Mean over the steps of a series, then over series, of ``E h``: embedded error times step, or the like.

    ``E = sqrt(mean_i [e_i / (atol + rtol max(|y_i|, |y+_i|))]^2)``. Global: all steps, differentiated
    through the whole solve (Pal, Ma, Shah & Rackauckas 2021). Local: one step from a detached state, which
    any gradient mode can afford (Pal, Edelman & Rackauckas 2023): "one_step" draws it evenly among the
    steps but the last (their biased form), "one_time" with probability in proportion to its length (their
    unbiased form). The one step has the length and the start of one that was taken, and noise of its own.

    Weights do not carry over. The three samples have different means: ``N^-1 sum E_j h_j`` for the first two,
    ``T^-1 sum E_j h_j^2`` for the last. Published weights are for sums or means as the paper has it. And E is
    measured against the tolerances given *here*, whatever the controller's: tolerances ten times smaller make
    "error" ten and "squared_error" a hundred times larger; "stiffness" does not change. Give those of the
    adaptive solve, or keep them fixed while the latter move.

    It makes solves cheaper by damping what is quick: leave it off where the drift itself is the result, as
    in the identification of a system; a fast rate that is estimated under it comes out too slow. Estimators
    whose drift is read as science take no penalty: :class:`~neurosde.estimators.LightSchrodingerBridge`
    solves nothing in its training, and the bridges of :mod:`neurosde.bridge` keep their drift as it is.

    Parameters
    ----------
    kind
        "error", "squared_error" (``E^2 h``), or "stiffness" (``S = |f(y+) - f(y+ - e)| / |e|``, without h; 0
        where e is nothing but rounding).
    sample
        "all", "one_step" or "one_time".
    rtol, atol
        Tolerances that errors are measured against.
    seed
        Of the sampled step; None for a fresh one each solve. Estimators make it one of each batch.

    Raises
    ------
    DataError
        If a word is not known or a tolerance not positive.

    Examples
    --------
    >>> from neurosde.solve import StepPenalty
    >>> StepPenalty(sample="one_step").kind
    'error'
    """

    kind: Literal["error", "squared_error", "stiffness"] = "error"
    sample: Literal["all", "one_step", "one_time"] = "all"
    rtol: float = 1e-2
    atol: float = 1e-2
    seed: int | None = None

    def __post_init__(self):
        for name, word, known in (("kind", self.kind, KINDS), ("sample", self.sample, SAMPLES)):
            if word not in known:
                raise DataError(f"{name}: expected one of {', '.join(known)}, got {word!r}.")
        real = all(isinstance(x, numbers.Real) and not isinstance(x, bool) for x in (self.rtol, self.atol))
        if not (real and math.isfinite(self.rtol + self.atol) and self.rtol >= 0 and self.atol > 0):
            raise DataError(
                f"rtol, atol: expected numbers rtol >= 0 and atol > 0, got {self.rtol!r}, {self.atol!r}."
            )
        whole = isinstance(self.seed, numbers.Integral) and not isinstance(self.seed, bool)
        if self.seed is not None and not (whole and self.seed >= 0):
            raise DataError(f"seed: expected None or an integer >= 0, got {self.seed!r}.")

    def of_step(self, sde: SDE, step: Step, y: Tensor, stepped: Stepped) -> Tensor:
        """Value of one step, ``(series,)``; zero for steps of length zero."""
        error = stepped.error
        assert error is not None  # the door has asked for an embedded stepper
        h = step.h.expand(len(y), 1).squeeze(-1) if step.h.dim() else step.h.expand(len(y))
        if self.kind == "stiffness":
            ahead = step.t + step.h
            change = sde.drift(ahead, stepped.y) - sde.drift(ahead, stepped.y - error)
            size, rounding = (
                error.square().sum(-1),
                torch.finfo(y.dtype).eps ** 2 * stepped.y.square().sum(-1),
            )
            told = (h > 0) & (size > rounding)
            ratio = (change.square().sum(-1) / torch.where(told, size, 1.0) + _TINY).sqrt()
            return torch.where(told, ratio, 0.0)
        scale = self.atol + self.rtol * torch.maximum(y.abs(), stepped.y.abs())
        square = (error / scale).square().mean(-1)
        return h * (square if self.kind == "squared_error" else (square + _TINY).sqrt())

    def draw(self, grid: TimeGrid, n_series: int) -> Tensor:
        """Number of the sampled step of each series, ``(series,)``."""
        seed, rows = as_seed(self.seed), torch.atleast_2d(grid.times)
        generator = torch.Generator().manual_seed(int(chain(seed, 0)) % 2**63)
        u = torch.rand(len(rows), 1, generator=generator, dtype=torch.float64).to(rows.device)
        if self.sample == "one_step":
            drawn = (u.squeeze(-1) * (grid.n_steps - 1).clamp(min=1)).to(torch.int64)
        else:
            time = rows[:, :1] + u * (rows[:, -1:] - rows[:, :1])
            drawn = torch.searchsorted(rows.contiguous(), time, right=True).squeeze(-1) - 1
        last = (grid.n_steps - 1).clamp(min=0)
        return torch.minimum(drawn.clamp(min=0), last).expand(n_series)

    def of_one_step(
        self, sde: SDE, stepper: AbstractStepper, grid: TimeGrid, number: Tensor, y: Tensor
    ) -> Tensor:
        """Mean over series of the value of one more step from detached states ``(series, state)``."""
        rows = torch.atleast_2d(grid.times).expand(len(y), -1)
        ends = torch.stack([rows.gather(1, (number + k).unsqueeze(-1)).squeeze(-1) for k in (0, 1)], dim=-1)
        noise = StepNoise(
            (len(y), _channels(sde, y)), seed=self.seed, levy=stepper.levy, dtype=y.dtype, device=y.device
        )
        increment = noise.increments(ends).at(0)
        t, y = ends[:, :1].to(y.dtype), y.detach()
        weights = stepper.weights(sde, t.unsqueeze(0), increment.dt.unsqueeze(0))
        step = Step(t, increment.dt, increment, tuple(part[0] for part in weights))
        return self.of_step(sde, step, y, stepper.step(sde, step, y, stepper.start(sde, t, y))).mean()


_TINY = 1e-12  # keeps the slope of a root finite at zero


def _channels(sde: SDE, y: Tensor) -> int:
    return y.shape[-1] if sde.noise_type == "diagonal" else sde.diffusion(y.new_zeros(()), y[:1]).shape[-1]
