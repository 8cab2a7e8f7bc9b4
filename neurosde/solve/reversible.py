"""Gradients without memory: reversible Heun steps are undone on the way back."""

import torch

from neurosde.errors import SolveError
from neurosde.sde import diffuse
from neurosde.solve.engine import BlockSource, Outcome, Picker, Problem, first_failure, is_finite, outcome_of
from neurosde.solve.march import State, march, start
from neurosde.solve.stepper import Step
from neurosde.typing import Any, Tensor


def run_reversible(problem: Problem, y: Tensor) -> Outcome:
    """Take every step of the grid with reversible Heun steps, keeping none of them.

    The gradient is that of the steps themselves (Kidger, Foster, Li & Lyons 2021, algorithm 2): each is
    undone from the state behind it, with the same noise drawn again. Memory does not grow with the number
    of steps. The second state of the method grows under strongly dissipative drifts, and the states are
    then no longer met on the way back; that is noticed and refused.

    Raises
    ------
    SolveError
        On the way back, if the states found there are not those of the way forth.
    """
    tensors = tuple(x for x in problem.model.sde.dependencies() if x.requires_grad)
    failed_at: list[Tensor] = []
    rows = _Reversible.apply(problem, failed_at, y, *tensors)
    assert isinstance(rows, Tensor)
    return outcome_of(rows, failed_at[0], problem.grid)


class _Reversible(torch.autograd.Function):
    """The whole solve as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, problem: Problem, failed: list[Tensor], y: Tensor, *tensors: Tensor) -> Tensor:
        state = start(problem.model, _first_time(problem, y), y)
        source = BlockSource(problem, y.dtype)
        picker = Picker(problem.grid, len(y))
        picker.take(y.unsqueeze(0), 0)
        failed_at = torch.full((len(y),), problem.grid.length + 1, device=y.device)
        for first in range(0, problem.grid.length, source.length):
            rows, after = march(problem.model, source.block(first), state)
            if not is_finite(after.y):
                failed_at = first_failure(rows, first, failed_at)
            picker.take(rows, first + 1)
            state = after
        failed.append(failed_at)
        ctx.problem, ctx.tensors = problem, tensors
        ctx.save_for_backward(y, state.y, *(state.carry or (y,) * 3))
        return picker.gather(failed_at)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        begin, *end = ctx.saved_tensors
        undoing = _Undoing(ctx.problem, ctx.tensors, State(end[0], end[0], end[0], end[0], tuple(end[1:])))
        y_grad, tensor_grads = undoing.run(by_step(ctx.problem, grads[0]), begin)
        return (None, None, y_grad, *tensor_grads)


class _Undoing:
    """The way back: states and cotangents, step by step.

    With (y, z, f, g) before a step and (y', z', f', g') behind it, and cotangents a of the latter (section
    B of the paper, rearranged so that each step evaluates the fields once): ``v = vjp of (f, g) at z'``
    applied to ``(a_f + h/2 a_y, a_g + a_y W / 2)``, ``Z = a_z + v_z``, and then ``a_y <- a_y + 2 Z``, ``a_z
    <- -Z``, ``a_f <- h/2 a_y + h Z``, ``a_g <- (a_y / 2 + Z) W``.
    """

    def __init__(self, problem: Problem, tensors: tuple[Tensor, ...], state: State):
        self.problem, self.sde, self.tensors = problem, problem.model.sde, tensors
        self.y, self.z = state.y, state.carry[0]
        self.sums = [torch.zeros_like(x) for x in tensors]

    def run(self, arrivals: dict[int, Tensor], begin: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Cotangents of the initial states and of the tensors, given those of the states by step number."""
        grid, dtype = self.problem.grid, self.y.dtype
        source = BlockSource(self.problem, dtype)
        zero = torch.zeros_like(self.y)
        a_y, a_z = arrivals.get(grid.length, zero), zero
        last = grid.times[..., -1].to(dtype)
        z, f, g = self._fields(last if last.dim() == 0 else last.unsqueeze(-1), self.z)
        a_f, a_g = zero, torch.zeros_like(g)
        for first in reversed(range(0, grid.length, source.length)):
            block = source.block(first)
            for i in reversed(range(len(block.t))):
                step = block.step(i)
                W, h = step.noise.W, step.h
                half = 0.5 * a_y
                v_z = self._pull(z, f, g, a_f + h * half, a_g + self._outer(half, W))
                Z = a_z + v_z
                a_f, a_g = h * (half + Z), self._outer(half + Z, W)
                a_y, a_z = a_y + 2 * Z + arrivals.get(first + i, 0.0), -Z
                z, f, g = self._undo(step, z, f, g)
        if not torch.allclose(self.y, begin, rtol=1e-2, atol=1e-2 * float(begin.abs().max()) + 1e-6):
            raise SolveError(
                "gradient='reversible': the way back did not meet the initial states, for the method's "
                "second state grows under so dissipative a drift. Use gradient='checkpoint', or solve over "
                "shorter intervals."
            )
        y_grad = a_y + a_z + self._pull(z, f, g, a_f, a_g)
        return y_grad, self.sums

    def _fields(self, t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Fields at z with a graph that ends at z and at the tensors."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            f, g = self.sde.drift_and_diffusion(t, z)
        return z, f, g

    def _undo(self, step: Step, z: Tensor, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        W, h, noise = step.noise.W, step.h, self.sde.noise_type
        f_behind, g_behind = f.detach(), g.detach()
        before = 2 * self.y - z.detach() - h * f_behind - diffuse(noise, g_behind, W)
        z, f, g = self._fields(step.t, before)
        self.y = self.y - 0.5 * (h * (f.detach() + f_behind) + diffuse(noise, g.detach() + g_behind, W))
        return z, f, g

    def _outer(self, a: Tensor, W: Tensor) -> Tensor:
        """Cotangent of g from that of ``g W``."""
        return a * W if self.sde.noise_type == "diagonal" else a.unsqueeze(-1) * W.unsqueeze(-2)

    def _pull(self, z: Tensor, f: Tensor, g: Tensor, a_f: Tensor, a_g: Tensor) -> Tensor:
        """Pull cotangents of the fields back to z, and add what reaches the tensors."""
        pairs = [(out, a) for out, a in ((f, a_f), (g, a_g.expand_as(g))) if out.requires_grad]
        if not pairs:
            return torch.zeros_like(z)
        outs, cotangents = zip(*pairs, strict=True)
        grads = torch.autograd.grad(outs, (z, *self.tensors), cotangents, allow_unused=True)
        for total, grad in zip(self.sums, grads[1:], strict=True):
            if grad is not None:
                total += grad
        return torch.zeros_like(z) if grads[0] is None else grads[0]


def _first_time(problem: Problem, y: Tensor) -> Tensor:
    t = problem.grid.times[..., 0].to(y.dtype)
    return t if t.dim() == 0 else t.unsqueeze(-1)


def by_step(problem: Problem, grad: Tensor) -> dict[int, Tensor]:
    """Cotangents of the rows ``(series, time, state)``, by the number of steps before each."""
    save = problem.grid.save
    arrivals: dict[int, Tensor] = {}
    if save.dim() == 1:
        for column, step in enumerate(save.tolist()):
            arrivals[step] = arrivals.get(step, 0.0) + grad[:, column]
        return arrivals
    for step in save.unique().tolist():
        if step >= 0:
            arrivals[step] = torch.where((save == step).unsqueeze(-1), grad, 0.0).sum(1)
    return arrivals
