"""The noise that a solve is given, whatever form it comes in."""

import itertools
import math
from typing import cast

import torch

from neurosde.errors import DataError, ShapeError
from neurosde.noise import AbstractNoise, BrownianIncrement, BrownianPath, StepNoise
from neurosde.solve.grid import TimeGrid
from neurosde.solve.stepper import AbstractStepper, carries
from neurosde.typing import Any, Callable, Tensor


class GivenNoise(AbstractNoise):
    """Increments that the caller has drawn: ``W`` of shape ``(step, series, noise)``, step by step.

    Parameters
    ----------
    W
        Increments of the solve's own steps, in order.
    """

    def __init__(self, W: Tensor):
        if W.dim() != 3:
            raise ShapeError(f"noise: expected increments (step, series, noise), got {tuple(W.shape)}.")
        self.W, self.levy, self.shape = W, "none", (W.shape[1], W.shape[2])

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Rows ``first`` and on of the given increments."""
        dt = torch.diff(times)
        count = dt.shape[-1]
        if first + count > len(self.W):
            raise ShapeError(f"noise: the solve takes more than the {len(self.W)} steps that were given.")
        return BrownianIncrement(dt if dt.dim() == 1 else dt.T.unsqueeze(-1), self.W[first : first + count])


Motion = Callable[[Tensor, Tensor], Tensor]


class ForeignNoise(AbstractNoise):
    """A torchsde Brownian motion, asked step by step for the increments of times that all series share.

    Parameters
    ----------
    motion
        Callable ``(ta, tb) -> (series, noise)``, such as torchsde's BrownianInterval or BrownianPath.
    shape
        ``(series, noise)``.
    """

    def __init__(self, motion: Motion, shape: tuple[int, int]):
        self.motion, self.shape, self.levy = motion, shape, "none"

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Increments of the foreign motion; it has no series of its own times."""
        if times.dim() != 1:
            raise DataError("noise: a torchsde Brownian motion needs times that all series share.")
        W = torch.stack([self.motion(a, b) for a, b in itertools.pairwise(times)])
        return BrownianIncrement(times.diff(), W)


def choose_noise(
    noise: Any,
    seed: int | None,
    series: Any,
    stepper: AbstractStepper,
    grid: TimeGrid,
    shape: tuple[int, int],
    dtype: torch.dtype,
) -> AbstractNoise:
    """Turn what the caller gave into a source of increments.

    A source, a tensor of increments or a torchsde motion is taken as it is. Otherwise a seed gives the
    :class:`BrownianPath` of each series between its own ends, the same at every step size; no seed gives
    fresh :class:`StepNoise`, which is quicker.

    Raises
    ------
    DataError
        If a seed is given beside a source, or the source lacks an integral that the stepper uses.
    ShapeError
        If its shape is not (series, noise).
    """
    device = grid.times.device
    if noise is None:
        if seed is None:
            return StepNoise(shape, levy=stepper.levy, series=series, dtype=dtype, device=device)
        start, end = grid.times[..., 0], grid.times[..., -1]
        span = torch.where(end > start, end - start, 1.0)
        gaps = grid.times.diff() / span.unsqueeze(-1)
        finest = float(torch.where(gaps > 0, gaps, 1.0).min()) if grid.length else 1.0
        tol = float(span.max()) * 2.0 ** -max(16, math.ceil(-math.log2(finest)) + 1)
        return BrownianPath(
            start,
            start + span,
            shape,
            seed=seed,
            levy=stepper.levy,
            tol=tol,
            series=series,
            dtype=dtype,
            device=device,
        )
    if seed is not None:
        raise DataError("seed: a noise source carries its own seed; give either noise or seed.")
    if isinstance(noise, Tensor):
        noise = GivenNoise(noise.to(dtype))
    elif not isinstance(noise, AbstractNoise):
        if not callable(noise):
            raise DataError(
                f"noise: expected a noise source, increments or a torchsde motion, got {noise!r}."
            )
        noise = ForeignNoise(cast(Motion, noise), shape)
    if noise.shape != shape:
        raise ShapeError(f"noise: expected (series, noise) = {shape}, got {noise.shape}.")
    if not carries(noise.levy, stepper):
        raise DataError(
            f"noise: {type(stepper).__name__} uses the {stepper.levy} integrals and the source carries "
            f"{noise.levy!r}; build it with levy={stepper.levy!r}."
        )
    return noise
