"""Runs of consecutive steps as pure functions of tensors: what is compiled, or taken as it is."""

import torch

from neurosde.noise import BrownianIncrement
from neurosde.sde import SDE, RunningCost
from neurosde.solve.absorbing import Absorber
from neurosde.solve.penalty import StepPenalty
from neurosde.solve.stepper import AbstractStepper, Carry, Step
from neurosde.typing import NamedTuple, Tensor


class Model(NamedTuple):
    """What is stepped and how: all that is not a tensor."""

    sde: SDE
    stepper: AbstractStepper
    running: tuple[RunningCost, ...]
    penalty: StepPenalty | None = None  # of all steps; that of a sampled one is no part of the march
    absorbing: Absorber | None = None


class State(NamedTuple):
    """All that a step changes: the state, the running costs and their rates, the penalty, the carry."""

    y: Tensor
    totals: Tensor
    rates: Tensor
    penalty: Tensor
    carry: Carry

    def flat(self) -> tuple[Tensor, ...]:
        """All tensors side by side; :func:`state_of` turns them back."""
        return (*self[:4], *self.carry)


def state_of(parts: tuple[Tensor, ...]) -> State:
    """State of tensors that stand side by side."""
    y, totals, rates, penalty, *carry = parts
    return State(y, totals, rates, penalty, tuple(carry))


class Block(NamedTuple):
    """All that a run of steps is given, with a leading step axis: times, noise, and the stepper's weights."""

    t: Tensor
    noise: BrownianIncrement
    weights: tuple[Tensor, ...]

    def part(self, begin: int, end: int) -> "Block":
        """Steps ``begin`` to ``end``."""
        rows = slice(begin, end)
        return Block(self.t[rows], self.noise.at(rows), tuple(part[rows] for part in self.weights))

    def apart(self) -> "Block":
        """The same in memory of its own: one program does for all, wherever in a section they stand."""

        def own(part: Tensor) -> Tensor:
            return part.clone(memory_format=torch.contiguous_format)

        noise = BrownianIncrement(*(None if x is None else own(x) for x in self.noise))  # pyright: ignore
        return Block(own(self.t), noise, tuple(map(own, self.weights)))

    def padded(self, length: int) -> "Block":
        """Add steps of length zero without noise, so that every block of a solve has the same shape."""
        missing = length - len(self.t)
        if not missing:
            return self.apart()

        def still(part: Tensor | None) -> Tensor | None:
            return None if part is None else torch.cat((part, part.new_zeros(missing, *part.shape[1:])))

        def repeated(part: Tensor) -> Tensor:
            return torch.cat((part, part[-1:].expand(missing, *part.shape[1:])))

        noise = BrownianIncrement(*map(still, self.noise))  # pyright: ignore[reportArgumentType]
        return Block(repeated(self.t), noise, tuple(map(repeated, self.weights)))

    def steps(self) -> list[Step]:
        """Take the run apart: one view a tensor and step."""
        parts = [self.t, *self.noise, *self.weights]
        views = [[None] * len(self.t) if part is None else part.unbind(0) for part in parts]
        return [
            Step(t, dt, BrownianIncrement(dt, *noise), tuple(weights))  # pyright: ignore[reportArgumentType]
            for t, dt, noise, weights in zip(
                views[0],
                views[1],
                zip(*views[2:6], strict=True),
                zip(*views[6:], strict=True) if self.weights else [()] * len(self.t),
                strict=True,
            )
        ]

    def step_at(self, i: Tensor) -> Step:
        """One of the steps, by a number that is a tensor ``(1,)``."""

        def take(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.index_select(0, i).squeeze(0)

        noise = BrownianIncrement(*map(take, self.noise))  # pyright: ignore[reportArgumentType]
        weights = tuple(part.index_select(0, i).squeeze(0) for part in self.weights)
        return Step(self.t.index_select(0, i).squeeze(0), noise.dt, noise, weights)


def start(model: Model, t: Tensor, y: Tensor) -> State:
    """State before the first step."""
    if model.absorbing is not None:
        return _start_inside(model, model.absorbing, t, y)
    totals, nothing = y.new_zeros(len(y), len(model.running)), y.new_zeros(len(y))
    return State(y, totals, _rates(model, t, y), nothing, model.stepper.start(model.sde, t, y))


def march(model: Model, block: Block, state: State, every: bool) -> tuple[list[Tensor], State]:
    """Take the steps of a block.

    Returns
    -------
    tuple
        Rows ``(series, state + cost)`` after every step, or the last one alone; and the state at the end.
    """
    rows = []
    for step in block.steps():
        state = advance(model, step, state)
        if every:
            rows.append(row(state))
    return rows if every else [row(state)], state


def march_around(
    model: Model, block: Block, state: State, failed: Tensor, origin: State
) -> tuple[list[Tensor], State]:
    """Take the steps of a block, holding series at their origin where ``failed`` (step, series) says so."""
    rows = []
    for step, mask in zip(block.steps(), failed.unbind(0), strict=True):
        state = advance(model, step, _held(state, mask, origin))
        rows.append(row(state))
    return rows, state


def _held(state: State, mask: Tensor, origin: State) -> State:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), b.detach(), a)

    return state_of(tuple(pick(a, b) for a, b in zip(state.flat(), origin.flat(), strict=True)))


def advance(model: Model, step: Step, state: State) -> State:
    """One step of the state and of the running costs."""
    if model.absorbing is not None:
        return _advance_inside(model, model.absorbing, step, state)
    after = _stepped(model, step, state)
    return _accumulated(model, step, state, after) if model.running else after


def _stepped(model: Model, step: Step, state: State) -> State:
    """One step of the state alone."""
    stepped = model.stepper.step(model.sde, step, state.y, state.carry)
    y, carry, penalty = stepped.y, stepped.carry, state.penalty
    if model.penalty is not None:
        penalty = penalty + model.penalty.of_step(model.sde, step, state.y, stepped)
    return State(y, state.totals, state.rates, penalty, carry)


def _accumulated(model: Model, step: Step, state: State, after: State) -> State:
    """The state after a step, with the costs of the step."""
    y = after.y
    rates = _rates(model, step.t + step.h, y)
    totals = state.totals + 0.5 * step.h * (state.rates + rates)  # trapezium rule in time
    motion = [
        y.new_zeros(len(y)) if cost.h is None else (cost.h(step.t, state.y) * step.noise.W).sum(-1)
        for cost in model.running  # Ito's integral: the integrand at the start of the step
    ]
    return after._replace(totals=totals + torch.stack(motion, dim=-1), rates=rates)


def _start_inside(model: Model, absorbing: Absorber, t: Tensor, y: Tensor) -> State:
    """State before the first step; the carry also has exit times, barriers, and where series start inside."""
    exit_time, barrier, origin = absorbing.start(t, y)
    state = start(model._replace(absorbing=None), t, origin)
    fixed = (part.detach() for part in (origin, *state.carry))
    return state._replace(y=y, carry=(*state.carry, exit_time, barrier, *fixed))


def split_carry(carry: Carry) -> tuple[Carry, Tensor, Tensor, Tensor, Carry]:
    """What the stepper carries, exit times, barriers, states inside, and what the stepper carries there."""
    n = (len(carry) - 3) // 2
    exit_time, barrier, origin = carry[n : n + 3]
    return carry[:n], exit_time, barrier, origin, carry[n + 3 :]


def _advance_inside(model: Model, absorbing: Absorber, step: Step, state: State) -> State:
    """One step of the series that have not left.

    The others are stepped where they started, without noise, and this is discarded: fields that are not
    defined on the boundary do no harm, nor do their gradients.
    """
    carry, exit_time, barrier, origin, first = split_carry(state.carry)
    frozen = torch.isfinite(exit_time)

    def held(part: Tensor, there: Tensor) -> Tensor:
        return torch.where(frozen.view(-1, *[1] * (part.dim() - 1)), there, part)

    moving = state._replace(y=held(state.y, origin), carry=tuple(map(held, carry, first)))
    W, H, K, A = (None if x is None else held(x, x.new_zeros(())) for x in step.noise[1:])
    assert W is not None
    draws, weights = step.weights[-1], step.weights[:-1]
    step = Step(step.t, step.h, BrownianIncrement(step.noise.dt, W, H, K, A), weights)
    after = _stepped(model, step, moving)
    meeting = absorbing.meet(model.sde, step, moving.y, after.y, draws, ~frozen)
    after, taken = after._replace(y=meeting.y), meeting.share * step.h
    if model.running:
        part = Step(step.t, taken, step.noise._replace(W=meeting.W))
        after = _accumulated(model, part, moving, after)
        after = after._replace(totals=held(after.totals, state.totals))
    exit_time = torch.where(meeting.exited, (step.t + taken).squeeze(-1), exit_time)
    barrier = torch.where(meeting.exited, meeting.barrier, barrier)
    carry = (*after.carry, exit_time, barrier, origin, *first)
    return after._replace(y=held(after.y, state.y), carry=carry)


def _rates(model: Model, t: Tensor, y: Tensor) -> Tensor:
    """Present rates of the running costs, (series, cost)."""
    if not model.running:
        return y.new_zeros(len(y), 0)
    zero = y.new_zeros(len(y))
    return torch.stack([zero if cost.c is None else cost.c(t, y).to(y) for cost in model.running], dim=-1)


def row(state: State) -> Tensor:
    """State and running costs side by side, ``(series, state + cost)``."""
    return torch.cat((state.y, state.totals), dim=-1) if state.totals.shape[-1] else state.y
