"""The loop over time steps: the only one in the package."""

import dataclasses

import torch
from torch.utils.checkpoint import checkpoint

from neurosde.errors import ShapeError
from neurosde.noise import AbstractNoise, BrownianIncrement
from neurosde.sde import SDE, RunningCost
from neurosde.solve.grid import TimeGrid
from neurosde.solve.solution import Status
from neurosde.solve.stepper import AbstractStepper, Carry, Step
from neurosde.typing import NamedTuple, Tensor

CHUNK = 16


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that stays the same during a solve."""

    sde: SDE
    stepper: AbstractStepper
    noise: AbstractNoise
    grid: TimeGrid
    running: tuple[RunningCost, ...]


@dataclasses.dataclass(frozen=True)
class State:
    """All that a step changes: the state, the running costs and their present rates, the carry."""

    y: Tensor
    totals: Tensor
    rates: Tensor
    carry: Carry

    def frozen(self, mask: Tensor, at: "State") -> "State":
        """Replace the series of a mask by their state elsewhere, so that a failed one harms no other."""

        def pick(a: Tensor, b: Tensor) -> Tensor:
            shape = (len(mask),) + (1,) * (a.dim() - 1)
            return torch.where(mask.view(shape), b.detach(), a)

        carry = tuple(pick(a, b) for a, b in zip(self.carry, at.carry, strict=True))
        return State(pick(self.y, at.y), pick(self.totals, at.totals), pick(self.rates, at.rates), carry)


class Outcome(NamedTuple):
    """Rows ``(series, time, state + cost)``, and the status and counts of steps of each series."""

    rows: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor


def start(problem: Problem, y: Tensor) -> State:
    """State before the first step."""
    t = problem.grid.times[..., 0].to(y.dtype)
    t = t if t.dim() == 0 else t.unsqueeze(-1)
    totals = y.new_zeros(len(y), len(problem.running))
    carry = problem.stepper.start(problem.sde, t, y) if problem.grid.length else ()
    return State(y, totals, _rates(problem, t, y), carry)


def run(problem: Problem, state: State, *, recompute: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Take every step of the grid.

    Parameters
    ----------
    problem, state
        What to solve, from where.
    recompute
        Keep only the state between chunks of about sqrt(steps) steps, and take them again on the way back.

    Returns
    -------
    tuple of Tensor
        Saved rows ``(*save, state + cost)``, status ``(series,)``, and the number of good steps
        ``(series,)``.
    """
    n_steps, n_series = problem.grid.length, len(state.y)
    origin = state
    failed_at = torch.full((n_series,), n_steps + 1, device=state.y.device)
    picker = _Picker(problem.grid, n_series)
    picker.take(_row(state).unsqueeze(0), 0)
    length = max(1, round(n_steps**0.5)) if recompute else CHUNK
    for first in range(0, n_steps, length):
        last = min(first + length, n_steps)
        rows, after = _chunk(problem, state, first, last, failed_at, origin, recompute)
        broken = ~torch.isfinite(rows.detach()).all(-1) & (failed_at > first)
        if bool(broken.any()):
            step = first + 1 + broken.to(torch.uint8).argmax(0)
            failed_at = torch.where(broken.any(0), torch.minimum(failed_at, step), failed_at)
            rows, after = _chunk(problem, state, first, last, failed_at, origin, recompute)
        picker.take(rows, first + 1)
        state = after
    status = torch.where(failed_at <= n_steps, int(Status.NOT_FINITE), int(Status.SUCCESS))
    return picker.gather(failed_at), status, torch.minimum(failed_at - 1, problem.grid.n_steps)


def _chunk(
    problem: Problem, state: State, first: int, last: int, failed_at: Tensor, origin: State, recompute: bool
) -> tuple[Tensor, State]:
    """Steps ``first`` to ``last``; with ``recompute`` they leave no trace but their ends."""
    anybody = bool((failed_at <= last).any())

    def advance(y: Tensor, totals: Tensor, rates: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
        now, rows = State(y, totals, rates, carry), []
        for number, step in enumerate(_steps(problem, first, last, y.dtype), start=first + 1):
            if anybody:
                now = now.frozen(failed_at <= number, origin)
            now = _advance(problem, now, step)
            rows.append(_row(now))
        return (torch.stack(rows), now.y, now.totals, now.rates, *now.carry)

    parts = (state.y, state.totals, state.rates, *state.carry)
    if recompute and torch.is_grad_enabled():
        result = checkpoint(advance, *parts, use_reentrant=False, preserve_rng_state=False)
    else:
        result = advance(*parts)
    rows, y, totals, rates, *carry = result
    return rows, State(y, totals, rates, tuple(carry))


def _steps(problem: Problem, first: int, last: int, dtype: torch.dtype) -> list[Step]:
    """Times, noise and weights of a run of steps, all computed at once."""
    times = problem.grid.times[..., first : last + 1]
    noise = problem.noise.increments(times, first)
    shared = times.dim() == 1
    h = times.diff().to(dtype) if shared else times.diff().T.unsqueeze(-1).to(dtype)
    t = times[:-1].to(dtype) if shared else times[:, :-1].T.unsqueeze(-1).to(dtype)
    wide = (t[:, None, None], h[:, None, None]) if shared else (t, h)
    weights = problem.stepper.weights(problem.sde, *wide)
    h_list, t_list = h.unbind(0), t.unbind(0)
    unpacked = [part.unbind(0) for part in weights]
    W = noise.W.unbind(0)
    H = None if noise.H is None else noise.H.unbind(0)
    K = None if noise.K is None else noise.K.unbind(0)
    return [
        Step(
            t_list[i],
            h_list[i],
            BrownianIncrement(h_list[i], W[i], None if H is None else H[i], None if K is None else K[i]),
            tuple(part[i] for part in unpacked),
        )
        for i in range(last - first)
    ]


def _advance(problem: Problem, state: State, step: Step) -> State:
    y, carry, _ = problem.stepper.step(problem.sde, step, state.y, state.carry)
    if not problem.running:
        return State(y, state.totals, state.rates, carry)
    rates = _rates(problem, step.t + step.h, y)
    totals = state.totals + 0.5 * step.h * (state.rates + rates)  # trapezium rule in time
    stochastic = [
        0.0 if cost.h is None else (cost.h(step.t, state.y) * step.noise.W).sum(-1)  # Ito: at the start
        for cost in problem.running
    ]
    totals = totals + torch.stack([torch.as_tensor(x).to(y).expand(len(y)) for x in stochastic], dim=-1)
    return State(y, totals, rates, carry)


def _rates(problem: Problem, t: Tensor, y: Tensor) -> Tensor:
    """Present rates of the running costs, (series, cost)."""
    if not problem.running:
        return y.new_zeros(len(y), 0)
    zero = y.new_zeros(len(y))
    return torch.stack([zero if cost.c is None else cost.c(t, y).to(y) for cost in problem.running], dim=-1)


def _row(state: State) -> Tensor:
    return torch.cat((state.y, state.totals), dim=-1) if state.totals.shape[-1] else state.y


class _Picker:
    """Collects the rows that were asked for as they come by, and lays them out at the end."""

    def __init__(self, grid: TimeGrid, n_series: int):
        self.shared = grid.save.dim() == 1
        self.save, self.n_series = grid.save, n_series
        order = torch.argsort(grid.save.flatten(), stable=True)
        self.order = order[grid.save.flatten()[order] >= 0]
        self.steps = grid.save.flatten()[self.order]
        self.bounds = self.steps.tolist()
        self.taken = 0
        self.rows: list[Tensor] = []

    def take(self, rows: Tensor, first: int) -> None:
        """Keep what is asked for of the rows (step, series, column) after step ``first`` and the next."""
        end = self.taken
        while end < len(self.bounds) and self.bounds[end] < first + len(rows):
            end += 1
        if end > self.taken:
            local = self.steps[self.taken : end] - first
            if self.shared:
                self.rows.append(rows[local])
            else:
                self.rows.append(rows[local, self.order[self.taken : end] // self.save.shape[-1]])
            self.taken = end

    def gather(self, failed_at: Tensor) -> Tensor:
        """Rows in the layout of the requested times, NaN for padding and after a failure."""
        rows = torch.cat(self.rows)
        place = torch.zeros(self.save.numel(), dtype=torch.int64, device=rows.device)
        place[self.order] = torch.arange(len(self.order), device=rows.device)
        rows = (
            rows[place].transpose(0, 1) if self.shared else rows[place].unflatten(0, tuple(self.save.shape))
        )
        lost = (self.save < 0) | (self.save >= failed_at[:, None])
        return torch.where(lost.unsqueeze(-1), torch.nan, rows) if bool(lost.any()) else rows


def noise_channels(sde: SDE, t: Tensor, y: Tensor) -> int:
    """Number of noise channels, from one look at the diffusion where the noise type leaves it open."""
    if sde.noise_type == "diagonal":
        return y.shape[-1]
    if sde.noise_type == "scalar":
        return 1
    return sde.diffusion(t, y[:1]).shape[-1] if t.dim() == 0 else sde.diffusion(t[:1], y[:1]).shape[-1]


def look(sde: SDE, t: Tensor, y: Tensor, n_noise: int) -> bool:
    """Check the shapes of the fields at the start, and tell whether a gradient flows through them.

    Raises
    ------
    ShapeError
        If a field does not have the shape that the noise type declares.
    """
    f, g = sde.drift_and_diffusion(t, y)
    wanted = tuple(y.shape) if sde.noise_type == "diagonal" else (*y.shape, n_noise)
    if tuple(f.shape) != tuple(y.shape):
        raise ShapeError(f"sde: drift: expected (series, state) = {tuple(y.shape)}, got {tuple(f.shape)}.")
    if tuple(g.shape) != wanted:
        axes = "(series, state)" if sde.noise_type == "diagonal" else "(series, state, noise)"
        raise ShapeError(
            f"sde: diffusion: expected {axes} = {wanted} for {sde.noise_type} noise, got {tuple(g.shape)}."
        )
    return f.requires_grad or g.requires_grad
