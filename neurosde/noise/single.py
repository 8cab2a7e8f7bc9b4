"""The path of an adaptive solve whose series step as one: its clock is plain Python."""

import dataclasses

import torch

from neurosde.noise.brownian import BrownianPath
from neurosde.noise.powers import power_of_two
from neurosde.noise.records import Scaled, each, join, split
from neurosde.typing import Any, Callable, Tensor

_SLACK = 1 + 1e-9
Call = Callable[..., Any]


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


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A candidate step: its record, and what is pending if it is taken or turned down."""

    record: Scaled
    taken: Interval
    refused: Interval


def halves(path: BrownianPath, place: Tensor, record: Scaled) -> tuple[Scaled, Scaled]:
    """Both halves of the node of a level and index, int64 ``(2, 1)``."""
    level, index = place
    z = path.node_normals(level, index)
    return split(record, power_of_two(-level).to(z.dtype), z)


class SingleStack:
    """The descent of :class:`~neurosde.noise.stack.DyadicStack` where all series step as one.

    Parameters
    ----------
    path
        The path.
    """

    def __init__(self, path: BrownianPath):
        self.path = path
        self.first = Interval(0, 0, 0.0, each(torch.Tensor.contiguous, path.root()))
        self._waiting: list[Scaled] = [self.first.record] * (path.deepest + 1)

    def propose(self, pending: Interval, longest: float, goal: float, call: Call | None = None) -> Candidate:
        """Next step: no longer than asked for, ending on the goal where that is near.

        ``call`` runs functions of what follows them, compiled.
        """
        most = longest * _SLACK
        near = goal - pending.begin <= most
        while pending.level < self.path.levels and self._is_whole(pending):
            beyond = pending.finish > goal
            too_long = pending.finish - pending.begin > most and not (near and beyond)
            if not (too_long or (beyond and not near)):
                break
            left, right = self._children(pending, call)
            self._waiting[pending.level + 1] = right
            pending = Interval(pending.level + 1, 2 * pending.index, pending.begin, left)
        if pending.finish > goal:
            record, after = self._land(pending, goal, call)
            return Candidate(record, after, pending)
        return Candidate(pending.record, self._next(pending), pending)

    def _is_whole(self, pending: Interval) -> bool:
        """Whether the clock stands at the start of its node, and not inside a leaf."""
        return pending.begin == pending.index * 2.0**-pending.level

    def _children(self, pending: Interval, call: Call | None = None) -> tuple[Scaled, Scaled]:
        if call is not None:
            place = torch.tensor([[pending.level], [pending.index]], device=self.path.series.device)
            return call(halves, self.path, place, pending.record)
        z = self.path.node_normals(pending.level, pending.index)
        return split(pending.record, 2.0**-pending.level, z)

    def _next(self, pending: Interval) -> Interval:
        """What lies behind: the right half put aside at the level of the interval's lowest zero bit."""
        behind = pending.index + 1
        zeros = min((behind & -behind).bit_length() - 1, pending.level)
        level = pending.level - zeros
        return Interval(level, behind >> zeros, pending.finish, self._waiting[level])

    def _land(self, pending: Interval, goal: float, call: Call | None) -> tuple[Scaled, Interval]:
        """Go down to the target, joining all that lies before it into one step."""
        total, covered = each(torch.zeros_like, pending.record), 0.0
        inside = not self._is_whole(pending)
        while not inside and pending.begin < goal and pending.level < self.path.levels:
            left, right = self._children(pending, call)
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
