"""Where a process stops: absorbing sets, crossings between the ends of a step, and exit times within it."""

import dataclasses

import torch

from neurosde.calculus import derivative
from neurosde.errors import DataError, ShapeError
from neurosde.noise import AbstractNoise, BrownianPath, FreshNoise, StepNoise, as_seed, chain, normals
from neurosde.sde import SDE, Field, diffuse
from neurosde.solve.stepper import Step
from neurosde.typing import Any, NamedTuple, NoiseType, Tensor

_EXIT = 107  # reserved level of the key


@dataclasses.dataclass(frozen=True)
class AbsorbingSet:
    """Where a process stops: outside of a domain, which is given by a distance.

    A step from distance ``d0 > 0`` to ``d1 > 0`` has met the boundary in between with the probability of a
    Brownian bridge, ``p = exp(-2 d0 d1 / (s^2 h))`` with ``s^2 = |g' grad d|^2`` at the start of the step
    (Karatzas & Shreve 1991, section 2.8; Gobet 2000): without it exits are missed and the error is of order
    sqrt(h). With ``d1 <= 0`` it has met it surely. The exit time within the step has its exact law given
    that, see :func:`crossing_share`; with several barriers the first crossing counts, so that a step ends
    with probability ``1 - prod(1 - p_k)``. For constant coefficients and one flat barrier, or one that moves
    linearly, the law of the exit time is exact at any step.

    An exited series stays where it left; its running costs stop at that time. The state has a gradient up to
    the exit; whether and when a path leaves is a decision, which has none. Steppers that look ahead within a
    step may evaluate the fields just outside; EulerMaruyama never does.

    Parameters
    ----------
    distance
        ``(t, y) -> (series,)``, or ``(series, barrier)`` for several barriers: positive inside, zero on the
        boundary, negative outside, differentiable in y. Its ``t`` is ``(series, 1)``, for exits come at each
        series' own time.
    seed
        Of the draws within steps; by default that of the solve's noise.

    Raises
    ------
    DataError
        If the distance is not a function.

    Examples
    --------
    >>> import torch, neurosde as nsde
    >>> from neurosde.solve import AbsorbingSet
    >>> sde = nsde.LinearSDE([[0.0]], L=[[1.0]])
    >>> interval = AbsorbingSet(lambda t, y: torch.cat((1 - y, 1 + y), dim=-1))
    >>> solution = nsde.solve(sde, torch.zeros(4, 1), [0.0, 50.0], dt=0.1, seed=0, absorbing=interval)
    >>> solution.ys[:, -1, 0].abs(), bool((solution.exit_time < 50).all())
    (tensor([1., 1., 1., 1.]), True)
    """

    distance: Field
    seed: int | None = None

    def __post_init__(self):
        if not callable(self.distance):
            raise DataError(f"distance: expected a function (t, y) -> (series,), got {self.distance!r}.")

    def distances(self, t: Tensor, y: Tensor) -> Tensor:
        """Distances from all barriers, ``(series, barrier)``."""
        d = self.distance(t if t.dim() else t.expand(len(y), 1), y)
        return d.unsqueeze(-1) if d.dim() == 1 else d


class Meeting(NamedTuple):
    """What absorption makes of a step.

    Parameters
    ----------
    y
        State at its end, on the boundary where the series left.
    W
        Increment of the motion until then.
    share
        Part of the step that was taken, ``(series, 1)``; 1 where the series did not leave.
    barrier
        Which barrier was met first.
    exited
        Whether the series left within the step.
    """

    y: Tensor
    W: Tensor
    share: Tensor
    barrier: Tensor
    exited: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Absorber:
    """An absorbing set within one solve: its barriers counted, its draws keyed.

    Parameters
    ----------
    inside
        The set.
    n_barriers
        Columns of its distance.
    seed, series
        Start of the keys, and int64 keys of the series ``(series,)``.
    """

    inside: AbsorbingSet
    n_barriers: int
    seed: int
    series: Tensor

    def start(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Exit times and barriers before the first step, and a state inside for every series.

        A series on or outside the boundary has left at its start; its fields are then taken, and discarded,
        where another series starts.
        """
        with torch.no_grad():
            near, barrier = self.inside.distances(t, y).min(-1)
        out = near <= 0
        now = t.squeeze(-1).expand(len(y))
        instead = y.detach().index_select(0, out.to(torch.uint8).argmin().reshape(1))
        left = torch.where(out, now, torch.inf), torch.where(out, barrier, -1)
        return *left, torch.where(out.unsqueeze(-1), instead, y)

    def draws(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """A squared normal and a uniform for each barrier, ``(..., series, 2 barrier)``.

        Keyed by (seed, series, start of the step): ``t`` is ``()`` or ``(step,)`` for all series, else
        ``(series, 1)`` or ``(step, series, 1)``.
        """
        time = t.squeeze(-1) if t.dim() > 1 else t.unsqueeze(-1)
        word = (time.to(torch.float64) + 0.0).view(torch.int64)  # -0.0 is 0.0
        key = torch.as_tensor(chain(chain(self.seed, _EXIT, self.series), word))
        z = normals(key, 2 * self.n_barriers, dtype).unflatten(-1, (-1, 2))
        return torch.stack((z[..., 0].square(), torch.special.ndtr(z[..., 1])), dim=-1).flatten(-2)

    def meet(self, sde: SDE, step: Step, y: Tensor, ahead: Tensor, draws: Tensor, alive: Tensor) -> Meeting:
        """Decide which series have left during a step, when and where.

        Parameters
        ----------
        sde, step
            What was stepped, and the step.
        y, ahead
            States at its start and its end, ``(series, state)``.
        draws
            Row of :meth:`draws` for it.
        alive
            Series that had not left before, ``(series,)``.
        """
        with torch.no_grad():
            near, slopes = self._slopes(step.t, y)
            far = self.inside.distances(step.t + step.h, ahead)
            pushed = project(sde.noise_type, slopes, sde.diffusion(step.t, y))
            variance = pushed.square().sum(-1)
            square, uniform = draws.unflatten(-1, (self.n_barriers, 2)).unbind(-1)
            near = near.clamp(min=torch.finfo(y.dtype).tiny)  # zero by rounding: it leaves at once
            chance = torch.exp(-2 * near * far.clamp(min=0.0) / (variance * step.h))
            chance = torch.where(far <= 0, 1.0, chance)  # 0 / 0, no noise and no motion, is no crossing
            crossed = (uniform <= chance) & alive.unsqueeze(-1)
            share = crossing_share(near, far, variance * step.h, square, uniform / chance)
            share, barrier = torch.where(crossed, share, torch.inf).min(-1, keepdim=True)
            exited = crossed.any(-1)
            share = torch.where(exited.unsqueeze(-1), share, 1.0)
        # a distance that is not a number is a failure, not a state inside
        ahead = torch.where(far.isnan().any(-1, keepdim=True), torch.nan, ahead)
        meeting = Meeting(ahead, step.noise.W, share, barrier.squeeze(-1), exited)
        if torch.compiler.is_compiling() or bool(exited.any()):
            gap = torch.where(crossed, near + share * (far - near), 0.0).gather(-1, barrier)
            along = torch.where(variance > 0, 1 / variance, 0.0).unsqueeze(-1) * pushed
            along = along.gather(1, barrier.unsqueeze(-1).expand(-1, -1, along.shape[-1])).squeeze(1)
            return self._onto(sde, step, y, meeting, gap * along)
        return meeting

    def _onto(self, sde: SDE, step: Step, y: Tensor, meeting: Meeting, excess: Tensor) -> Meeting:
        """Put the series that leave onto the boundary.

        The bridge that is known to be on the barrier at tau has moved there with the noise that matters to
        the distance: W, and the state with it, are interpolated and lose what would leave a distance. One
        step of Newton's method along the gradient takes what curvature has left.
        """
        ahead, W, share, barrier, exited = meeting
        left = exited.unsqueeze(-1)
        with torch.no_grad():
            W = torch.where(left, share * W - excess, W)
            shift = diffuse(sde.noise_type, sde.diffusion(step.t, y), -excess)
        inner = y + share * (ahead - y) + shift
        some = exited.to(torch.uint8).argmax().reshape(1)
        inner = torch.where(left, inner, inner.detach().index_select(0, some))  # others need no slope there
        t, column = step.t + share * step.h, barrier.unsqueeze(-1)
        with torch.no_grad():
            slopes = self._slopes(t, inner)[1]
            normal = slopes.gather(1, column.unsqueeze(-1).expand(-1, -1, y.shape[-1])).squeeze(1)
            square = normal.square().sum(-1, keepdim=True)
            newton = torch.where(square > 0, normal / square, 0.0)
        on = inner - self.inside.distances(t, inner).gather(-1, column) * newton
        return meeting._replace(y=torch.where(left, on, ahead), W=W)

    def _slopes(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Distances, and their gradients ``(series, barrier, state)``; zero where there is none."""
        value, pull, _ = derivative(lambda x: self.inside.distances(t, x), y)
        units = torch.eye(self.n_barriers, dtype=value.dtype, device=value.device)
        slopes = torch.stack([pull(unit.expand_as(value)) for unit in units], dim=1)
        return value.detach(), torch.nan_to_num(slopes.detach(), nan=0.0)


def project(noise_type: NoiseType, slopes: Tensor, g: Tensor) -> Tensor:
    """Rows ``grad d' g``: how noise moves each distance, ``(series, barrier, noise)``."""
    return slopes * g.unsqueeze(1) if noise_type == "diagonal" else slopes @ g


def crossing_share(near: Tensor, far: Tensor, variance: Tensor, square: Tensor, uniform: Tensor) -> Tensor:
    """Part of a step at which a Brownian bridge that reaches zero does so first.

    Let the bridge run from ``d0 > 0`` to ``d1`` in time h with variance ``v = s^2 h``. The density of its
    first passage at tau is ``d0 (2 pi s^2 tau^3)^(-1/2) exp(-d0^2 / 2 s^2 tau)`` (Karatzas & Shreve 1991,
    section 2.6) times the Gaussian density from 0 to d1 in the rest ``h - tau``, over that from d0 to d1
    in h. With ``r = tau / (h - tau)`` this is ``min(1, exp(-2 d0 d1 / v))``, the probability of a passage,
    times ``d0 (2 pi v r^3)^(-1/2) exp(-(d0 - |d1| r)^2 / 2 v r)``: given a passage, r is inverse Gaussian
    with mean ``d0 / |d1|`` and shape ``d0^2 / v``, whatever the sign of d1. It is drawn as Michael, Schucany
    & Haas (1976) do, from the smaller root r1 of a quadratic: r1 with probability ``d0 / (d0 + |d1| r1)``,
    else the other root ``(d0 / d1)^2 / r1``.

    Parameters
    ----------
    near, far
        d0 and d1.
    variance
        v; 0 gives the crossing of a straight line.
    square, uniform
        Square of a standard normal, and a uniform that is independent of it.

    Returns
    -------
    Tensor
        ``tau / h = r / (1 + r)`` in [0, 1].

    Examples
    --------
    >>> import torch
    >>> from neurosde.solve.absorbing import crossing_share
    >>> one, half = torch.tensor(1.0), torch.tensor(0.5)
    >>> crossing_share(one, -one, 0 * one, one, half)
    tensor(0.5000)
    """
    b = far.abs()
    q = square * variance / near
    below = 2 * b + q + torch.sqrt(q * (q + 4 * b))  # r1 = 2 d0 / below: no difference of large numbers
    first = uniform * (near * below + 2 * near * b) <= near * below
    above = torch.where(first, 2 * near, near * below)
    beside = torch.where(first, below, 2 * b * b)
    share = above / (above + beside)
    return torch.where(above + beside > 0, share, 1.0)


def absorber_of(
    absorbing: Any, noise: AbstractNoise, series: Tensor | None, t0: Tensor, y0: Tensor
) -> Absorber:
    """Check an absorbing set where the solve starts, and key its draws like the noise.

    Raises
    ------
    DataError, ShapeError
        If it is none, or its distance does not have the shape that is needed.
    """
    if not isinstance(absorbing, AbsorbingSet):
        raise DataError(f"absorbing: expected an AbsorbingSet(distance), got {absorbing!r}.")
    n, own = len(y0), t0.expand(len(y0), 1)
    why = "t is (series, 1) there, so write torch.exp(-t.squeeze(-1)) and the like"
    with torch.enable_grad():
        t, y = own.detach().clone().requires_grad_(), y0.detach().clone().requires_grad_()
        d = absorbing.distance(t, y)
        if not isinstance(d, Tensor) or d.dim() not in (1, 2) or d.shape[0] != n or 0 in d.shape:
            got = tuple(d.shape) if isinstance(d, Tensor) else repr(d)
            raise ShapeError(
                f"absorbing: distance: expected (series,) = ({n},) or (series, barrier), got {got}; {why}."
            )
        if not d.dtype.is_floating_point:
            raise DataError(
                f"absorbing: distance: expected floating point numbers, which have a gradient, got {d.dtype}."
            )
        if bool(d.isnan().any()):
            bad = int(d.reshape(n, -1).isnan().any(-1).nonzero()[0])
            raise DataError(
                f"absorbing: distance of series {bad} is not a number where it starts; expected a positive "
                "number inside, and a negative one outside."
            )
        met = torch.autograd.grad(d[0].sum(), (t, y), allow_unused=True) if d.requires_grad else ()
        if any(bool((part[1:].abs() > 0).any()) for part in met if part is not None):
            raise ShapeError(
                f"absorbing: distance: that of series 0 depends on others, shape {tuple(d.shape)}; {why}."
            )
    seed, keys = absorbing.seed, torch.arange(n, device=y0.device) if series is None else series.to(y0.device)
    if isinstance(noise, BrownianPath | StepNoise | FreshNoise):
        seed = noise.seed if seed is None else seed
    if isinstance(noise, BrownianPath | StepNoise):
        keys = noise.series
    return Absorber(absorbing, 1 if d.dim() == 1 else d.shape[1], as_seed(seed), keys.to(torch.int64))
