"""The loop over blocks of time steps: noise, failures, recomputation and what is kept."""

import dataclasses

import torch
from torch.utils.checkpoint import checkpoint

from neurosde.errors import ShapeError
from neurosde.noise import AbstractNoise
from neurosde.sde import SDE
from neurosde.solve.compiling import Compile, marcher
from neurosde.solve.grid import TimeGrid
from neurosde.solve.march import Block, Model, State, march_around, row, start
from neurosde.solve.solution import Status
from neurosde.solve.stepper import Carry
from neurosde.typing import NamedTuple, Sequence, Tensor

CHUNK = 10  # steps of a block: compiling more costs more and gains little
_SECTION = 2**21  # increments that are drawn at once


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that stays the same during a solve."""

    model: Model
    noise: AbstractNoise
    grid: TimeGrid
    compile: Compile = "off"
    carry: Carry | None = None  # what an earlier solve handed on


class Outcome(NamedTuple):
    """Rows ``(series, time, state + cost)``, status and counts of steps of each series, last carry."""

    rows: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    carry: Carry = ()
    penalty: Tensor | None = None

    def seen_again(self, replay: "Outcome") -> "Outcome":
        """Rows of the same steps taken again, with this outcome's counts and the worse of both statuses."""
        status = torch.maximum(self.status, replay.status)
        return self._replace(rows=replay.rows, status=status, carry=replay.carry, penalty=replay.penalty)


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
    grid = problem.grid
    t = grid.times[..., 0].to(y.dtype)
    state = origin = start(problem.model, t if t.dim() == 0 else t.unsqueeze(-1), y)
    if problem.carry is not None:
        state = origin = state._replace(carry=problem.carry)
    failed_at = torch.full((len(y),), grid.length + 1, device=y.device)
    picker = Picker(grid, len(y))
    picker.take(row(state).unsqueeze(0), 0)
    runner = _Runner(problem, state, recompute)
    for first in range(0, grid.length, runner.source.length):
        rows, after = runner.steps(state, first, failed_at, origin)
        if not is_finite(
            after.y
        ):  # what once left the finite numbers does not come back: the last state tells
            failed_at = first_failure(rows.detach(), first, failed_at)
            rows, after = runner.steps(state, first, failed_at, origin)
        picker.take(rows, first + 1)
        state = after
    penalty = (
        (state.penalty / grid.n_steps.clamp(min=1)).mean() if problem.model.penalty is not None else None
    )
    return outcome_of(picker.gather(failed_at), failed_at, grid)._replace(carry=state.carry, penalty=penalty)


def outcome_of(rows: Tensor, failed_at: Tensor, grid: TimeGrid) -> Outcome:
    """Rows of a fixed grid with the status and counts that follow from the steps at which series failed."""
    status = torch.where(failed_at <= grid.length, int(Status.NOT_FINITE), int(Status.SUCCESS))
    good = torch.minimum(failed_at - 1, grid.n_steps)
    return Outcome(rows, status, good, torch.zeros_like(good))


def is_finite(y: Tensor) -> bool:
    """Whether no entry is infinite or NaN: a finite sum says so at once."""
    return bool(torch.isfinite(y.detach().sum())) or bool(torch.isfinite(y).all())


def first_failure(rows: Tensor, first: int, failed_at: Tensor) -> Tensor:
    """Number of the step at which each series leaves the finite numbers."""
    broken = ~torch.isfinite(rows).all(-1) & (failed_at > first)
    step = first + 1 + broken.to(torch.uint8).argmax(0)
    return torch.where(broken.any(0), torch.minimum(failed_at, step), failed_at)


class BlockSource:
    """Blocks of steps with their noise, which is drawn for many blocks at once.

    Parameters
    ----------
    problem
        What is solved.
    dtype
        Of the states.
    length
        Steps of a block.
    """

    def __init__(self, problem: Problem, dtype: torch.dtype, length: int = CHUNK):
        self.problem, self.dtype, self.length = problem, dtype, length
        width = problem.noise.shape[0] * problem.noise.shape[1]
        self.section = length * max(1, _SECTION // (width * length))
        self.drawn, self.noise = range(0), problem.noise.increments(problem.grid.times[..., :1])

    def block(self, first: int, *, afresh: bool = False) -> Block:
        """Steps from number ``first`` on; ``afresh`` draws noise for them alone, and keeps none."""
        times = self.problem.grid.times
        last = min(first + self.length, times.shape[-1] - 1)
        if afresh:
            noise = self.problem.noise.increments(times[..., first : last + 1], first)
        else:
            if first not in self.drawn or last > self.drawn.stop:
                begin = first - first % self.section
                self.drawn = range(begin, min(begin + self.section, times.shape[-1] - 1))
                self.noise = self.problem.noise.increments(times[..., begin : self.drawn.stop + 1], begin)
            noise = self.noise.at(slice(first - self.drawn.start, last - self.drawn.start))
        own = times[..., first : last + 1]
        shared = own.dim() == 1
        h = own.diff().to(self.dtype) if shared else own.diff().T.unsqueeze(-1).to(self.dtype)
        t = own[:-1].to(self.dtype) if shared else own[:, :-1].T.unsqueeze(-1).to(self.dtype)
        wide = (t[:, None, None], h[:, None, None]) if shared else (t, h)
        weights = self.problem.model.stepper.weights(self.problem.model.sde, *wide)
        return Block(t, noise._replace(dt=h), weights)


class _Runner:
    """Takes blocks of steps: compiled or not, recomputed or not, around failed series or not."""

    def __init__(self, problem: Problem, state: State, recompute: bool):
        self.problem = problem
        self.recompute = recompute and torch.is_grad_enabled()
        length = max(1, round(problem.grid.length**0.5)) if self.recompute else CHUNK
        self.marcher = marcher(problem.model, state, problem.compile)
        if self.marcher.compiled:
            problem = dataclasses.replace(problem, noise=problem.noise.compiled())
        self.source = BlockSource(problem, state.y.dtype, length)

    def steps(self, state: State, first: int, failed_at: Tensor, origin: State) -> tuple[Tensor, State]:
        """Take the block of steps that starts with number ``first``."""
        if self.recompute:
            return self._recomputed(state, first, failed_at, origin)
        return self._march(self.source.block(first), state, first, failed_at, origin)

    def _march(
        self, block: Block, state: State, first: int, failed_at: Tensor, origin: State
    ) -> tuple[Tensor, State]:
        number = first + 1 + torch.arange(len(block.t), device=failed_at.device)
        held = failed_at <= number.unsqueeze(-1)
        if bool(held.any()):
            return march_around(self.problem.model, block, state, held, origin)
        if self.marcher.compiled:
            rows, after = self.marcher(self.problem.model, block.padded(self.source.length), state)
            return rows[: len(block.t)], after
        return self.marcher(self.problem.model, block, state)

    def _recomputed(self, state: State, first: int, failed_at: Tensor, origin: State) -> tuple[Tensor, State]:
        """The same, leaving no trace but the ends; the noise is drawn again on the way back as well."""

        def again(*parts: Tensor) -> tuple[Tensor, ...]:
            block = self.source.block(first, afresh=True)
            rows, after = self._march(block, _state(parts), first, failed_at, origin)
            return (rows, *after[:4], *after.carry)

        result = checkpoint(again, *state[:4], *state.carry, use_reentrant=False, preserve_rng_state=False)
        rows, *parts = result
        return rows, _state(parts)


def _state(parts: Sequence[Tensor]) -> State:
    y, totals, rates, penalty, *carry = parts
    return State(y, totals, rates, penalty, tuple(carry))


class Picker:
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
