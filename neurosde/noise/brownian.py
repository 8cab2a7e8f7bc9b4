"""A Brownian path that is a pure function of its seed."""

import math
import reprlib

import torch

from neurosde.arguments import as_numbers
from neurosde.errors import DataError, ShapeError
from neurosde.noise.arguments import (
    as_device,
    as_dtype,
    as_ends,
    as_first,
    as_levy,
    as_series,
    as_shape,
    as_times,
    is_within,
)
from neurosde.noise.keys import as_seed, chain
from neurosde.noise.nodes import mixed_heads, mixed_rows
from neurosde.noise.powers import power_of_two, powers_within
from neurosde.noise.records import RICHNESS, BrownianIncrement, Levy, Scaled, cut
from neurosde.noise.steps import AbstractNoise, steps_first, with_area
from neurosde.noise.tree import Tree
from neurosde.typing import Tensor

_ROOT, _LEAF, _COLUMN = 101, 102, 104  # reserved levels of the key
DEFAULT_LEVELS = 16
_MAX_LEVELS = 40


class BrownianPath(AbstractNoise):
    """Brownian motion on ``[t0, t1]`` as a pure function of (seed, series, time).

    The path is refined on a dyadic tree: each node's increment and integrals are halved with normals keyed by
    (seed, series, level, index), and a time inside a leaf is interpolated with the leaf's key (Jelincic,
    Foster & Kidger 2024, arXiv 2405.06464). Steps are sums of these normals (:mod:`neurosde.noise.shares`).
    Any query, in any order, any number of times, gives the same path with the exact joint law of (W, H, K),
    in constant memory.

    Parameters
    ----------
    t0, t1
        Ends of the path, numbers or one a series ``(series,)``.
    shape
        ``(series, noise)``.
    seed
        Integer, or None for a fresh one.
    levy
        Which integrals are carried. One seed gives a different path at each richness, so compare steppers on
        the richest one that any of them needs. "area" is the path of "space-time" with an approximate Levy
        area for each query, keyed by its ends.
    tol
        Length of the tree's leaves, or one a series ``(series,)``, rounded down to the series' span over a
        power of two. Two times inside one leaf would not have their joint law, so closer queries are refused.
        By default the span over ``2**16``. Times that are no multiples of a leaf move a little with it.
    series
        int64 keys of the series, ``(series,)``; by default the row number.
    dtype, device
        Of the increments. What a normal adds to a step is worked out in float64, so that short steps keep
        their digits in float32.

    Raises
    ------
    DataError
        If the ends are not finite and increasing, or ``tol`` or ``levy`` is not usable.

    Examples
    --------
    >>> import torch
    >>> from neurosde.noise import BrownianPath
    >>> path = BrownianPath(0.0, 1.0, (4, 2), seed=0, levy="space-time", dtype=torch.float64)
    >>> left, right = path.increment(0.0, 0.3), path.increment(0.3, 1.0)
    >>> whole = path.increment(0.0, 1.0)
    >>> torch.allclose(left.W + right.W, whole.W)
    True
    """

    def __init__(
        self,
        t0: float | Tensor,
        t1: float | Tensor,
        shape: tuple[int, int],
        *,
        seed: int | None,
        levy: Levy = "none",
        tol: float | Tensor | None = None,
        series: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        self.shape, self.levy, self.seed = as_shape(shape), as_levy(levy), as_seed(seed)
        self.dtype = as_dtype(dtype)
        self.series = as_series(series, self.shape[0], as_device(device))
        self.t0, self.t1, self._span = _ends(t0, t1, self.series)
        n_parts, n_noise = RICHNESS[self.levy], self.shape[1]
        words, pairs = (2 if n_parts == 3 else 1), (n_noise + 1) // 2 if n_parts == 1 else n_noise
        pair = torch.arange(words * pairs, device=self.series.device)
        keys = torch.as_tensor(chain(chain(self.seed, _COLUMN), self.series.unsqueeze(-1), pair))
        self._columns = keys.unflatten(-1, (pairs, words)).movedim(-1, 0).contiguous()
        self.levels = _levels(self._span, tol)  # (series,) where they differ
        self.deepest = int(self.levels.max()) if isinstance(self.levels, Tensor) else self.levels
        self._heads = mixed_heads(self.seed, (_ROOT, *range(self.deepest), _LEAF)).to(self.series.device)
        self.exact = torch.float64 if n_parts > 1 else self.dtype  # W alone keeps its digits in float32

    def increment(self, s: float | Tensor, t: float | Tensor) -> BrownianIncrement:
        """Increment and integrals of the path over ``[s, t]``.

        Parameters
        ----------
        s, t
            Times with ``t0 <= s <= t <= t1``: numbers, or one a series ``(series,)``.

        Returns
        -------
        BrownianIncrement
            ``W`` (and H, K) of shape ``(series, noise)``.

        Raises
        ------
        DataError
            If the times leave ``[t0, t1]``, run backwards, or are closer together than a leaf of the tree.
        """
        n_series, device = self.shape[0], self.series.device
        ends = [as_ends(name, value, n_series, device) for name, value in (("s", s), ("t", t))]
        per_series = any(end.dim() == 1 for end in ends)
        ends = [end.expand(n_series) for end in ends] if per_series else ends
        return self.increments(torch.stack(ends, dim=-1)).at(0)

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Increments over consecutive steps; ``first`` does not matter to a path."""
        as_first(first)
        times = as_times(times, self.shape[0], self.series.device)
        u = self._fractions(times)
        shared = u.dim() == 1
        u = u.unsqueeze(-1) if shared else u.transpose(0, 1).contiguous()
        dt = steps_first(torch.diff(times)).to(self.dtype)
        increment = BrownianIncrement(dt, *self._scaled(self._tree(self.dtype).steps(u, shared)))
        if self.levy != "area":
            return increment
        start, end = (part.view(torch.int64) for part in (u[:-1], u[1:]))
        return with_area(increment, torch.as_tensor(chain(chain(self.seed, self.series), start, end)))

    @property
    def columns(self) -> Tensor:
        """Keys of each series' lanes, int64 ``(word, series, pair)``."""
        return self._columns

    def _tree(self, dtype: torch.dtype) -> Tree:
        return Tree(self._heads, self._columns, self.levels, RICHNESS[self.levy], dtype, self.is_compiled)

    def _scaled(self, z: Tensor) -> list[Tensor]:
        """Integrals ``(step, series, noise)`` in units of time, of lanes in units of the span, in place."""
        root = torch.sqrt(self._span).to(z.dtype)
        if RICHNESS[self.levy] > 1:
            wide = root.unsqueeze(-1) if root.dim() else root
            if self.is_compiled:  # a compiled loop takes no two views of one piece of memory
                return [part * wide for part in z.unbind(1)]
            return list(z.mul_(wide).unbind(1))
        root = root.view(-1, 1, 1) if root.dim() else root
        W = z.new_empty(len(z), *z.shape[2:], 2)
        torch.mul(z.permute(0, 2, 3, 1), root, out=W)  # lanes become channels in the same pass
        return [W.flatten(2)[..., : self.shape[1]].contiguous()]

    def _channels(self, z: Tensor) -> list[Tensor]:
        """Integrals ``(node, series, noise)`` of lanes, which are pairs of channels where W is alone."""
        if RICHNESS[self.levy] > 1:
            return list(z.unbind(1))
        return [z.permute(0, 2, 3, 1).flatten(2)[..., : self.shape[1]]]

    def _fractions(self, times: Tensor) -> Tensor:
        """Times as fractions of the span, checked: inside, increasing, and no two in one leaf."""
        if times.dim() == 2 or self._span.dim() == 0:
            start = self.t0.unsqueeze(-1) if self.t0.dim() else self.t0
            span = self._span.unsqueeze(-1) if self._span.dim() else self._span
            u = (times - start) / span
        else:
            u = (times - self.t0.unsqueeze(-1)) / self._span.unsqueeze(-1)
        slack = 1e-12
        inside = (u >= -slack) & (u <= 1 + slack)
        if not bool(inside.all()):
            bad = (~inside).nonzero()[0].tolist()
            start, end = (float(x[bad[0]] if x.dim() else x) for x in (self.t0, self.t1))
            got = float(times[tuple(bad[-times.dim() :])])
            raise DataError(f"times: expected values inside the path's [{start}, {end}], got {got} at {bad}.")
        u = u.clamp(0.0, 1.0)
        gaps, size = torch.diff(u), self._leaves()
        inside_one_leaf = (gaps > 0) & (torch.floor(u[..., 1:] * size) == torch.floor(u[..., :-1] * size))
        inside_one_leaf &= (u[..., :-1] * size).frac() > 0
        if bool((gaps < 0).any()) or bool(inside_one_leaf.any()):
            bad = ((gaps < 0) | inside_one_leaf).nonzero()[0].tolist()
            levels = int(self.levels[bad[0]]) if isinstance(self.levels, Tensor) else self.levels
            raise DataError(
                f"times: step {bad} is {float(gaps[tuple(bad)]):.3g} of the span; expected increasing times "
                f"at least 2**-{levels} of it apart. Pass a smaller tol to BrownianPath."
            )
        return u

    def _leaves(self) -> Tensor:
        """How many leaves the tree of each series has, float64 ``(1,)`` or ``(series, 1)``."""
        return power_of_two(torch.as_tensor(self.levels, device=self.series.device)).unsqueeze(-1)

    def node_normals(self, level: int | Tensor, index: int | Tensor) -> Tensor:
        """Normals ``(series, noise, integral)`` of one node, or of one a series, int64 ``(series,)``."""
        if isinstance(level, int) and isinstance(index, int):
            rows = torch.tensor(chain(self.seed, level, index), device=self.series.device).view(1, 1, 1)
        else:
            row = (
                level + 1 if isinstance(level, Tensor) else len(self._heads) - 1
            )  # the levels, or the leaves
            rows = mixed_rows(self._heads[row], torch.as_tensor(index)).view(1, -1, 1)
        parts = self._channels(self._tree(self.dtype).normals(rows))
        z = parts[0].squeeze(0).unsqueeze(-1) if len(parts) == 1 else torch.stack(parts, dim=-1)[0]
        return z.to(self.exact)

    def root(self) -> Scaled:
        """Record of the whole span, taken as one unit of time, ``(series, noise)``."""
        z = self.node_normals(_ROOT, 0)
        H = z[..., 1] / 12**0.5 if z.shape[-1] > 1 else None
        K = z[..., 2] / 720**0.5 if z.shape[-1] > 2 else None
        return Scaled(z[..., 0], H, K)

    def cut_leaf(self, leaf: Scaled, index: int | Tensor, p: Tensor) -> tuple[Scaled, Scaled]:
        """Cut leaves ``(series, noise)`` at fractions p ``(series or 1, 1)``; parts in units of the span."""
        count = self._leaves().to(leaf.W.dtype)
        unit = _rescale(leaf, count)
        part, rest = cut(unit, p, self.node_normals(_LEAF, index))
        return _rescale(part, 1 / count), _rescale(rest, 1 / count)


def _rescale(record: Scaled, c: Tensor) -> Scaled:
    """Record of the interval c times as long, by Brownian scaling."""
    root = c.sqrt()
    H = None if record.H is None else record.H * (c * root)
    K = None if record.K is None else record.K * (c * c * root)
    return Scaled(record.W * root, H, K)


def _ends(t0: float | Tensor, t1: float | Tensor, series: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both ends and the span between them: finite, and longer than nothing."""
    start, end = (as_ends(*pair, len(series), series.device) for pair in (("t0", t0), ("t1", t1)))
    span = end - start
    if is_within(span, math.ulp(0.0)):
        return start, end, span
    for name, time in (("t0", start), ("t1", end)):
        if not bool(torch.isfinite(time).all()):
            bad = int((~torch.isfinite(time.reshape(-1))).nonzero()[0])
            got = float(time.reshape(-1)[bad])
            raise DataError(f"{name}: expected finite times, got {got} for series {bad}.")
    spans = span.reshape(-1)
    bad = int((~((spans > 0) & (spans < torch.inf))).nonzero()[0])
    raise DataError(
        f"t1: expected every end after its start, by a finite time; series {bad} spans {float(spans[bad])}."
    )


def _levels(span: Tensor, tol: float | Tensor | None) -> int | Tensor:
    """Depth of the trees: one number, or int64 ``(series,)`` where they differ."""
    if tol is None:
        return DEFAULT_LEVELS
    length = as_numbers("tol", tol, "a positive length of time, or one a series", device=span.device)
    if length.dim() and length.shape != span.shape:
        raise ShapeError(
            f"tol: expected a number or one a series that has ends of its own, {tuple(span.shape)}, "
            f"got {tuple(length.shape)}."
        )
    if not bool((length.isfinite() & (length > 0)).all()):
        raise DataError(f"tol: expected a positive length of time, got {reprlib.repr(tol)}.")
    levels = powers_within((span / length).clamp(max=2.0**_MAX_LEVELS)).clamp(min=1)
    return levels if bool((levels != levels.min()).any()) else int(levels.min())
