"""The noise that a solve is given, whatever form it comes in."""

import itertools
import math
from typing import cast

import torch

from neurosde.errors import DataError, ShapeError
from neurosde.noise import (
    AbstractNoise,
    BrownianIncrement,
    BrownianPath,
    FreshNoise,
    Levy,
    StepNoise,
    as_seed,
)
from neurosde.noise.brownian import DEFAULT_LEVELS
from neurosde.noise.powers import power_of_two, powers_within
from neurosde.solve.grid import TimeGrid
from neurosde.solve.stepper import AbstractStepper, carries
from neurosde.typing import Any, Callable, Tensor

_DEEPER = 8  # levels that are added at once where steps are too short for the default tree


class GivenNoise(AbstractNoise):
    """Increments that were drawn before: ``W``, and H and K where they are known, step by step.

    Parameters
    ----------
    record
        Increments of the solve's own steps, in order: ``W`` is ``(step, series, noise)``.
    """

    def __init__(self, record: BrownianIncrement):
        W = record.W
        if W.dim() != 3:
            raise ShapeError(f"noise: expected increments (step, series, noise), got {tuple(W.shape)}.")
        self.record, self.shape = record, (W.shape[1], W.shape[2])
        self.levy = "none" if record.H is None else "space-time" if record.K is None else "space-time-time"

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Rows ``first`` and on of the given increments."""
        dt = torch.diff(times)
        rows = slice(first, first + dt.shape[-1])
        if rows.stop > len(self.record.W):
            raise ShapeError(
                f"noise: the solve takes more than the {len(self.record.W)} steps that were given."
            )
        return self.record.at(rows)._replace(dt=dt if dt.dim() == 1 else dt.T.unsqueeze(-1))


Motion = Callable[..., Any]


class ForeignNoise(AbstractNoise):
    """A torchsde Brownian motion, asked step by step for the increments of times that all series share.

    Parameters
    ----------
    motion
        Callable ``(ta, tb) -> (series, noise)``, such as torchsde's BrownianInterval or BrownianPath; one
        with a Levy area approximation also gives its space-time integral.
    shape
        ``(series, noise)``.
    """

    def __init__(self, motion: Motion, shape: tuple[int, int]):
        theirs = tuple(getattr(motion, "shape", shape))
        if len(theirs) != 2:
            raise ShapeError(f"noise: expected a motion (series, noise) = {shape}, got {theirs}.")
        self.motion, self.shape = motion, (theirs[0], theirs[1])
        known = getattr(motion, "levy_area_approximation", "none")
        self.levy = "none" if known == "none" else "space-time"

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Increments of the foreign motion; it has no series of its own times."""
        if times.dim() != 1:
            raise DataError("noise: a torchsde Brownian motion needs times that all series share.")
        dt = times.diff()
        if not len(dt):
            return BrownianIncrement(dt, times.new_zeros(0, *self.shape))
        if self.levy == "none":
            return BrownianIncrement(
                dt, torch.stack([self._checked(self.motion(a, b)) for a, b in itertools.pairwise(times)])
            )
        pairs = [self.motion(a, b, return_U=True) for a, b in itertools.pairwise(times)]
        W, U = (torch.stack([self._checked(x) for x in part]) for part in zip(*pairs, strict=True))
        return BrownianIncrement(dt, W, U / dt[:, None, None].to(U) - 0.5 * W)  # U is the integral of W

    def _checked(self, increment: Any) -> Tensor:
        if not isinstance(increment, Tensor) or tuple(increment.shape) != self.shape:
            got = tuple(increment.shape) if isinstance(increment, Tensor) else repr(increment)
            raise ShapeError(
                f"noise: expected a motion that gives (series, noise) = {self.shape}, got {got}."
            )
        return increment


def choose_noise(
    noise: Any,
    seed: int | None,
    series: Any,
    stepper: AbstractStepper,
    grid: TimeGrid,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> AbstractNoise:
    """Turn what the caller gave into a source of increments for a fixed grid.

    A source, a tensor of increments or a torchsde motion is taken as it is. Otherwise a seed gives the
    :class:`BrownianPath` of each series between its own ends, the same at every step size; no seed gives
    fresh noise, which is quicker: keyed by the series where they are named.

    Raises
    ------
    DataError
        If a seed is given beside a source, or the source lacks an integral that the stepper uses.
    ShapeError
        If its shape is not (series, noise).
    """
    if noise is None:
        if seed is None:
            plain = {"levy": stepper.levy, "dtype": dtype, "device": grid.times.device}
            return FreshNoise(shape, **plain) if series is None else StepNoise(shape, series=series, **plain)
        return path_over(grid.times, seed, series, stepper.levy, shape, dtype)
    if isinstance(noise, Tensor):
        if noise.dim() == 3 and len(noise) != grid.length:
            raise ShapeError(
                f"noise: expected an increment a step, {(grid.length, *shape)}, got {tuple(noise.shape)}; "
                "the steps are those that dt makes of ts."
            )
        noise = GivenNoise(BrownianIncrement(grid.times.diff(), _check_increments(noise).to(dtype)))
    elif not isinstance(noise, AbstractNoise):
        if not callable(noise):
            raise DataError(f"noise: expected a source, increments or a torchsde motion, got {noise!r}.")
        noise = ForeignNoise(cast(Motion, noise), shape)
    return check_source(noise, seed, stepper, shape)


def _check_increments(noise: Tensor) -> Tensor:
    """Refuse increments that are no real numbers."""
    if noise.is_complex():
        raise DataError(f"noise: expected real increments, got {noise.dtype}.")
    bad = ~torch.isfinite(noise.detach())
    if bool(bad.any()):
        index = bad.nonzero()[0].tolist()
        raise DataError(f"noise{index} is {noise[tuple(index)].item()!r}; expected finite increments.")
    return noise


def choose_path(
    noise: Any,
    seed: int | None,
    series: Any,
    stepper: AbstractStepper,
    times: Tensor,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> BrownianPath:
    """Brownian path of an adaptive solve, whose steps must be able to ask for any interval.

    Raises
    ------
    DataError
        If a source is given that is not a path, or one that does not start where the solve does; if two of
        the times lie inside one leaf of the path.
    """
    if noise is None:
        return check_leaves(path_over(times, as_seed(seed), series, stepper.levy, shape, dtype), times)
    if not isinstance(noise, BrownianPath):
        raise DataError(
            f"noise: adaptive steps ask for any interval, so they need a BrownianPath; "
            f"got {type(noise).__name__}."
        )
    check_source(noise, seed, stepper, shape)
    last = torch.nan_to_num(times, nan=-math.inf).amax(-1)
    if not bool((noise.t0 == times[..., 0]).all()) or not bool((noise.t1 >= last).all()):
        raise DataError(
            f"noise: the path spans [{noise.t0.tolist()}, {noise.t1.tolist()}]; expected it to start at the "
            "first time of the solve and to reach its last."
        )
    return check_leaves(noise, times)


def check_leaves(path: BrownianPath, times: Tensor) -> BrownianPath:
    """Refuse two times inside one leaf of a path: cut twice, a leaf would not give them their joint law."""
    rows = torch.atleast_2d(times)
    start, end = (torch.atleast_1d(x).unsqueeze(-1) for x in (path.t0, path.t1))
    levels = torch.atleast_1d(torch.as_tensor(path.levels, device=rows.device)).expand(len(rows))
    place = (rows - start) / (end - start) * power_of_two(levels).unsqueeze(-1)
    inside = (place[:, :-1].frac() > 0) & (place[:, :-1].floor() == place[:, 1:].floor())
    if bool(inside.any()):
        row, column = inside.nonzero()[0].tolist()
        near = rows[row, column : column + 2].tolist()
        raise DataError(
            f"ts: {near[0]!r} and {near[1]!r} lie inside one leaf of the Brownian path, 2**-{levels[row]} of "
            "its span; drop one, or pass a BrownianPath with a smaller tol."
        )
    return path


def path_over(
    times: Tensor, seed: int, series: Any, levy: Levy, shape: tuple[int, int], dtype: torch.dtype
) -> BrownianPath:
    """Path of each series between its own first and last time, with leaves shorter than its every step.

    ``times`` are ``(time,)`` or ``(series, time)``, padded with NaN or by repeating the last. The depth of a
    series' tree depends on its own times alone, and goes in steps of ``_DEEPER`` levels: all grids of steps
    longer than ``2**-15`` of the span meet one path, all those from there to ``2**-23`` meet one, and so on.
    """
    start = times[..., 0]
    last = torch.nan_to_num(times, nan=-math.inf).amax(-1)
    span = torch.where(last > start, last - start, 1.0)
    gaps = torch.nan_to_num(times.diff(), nan=0.0) / span.unsqueeze(-1)
    gaps = torch.cat((torch.where(gaps > 0, gaps, 1.0), torch.ones_like(times[..., :1])), dim=-1)
    missing = powers_within(1 / gaps.amin(-1)) + 1 - DEFAULT_LEVELS  # a leaf is at most half the shortest
    levels = DEFAULT_LEVELS - _DEEPER * (-missing.clamp(min=0)).div(_DEEPER, rounding_mode="floor")
    return BrownianPath(
        start,
        start + span,
        shape,
        seed=seed,
        levy=levy,
        tol=span * power_of_two(-levels),
        series=series,
        dtype=dtype,
        device=times.device,
    )


def check_source(
    noise: AbstractNoise, seed: int | None, stepper: AbstractStepper, shape: tuple[int, int]
) -> AbstractNoise:
    """Refuse a source that does not fit the solve."""
    if seed is not None:
        raise DataError("seed: a noise source carries its own seed; give either noise or seed.")
    if noise.shape != shape:
        raise ShapeError(f"noise: expected (series, noise) = {shape}, got {noise.shape}.")
    if not carries(noise.levy, stepper):
        raise DataError(
            f"noise: {type(stepper).__name__} uses the {stepper.levy} integrals and the source carries "
            f"{noise.levy!r}; build it with levy={stepper.levy!r}."
        )
    return noise
