"""A Brownian path that is a pure function of its seed."""

import itertools
import math

import numpy as np
import torch

from neurosde.errors import DataError, ShapeError
from neurosde.noise.keys import as_seed, chain, normals
from neurosde.noise.records import (
    RICHNESS,
    BrownianIncrement,
    Levy,
    Scaled,
    difference,
    each,
    interpolate,
    join,
    split,
)
from neurosde.noise.steps import AbstractNoise, as_levy, as_series, as_shape, steps_first, with_area
from neurosde.typing import Any, Tensor

_ROOT, _LEAF = 101, 102  # reserved levels of the key
_BLOCK = 32768
DEFAULT_LEVELS = 16
_MAX_LEVELS = 40


class BrownianPath(AbstractNoise):
    """Brownian motion on ``[t0, t1]`` as a pure function of (seed, series, time).

    The path is refined on a dyadic tree: each node's increment and integrals are halved with normals keyed by
    (seed, series, level, index), and a time inside a leaf is interpolated with the leaf's key (Jelincic,
    Foster & Kidger 2024, arXiv 2405.06464). Any query, in any order, any number of times, gives the same
    path with the exact joint law of (W, H, K), in constant memory.

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
        Length of the tree's leaves, rounded down to the span over a power of two. Two times inside one leaf
        would not have their joint law, so closer queries are refused. By default the span over ``2**16``.
    series
        int64 keys of the series, ``(series,)``; by default the row number.
    dtype, device
        Of the increments; the tree itself is kept in float64.

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
        tol: float | None = None,
        series: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        self.shape, self.levy, self.seed = as_shape(shape), as_levy(levy), as_seed(seed)
        self.dtype = dtype or torch.get_default_dtype()
        self.series = as_series(series, self.shape[0], device)
        self.t0, self.t1 = (self._end(name, value) for name, value in (("t0", t0), ("t1", t1)))
        self._span = self.t1 - self.t0
        if not bool(torch.all(self._span > 0)):
            bad = int(torch.argmin(torch.atleast_1d(self._span)))
            raise DataError(
                f"t1: expected every end after its start; series {bad} spans {float(self._span.min())}."
            )
        self.levels = _levels(float(self._span.max()), tol)

    def _end(self, name: str, value: float | Tensor) -> Tensor:
        end = torch.as_tensor(value, dtype=torch.float64, device=self.series.device)
        if end.dim() > 1 or (end.dim() == 1 and len(end) != self.shape[0]):
            raise ShapeError(
                f"{name}: expected a number or one a series ({self.shape[0]},), got {tuple(end.shape)}."
            )
        if not bool(torch.isfinite(end).all()):
            raise DataError(f"{name}: expected finite times, got {end.tolist()}.")
        return end

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
        ends = [torch.as_tensor(x, dtype=torch.float64, device=self.series.device) for x in (s, t)]
        per_series = any(end.dim() == 1 for end in ends)
        ends = [end.expand(self.shape[0]) for end in ends] if per_series else ends
        return self.increments(torch.stack(ends, dim=-1)).at(0)

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        """Increments over consecutive steps; ``first`` does not matter to a path."""
        times = torch.as_tensor(times, dtype=torch.float64, device=self.series.device)
        u = self._fractions(times)
        local = self._nodes(u.cpu().numpy()) if u.dim() == 1 else None
        local = self._between(u) if local is None else local
        u = u.unsqueeze(-1).unsqueeze(-1) if u.dim() == 1 else u.transpose(0, 1).unsqueeze(-1)
        dt = steps_first(torch.diff(times))
        root = torch.sqrt(self._span).unsqueeze(-1) if self._span.dim() else torch.sqrt(self._span)
        h = u[1:] - u[:-1]
        safe = torch.where(h > 0, h, torch.ones_like(h))
        H = None if local.H is None else (root * torch.where(h > 0, local.H / safe, 0.0)).to(self.dtype)
        K = None if local.K is None else (root * torch.where(h > 0, local.K / safe**2, 0.0)).to(self.dtype)
        W = (root.to(local.W) * local.W).to(self.dtype)
        increment = BrownianIncrement(dt.to(self.dtype), W, H, K)
        if self.levy != "area":
            return increment
        start, end = (part.contiguous().view(torch.int64).squeeze(-1) for part in (u[:-1], u[1:]))
        return with_area(increment, torch.as_tensor(chain(chain(self.seed, self.series), start, end)))

    def _fractions(self, times: Tensor) -> Tensor:
        """Times as fractions of the span, checked: inside, increasing, and no two in one leaf."""
        if times.dim() == 2 or self._span.dim() == 0:
            start = self.t0.unsqueeze(-1) if self.t0.dim() else self.t0
            span = self._span.unsqueeze(-1) if self._span.dim() else self._span
            u = (times - start) / span
        else:
            u = (times - self.t0.unsqueeze(-1)) / self._span.unsqueeze(-1)
        slack = 1e-12
        if not bool(((u >= -slack) & (u <= 1 + slack)).all()):
            raise DataError(
                f"times: expected values inside the path's [{self.t0.tolist()}, {self.t1.tolist()}], "
                f"got {float(times.min())} to {float(times.max())}."
            )
        u = u.clamp(0.0, 1.0)
        gaps, size = torch.diff(u), 2.0**self.levels
        inside_one_leaf = (gaps > 0) & (torch.floor(u[..., 1:] * size) == torch.floor(u[..., :-1] * size))
        inside_one_leaf &= (u[..., :-1] * size).frac() > 0
        if bool((gaps < 0).any()) or bool(inside_one_leaf.any()):
            bad = ((gaps < 0) | inside_one_leaf).nonzero()[0].tolist()
            raise DataError(
                f"times: step {bad} is {float(gaps[tuple(bad)]):.3g} of the span; expected increasing times "
                f"at least 2**-{self.levels} of it apart. Pass a smaller tol to BrownianPath."
            )
        return u

    def node_normals(self, level: int | Tensor, index: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        """Normals of nodes: index (node, 1) or (node, series) gives (node, series, noise, integral)."""
        key = chain(chain(chain(self.seed, self.series), level), index)
        n_parts = RICHNESS[self.levy]
        z = normals(torch.as_tensor(key), self.shape[1] * n_parts, self.dtype, compiled=self.is_compiled)
        return z.to(dtype).unflatten(-1, (self.shape[1], n_parts))

    def root(self) -> Scaled:
        """Record of the whole span, taken as one unit of time, ``(1, series, noise)``."""
        z = self.node_normals(_ROOT, torch.zeros(1, 1, dtype=torch.int64, device=self.series.device))
        H = z[..., 1] / 12**0.5 if z.shape[-1] > 1 else None
        K = z[..., 2] / 720**0.5 if z.shape[-1] > 2 else None
        return Scaled(z[..., 0], H, K)

    def cut_leaf(self, leaf: Scaled, index: Tensor, p: Tensor) -> tuple[Scaled, Scaled]:
        """Cut leaves ``(series, noise)`` at fractions p ``(series, 1)``; both parts in units of the span."""
        h = 2.0**-self.levels
        unit = _rescale(leaf, 1 / h)
        part = interpolate(unit, p, self.node_normals(_LEAF, index.unsqueeze(0))[0])
        rest = difference(part, p, unit, torch.ones_like(p))
        return _rescale(part, h), _rescale(rest, h)

    def _between(self, u: Tensor) -> Scaled:
        """Records between any times, as differences of those from the origin."""
        origin = self._shared(u.tolist()) if u.dim() == 1 else self._separate(u.transpose(0, 1))
        u = u.unsqueeze(-1).unsqueeze(-1) if u.dim() == 1 else u.transpose(0, 1).unsqueeze(-1)
        left, right = each(lambda x: x[:-1], origin), each(lambda x: x[1:], origin)
        return difference(left, u[:-1], right, u[1:])

    def _nodes(self, u: np.ndarray) -> Scaled | None:
        """Records of consecutive nodes of one level, if that is what the steps are."""
        level = _lattice_level(u, self.levels)
        if level > self.levels or len(u) < 2 or np.any(np.diff(u) != 2.0**-level):
            return None
        first, last = int(u[0] * 2**level), int(u[-1] * 2**level) - 1
        dtype = self.dtype if self.levy == "none" else torch.float64  # W alone keeps its digits in float32
        node = each(lambda x: x.to(dtype), self.root())
        low = 0
        for k in range(level):
            index = torch.arange(low, low + len(node.W), device=self.series.device).unsqueeze(-1)
            left, right = split(node, 2.0**-k, self.node_normals(k, index, dtype))
            below = first >> (level - k - 1)
            rows = slice(below - 2 * low, (last >> (level - k - 1)) + 1 - 2 * low)
            node = each(lambda a, b, rows=rows: torch.stack((a, b), dim=1).flatten(0, 1)[rows], left, right)
            low = below
        return node

    def _shared(self, fractions: list[float]) -> Scaled:
        """Records of [0, u] for times that all series share: a node is split once for all of them."""
        device = self.series.device
        root, u = self.root(), np.asarray(fractions)
        out = each(lambda x: torch.zeros(len(u), *self.shape, dtype=torch.float64, device=device), root)
        _assign(out, np.flatnonzero(u == 1.0), root, np.zeros(int((u == 1.0).sum()), dtype=np.int64))
        active = np.flatnonzero((u > 0) & (u < 1))
        node, before, index = root, each(torch.zeros_like, root), np.zeros(1, dtype=np.int64)
        where, level = np.zeros(len(active), dtype=np.int64), 0  # the node that each active time lies in
        deepest = _lattice_level(u[active], self.levels)
        while len(active) and level < self.levels and (len(active) > len(index) or deepest <= level + 2):
            h = 2.0**-level
            left, right = split(
                node, h, self.node_normals(level, torch.as_tensor(index, device=device)[:, None])
            )
            start = torch.as_tensor(index * h, dtype=torch.float64, device=device)[:, None, None]
            middle = join(before, start, left, h / 2)
            scaled = u[active] * 2.0 ** (level + 1)
            child = np.floor(scaled).astype(np.int64)
            done = scaled == child  # such a time is the middle of its node
            _assign(out, active[done], middle, where[done])
            active, child, where = active[~done], child[~done], where[~done]
            index, first, inverse = np.unique(child, return_index=True, return_inverse=True)
            parent = torch.as_tensor(where[first], device=device)
            is_right = torch.as_tensor(index % 2 == 1, device=device)[:, None, None]
            node = _choose(is_right, _take(right, parent), _take(left, parent))
            before = _choose(is_right, _take(middle, parent), _take(before, parent))
            where, level = inverse.reshape(-1), level + 1
        if len(active):
            place = torch.as_tensor(where, device=device)
            rest = torch.as_tensor(u[active], device=device)[:, None]
            record = self._descend(_take(node, place), _take(before, place), rest, level)
            _assign(out, active, record, np.arange(len(active)))
        return out

    def _separate(self, u: Tensor) -> Scaled:
        """Records of [0, u] for times (time, series) that differ between series."""
        root = each(lambda x: x.expand(*u.shape, self.shape[1]), self.root())
        return self._descend(root, each(torch.zeros_like, root), u, 0)

    def _descend(self, node: Scaled, before: Scaled, u: Tensor, level: int) -> Scaled:
        """Records of [0, u] for times (time, series or 1), each in a node of its own, down to its leaf.

        A time on the lattice stands at the left end of its nodes from some level on; nothing is added to
        what lies before it; so it needs no case of its own.
        """
        lattice = [_index(u, k) for k in range(level, self.levels + 1)]
        descend = self._descend_motion if node.H is None else self._descend_integrals
        node, before = descend(node, before, lattice, level)
        p = (u * 2.0**self.levels - lattice[-1]).unsqueeze(-1)
        return self._inside_leaf(node, before, lattice[-1], p)

    def _descend_motion(
        self, node: Scaled, before: Scaled, lattice: list[Tensor], level: int
    ) -> tuple[Scaled, Scaled]:
        """W alone, a few times after the other and in place, so that all of it stays in the cache."""
        W, reached = node.W.contiguous(), before.W.contiguous()
        rows = max(1, _BLOCK // max(1, W[0].numel()))
        for first in range(0, len(W), rows):
            w, r = W[first : first + rows], reached[first : first + rows]
            for k, (above, below) in enumerate(itertools.pairwise(lattice), start=level):
                bit = (below[first : first + rows] & 1).to(w.dtype).unsqueeze(-1)
                tilt = self.node_normals(k, above[first : first + rows])[..., 0].mul_(0.5 * 2.0 ** (-0.5 * k))
                w.mul_(0.5)
                r.addcmul_(bit, w + tilt)
                w.addcmul_(1 - 2 * bit, tilt)
        return Scaled(W, None, None), Scaled(reached, None, None)

    def _descend_integrals(
        self, node: Scaled, before: Scaled, lattice: list[Tensor], level: int
    ) -> tuple[Scaled, Scaled]:
        for k, (above, below) in enumerate(itertools.pairwise(lattice), start=level):
            h = 2.0**-k
            left, right = split(node, h, self.node_normals(k, above))
            middle = join(before, above.to(torch.float64).unsqueeze(-1) * h, left, h / 2)
            is_right = (below & 1).bool().unsqueeze(-1)
            node, before = _choose(is_right, right, left), _choose(is_right, middle, before)
        return node, before

    def _inside_leaf(self, node: Scaled, before: Scaled, index: Tensor, p: Tensor) -> Scaled:
        """Record from the origin to fraction p of a leaf."""
        h = 2.0**-self.levels
        unit = _rescale(node, 1 / h)
        part = _rescale(interpolate(unit, p, self.node_normals(_LEAF, index)), h)
        return join(before, index.to(torch.float64).unsqueeze(-1) * h, part, p * h)


def _rescale(record: Scaled, c: float) -> Scaled:
    """Record of the interval c times as long, by Brownian scaling."""
    H = None if record.H is None else record.H * c**1.5
    K = None if record.K is None else record.K * c**2.5
    return Scaled(record.W * c**0.5, H, K)


def _take(record: Scaled, rows: Tensor) -> Scaled:
    return each(lambda x: x[rows], record)


def _choose(mask: Tensor, yes: Scaled, no: Scaled) -> Scaled:
    return each(lambda a, b: torch.where(mask, a, b), yes, no)


def _assign(out: Scaled, rows: Any, record: Scaled, places: Any) -> None:
    """Write rows of a record into the result being filled, in place."""
    if len(rows):
        for target, part in zip(out, record, strict=True):
            if target is not None and part is not None:
                target[torch.as_tensor(rows)] = part if places is None else part[torch.as_tensor(places)]


def _levels(span: float, tol: float | None) -> int:
    if tol is None:
        return DEFAULT_LEVELS
    if not (math.isfinite(tol) and tol > 0):
        raise DataError(f"tol: expected a positive length of time, got {tol!r}.")
    return min(max(1, math.ceil(math.log2(span / tol))), _MAX_LEVELS)


def _lattice_level(u: np.ndarray, limit: int) -> int:
    """Level at which all of the fractions are lattice points; one more than the limit if they are not."""
    levels = (level for level in range(limit + 1) if np.all(u * 2.0**level == np.floor(u * 2.0**level)))
    return next(levels, limit + 1)


def _index(u: Tensor, level: int) -> Tensor:
    """Number of the node of a level that a fraction lies in; the very end belongs to the last one."""
    return torch.floor(u * 2.0**level).to(torch.int64).clamp(max=2**level - 1)
