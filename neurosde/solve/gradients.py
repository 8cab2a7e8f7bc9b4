"""How the gradient of a fixed grid is kept, taken again or undone."""

from neurosde.solve import engine
from neurosde.solve.adjoint import run_adjoint
from neurosde.solve.reversible import run_reversible
from neurosde.typing import Literal, Tensor

Gradient = Literal["backprop", "checkpoint", "reversible", "adjoint"]
GRADIENTS: tuple[Gradient, ...] = ("backprop", "checkpoint", "reversible", "adjoint")


def take_steps(problem: engine.Problem, y: Tensor, gradient: Gradient) -> engine.Outcome:
    """Take every step of the grid, so that its gradient can be had in the way asked for."""
    if gradient == "reversible":
        return run_reversible(problem, y)
    if gradient == "adjoint":
        return run_adjoint(problem, y)
    return engine.run(problem, y, recompute=gradient == "checkpoint")
