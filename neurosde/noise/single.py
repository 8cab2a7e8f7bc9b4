"""The path of an adaptive solve whose series step as one: its clock is plain Python."""

import dataclasses

import torch

from neurosde.noise.brownian import BrownianPath
from neurosde.noise.records import Scaled, each, join, split
from neurosde.noise.stack import DyadicStack
from neurosde.typing import Any, Tensor

_SLACK = 1 + 1e-9


@dataclasses.dataclass(frozen=True)
class Interval:
    """The next interval of the one clock: a node of the path's tree, or what is left of a leaf.

    Parameters
    ----------
    level, index
        Node of the tree.
    begin
        Where the interval starts, as a fraction of the span: the node's start, or a time inside a leaf.
    record
        Its increment and integrals, ``(series, noise)``.
    """

    level: int
    index: int
    begin: float
    record: Scaled

    @property
    def finish(self) -> float:
        """Where it ends, as a fraction of the span."""
        return (self.index + 1) * 2.0**-self.level

    @property
    def start(self) -> Tensor:
        """Where it starts, ``(1,)``."""
        return torch.tensor([self.begin], dtype=torch.float64, device=self.record.W.device)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A candidate step: its record and length, and what is pending if it is taken or turned down."""

    record: Scaled
    length: Tensor
    taken: Interval
    refused: Interval


class SingleStack:
    """The descent of :class:`~neurosde.noise.stack.DyadicStack` where all series step as one.

    Parameters
    ----------
    path
        The path.
    """

    def __init__(self, path: BrownianPath):
        self.path = path
        self.first = Interval(0, 0, 0.0, path.root())
        self._waiting: list[Scaled] = [self.first.record] * (path.deepest + 1)

    def propose(self, pending: Interval, longest: float | Tensor, target: float | Tensor) -> Candidate:
        """Next step: no longer than asked for, ending on the target where that is near."""
        most, goal = float(longest) * _SLACK, float(target)
        near = goal - pending.begin <= most
        while pending.level < self.path.levels and self._is_whole(pending):
            beyond = pending.finish > goal
            too_long = pending.finish - pending.begin > most and not (near and beyond)
            if not (too_long or (beyond and not near)):
                break
            left, right = self._children(pending)
            self._waiting[pending.level + 1] = right
            pending = Interval(pending.level + 1, 2 * pending.index, pending.begin, left)
        if pending.finish > goal:
            record, after = self._land(pending, goal)
            return Candidate(record, self._tensor(goal - pending.begin), after, pending)
        length = self._tensor(pending.finish - pending.begin)
        return Candidate(pending.record, length, self._next(pending), pending)

    def choose(self, accepted: Tensor, proposal: Candidate) -> Interval:
        """What is pending after the step has been taken or turned down."""
        return proposal.taken if bool(accepted) else proposal.refused

    def _tensor(self, value: float) -> Tensor:
        return torch.tensor([value], dtype=torch.float64, device=self.path.series.device)

    def _is_whole(self, pending: Interval) -> bool:
        """Whether the clock stands at the start of its node, and not inside a leaf."""
        return pending.begin == pending.index * 2.0**-pending.level

    def _children(self, pending: Interval) -> tuple[Scaled, Scaled]:
        z = self.path.node_normals(pending.level, pending.index)
        return split(pending.record, 2.0**-pending.level, z)

    def _next(self, pending: Interval) -> Interval:
        """What lies behind: the right half put aside at the level of the interval's lowest zero bit."""
        behind = pending.index + 1
        zeros = min((behind & -behind).bit_length() - 1, pending.level)
        level = pending.level - zeros
        return Interval(level, behind >> zeros, pending.finish, self._waiting[level])

    def _land(self, pending: Interval, goal: float) -> tuple[Scaled, Interval]:
        """Go down to the target, joining all that lies before it into one step."""
        total, covered = each(torch.zeros_like, pending.record), 0.0
        inside = not self._is_whole(pending)
        while not inside and pending.begin < goal and pending.level < self.path.levels:
            left, right = self._children(pending)
            level, half = pending.level + 1, 2.0 ** -(pending.level + 1)
            if goal >= pending.begin + half:
                total, covered = join(total, self._fraction(covered, total), left, half), covered + half
                pending = Interval(level, 2 * pending.index + 1, pending.begin + half, right)
            else:
                self._waiting[level] = right
                pending = Interval(level, 2 * pending.index, pending.begin, left)
        if pending.begin < goal:
            h = 2.0**-pending.level
            p = self._fraction((goal - pending.begin) / h, total)
            part, rest = self.path.cut_leaf(pending.record, pending.index, p)
            total = join(total, self._fraction(covered, total), part, p * h)
            pending = Interval(pending.level, pending.index, goal, rest)
        return total, pending

    def _fraction(self, value: float, record: Scaled) -> Tensor:
        return record.W.new_tensor([[value]])


def stack_of(path: BrownianPath, n_clocks: int) -> Any:
    """The descent for as many clocks: one for all series, or one each."""
    return SingleStack(path) if n_clocks == 1 else DyadicStack(path)
