"""Sums over the dyadic tree of normals times their shares: the steps of a grid for some of its series."""

import torch
from torch.nn.functional import embedding_bag, pad

from neurosde.noise.nodes import compiled_sums, crossed, mixed_rows
from neurosde.noise.shares import make_shares
from neurosde.typing import Tensor

_PAIRS = 32768  # pairs of normals that are drawn at a time on a processor, so that the passes meet its cache
_COLUMNS = 1024  # pairs of series and channel that are summed at a time
_DEPTH = (
    4  # levels drawn once for a series' own times, however many they are: one order of sums, the same bits
)
_NUMBERS = 1 << 16  # shares that are made at a time where every series has times of its own


class Tree:
    """Normals of the tree's nodes for some of the series, and their sums over the steps of a grid.

    Parameters
    ----------
    heads
        Mixed keys of the seed and each row: the root, the levels, and the leaves.
    columns
        Keys of the seed, the series and the pair, int64 ``(word, series, pair)``.
    levels
        Levels above the leaves, or int64 ``(series,)`` where series differ in it.
    n_parts
        Integrals that are carried.
    dtype
        Of the sums.
    compiled
        Whether normals are made by compiled code.
    """

    def __init__(
        self,
        heads: Tensor,
        columns: Tensor,
        levels: int | Tensor,
        n_parts: int,
        dtype: torch.dtype,
        compiled: bool,
    ):
        self.heads, self.columns, self.levels, self.n_parts = heads, columns, levels, n_parts
        self.dtype, self.compiled = dtype, compiled
        self.lanes = max(2, n_parts)  # a pair's two channels where W is alone, else the integrals
        self.size = max(1, _PAIRS // columns[0].numel()) if columns.device.type == "cpu" else 1 << 30

    def part(self, rows: slice) -> "Tree":
        """The tree of some of the series, no deeper than they need."""
        levels, heads = self.levels, self.heads
        if isinstance(levels, Tensor):
            levels = levels[rows]
            heads = torch.cat((heads[: 1 + int(levels.max())], heads[-1:]))
        return Tree(heads, self.columns[:, rows], levels, self.n_parts, self.dtype, self.compiled)

    def normals(self, rows: Tensor) -> Tensor:
        """Normals of nodes whose keys are ``(node, series or 1, 1)``, as ``(node, lane, series, pair)``."""
        return crossed(rows, self.columns, self.lanes, self.dtype, compiled=self.compiled)

    def steps(self, u: Tensor, shared: bool) -> Tensor:
        """Integrals of the steps between times ``(time, clock)``, as ``(step, lane, series, pair)``.

        The road depends on whether series share their times and not on their number, so that a series alone
        has the very numbers that it has in a batch.
        """
        n_series, n_pairs = self.columns.shape[1:]
        out = self._zeros(max(0, len(u) - 1), n_series, n_pairs)
        if not len(out):
            return out
        on_cpu = u.device.type == "cpu"
        width = max(1, (4 if self.compiled else 1) * _COLUMNS // n_pairs) if on_cpu else n_series
        grid = Grid(u, self, None) if shared else None
        for first in range(0, n_series, width):
            rows = slice(first, first + width)
            part = self.part(rows)
            if grid is not None and grid.keys is not None:
                part._sum(out[:, :, rows], grid, part._table(grid.keys))
                continue
            depth = min(_DEPTH, len(part.heads) - 2)
            table = part._table(_all_nodes(part.heads, depth))
            numbers = len(part.heads) * u[:, rows].shape[1] * self.n_parts
            length = max(1, _NUMBERS // numbers) if on_cpu else len(out)
            for begin in range(0, len(out), length):
                times = u[begin : begin + length + 1, rows]
                part._sum(out[begin : begin + length, :, rows], Grid(times, part, depth), table)
        return out

    def _zeros(self, n_steps: int, n_series: int, n_pairs: int) -> Tensor:
        """Room ``(step, lane, series, pair)``; an integral lies in one piece, where there are several."""
        first = (n_steps, self.lanes) if self.n_parts == 1 else (self.lanes, n_steps)
        out = torch.zeros(*first, n_series, n_pairs, dtype=self.dtype, device=self.columns.device)
        return out if self.n_parts == 1 else out.transpose(0, 1)

    def _table(self, keys: Tensor) -> Tensor:
        if self.compiled or len(keys) <= self.size:
            return self.normals(keys)
        table = torch.empty(
            len(keys), self.lanes, *self.columns.shape[1:], dtype=self.dtype, device=keys.device
        )
        for rows, part in zip(keys.split(self.size), table.split(self.size), strict=True):
            crossed(rows, self.columns, self.lanes, self.dtype, out=part)
        return table

    def _sum(self, target: Tensor, grid: "Grid", table: Tensor) -> None:
        self._add_few(target, grid, table)
        if not grid.many:
            return
        if self.compiled:
            self._add_unseen(target, grid)
            return
        if self.n_parts > 1:
            self._add_many(target, grid)
            return
        motion = target.new_zeros(len(target) + 1, *target.shape[1:])
        for times, row, z in self._drawn(grid):
            assert grid.motion is not None
            motion[times].addcmul_(grid.motion[row, times, None, :, None], z)
        target.add_(motion[1:]).sub_(motion[:-1])

    def _add_few(self, target: Tensor, grid: "Grid", table: Tensor) -> None:
        """Rows with few nodes: each was drawn once, and the steps that meet it look it up."""
        lane = torch.arange(self.lanes, device=table.device)
        n_series, n_pairs = table.shape[2:]
        if grid.keys is None:  # a bag a step and series, all lanes in it
            places = grid.places * n_series + torch.arange(n_series, device=table.device).unsqueeze(-1)
            places, bags = places.flatten(0, 1), table.transpose(1, 2).reshape(-1, self.lanes, n_pairs)
            for part in range(self.n_parts):
                for normal in range(self.n_parts):
                    rows = bags if self.n_parts == 1 else bags[:, normal]
                    weights = grid.weights[:, part, :, normal].reshape(places.shape)
                    sums = embedding_bag(
                        places, rows.reshape(len(rows), -1), mode="sum", per_sample_weights=weights
                    )
                    sums = sums.view(len(target), n_series, -1, n_pairs).transpose(1, 2)
                    lanes = target if self.n_parts == 1 else target[:, part : part + 1]
                    lanes.add_(sums)
            return
        places, weights = grid.places[:, None, :, None] * self.lanes, grid.weights
        if self.n_parts == 1:
            places, weights = places + lane.view(-1, 1, 1, 1), weights.expand(-1, 2, -1, -1, -1)
        else:
            places = (places + lane.view(1, 1, 1, -1, 1)).expand_as(weights)
        used = weights != 0
        counts = used.flatten(3).sum(-1).flatten()
        sums = embedding_bag(
            places[used], table.view(-1, n_series * n_pairs), counts.cumsum(0) - counts,
            mode="sum", per_sample_weights=weights[used],
        )  # fmt: skip
        target.add_(sums.view(target.shape))

    def _add_unseen(self, target: Tensor, grid: "Grid") -> None:
        """The same in one compiled pass, whose normals never reach the memory.

        The axis that is long in columns comes last, where it fills the processor's lanes: that of all series
        and pairs where times are shared, else that of the series.
        """
        keys = mixed_rows(self.heads[grid.many].view(-1, 1, 1), grid.index[grid.many])
        shape, own = target.shape[2:], grid.keys is None
        columns = self.columns.mT.contiguous() if own else self.columns.flatten(1)
        program = compiled_sums(self.n_parts, own)

        def aligned(table: Tensor) -> Tensor:
            return table.unsqueeze(-2) if own else table

        def laid(part: Tensor) -> Tensor:
            return part.mT if own else part.view(-1, *shape)

        if grid.motion is not None:
            sums = program(aligned(keys), columns, aligned(grid.motion[None, None, grid.many]))
            for lane, part in enumerate(sums):
                target[:, lane].add_(laid(part[1:])).sub_(laid(part[:-1]))
            return
        start, end = (table[:, :, grid.many] for table in (grid.from_start, grid.from_end))
        start, end = pad(start, (0, 0, 0, 1)), pad(end, (0, 0, 1, 0))
        sums = program(aligned(keys), columns, aligned(start), aligned(end))
        for part in range(self.n_parts):
            first, last = sums[part], sums[self.n_parts + part]
            target[:, part].add_(laid(first[:-1])).add_(laid(last[1:]))

    def _drawn(self, grid: "Grid"):
        """Normals of rows where nearly every time has a node of its own, a few rows and times at once."""
        n_times = grid.index.shape[1]
        keys = mixed_rows(self.heads[grid.many].view(-1, 1, 1, 1), grid.index[grid.many].unsqueeze(-1))
        group = max(1, self.size // n_times)
        for low in range(0, len(keys), group):
            for begin in range(0, n_times, self.size):
                times = slice(begin, min(begin + self.size, n_times))
                some = keys[low : low + group, times]
                drawn = self.normals(some.flatten(0, 1)).unflatten(0, some.shape[:2])
                for row, z in zip(grid.many[low : low + group], drawn, strict=True):
                    yield times, row, z

    def _add_many(self, target: Tensor, grid: "Grid") -> None:
        for times, row, z in self._drawn(grid):
            begin, end = times.start, times.stop
            last, skip = min(end, len(target)), max(begin, 1)
            runs = (
                (grid.from_start, slice(begin, last), z[: last - begin]),
                (grid.from_end, slice(skip - 1, end - 1), z[skip - begin :]),
            )
            for shares, steps, drawn in runs:
                for part in range(self.n_parts):
                    for normal in range(self.n_parts):
                        share = shares[part, normal, row, steps].unsqueeze(-1)
                        target[steps, part].addcmul_(share, drawn[:, normal])


class Grid:
    """Shares of a run of steps: of nodes that are looked up, and of those that are drawn where they are met.

    Parameters
    ----------
    u
        Times ``(time, clock)``.
    tree
        The tree.
    depth
        Levels whose nodes are all known; None to know those that several times share.
    """

    def __init__(self, u: Tensor, tree: Tree, depth: int | None):
        shares = make_shares(u, tree.levels, tree.n_parts)
        self.index = shares.node
        self.from_start, self.from_end = shares.from_start.to(tree.dtype), shares.from_end.to(tree.dtype)
        self.motion = None if shares.motion is None else shares.motion.to(tree.dtype)
        met = (self.from_start != 0) | (self.from_end != 0)
        busy = met.flatten(3).any(-1).flatten(0, 1).any(0).tolist()
        self.keys: Tensor | None = None
        if depth is None:
            places, few = self._share(tree)
        else:
            few = list(range(depth + 1))
            offset = torch.tensor([0, *(2**level for level in range(depth))], device=u.device)
            places = self._ends(depth + 1) + offset.view(-1, 1, 1, 1)
        self.many = [row for row, wanted in enumerate(busy) if wanted and row not in few]
        self.places = places.permute(1, 2, 0, 3).flatten(2)
        weights = torch.stack((self.from_start[:, :, few], self.from_end[:, :, few]), dim=-1)
        self.weights = weights.permute(3, 0, 4, 1, 2, 5).flatten(4)

    def _ends(self, rows: int) -> Tensor:
        """Nodes of the first rows that each step's start and end lie in, ``(row, step, clock, 2)``."""
        return torch.stack((self.index[:rows, :-1], self.index[:rows, 1:]), dim=-1)

    def _share(self, tree: Tree) -> tuple[Tensor, list[int]]:
        """Nodes of the rows that have fewer of them than times, and where each step finds its own."""
        ends = self._ends(len(self.index))
        used = torch.stack((self.from_start != 0, self.from_end != 0), dim=-1).flatten(0, 1).any(0)
        places, few, known, total = [], [], [], 0
        for row, busy in enumerate(used.flatten(1).any(1).tolist()):
            if row and not busy:
                continue
            met = ends[row]
            nodes = met[used[row]].unique_consecutive()  # times are in order
            if row and 4 * len(nodes) > 3 * len(met):
                continue
            places.append(torch.searchsorted(nodes, met).clamp_(max=max(0, len(nodes) - 1)) + total)
            few.append(row)
            known.append(nodes)
            total += len(nodes)
        lengths = torch.tensor([len(nodes) for nodes in known], device=ends.device)
        heads = tree.heads[few].repeat_interleave(lengths)
        self.keys = mixed_rows(heads, torch.cat(known)).view(-1, 1, 1)
        return torch.stack(places), few


def _all_nodes(heads: Tensor, depth: int) -> Tensor:
    """Keys of the root and of all nodes of the upper levels."""
    counts = [1, *(2**level for level in range(depth))]
    rows = [torch.arange(count, device=heads.device).view(-1, 1, 1) for count in counts]
    return torch.cat([mixed_rows(head, row) for head, row in zip(heads, rows, strict=False)])
