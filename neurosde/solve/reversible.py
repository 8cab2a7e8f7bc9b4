"""Gradients without memory: reversible Heun steps are undone on the way back."""

import torch
from torch.autograd.function import once_differentiable

from neurosde.errors import SolveError
from neurosde.sde import SDE, diffuse
from neurosde.solve.blocks import SMALL_SECTION, BlockSource, loosen_series
from neurosde.solve.compiling import Compiler, kind_of
from neurosde.solve.engine import run
from neurosde.solve.march import Block, State
from neurosde.solve.problem import Outcome, Problem, first_state, on_the_same_noise
from neurosde.solve.pullback import dependencies_of, depends_on_parameters, stand_ins
from neurosde.solve.recording import Recorder, recordable
from neurosde.typing import Any, Callable, NamedTuple, Tensor


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
    tensors = dependencies_of(problem.model.sde)
    outcome: list[Outcome] = []
    begin = problem.carry or ()
    rows, *carry = _Reversible.apply(problem, outcome, y, *begin, *tensors)  # pyright: ignore[reportGeneralTypeIssues]
    return outcome[0]._replace(rows=rows, carry=tuple(carry))


class _Reversible(torch.autograd.Function):
    """The whole solve as one node of the graph, from and to a state and what reversible steps carry."""

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, outcome: list[Outcome], y: Tensor, *more: Tensor
    ) -> tuple[Tensor, ...]:
        outcome.append(run(problem, y, recompute=False, section=SMALL_SECTION))
        ctx.problem, ctx.failed = on_the_same_noise(problem, outcome[0]), outcome[0].status > 0
        ctx.tensors = more[3:] if problem.carry else more
        rows, carry = outcome[0].rows, tuple(part.clone() for part in outcome[0].carry)
        ctx.save_for_backward(y, outcome[0].y, *carry)
        return (rows.clone(), *carry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        begin, y, z, *_ = ctx.saved_tensors
        zero = torch.zeros_like(y)
        arrivals = by_step(ctx.problem, grads[0])
        a_y = arrivals.pop(ctx.problem.grid.length, zero)
        _, a_z, a_f, a_g = grads
        back = _Back(y, z, a_y, a_z, a_f, a_g, tuple(torch.zeros_like(x) for x in ctx.tensors))
        back = _undo_all(ctx.problem, ctx.tensors, arrivals, back, ctx.failed, begin)
        if ctx.problem.carry:
            return (None, None, back.a_y, back.a_z, back.a_f, back.a_g, *back.sums)
        pulled, *sums = _pull_start(ctx.problem, ctx.tensors, back, begin)
        return (None, None, back.a_y + back.a_z + pulled, *sums)


class _Back(NamedTuple):
    """States on the way back, cotangents of all that a step carries, and those of the tensors so far."""

    y: Tensor
    z: Tensor
    a_y: Tensor
    a_z: Tensor
    a_f: Tensor
    a_g: Tensor
    sums: tuple[Tensor, ...]


def _undo_all(
    problem: Problem,
    tensors: tuple[Tensor, ...],
    arrivals: dict[int, Tensor],
    back: _Back,
    failed: Tensor,
    begin: Tensor,
) -> _Back:
    """Undo every block of steps, the last one first, and check that the way back meets the first states."""
    sde, zero = problem.model.sde, torch.zeros_like(back.y)
    held = failed.unsqueeze(-1) if bool(failed.any()) else None
    state = State(zero, zero, zero, zero, ())
    kind = (*kind_of(problem.model, state.y, False), "undone")
    compiler = Compiler(kind, problem.compile)
    source = BlockSource(problem, back.y.dtype, section=SMALL_SECTION)
    starts = range(0, problem.grid.length, source.length)
    recorder = Recorder(kind, recordable(state.y, problem.compile) and held is None)
    if recorder.on and starts:
        t = source.block(starts[-1]).steps()[0].t
        recorder.on = depends_on_parameters(sde, (back.z,), lambda z: sde.drift_and_diffusion(t, z))
    for first in reversed(starts):
        block = source.block(first).apart() if compiler.on else source.block(first)
        numbers = range(first, first + len(block.t))
        arriving = [arrivals.get(k) for k in numbers]
        dense = any(a is not None for a in arriving[1:])  # two forms to compile, not 2^length
        arriving = [zero if a is None and (dense or k == 0) else a for k, a in enumerate(arriving)]
        arguments = (sde, tensors, block, arriving, back, held, begin)
        if len(numbers) == source.length and held is None:
            arrived = tuple(a for a in arriving if a is not None)
            loosen_series(block, State(*back[:4], (*back[4:6], *arrived)))
            back = recorder(_undo_apart, compiler, *arguments) if recorder.on else compiler(_undo, *arguments)
        else:
            back = _undo(*arguments)
    scale = float(begin.abs().max())
    if not torch.allclose(back.y, begin, rtol=1e-2, atol=1e-2 * scale + 1e-6):
        raise SolveError(
            "gradient='reversible': the way back did not meet the initial states, for the method's "
            "second state grows under so dissipative a drift. Use gradient='checkpoint', or solve over "
            "shorter intervals."
        )
    return back


def _pull_start(
    problem: Problem, tensors: tuple[Tensor, ...], back: _Back, begin: Tensor
) -> tuple[Tensor, ...]:
    """Cotangents that reach the first state and the tensors through the fields that a solve starts with."""
    with torch.enable_grad():
        y = begin.detach().requires_grad_()
        _, f, g = first_state(problem, y).carry
    return _pull((f, g), (back.a_f, back.a_g), (y, *tensors), (torch.zeros_like(y), *back.sums))


def _pull(
    fields: tuple[Tensor, ...],
    cotangents: tuple[Tensor, ...],
    to: tuple[Tensor, ...],
    sums: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    """Pull cotangents of the fields back to tensors, and add them to what has come there before."""
    pairs = [(field, a) for field, a in zip(fields, cotangents, strict=True) if field.requires_grad]
    if not pairs:
        return sums
    outs, pulled = zip(*pairs, strict=True)
    grads = torch.autograd.grad(outs, to, pulled, allow_unused=True)
    return tuple(a if b is None else a + b for a, b in zip(sums, grads, strict=True))


def _undo_apart(call: Callable[..., Any], sde: SDE, tensors: tuple[Tensor, ...], *more: Any) -> _Back:
    """The same by a call, apart from all graphs that the parameters are in, so that it can be recorded."""
    with stand_ins(sde, tensors) as own:
        return call(_undo, sde, own, *more)


def _undo(
    sde: SDE,
    tensors: tuple[Tensor, ...],
    block: Block,
    arriving: list[Tensor | None],
    back: _Back,
    held: Tensor | None,
    begin: Tensor,
) -> _Back:
    """Undo the steps of a block: states and cotangents, one evaluation of the fields a step.

    With (y, z, f, g) before a step and (y', z', f', g') behind it, and cotangents a of the latter (section
    B of the paper, rearranged so that each step evaluates the fields once): ``v = vjp of (f, g) at z'``
    applied to ``(a_f + h/2 a_y, a_g + a_y W / 2)``, ``Z = a_z + v_z``, and then ``a_y <- a_y + 2 Z``, ``a_z
    <- -Z``, ``a_f <- h/2 a_y + h Z``, ``a_g <- (a_y / 2 + Z) W``. Series that have failed stay at their
    first state, ``held`` there.
    """
    y, z, a_y, a_z, a_f, a_g, sums = back
    noise, steps = sde.noise_type, block.steps()

    def fields(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Fields at z with a graph that ends at z and at the tensors, and their values."""
        z = z if held is None else torch.where(held, begin, z)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            f, g = sde.drift_and_diffusion(t, z)
        return z, f, g, f.detach(), g.detach()

    z, f, g, f_behind, g_behind = fields(steps[-1].t + steps[-1].h, z)
    for step, arrival in zip(reversed(steps), reversed(arriving), strict=True):
        W, h, half = step.noise.W, step.h, 0.5 * a_y
        cotangents = (a_f + h * half, a_g + _outer(noise, half, W))
        a_z, *sums = _pull((f, g), cotangents, (z, *tensors), (a_z, *sums))
        a_f, a_g = h * (half + a_z), _outer(noise, half + a_z, W)
        a_y, a_z = a_y + 2 * a_z, -a_z
        if arrival is not None:
            a_y = a_y + arrival
        before = 2 * y - z.detach() - h * f_behind - diffuse(noise, g_behind, W)
        f_ahead, g_ahead = f_behind, g_behind
        z, f, g, f_behind, g_behind = fields(step.t, before)
        y = y - 0.5 * (h * (f_behind + f_ahead) + diffuse(noise, g_behind + g_ahead, W))
        y = y if held is None else torch.where(held, begin, y)
    return _Back(y, z.detach(), a_y, a_z, a_f, a_g, tuple(sums))


def _outer(noise: str, a: Tensor, W: Tensor) -> Tensor:
    """Cotangent of g from that of ``g W``."""
    return a * W if noise == "diagonal" else a.unsqueeze(-1) * W.unsqueeze(-2)


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
