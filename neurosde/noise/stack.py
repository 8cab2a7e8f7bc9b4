"""The path of an adaptive solve: one split of a pending interval at a time, nothing ever thrown away."""

import torch

from neurosde.noise.brownian import BrownianPath
from neurosde.noise.powers import exponent_of, power_of_two
from neurosde.noise.records import Scaled, each, join, split
from neurosde.typing import Any, Callable, NamedTuple, Tensor

_SLACK = 1 + 1e-9


class Pending(NamedTuple):
    """The next interval of each clock: a node of the path's tree, or what is left of a leaf.

    Parameters
    ----------
    level, place
        Node of the tree: its level, and its number there, int64, ``(clock,)``.
    start
        Where the interval starts, as a fraction of the span, float64, ``(clock,)``: the node's start, or a
        time inside a leaf.
    record
        Its increment and integrals, ``(series, noise)``.
    """

    level: Tensor
    place: Tensor
    start: Tensor
    record: Scaled

    @property
    def end(self) -> Tensor:
        """Where the interval ends, as a fraction of the span."""
        return (self.place + 1) * power_of_two(-self.level)

    def is_whole(self) -> Tensor:
        """Whether a clock stands at the start of its node, and not inside a leaf."""
        return self.start == self.place * power_of_two(-self.level)


class Proposal(NamedTuple):
    """A candidate step of each clock.

    Parameters
    ----------
    record, length
        Its increment and integrals, and how long it is, as a fraction of the span.
    ready
        Clocks whose step is as short as was asked for; the others need more splits.
    taken, refused
        What is pending if it is taken, and if it is turned down.
    """

    record: Scaled
    length: Tensor
    ready: Tensor
    taken: Pending
    refused: Pending

    def flat(self) -> tuple[Tensor, ...]:
        """All tensors side by side."""
        records = (*self.record, *self.taken.record, *self.refused.record)
        known = (part for part in records if part is not None)
        return (self.length, self.ready, *self.taken[:3], *self.refused[:3], *known)

    def only(self, ready: Tensor) -> "Proposal":
        """The same for fewer clocks."""
        return Proposal(self.record, self.length, ready, self.taken, self.refused)


class DyadicStack:
    """Left-to-right descent of a :class:`BrownianPath` for steps that may be turned down.

    The interval before a clock is halved until it is short enough; halves to the right wait, at most one a
    level. A step that is turned down is halved again, so that no value that was looked at is ever skipped
    (Foster & Jelincic 2023, arXiv 2311.14201, ask for this with non-commutative noise), and the path knows
    nothing of it: the values are those of the tree at every tolerance. Steps that stay on the tree cost one
    split each, less one. All is masked arithmetic, so that it compiles, and needs no look at a value.

    Parameters
    ----------
    path
        The path.
    n_clocks
        A clock a series, or 1 for all of them.
    """

    def __init__(self, path: BrownianPath, n_clocks: int):
        self.path = path
        root, n_series = each(torch.Tensor.contiguous, path.root()), path.shape[0]
        self.waiting = each(lambda x: x.new_zeros(path.deepest + 1, *x.shape), root)
        self.series = torch.arange(n_series, device=path.series.device)
        zero = torch.zeros(n_clocks, dtype=torch.int64, device=path.series.device)
        self.first = Pending(zero, zero.clone(), zero.to(torch.float64), root)

    def descend(self, pending: Pending, longest: Tensor, target: Tensor, splits: int) -> Proposal:
        """Next step of each clock, after so many splits at most: a node of the tree, which may hide a target.

        Parameters
        ----------
        pending
            What lies before each clock.
        longest
            Longest step wanted, as a fraction of the span, ``(clock,)``.
        target
            Time that must be met next, as a fraction of the span, ``(clock,)``; beyond ``pending.start``.
        splits
            Rounds of splits; clocks that need more are not ready.
        """
        for _ in range(splits):
            pending = self._halve(pending, self._too_long(pending, longest, target))
        ready = ~self._too_long(pending, longest, target)
        record = each(
            torch.clone, pending.record
        )  # tensors of its own, for a program tells twins from others
        return Proposal(record, pending.end - pending.start, ready, self._next(pending), pending)

    def land(
        self, proposal: Proposal, target: Tensor, landing: Tensor, run: Callable[..., Any] | None = None
    ) -> Proposal:
        """Let steps that are ready and hide a target end on it.

        Parameters
        ----------
        proposal
            Steps of :meth:`descend`.
        target
            Times to end on, ``(clock,)``.
        landing
            Which clocks do, ``(clock,)``.
        run
            Calls a function of what follows it, compiled perhaps.
        """
        call = run or (lambda function, *arguments: function(*arguments))
        pending, total = proposal.refused, each(torch.zeros_like, proposal.record)
        covered = torch.zeros_like(target)
        whole = landing & pending.is_whole()
        while bool((whole & (pending.start < target) & (pending.level < self.path.levels)).any()):
            total, covered, pending = call(go_down, self, total, covered, pending, target, whole)
        inside = landing & (pending.start < target)
        if bool(inside.any()):
            total, pending = call(cut_leaf, self, pending, target, inside, total, covered)
        return Proposal(
            _pick(landing, total, proposal.record),
            torch.where(landing, target - proposal.refused.start, proposal.length),
            proposal.ready,
            _mix(landing, pending, proposal.taken),
            proposal.refused,
        )

    def _too_long(self, pending: Pending, longest: Tensor, target: Tensor) -> Tensor:
        most = longest * _SLACK
        near, beyond = target - pending.start <= most, pending.end > target
        long = pending.end - pending.start > most
        wanted = torch.where(near, long & ~beyond, long | beyond)
        return wanted & pending.is_whole() & (pending.level < self.path.levels)

    def children(self, pending: Pending) -> tuple[Scaled, Scaled]:
        """Both halves of each node."""
        z = self.path.node_normals(pending.level, pending.place)
        return split(pending.record, power_of_two(-pending.level).to(z.dtype).unsqueeze(-1), z)

    def _halve(self, pending: Pending, mask: Tensor) -> Pending:
        """Put the right half aside and keep the left, where the mask says so."""
        left, right = self.children(pending)
        self.put_aside(pending.level + 1, right, mask)
        return _mix(mask, Pending(pending.level + 1, pending.place * 2, pending.start, left), pending)

    def put_aside(self, level: Tensor, record: Scaled, mask: Tensor) -> None:
        """Store right halves in place: entries deeper than what is pending are free to be written over."""
        rows = level.clamp(max=self.path.deepest).expand(len(self.series))
        for waiting, part in zip(self.waiting, record, strict=True):
            if waiting is not None and part is not None:
                there = rows, self.series
                waiting[there] = torch.where(mask.unsqueeze(-1), part, waiting[there])

    def _next(self, pending: Pending) -> Pending:
        """What lies behind: the right half put aside at the level of the interval's lowest zero bit."""
        behind = pending.place + 1
        zeros = torch.minimum(_trailing_zeros(behind), pending.level)
        level = pending.level - zeros
        rows = level.expand(len(self.series))
        return Pending(
            level, behind >> zeros, pending.end, each(lambda x: x[rows, self.series], self.waiting)
        )


def go_down(
    stack: DyadicStack, total: Scaled, covered: Tensor, pending: Pending, target: Tensor, mask: Tensor
) -> tuple[Scaled, Tensor, Pending]:
    """Go one level down to the target, joining what lies before it into one step; others stay."""
    mask = mask & (pending.start < target) & (pending.level < stack.path.levels)
    left, right = stack.children(pending)
    half = power_of_two(-(pending.level + 1))
    middle = pending.start + half
    beyond = mask & (target >= middle)
    longer = join(total, covered.unsqueeze(-1).to(left.W), left, half.unsqueeze(-1).to(left.W))
    stack.put_aside(pending.level + 1, right, mask & ~beyond)
    down = Pending(
        pending.level + 1,
        2 * pending.place + beyond.to(torch.int64),
        torch.where(beyond, middle, pending.start),
        _pick(beyond, right, left),
    )
    covered = torch.where(beyond, covered + half, covered)
    return _pick(beyond, longer, total), covered, _mix(mask, down, pending)


def cut_leaf(
    stack: DyadicStack, leaf: Pending, target: Tensor, inside: Tensor, total: Scaled, covered: Tensor
) -> tuple[Scaled, Pending]:
    """Cut leaves at times inside them, with the leaf's own key."""
    h = power_of_two(-leaf.level)
    p = torch.where(inside, (target - leaf.start) / h, 0.5).to(leaf.record.W.dtype).unsqueeze(-1)
    part, rest = stack.path.cut_leaf(leaf.record, leaf.place, p)
    longer = join(total, covered.unsqueeze(-1), part, p * h.unsqueeze(-1))
    cut = Pending(leaf.level, leaf.place, torch.where(inside, target, leaf.start), rest)
    return _pick(inside, longer, total), _mix(inside, cut, leaf)


def choose(accepted: Tensor, proposal: Proposal) -> Pending:
    """What is pending after the steps have been taken or turned down."""
    return _mix(accepted, proposal.taken, proposal.refused)


def _pick(mask: Tensor, yes: Scaled, no: Scaled) -> Scaled:
    return each(lambda a, b: torch.where(mask.unsqueeze(-1), a, b), yes, no)


def _mix(mask: Tensor, yes: Pending, no: Pending) -> Pending:
    """Choose between two pending intervals, clock by clock."""
    return Pending(
        torch.where(mask, yes.level, no.level),
        torch.where(mask, yes.place, no.place),
        torch.where(mask, yes.start, no.start),
        _pick(mask, yes.record, no.record),
    )


def _trailing_zeros(index: Tensor) -> Tensor:
    """Number of times that 2 divides a positive integer."""
    return exponent_of(index & -index)
