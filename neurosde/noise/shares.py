"""What each normal of the dyadic tree adds to the steps of a grid: numbers that no series shares in making.

A step's record is linear in the normals of the tree: ``(W, H, K) = sum_node share(node, step) z(node)``. A
node's normals move the path inside the node alone, along a piece of a polynomial on each half (the mean of
the path given the record of the half), and add nothing to the record of the whole node. So a step meets no
nodes but those that its two ends lie in, and its shares have closed forms in which no digits are lost: they
are made in float64, one number a step, and the normals themselves need no more digits than the result.
"""

from typing import NamedTuple

import torch

from neurosde.noise.powers import power_of_two
from neurosde.noise.records import Scaled, cut, each, join, split
from neurosde.typing import Tensor


class Shares(NamedTuple):
    """Shares of nodes in steps, one row for the root, one a level of the tree, the last for the leaves.

    Parameters
    ----------
    node
        Number of the node that each time lies in, int64 ``(row, time, clock)``.
    from_start, from_end
        Shares of the nodes that a step's start and end lie in, float64 ``(part, normal, row, step, clock)``;
        where that is one node, it stands with the end.
    motion
        Where W is alone, shares in the path itself at each time, ``(row, time, clock)``.
    """

    node: Tensor
    from_start: Tensor
    from_end: Tensor
    motion: Tensor | None


def make_shares(u: Tensor, levels: int | Tensor, n_parts: int) -> Shares:
    """Shares of the nodes' normals in the steps between times ``(time, clock)``, fractions of the span.

    Levels are one number or one a clock, int64 ``(clock,)``; the rows of the deepest tree are all there, and
    clocks of a shallower one have no share in what lies below their own leaves.
    """
    count, below = _counts(u, levels)
    index, p = _lattice(u, count)
    size = 1 / count
    if n_parts == 1:
        start, end, motion = _of_motion(index, p, size)
    else:
        start, end, motion = _of_integrals(index, p, size, n_parts)
    if below is not None:
        start, end = (share.masked_fill(below, 0.0) for share in (start, end))
        motion = None if motion is None else motion.masked_fill(below, 0.0)
    root = _of_root(u, n_parts).unsqueeze(2)
    index = torch.cat((torch.zeros_like(index[:1]), index)).to(torch.int64)
    motion = None if motion is None else torch.cat((u.unsqueeze(0), motion))
    start = torch.cat((torch.zeros_like(root), start), dim=2)
    return Shares(index, start, torch.cat((root, end), dim=2), motion)


def _of_motion(index: Tensor, p: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A node's normal raises a tent over it, a leaf's normal an arc."""
    rest = 1 - p
    tent = torch.minimum(p, rest).mul_(size.sqrt())
    tent[-1] = (p[-1] * rest[-1] * size[-1]).sqrt()
    before, after = tent[:, :-1], tent[:, 1:]
    same = index[:, :-1] == index[:, 1:]
    from_end = torch.where(same, after - before, after)
    return torch.where(same, 0.0, -before)[None, None], from_end[None, None], tent


def _of_integrals(index: Tensor, p: Tensor, size: Tensor, n_parts: int) -> tuple[Tensor, Tensor, None]:
    """Shares in W, H and K."""
    x, inside, n = index + p, (p > 0) & (p < 1), len(size) - 1
    h = torch.diff(x, dim=1)
    s, t, same = p[:, :-1], p[:, 1:], index[:, :-1] == index[:, 1:]
    ahead, behind = index[:, 1:] - x[:, :-1], x[:, 1:] - index[:, :-1] - 1  # of the end's, the start's node
    meets_start = inside[:, :-1] & ~same
    meets_end = inside[:, 1:] | (inside[:, :-1] & same)
    meets_start[n], meets_end[n] = inside[n, :-1], inside[n, 1:]  # a leaf has one draw for the time in it
    meets_start, meets_end = meets_start & (h > 0), meets_end & (h > 0)
    zero, one = torch.zeros_like(s[:n]), torch.ones_like(s[:n])
    low, gap = torch.where(same[:n], s[:n], zero), torch.where(same[:n], zero, ahead[:n])
    power = torch.arange(3, device=h.device).view(-1, 1, 1, 1)
    scale = size.sqrt() / torch.where(h > 0, h, 1.0) ** power
    fraction = torch.where(inside[n], p[n], 0.5)
    from_start, from_end = [], []
    for normal in range(n_parts):
        halves = _halves(normal, n_parts)
        end = _behind(gap, _covered(halves, low, t[:n]), t[:n] - low)
        start = _before(_covered(halves, s[:n], one), 1 - s[:n], behind[:n])
        left, right = _cut_leaf(fraction, normal, n_parts)
        last = _behind(ahead[n], each(lambda part: part[1:], left), t[n])
        first = _before(each(lambda part: part[:-1], right), 1 - s[n], behind[n])
        for table, nodes, leaf in ((from_start, start, first), (from_end, end, last)):
            pairs = [(a, b) for a, b in zip(nodes, leaf, strict=True) if a is not None and b is not None]
            table.append([torch.cat((a, b.unsqueeze(0))) * scale[i] for i, (a, b) in enumerate(pairs)])
    tables = (torch.stack([torch.stack(parts) for parts in table], dim=1) for table in (from_start, from_end))
    first, last = (
        torch.where(meets, table, 0.0) for meets, table in zip((meets_start, meets_end), tables, strict=True)
    )
    return first, last, None


def _of_root(u: Tensor, n_parts: int) -> Tensor:
    """Shares of the root's normals, ``(part, normal, step, clock)``."""
    middle, h = (u[1:] + u[:-1] - 1) / 2, torch.diff(u, dim=0)
    units = ((1.0, 0.0, 0.0), (0.0, 12**-0.5, 0.0), (0.0, 0.0, 720**-0.5))
    pieces = [torch.stack(_piece(unit, middle, h)[:n_parts]) for unit in units[:n_parts]]
    return torch.stack(pieces, dim=1)


def _counts(u: Tensor, levels: int | Tensor) -> tuple[Tensor, Tensor | None]:
    """Nodes of each level, the leaves last, ``(row, 1, clock or 1)``, and which rows a clock's tree lacks."""
    deepest = levels if isinstance(levels, int) else int(levels.max())
    row = torch.arange(deepest + 1, device=u.device).view(-1, 1, 1)
    if isinstance(levels, int):
        return power_of_two(row).to(u.dtype), None
    row = row.repeat(1, 1, len(levels))
    below = row >= levels
    row[-1], below[-1] = levels, False
    return power_of_two(row).to(u.dtype), below


def _lattice(u: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Node of each level, the leaves last, that a time lies in, and where in it; both float64."""
    x = u * count
    index = torch.minimum(torch.floor(x), count - 1)  # the very end belongs to the last node
    return index, x - index


def _halves(normal: int, n_parts: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(W, H, K) of both halves of a unit node with one normal at 1, all else at 0."""
    nothing = [torch.zeros((), dtype=torch.float64) for _ in range(n_parts)] + [None] * (3 - n_parts)
    z = torch.eye(n_parts, dtype=torch.float64)[normal]
    halves = split(Scaled(*nothing), 1.0, z)  # pyright: ignore[reportArgumentType]
    left, right = (
        tuple(float(part) * 2**i for i, part in enumerate(half) if part is not None) for half in halves
    )
    return left, right


def _piece(record: tuple[float, ...], x: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(W, H, K) over a part of an interval, d of its length around x, of the mean path given its (W, H, K).

    That mean is ``p W + 6 p q H + 120 p q (1/2 - p) K``, a cubic, taken around the middle of the part.
    """
    W, H, K = (*record, 0.0)[:3]
    if not K:
        return (W - 12 * H * x) * d, H * d * d, torch.zeros_like(d)
    motion = W - 12 * x * H - 120 * K * (0.25 - 3 * x * x) + 30 * K * d * d
    return motion * d, (H - 60 * x * K) * d * d, K * d**3


def _covered(halves: tuple[tuple[float, ...], tuple[float, ...]], s: Tensor, t: Tensor) -> Scaled:
    """Record of ``[s, t]`` inside a unit node."""
    s_left, t_left, s_right, t_right = s.clamp(max=0.5), t.clamp(max=0.5), s.clamp(min=0.5), t.clamp(min=0.5)
    a, b = t_left - s_left, t_right - s_right
    W, H, K = _piece(halves[0], s_left + t_left - 0.5, 2 * a)
    left = Scaled(W, H * a, K * a * a if len(halves[0]) > 2 else None)
    W, H, K = _piece(halves[1], s_right + t_right - 1.5, 2 * b)
    return join(left, a, Scaled(W, H * b, K * b * b if len(halves[1]) > 2 else None), b)


def _behind(gap: Tensor, record: Scaled, length: Tensor) -> Scaled:
    """Record with a stretch of nothing before it."""
    return join(each(torch.zeros_like, record), gap, record, length)


def _before(record: Scaled, length: Tensor, gap: Tensor) -> Scaled:
    """Record with a stretch of nothing after it."""
    return join(record, length, each(torch.zeros_like, record), gap)


def _cut_leaf(p: Tensor, normal: int, n_parts: int) -> tuple[Scaled, Scaled]:
    """Records of both parts of a unit leaf with one normal at 1, all else at 0."""
    nothing = [torch.zeros_like(p) for _ in range(n_parts)] + [None] * (3 - n_parts)
    z = torch.eye(n_parts, dtype=torch.float64, device=p.device)[normal]
    return cut(Scaled(*nothing), p, z)  # pyright: ignore[reportArgumentType]
