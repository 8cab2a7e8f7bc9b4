"""A run of consecutive steps as a pure function of tensors: what is compiled, or taken as it is."""

import torch

from neurosde.noise import BrownianIncrement
from neurosde.sde import SDE, RunningCost
from neurosde.solve.penalty import StepPenalty
from neurosde.solve.stepper import AbstractStepper, Carry, Step
from neurosde.typing import NamedTuple, Tensor


class Model(NamedTuple):
    """What is stepped and how: all that is not a tensor."""

    sde: SDE
    stepper: AbstractStepper
    running: tuple[RunningCost, ...]
    penalty: StepPenalty | None = None  # of all steps; that of a sampled one is no part of the march


class State(NamedTuple):
    """All that a step changes: the state, the running costs and their rates, the penalty, the carry."""

    y: Tensor
    totals: Tensor
    rates: Tensor
    penalty: Tensor
    carry: Carry


class Block(NamedTuple):
    """All that a run of steps is given, with a leading step axis: times, noise, and the stepper's weights."""

    t: Tensor
    noise: BrownianIncrement
    weights: tuple[Tensor, ...]

    def padded(self, length: int) -> "Block":
        """Add steps of length zero without noise, so that every block of a solve has the same shape."""
        missing = length - len(self.t)
        if not missing:
            return self

        def still(part: Tensor | None) -> Tensor | None:
            return None if part is None else torch.cat((part, part.new_zeros(missing, *part.shape[1:])))

        def repeated(part: Tensor) -> Tensor:
            return torch.cat((part, part[-1:].expand(missing, *part.shape[1:])))

        noise = BrownianIncrement(*map(still, self.noise))  # pyright: ignore[reportArgumentType]
        return Block(repeated(self.t), noise, tuple(map(repeated, self.weights)))

    def step(self, i: int) -> Step:
        """One of the steps."""
        return Step(self.t[i], self.noise.dt[i], self.noise.at(i), tuple(part[i] for part in self.weights))


def start(model: Model, t: Tensor, y: Tensor) -> State:
    """State before the first step."""
    totals, nothing = y.new_zeros(len(y), len(model.running)), y.new_zeros(len(y))
    return State(y, totals, _rates(model, t, y), nothing, model.stepper.start(model.sde, t, y))


def march(model: Model, block: Block, state: State) -> tuple[Tensor, State]:
    """Take the steps of a block.

    Returns
    -------
    tuple
        Rows ``(step, series, state + cost)`` after every step, and the state at the end.
    """
    rows = []
    for i in range(len(block.t)):
        state = advance(model, block.step(i), state)
        rows.append(row(state))
    return torch.stack(rows), state


def march_around(
    model: Model, block: Block, state: State, failed: Tensor, origin: State
) -> tuple[Tensor, State]:
    """Take the steps of a block, holding series at their origin where ``failed`` (step, series) says so."""
    rows = []
    for i in range(len(block.t)):
        state = advance(model, block.step(i), _held(state, failed[i], origin))
        rows.append(row(state))
    return torch.stack(rows), state


def _held(state: State, mask: Tensor, origin: State) -> State:
    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), b.detach(), a)

    carry = tuple(pick(a, b) for a, b in zip(state.carry, origin.carry, strict=True))
    y, totals, rates, penalty = (pick(a, b) for a, b in zip(state[:4], origin[:4], strict=True))
    return State(y, totals, rates, penalty, carry)


def advance(model: Model, step: Step, state: State) -> State:
    """One step of the state and of the running costs."""
    stepped = model.stepper.step(model.sde, step, state.y, state.carry)
    y, carry, penalty = stepped.y, stepped.carry, state.penalty
    if model.penalty is not None:
        penalty = penalty + model.penalty.of_step(model.sde, step, state.y, stepped)
    if not model.running:
        return State(y, state.totals, state.rates, penalty, carry)
    rates = _rates(model, step.t + step.h, y)
    totals = state.totals + 0.5 * step.h * (state.rates + rates)  # trapezium rule in time
    motion = [
        y.new_zeros(len(y)) if cost.h is None else (cost.h(step.t, state.y) * step.noise.W).sum(-1)
        for cost in model.running  # Ito's integral: the integrand at the start of the step
    ]
    return State(y, totals + torch.stack(motion, dim=-1), rates, penalty, carry)


def _rates(model: Model, t: Tensor, y: Tensor) -> Tensor:
    """Present rates of the running costs, (series, cost)."""
    if not model.running:
        return y.new_zeros(len(y), 0)
    zero = y.new_zeros(len(y))
    return torch.stack([zero if cost.c is None else cost.c(t, y).to(y) for cost in model.running], dim=-1)


def row(state: State) -> Tensor:
    """State and running costs side by side, ``(series, state + cost)``."""
    return torch.cat((state.y, state.totals), dim=-1) if state.totals.shape[-1] else state.y
