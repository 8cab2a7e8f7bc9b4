"""The stochastic adjoint: gradients by an SDE that runs backwards on the same noise."""

import torch
from torch.autograd.function import once_differentiable

from neurosde.calculus import to_stratonovich
from neurosde.sde import SDE, diffuse
from neurosde.solve.blocks import SMALL_SECTION, BlockSource
from neurosde.solve.engine import run
from neurosde.solve.problem import Outcome, Problem, on_the_same_noise
from neurosde.solve.pullback import dependencies_of
from neurosde.solve.reversible import by_step
from neurosde.solve.stepper import Step
from neurosde.typing import Any, Tensor


def run_adjoint(problem: Problem, y: Tensor) -> Outcome:
    """Take every step of the grid, and get the gradient by solving the adjoint SDE backwards.

    ``da = -a (df/dy dt + dg/dy o dW)`` and alike for what the fields depend on (Li, Wong, Chen & Duvenaud
    2020, theorem 3.1), by Heun steps on the same increments; the states are met again at each requested
    time. Memory does not grow with the number of steps, and the gradient is that of the SDE and not of the
    steps: it has an error of their order.
    """
    tensors = dependencies_of(problem.model.sde)
    outcome: list[Outcome] = []
    rows = _Adjoint.apply(problem, outcome, y, *tensors)
    assert isinstance(rows, Tensor)
    return outcome[0]._replace(rows=rows)


class _Adjoint(torch.autograd.Function):
    """The whole solve as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, outcome: list[Outcome], y: Tensor, *tensors: Tensor) -> Tensor:
        outcome.append(run(problem, y, recompute=False, section=SMALL_SECTION))
        ctx.problem, ctx.tensors = on_the_same_noise(problem, outcome[0]), tensors
        ctx.save_for_backward(outcome[0].rows)
        return outcome[0].rows.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = torch.nan_to_num(ctx.saved_tensors[0])
        return (None, None, *_solve_backwards(ctx.problem, ctx.tensors, rows, grads[0]))


def _solve_backwards(
    problem: Problem, tensors: tuple[Tensor, ...], rows: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    sde = to_stratonovich(problem.model.sde)
    arrivals, states = by_step(problem, grad), by_step(problem, rows)
    known = by_step(problem, torch.ones_like(rows))
    zero = torch.zeros_like(rows[:, 0])
    source = BlockSource(problem, rows.dtype, section=SMALL_SECTION)
    length = problem.grid.length
    y, a = states.get(length, zero), arrivals.get(length, zero)
    sums = [torch.zeros_like(x) for x in tensors]
    for first in reversed(range(0, length, source.length)):
        block = source.block(first)
        for i, step in reversed(list(enumerate(block.steps()))):
            y, a = _step_back(sde, step, y, a, tensors, sums)
            number = first + i
            if number in arrivals:
                a = a + arrivals[number]
                y = torch.where(known[number] > 0, states[number], y)
    return (a, *sums)


def _step_back(
    sde: SDE, step: Step, y: Tensor, a: Tensor, tensors: tuple[Tensor, ...], sums: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """One Heun step of the state and its cotangent towards the start."""
    change, pulled, first = _change(sde, step, step.t + step.h, y, a, tensors)
    ahead_change, ahead_pulled, second = _change(sde, step, step.t, y - change, a + pulled, tensors)
    for total, one, two in zip(sums, first, second, strict=True):
        total += 0.5 * (one + two)
    return y - 0.5 * (change + ahead_change), a + 0.5 * (pulled + ahead_pulled)


def _change(
    sde: SDE, step: Step, t: Tensor, y: Tensor, a: Tensor, tensors: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``h f + g W`` at a state, and its pullback of the cotangent to the state and to the tensors."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        f, g = sde.drift_and_diffusion(t, y)
        change = step.h * f + diffuse(sde.noise_type, g, step.noise.W)
    if not change.requires_grad:
        return change, torch.zeros_like(y), [torch.zeros_like(x) for x in tensors]
    grads = torch.autograd.grad(change, (y, *tensors), a, allow_unused=True)
    filled = [
        torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, (y, *tensors), strict=True)
    ]
    return change.detach(), filled[0], filled[1:]
