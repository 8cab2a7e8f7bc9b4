"""The path of an adaptive solve: one split of a pending interval at a time, nothing ever thrown away."""

import dataclasses

import torch

from neurosde.noise.brownian import BrownianPath
from neurosde.noise.records import Scaled, each, join, split
from neurosde.typing import Tensor


@dataclasses.dataclass(frozen=True)
class Pending:
    """The next interval of each clock: a node of the path's tree, or what is left of a leaf.

    Parameters
    ----------
    level, index
        Node of the tree, int64, ``(clock,)``.
    start
        Where the interval starts, as a fraction of the span, float64, ``(clock,)``: the node's start, or a
        time inside a leaf.
    record
        Its increment and integrals.
    """

    level: Tensor
    index: Tensor
    start: Tensor
    record: Scaled

    @property
    def end(self) -> Tensor:
        """Where the interval ends, as a fraction of the span."""
        return (self.index + 1) * torch.exp2(-self.level.to(torch.float64))


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A candidate step: its record and length, and what is pending if it is taken or turned down."""

    record: Scaled
    length: Tensor
    taken: Pending
    refused: Pending


class DyadicStack:
    """Left-to-right descent of a :class:`BrownianPath` for steps that may be turned down.

    The interval before a clock is halved until it is short enough; halves to the right wait, at most one a
    level. A step that is turned down is halved again, so that no value that was looked at is ever skipped
    (Foster & Jelincic 2023, arXiv 2311.14201, ask for this with non-commutative noise), and the path knows
    nothing of it: the values are those of the tree at every tolerance. Steps that stay on the tree cost one
    split each, less one.

    Parameters
    ----------
    path
        The path, whose series have a clock each.
    """

    def __init__(self, path: BrownianPath):
        n_clocks = path.shape[0]
        self.path, self.n_clocks = path, n_clocks
        root = path.root()
        self._waiting = each(lambda x: x.new_zeros(path.deepest + 1, *x.shape), root)
        zero = torch.zeros(n_clocks, dtype=torch.int64, device=path.series.device)
        self.first = Pending(zero, zero, zero.to(torch.float64), root)

    def propose(self, pending: Pending, longest: Tensor, target: Tensor) -> Proposal:
        """Next step of each clock: no longer than asked for, ending on the target where that is near.

        Parameters
        ----------
        pending
            What lies before each clock.
        longest
            Longest step wanted, as a fraction of the span, ``(clock,)``.
        target
            Time that must be met next, as a fraction of the span, ``(clock,)``; beyond ``pending.start``.
        """
        near = target - pending.start <= longest * (1 + 1e-9)
        while True:
            too_long = (pending.end - pending.start > longest * (1 + 1e-9)) & ~(near & (pending.end > target))
            open_ = self._whole(pending) & (pending.level < self.path.levels)
            beyond = ~near & (pending.end > target)
            mask = (too_long | beyond) & open_
            if not bool(mask.any()):
                break
            pending = self._halve(pending, mask)
        taken = self._next(pending)
        landing = pending.end > target
        if not bool(landing.any()):
            return Proposal(pending.record, pending.end - pending.start, taken, pending)
        record, after = self._land(pending, target, landing)
        length = torch.where(landing, target, pending.end) - pending.start
        return Proposal(
            self._pick(landing, record, pending.record), length, self._mix(landing, after, taken), pending
        )

    def _whole(self, pending: Pending) -> Tensor:
        """Whether a clock stands at the start of its node, and not inside a leaf."""
        return pending.start == pending.index * torch.exp2(-pending.level.to(torch.float64))

    def _children(self, pending: Pending) -> tuple[Scaled, Scaled]:
        z = self.path.node_normals(pending.level, pending.index)
        return split(pending.record, torch.exp2(-pending.level.to(z.dtype)).unsqueeze(-1), z)

    def _halve(self, pending: Pending, mask: Tensor) -> Pending:
        """Put the right half aside and keep the left, where the mask says so."""
        left, right = self._children(pending)
        self._put_aside(pending.level + 1, right, mask)
        halved = Pending(pending.level + 1, pending.index * 2, pending.start, left)
        return self._mix(mask, halved, pending)

    def _put_aside(self, level: Tensor, record: Scaled, mask: Tensor) -> None:
        """Store right halves in place: entries deeper than what is pending are free to be written over."""
        clocks = mask.nonzero().flatten()
        rows = level[clocks]
        for waiting, part in zip(self._waiting, record, strict=True):
            if waiting is not None and part is not None:
                waiting[rows, clocks] = part[clocks]

    def _next(self, pending: Pending) -> Pending:
        """What lies behind: the right half put aside at the level of the interval's lowest zero bit."""
        behind = pending.index + 1
        zeros = _trailing_zeros(behind, self.path.deepest)
        level = (pending.level - zeros).clamp(min=0)
        clocks = torch.arange(self.n_clocks, device=level.device)
        record = each(lambda x: x[level, clocks], self._waiting)
        return Pending(level, behind >> zeros, pending.end, record)

    def _land(self, pending: Pending, target: Tensor, landing: Tensor) -> tuple[Scaled, Pending]:
        """Go down to the target, joining all that lies before it into one step."""
        total = each(torch.zeros_like, pending.record)
        covered = torch.zeros_like(pending.start)
        open_ = landing & self._whole(pending)
        while True:
            mask = open_ & (pending.start < target) & (pending.level < self.path.levels)
            if not bool(mask.any()):
                break
            left, right = self._children(pending)
            half = torch.exp2(-(pending.level + 1).to(torch.float64))
            middle = pending.start + half
            go_right = mask & (target >= middle)
            longer = join(total, covered.unsqueeze(-1), left, half.unsqueeze(-1))
            total = self._pick(go_right, longer, total)
            covered = torch.where(go_right, covered + half, covered)
            self._put_aside(pending.level + 1, right, mask & ~go_right)
            down = Pending(
                pending.level + 1,
                2 * pending.index + go_right.to(torch.int64),
                torch.where(go_right, middle, pending.start),
                self._pick(go_right, right, left),
            )
            pending = self._mix(mask, down, pending)
        inside = landing & (pending.start < target)
        if bool(inside.any()):
            total, pending = self._cut_leaf(pending, target, inside, total, covered)
        return total, pending

    def _cut_leaf(
        self, leaf: Pending, target: Tensor, inside: Tensor, total: Scaled, covered: Tensor
    ) -> tuple[Scaled, Pending]:
        """Cut leaves at times inside them, with the leaf's own key."""
        h = torch.exp2(-leaf.level.to(torch.float64))
        p = torch.where(inside, (target - leaf.start) / h, 0.5).to(leaf.record.W.dtype).unsqueeze(-1)
        part, rest = self.path.cut_leaf(leaf.record, leaf.index, p)
        longer = join(total, covered.unsqueeze(-1), part, p * h.unsqueeze(-1))
        cut = Pending(leaf.level, leaf.index, torch.where(inside, target, leaf.start), rest)
        return self._pick(inside, longer, total), self._mix(inside, cut, leaf)

    def _pick(self, mask: Tensor, yes: Scaled, no: Scaled) -> Scaled:
        return each(lambda a, b: torch.where(mask.unsqueeze(-1), a, b), yes, no)

    def _mix(self, mask: Tensor, yes: Pending, no: Pending) -> Pending:
        """Choose between two pending intervals, clock by clock."""
        return Pending(
            torch.where(mask, yes.level, no.level),
            torch.where(mask, yes.index, no.index),
            torch.where(mask, yes.start, no.start),
            self._pick(mask, yes.record, no.record),
        )

    def choose(self, accepted: Tensor, proposal: Proposal) -> Pending:
        """What is pending after the steps have been taken or turned down."""
        return self._mix(accepted, proposal.taken, proposal.refused)


def _trailing_zeros(index: Tensor, limit: int) -> Tensor:
    """Number of times that 2 divides a positive integer."""
    lowest = (index & -index).to(torch.float64)
    return torch.log2(lowest).to(torch.int64).clamp(max=limit)
