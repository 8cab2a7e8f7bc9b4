"""The loop over blocks of time steps: noise, failures, recomputation and what is kept."""

import dataclasses

import torch
from torch.utils.checkpoint import checkpoint

from neurosde.errors import ShapeError
from neurosde.noise import AbstractNoise, BrownianIncrement
from neurosde.sde import SDE
from neurosde.solve.compiling import Compile, marcher
from neurosde.solve.grid import TimeGrid
from neurosde.solve.march import Block, Model, State, march_around, row, start
from neurosde.solve.solution import Status
from neurosde.typing import NamedTuple, Tensor

CHUNK = 10  # steps of a block: compiling more costs more and gains little
_SECTION = 2**21  # increments that are drawn at once


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that stays the same during a solve."""

    model: Model
    noise: AbstractNoise
    grid: TimeGrid
    compile: Compile = "off"


class Outcome(NamedTuple):
    """Rows ``(series, time, state + cost)``, and the status and counts of steps of each series."""

    rows: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor


def run(problem: Problem, y: Tensor, *, recompute: bool) -> Outcome:
    """Take every step of the grid.

    Parameters
    ----------
    problem
        What to solve.
    y
        Initial states, ``(series, state)``.
    recompute
        Keep only the state between blocks of about sqrt(steps) steps, and take them again on the way back.
    """
    grid, n_steps, n_series = problem.grid, problem.grid.length, len(y)
    t = grid.times[..., 0].to(y.dtype)
    state = origin = start(problem.model, t if t.dim() == 0 else t.unsqueeze(-1), y)
    failed_at = torch.full((n_series,), n_steps + 1, device=y.device)
    picker = _Picker(grid, n_series)
    picker.take(row(state).unsqueeze(0), 0)
    runner = _Runner(problem, state, recompute)
    for first in range(0, n_steps, runner.length):
        rows, after = runner.steps(state, first, failed_at, origin)
        if not _finite(after.y):  # what once left the finite numbers does not come back: the last state tells
            failed_at = _first_failure(rows.detach(), first, failed_at)
            rows, after = runner.steps(state, first, failed_at, origin)
        picker.take(rows, first + 1)
        state = after
    status = torch.where(failed_at <= n_steps, int(Status.NOT_FINITE), int(Status.SUCCESS))
    good = torch.minimum(failed_at - 1, grid.n_steps)
    return Outcome(picker.gather(failed_at), status, good, torch.zeros_like(good))


def _finite(y: Tensor) -> bool:
    """Whether no entry is infinite or NaN: a sum is neither as long as no entry is."""
    return bool(torch.isfinite(y.detach().sum())) or bool(torch.isfinite(y).all())


def _first_failure(rows: Tensor, first: int, failed_at: Tensor) -> Tensor:
    """Number of the step at which each series leaves the finite numbers."""
    broken = ~torch.isfinite(rows).all(-1) & (failed_at > first)
    step = first + 1 + broken.to(torch.uint8).argmax(0)
    return torch.where(broken.any(0), torch.minimum(failed_at, step), failed_at)


class _Runner:
    """Takes blocks of steps; noise is drawn for many blocks at once, outside of what is compiled."""

    def __init__(self, problem: Problem, state: State, recompute: bool):
        self.problem, self.dtype = problem, state.y.dtype
        self.recompute = recompute and torch.is_grad_enabled()
        n_steps = problem.grid.length
        self.length = max(1, round(n_steps**0.5)) if self.recompute else CHUNK
        width = problem.noise.shape[0] * problem.noise.shape[1]
        self.section = self.length * max(1, _SECTION // (width * self.length))
        self.drawn, self.noise = range(0), problem.noise.increments(problem.grid.times[..., :1])
        self.marcher = marcher(problem.model, state, problem.compile)

    def steps(self, state: State, first: int, failed_at: Tensor, origin: State) -> tuple[Tensor, State]:
        """Take the block of steps that starts with number ``first``."""
        last = min(first + self.length, self.problem.grid.length)
        if self.recompute:
            return self._recomputed(state, first, last, failed_at, origin)
        return self._march(
            self._block(first, last, self._noise(first, last)), state, first, failed_at, origin
        )

    def _march(
        self, block: Block, state: State, first: int, failed_at: Tensor, origin: State
    ) -> tuple[Tensor, State]:
        number = first + 1 + torch.arange(len(block.t), device=failed_at.device)
        held = failed_at <= number.unsqueeze(-1)
        if bool(held.any()):
            return march_around(self.problem.model, block, state, held, origin)
        if self.marcher.compiled:
            rows, after = self.marcher(self.problem.model, block.padded(self.length), state)
            return rows[: len(block.t)], after
        return self.marcher(self.problem.model, block, state)

    def _recomputed(
        self, state: State, first: int, last: int, failed_at: Tensor, origin: State
    ) -> tuple[Tensor, State]:
        """The same, leaving no trace but the ends; the noise is drawn again on the way back as well."""

        def again(y: Tensor, totals: Tensor, rates: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
            noise = self.problem.noise.increments(self.problem.grid.times[..., first : last + 1], first)
            block = self._block(first, last, noise)
            rows, after = self._march(block, State(y, totals, rates, carry), first, failed_at, origin)
            return (rows, after.y, after.totals, after.rates, *after.carry)

        result = checkpoint(again, *state[:3], *state.carry, use_reentrant=False, preserve_rng_state=False)
        rows, y, totals, rates, *carry = result
        return rows, State(y, totals, rates, tuple(carry))

    def _noise(self, first: int, last: int) -> BrownianIncrement:
        """Noise of the steps, from a section drawn at once; the path need not be descended block by block."""
        if last > self.drawn.stop:
            self.drawn = range(first, min(first + self.section, self.problem.grid.length))
            times = self.problem.grid.times[..., first : self.drawn.stop + 1]
            self.noise = self.problem.noise.increments(times, first)
        rows = slice(first - self.drawn.start, last - self.drawn.start)
        return self.noise.at(rows)

    def _block(self, first: int, last: int, noise: BrownianIncrement) -> Block:
        times = self.problem.grid.times[..., first : last + 1]
        shared = times.dim() == 1
        h = times.diff().to(self.dtype) if shared else times.diff().T.unsqueeze(-1).to(self.dtype)
        t = times[:-1].to(self.dtype) if shared else times[:, :-1].T.unsqueeze(-1).to(self.dtype)
        wide = (t[:, None, None], h[:, None, None]) if shared else (t, h)
        weights = self.problem.model.stepper.weights(self.problem.model.sde, *wide)
        return Block(t, noise._replace(dt=h), weights)


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
