"""Sources of noise for the steps of a solve: what a solve asks of them, and increments without a memory."""

import abc
import copy
from typing import NamedTuple

import torch

from neurosde.noise.arguments import as_device, as_dtype, as_first, as_lengths, as_levy, as_series, as_shape
from neurosde.noise.compiled import box_muller, series_heads, step_keys
from neurosde.noise.keys import as_seed, chain, normals, seed_word, step_normals
from neurosde.noise.mixing import mix, spread_tensor
from neurosde.noise.records import RICHNESS, BrownianIncrement, Levy, levy_area
from neurosde.typing import Tensor

_AREA = 103  # reserved level of the key
_TILE = 10  # steps that fresh noise is drawn for at once; the engine asks for whole tens


class AbstractNoise(abc.ABC):
    """What a solve asks of its noise: increments over consecutive steps, of a known shape and richness.

    Attributes
    ----------
    shape
        ``(series, noise)``.
    levy
        Which integrals the increments carry: "none" (W), "space-time" (W, H), "space-time-time" (W, H, K),
        "area" (W, H and approximate Levy areas A).
    """

    shape: tuple[int, int]
    levy: Levy
    is_compiled: bool = False

    def compiled(self) -> "AbstractNoise":
        """The same noise, its normals made by compiled code; equal but for the last bits."""
        twin = copy.copy(self)
        twin.is_compiled = True
        return twin

    def draws(self) -> "StepDraws | None":
        """How a compiled loop draws the same noise for itself, step by step; None if it cannot."""
        return None

    @abc.abstractmethod
    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Increments over the steps between consecutive times.

        Parameters
        ----------
        times
            float64, non-decreasing along the last axis, ``(step + 1,)`` or ``(series, step + 1)``.
        first
            Number of the first of these steps within the solve.

        Returns
        -------
        BrownianIncrement
            With a leading step axis: ``W`` is ``(step, series, noise)``, ``dt`` is ``(step,)`` or
            ``(step, series, 1)``. Steps of length zero have increments of zero.
        """


class StepDraws(NamedTuple):
    """Keyed noise as a compiled loop draws it, one step at a time: it needs no table of increments.

    Parameters
    ----------
    seed
        The seed, mixed, ``()``.
    series
        int64 keys of the series, ``(series,)``.
    n_noise
        Channels of noise.
    levy
        Richness of the increments.
    """

    seed: Tensor
    series: Tensor
    n_noise: int
    levy: Levy

    def heads(self) -> Tensor:
        """What the keys of all steps begin with, ``(series,)``."""
        return series_heads(self.seed, self.series)

    def key(self, heads: Tensor, step: Tensor) -> Tensor:
        """Mixed keys of a step, ``(series,)``."""
        return step_keys(heads, step)[1]

    def increment(self, key: Tensor, dt: Tensor, dtype: torch.dtype) -> BrownianIncrement:
        """Increment over a step of length ``dt``, ``()`` or ``(series, 1)``, from its :meth:`key`."""
        n_parts = RICHNESS[self.levy]
        n_pairs = (n_parts * self.n_noise + 1) // 2
        pair = spread_tensor(torch.arange(n_pairs, device=key.device)).unsqueeze(-1)
        z = torch.stack(box_muller(mix(key ^ pair), dtype), dim=1)  # the series last: they fill a vector
        z = z.flatten(0, 1)[: n_parts * self.n_noise].view(self.n_noise, n_parts, -1).permute(1, 2, 0)
        return scaled(z.unsqueeze(0), dt.unsqueeze(0), self.levy).at(0)._replace(dt=dt)


class StepNoise(AbstractNoise):
    """Independent increments keyed by (seed, series, step): one draw a step, the quickest keyed noise.

    The path of a series does not depend on the batch around it, but another step size is another path; use
    :class:`BrownianPath` where solves at several step sizes must meet the same path.

    Parameters
    ----------
    shape
        ``(series, noise)``.
    seed
        Integer, or None for a fresh one.
    levy
        Richness of the increments.
    series
        int64 keys of the series, ``(series,)``; by default the row number.
    dtype, device
        Of the increments.

    Examples
    --------
    >>> import torch
    >>> from neurosde.noise import StepNoise
    >>> times = torch.linspace(0, 1, 11, dtype=torch.float64)
    >>> whole = StepNoise((5, 2), seed=0).increments(times).W
    >>> one = StepNoise((1, 2), seed=0, series=torch.tensor([3])).increments(times).W
    >>> torch.equal(whole[:, 3:4], one)
    True
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        seed: int | None = None,
        levy: Levy = "none",
        series: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        self.shape, self.levy, self.seed = as_shape(shape), as_levy(levy), as_seed(seed)
        self.dtype = as_dtype(dtype)
        self.series = as_series(series, self.shape[0], as_device(device))

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Increments over consecutive steps; see :class:`AbstractNoise`."""
        dt = steps_first(as_lengths(times, self.shape[0], self.series.device).to(self.dtype))
        first = as_first(first)
        step = torch.arange(first, first + dt.shape[0], device=self.series.device)
        n_parts = RICHNESS[self.levy]
        z, key = step_normals(
            self.seed, self.series, step, n_parts * self.shape[1], self.dtype, compiled=self.is_compiled
        )
        z = z.view(len(step), *self.shape, n_parts).permute(0, 3, 1, 2)
        return scaled(z, dt, self.levy, key)

    def draws(self) -> StepDraws | None:
        """See :meth:`AbstractNoise.draws`; not of areas, nor of numbers too coarse for a logarithm.

        Nor of a single pair of normals, for which the compiler takes other functions than for many: a series
        alone would differ from itself in a batch.
        """
        n_normals = RICHNESS[self.levy] * self.shape[1]
        if self.levy == "area" or self.dtype.itemsize < 4 or self.shape[0] * n_normals <= 2:
            return None
        seed = seed_word(self.seed, self.series.device)
        return StepDraws(seed, self.series, self.shape[1], self.levy)


class FreshNoise(AbstractNoise):
    """Independent increments of the whole batch from torch's own normals: for a solve that has no seed.

    Tiles of steps are drawn by a generator of their own, seeded by (seed, tile), so that the way back meets
    the same noise; the global generator is not touched. A series' noise depends on the batch around it: use
    :class:`StepNoise` or :class:`BrownianPath` where it must not.

    Parameters
    ----------
    shape
        ``(series, noise)``.
    seed
        Integer, or None for a fresh one.
    levy
        Richness of the increments.
    dtype, device
        Of the increments.

    Examples
    --------
    >>> import torch
    >>> from neurosde.noise import FreshNoise
    >>> times, noise = torch.linspace(0, 1, 41, dtype=torch.float64), FreshNoise((5, 2), seed=0)
    >>> torch.equal(noise.increments(times).W[30:], noise.increments(times[30:], first=30).W)
    True
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        seed: int | None = None,
        levy: Levy = "none",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        self.shape, self.levy, self.seed = as_shape(shape), as_levy(levy), as_seed(seed)
        self.dtype, self.device = as_dtype(dtype), as_device(device) or torch.device("cpu")

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Increments over consecutive steps; see :class:`AbstractNoise`."""
        dt = steps_first(as_lengths(times, self.shape[0], self.device).to(self.dtype))
        first = as_first(first)
        z = self._normals(first, first + len(dt))
        if self.levy != "area":
            return scaled(z, dt, self.levy)
        step = torch.arange(first, first + len(dt), device=self.device).unsqueeze(-1)
        key = torch.as_tensor(chain(self.seed, torch.arange(self.shape[0], device=self.device), step))
        return scaled(z, dt, self.levy, key)

    def compiled(self) -> AbstractNoise:
        """Keyed normals, which compiled code makes quicker than torch its own."""
        plain = {"seed": self.seed, "levy": self.levy, "dtype": self.dtype, "device": self.device}
        keyed = StepNoise(self.shape, **plain)
        keyed.is_compiled = True
        return keyed

    def _normals(self, begin: int, end: int) -> Tensor:
        """Normals of the steps ``(step, integral, series, noise)``."""
        generator, shape = torch.Generator(self.device), (_TILE, RICHNESS[self.levy], *self.shape)
        tiles = range(begin // _TILE, -(-end // _TILE))
        z = torch.empty(len(tiles), *shape, dtype=self.dtype, device=self.device)
        for part, tile in zip(z, tiles, strict=True):
            part.normal_(generator=generator.manual_seed(int(chain(self.seed, tile)) % 2**63))
        return z.flatten(0, 1)[begin - tiles.start * _TILE : end - tiles.start * _TILE]


def scaled(z: Tensor, dt: Tensor, levy: Levy, key: Tensor | None = None) -> BrownianIncrement:
    """Increments of normals ``(step, integral, series, noise)``; the key ``(step, series)`` is for areas."""
    scale = dt.sqrt() if dt.dim() == 3 else dt.sqrt().view(-1, 1, 1)
    H = None if z.shape[1] < 2 else z[:, 1] * (scale / 12**0.5)
    K = None if z.shape[1] < 3 else z[:, 2] * (scale / 720**0.5)
    W = z[:, 0]  # drawn for this alone
    W = W.mul_(scale) if W.is_contiguous() else W * scale
    increment = BrownianIncrement(dt, W, H, K)
    return increment if key is None or levy != "area" else with_area(increment, key)


def with_area(increment: BrownianIncrement, key: Tensor) -> BrownianIncrement:
    """Add Levy areas whose independent part is keyed by the step, ``(step, series)``."""
    dt, W, H = increment[:3]
    assert H is not None
    n_pairs = W.shape[-1] * (W.shape[-1] - 1) // 2
    z = normals(torch.as_tensor(chain(key, _AREA)), max(1, n_pairs), W.dtype)[..., :n_pairs]
    return increment._replace(A=levy_area(W, H, dt if dt.dim() == 3 else dt[:, None, None], z))


def steps_first(dt: Tensor) -> Tensor:
    """Bring the step axis to the front: (step,) stays, (series, step) becomes (step, series, 1)."""
    return dt if dt.dim() == 1 else dt.transpose(0, 1).unsqueeze(-1)
