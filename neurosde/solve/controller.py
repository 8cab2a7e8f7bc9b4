"""Rules for the lengths of steps."""

import dataclasses
import math
import reprlib
from collections.abc import Iterable

import numpy as np
import torch

from neurosde.arguments import as_number
from neurosde.errors import DataError
from neurosde.typing import Any, NamedTuple, Tensor

_TOLERANCE = "a finite tolerance >= 0", lambda x: 0 <= x < math.inf
_USABLE = {
    "rtol": _TOLERANCE,
    "atol": _TOLERANCE,
    "pcoeff": ("a finite number", math.isfinite),
    "icoeff": ("a finite number", math.isfinite),
    **dict.fromkeys(("safety", "factor_min", "factor_max"), ("a number", lambda x: not math.isnan(x))),
    "shortest": ("a finite length of time >= 0", lambda x: 0 <= x < math.inf),
    "first": ("a positive first step, or None", lambda x: 0 < x < math.inf),
}

_FIRST = 1 / 16  # step of a span where no other is asked for


@dataclasses.dataclass(frozen=True)
class ConstantStep:
    """Equal steps between requested times, none longer than ``dt``.

    Examples
    --------
    >>> from neurosde.solve import ConstantStep
    >>> ConstantStep()
    ConstantStep()
    """


@dataclasses.dataclass(frozen=True)
class PIController:
    """Steps as long as an estimated error allows, each series on its own clock.

    ``E = sqrt(mean_i [e_i / (atol + rtol max(|y_i|, |y+_i|))]^2)``; a step with ``E <= 1`` is taken, and the
    next is ``h clip(safety E^(-(i + p) / q) E_prev^(p / q), factor_min, factor_max)`` long, q = strong order
    + 1/2 (Burrage, Herdiana & Burrage 2004; Soderlind 2002). Steps are halves of halves of the span, on the
    tree of the Brownian path, and end on every requested time.

    Parameters
    ----------
    rtol, atol
        Relative and absolute tolerance of a step's error; not both 0.
    pcoeff, icoeff
        Weights of the previous and the present error. On halves of halves a smoother rule than the integral
        one buys nothing, hence 0 and 1.
    safety
        Aim below the tolerance by this factor.
    factor_min, factor_max
        Bounds of the change of length from step to step.
    shortest
        A step no longer than this is taken whatever its error, in units of time. By default none is: a
        series that needs steps below the leaves of its path gives up.
    first
        First step, in units of time; by default a sixteenth of the span: on the tree steps can only double,
        so a start that is too short costs more than one that is turned down.
    whole_batch
        One clock for all series, with the error's mean over them: quicker where they need similar steps.
    jump_times
        Times at which the SDE is discontinuous; steps end there, and methods that carry evaluations start
        afresh.

    Raises
    ------
    DataError
        If a value cannot be used.

    Examples
    --------
    >>> from neurosde.solve import PIController
    >>> PIController(rtol=1e-2, atol=1e-3).whole_batch
    False
    """

    rtol: float
    atol: float
    pcoeff: float = 0.0
    icoeff: float = 1.0
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 10.0
    shortest: float = 0.0
    first: float | None = None
    whole_batch: bool = False
    jump_times: tuple[float, ...] = ()

    def __post_init__(self):
        for name, (expected, usable) in _USABLE.items():
            if name != "first" or self.first is not None:
                object.__setattr__(self, name, as_number(name, getattr(self, name), expected, usable))
        if self.rtol == self.atol == 0:
            raise DataError(
                "rtol, atol: both are 0, which no step can meet; give one of them a positive value."
            )
        if not (0 < self.safety <= 1 and 0 < self.factor_min < 1 < self.factor_max):
            raise DataError(
                "safety, factor_min, factor_max: expected 0 < safety <= 1, 0 < factor_min < 1 < factor_max, "
                f"got {self.safety}, {self.factor_min}, {self.factor_max}."
            )
        if not isinstance(self.whole_batch, bool | np.bool_):
            raise DataError(f"whole_batch: expected True or False, got {reprlib.repr(self.whole_batch)}.")
        object.__setattr__(self, "whole_batch", bool(self.whole_batch))
        object.__setattr__(self, "jump_times", _as_jumps(self.jump_times))

    def first_of(self, span: float) -> float:
        """First step as a fraction of a span."""
        return _FIRST if self.first is None else min(self.first / span, 1.0)

    def error(self, error: Tensor, y: Tensor, ahead: Tensor) -> Tensor:
        """Scaled error of a step, ``(clock,)``: 0 where there is none, infinite where it is not a number."""
        return scaled_error(self.rule(1.0, y.device), error, y, ahead, self.whole_batch)

    def factor(self, error: Tensor, previous: Tensor, order: float) -> Tensor:
        """Change of length after a step, ``(clock,)``."""
        return change_of_length(self.rule(order, error.device), error, previous)

    def factor_of(self, error: float, previous: float, order: float) -> float:
        """The same of the one clock that all series share."""
        q = order + 0.5
        raw = self.safety * max(error, 1e-12) ** (-(self.icoeff + self.pcoeff) / q)
        return min(max(raw * previous ** (self.pcoeff / q), self.factor_min), self.factor_max)

    def rule(self, order: float, device: torch.device) -> "Rule":
        """Its numbers for a method of this strong order as tensors: one program serves them all."""
        q = order + 0.5
        powers = -(self.icoeff + self.pcoeff) / q, self.pcoeff / q
        numbers = self.atol, self.rtol, self.safety, *powers, self.factor_min, self.factor_max, self.shortest
        return Rule(*torch.tensor(numbers, dtype=torch.float64, device=device).unbind())


def _as_jumps(times: Any) -> tuple[float, ...]:
    """Finite times, in the order in which they were given."""
    alone = isinstance(times, np.ndarray | Tensor) and not times.ndim
    if alone or not isinstance(times, Iterable) or isinstance(times, str | bytes):
        raise DataError(f"jump_times: expected a list of finite times, got {reprlib.repr(times)}.")
    return tuple(as_number(f"jump_times[{i}]", time, "a finite time") for i, time in enumerate(times))


class Rule(NamedTuple):
    """Numbers of a :class:`PIController`, float64 ``()``; the powers are those of both errors."""

    atol: Tensor
    rtol: Tensor
    safety: Tensor
    present: Tensor
    before: Tensor
    factor_min: Tensor
    factor_max: Tensor
    shortest: Tensor


def scaled_error(rule: Rule, error: Tensor, y: Tensor, ahead: Tensor, whole_batch: bool) -> Tensor:
    """Scaled error of a step, ``(clock,)``: 0 where there is none, infinite where it is not a number."""
    scale = rule.atol + rule.rtol * torch.maximum(y.abs(), torch.nan_to_num(ahead, nan=0.0).abs())
    square = torch.where(error == 0, 0.0, error / scale).square()  # atol = 0 leaves a zero state no scale
    square = torch.where(torch.isfinite(ahead), square, torch.inf)
    mean = square.mean().unsqueeze(0) if whole_batch else square.mean(-1)
    return torch.where(mean.isnan(), torch.inf, mean).to(torch.float64).sqrt()


def change_of_length(rule: Rule, error: Tensor, previous: Tensor) -> Tensor:
    """Factor of the next step's length, ``(clock,)``."""
    raw = rule.safety * error.clamp(min=1e-12) ** rule.present * previous**rule.before
    return torch.clamp(raw, rule.factor_min, rule.factor_max)
