"""How the gradient of a fixed grid is kept, taken again or undone."""

import dataclasses

import torch

from neurosde.errors import DataError
from neurosde.solve.adjoint import run_adjoint
from neurosde.solve.engine import run
from neurosde.solve.penalty import StepPenalty
from neurosde.solve.problem import Outcome, Problem
from neurosde.solve.reversible import run_reversible
from neurosde.typing import Literal, Tensor

Gradient = Literal["backprop", "checkpoint", "reversible", "adjoint"]
GRADIENTS: tuple[Gradient, ...] = ("backprop", "checkpoint", "reversible", "adjoint")


def take_steps(problem: Problem, y: Tensor, gradient: Gradient) -> Outcome:
    """Take every step of the grid, so that its gradient can be had in the way asked for."""
    if gradient == "reversible":
        return run_reversible(problem, y)
    if gradient == "adjoint":
        return run_adjoint(problem, y)
    return run(problem, y, recompute=gradient == "checkpoint")


def take_penalised(problem: Problem, y: Tensor, gradient: Gradient, penalty: StepPenalty | None) -> Outcome:
    """Take every step, and one more from a sampled state where the penalty asks for that.

    Raises
    ------
    DataError
        If all steps are to be penalised and the gradient keeps none of them.
    """
    if penalty is None or penalty.sample == "all":
        if penalty is not None and gradient in ("reversible", "adjoint"):
            raise DataError(
                "penalty: of all steps it needs a gradient that keeps them; use gradient='checkpoint', or a "
                "penalty of one sampled step."
            )
        return take_steps(problem, y, gradient)
    grid = problem.grid
    number = penalty.draw(grid, len(y))
    extra = number[:1] if grid.save.dim() == 1 else number.unsqueeze(-1)
    wider = dataclasses.replace(problem, grid=grid._replace(save=torch.cat((grid.save, extra), dim=-1)))
    outcome = take_steps(wider, y, gradient)
    state = torch.nan_to_num(outcome.rows[:, -1, : y.shape[-1]])
    sde, stepper = problem.model.sde, problem.model.stepper
    value = penalty.of_one_step(sde, stepper, grid, number, state) if grid.length else y.new_zeros(())
    return outcome._replace(rows=outcome.rows[:, :-1], penalty=value)
