"""What a solve of fixed steps is given, and what it comes to."""

import dataclasses

import torch

from neurosde.noise import AbstractNoise
from neurosde.solve.compiling import Compile
from neurosde.solve.grid import TimeGrid
from neurosde.solve.march import Model, State, start
from neurosde.solve.solution import Status
from neurosde.solve.stepper import Carry
from neurosde.typing import NamedTuple, Tensor


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that stays the same during a solve."""

    model: Model
    noise: AbstractNoise
    grid: TimeGrid
    compile: Compile = "off"
    carry: Carry | None = None  # what an earlier solve handed on
    flows: bool = False  # whether the fields are known to have a gradient


class Outcome(NamedTuple):
    """Rows ``(series, time, state + cost)``; status and counts of each series; carry and state at the end.

    ``noise`` is the source that was drawn from, compiled or not: a way back must meet the same.
    """

    rows: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    carry: Carry = ()
    penalty: Tensor | None = None
    y: Tensor | None = None
    exits: tuple[Tensor, Tensor] | None = None  # times and barriers, of a solve with an absorbing set
    noise: AbstractNoise | None = None

    def seen_again(self, replay: "Outcome") -> "Outcome":
        """Rows of the same steps taken again, with this outcome's counts and the worse of both statuses."""
        status = torch.maximum(self.status, replay.status)
        return self._replace(rows=replay.rows, status=status, carry=replay.carry, penalty=replay.penalty)


def on_the_same_noise(problem: Problem, outcome: Outcome) -> Problem:
    """The problem for a way back over the steps that were taken."""
    return problem if outcome.noise is None else dataclasses.replace(problem, noise=outcome.noise)


def first_state(problem: Problem, y: Tensor) -> State:
    """State before the first step, with what an earlier solve has handed on."""
    t = problem.grid.times[..., 0].to(y.dtype)
    state = start(problem.model, t if t.dim() == 0 else t.unsqueeze(-1), y)
    return state if problem.carry is None else state._replace(carry=problem.carry)


def outcome_of(rows: Tensor, failed_at: Tensor | None, grid: TimeGrid) -> Outcome:
    """Rows of a fixed grid with the status and counts that follow from the steps at which series failed."""
    if failed_at is None:
        good = grid.n_steps.expand(len(rows)).clone()
        return Outcome(rows, torch.zeros_like(good), good, torch.zeros_like(good))
    status = torch.where(failed_at <= grid.length, int(Status.NOT_FINITE), int(Status.SUCCESS))
    good = torch.minimum(failed_at - 1, grid.n_steps)
    return Outcome(rows, status, good, torch.zeros_like(good))
