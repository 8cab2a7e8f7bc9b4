"""The loop over blocks of time steps: noise, failures, recomputation and what is kept."""

import contextlib
import dataclasses
import math
import reprlib
import sys

import torch
from torch.utils.checkpoint import checkpoint

from neurosde.errors import DataError, ShapeError
from neurosde.noise import AbstractNoise
from neurosde.sde import SDE, RunningCost
from neurosde.solve.compiling import Compile, Compiler, kind_of, loosen
from neurosde.solve.grid import TimeGrid
from neurosde.solve.march import (
    Block,
    Model,
    State,
    march,
    march_around,
    march_through,
    row,
    split_carry,
    start,
    state_of,
)
from neurosde.solve.pullback import Puller, puller_of
from neurosde.solve.recording import Recorder, recordable
from neurosde.solve.solution import Status
from neurosde.solve.stepper import Carry
from neurosde.typing import Any, NamedTuple, Tensor

CHUNK = 10  # steps of a compiled block: compiling more costs more and gains little
LONG = 20  # the same where a gradient flows: much is handed over between the ends of a block
_EAGER = 5  # as many may be taken as they are before a look for failures
_UNSEEN = 32  # recorded blocks between two looks for failures, which wait for the GPU
_SECTION = 2**19  # increments that are drawn at once: two MiB or four, however long the solve
SMALL_SECTION = 2**17  # the same where memory is what counts
_WIDER = 32  # times as many on other devices, where kernels are dearer to ask for


@dataclasses.dataclass(frozen=True)
class Problem:
    """All that stays the same during a solve."""

    model: Model
    noise: AbstractNoise
    grid: TimeGrid
    compile: Compile = "off"
    carry: Carry | None = None  # what an earlier solve handed on
    flows: bool = False  # whether the fields are known to have a gradient


class Outcome(NamedTuple):
    """Rows ``(series, time, state + cost)``; status and counts of each series; carry and state at the end.

    ``noise`` is the source that was drawn from, compiled or not: a way back must meet the same.
    """

    rows: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    carry: Carry = ()
    penalty: Tensor | None = None
    y: Tensor | None = None
    exits: tuple[Tensor, Tensor] | None = None  # times and barriers, of a solve with an absorbing set
    noise: AbstractNoise | None = None

    def seen_again(self, replay: "Outcome") -> "Outcome":
        """Rows of the same steps taken again, with this outcome's counts and the worse of both statuses."""
        status = torch.maximum(self.status, replay.status)
        return self._replace(rows=replay.rows, status=status, carry=replay.carry, penalty=replay.penalty)


def run(problem: Problem, y: Tensor, *, recompute: bool, section: int = _SECTION) -> Outcome:
    """Take every step of the grid.

    Parameters
    ----------
    problem
        What to solve.
    y
        Initial states, ``(series, state)``.
    recompute
        Keep only the state between blocks of about sqrt(steps) steps, and take them again on the way back.
    section
        Increments that are drawn at once.
    """
    grid = problem.grid
    state = first_state(problem, y)
    failed_at: Tensor | None = None
    picker = Picker(grid)
    picker.take([row(state)], 0)
    runner = _Runner(problem, state, recompute, section)
    first = 0
    with contextlib.closing(runner.recorder):
        while first < grid.length:
            rows, after, last = runner.steps(state, first, picker)
            if not is_finite(row(after)):
                # what once left the finite numbers does not come back: the last state, or cost, tells
                rows, after, last, failed_at = runner.careful_steps(state, first, failed_at)
            picker.take(rows, last - len(rows) + 1)
            state, first = after, last
    penalty = None
    if problem.model.penalty is not None:
        penalty = (state.penalty / grid.n_steps.clamp(min=1)).mean()
    outcome = outcome_of(picker.gather(failed_at), failed_at, grid)
    outcome = outcome._replace(noise=runner.source.problem.noise)
    if problem.model.absorbing is not None:
        carry, *exits, _, _ = split_carry(state.carry)
        return outcome._replace(carry=carry, y=state.y, exits=tuple(exits))
    return outcome._replace(carry=state.carry, penalty=penalty, y=state.y)


def on_the_same_noise(problem: Problem, outcome: Outcome) -> Problem:
    """The problem for a way back over the steps that were taken."""
    return problem if outcome.noise is None else dataclasses.replace(problem, noise=outcome.noise)


def first_state(problem: Problem, y: Tensor) -> State:
    """State before the first step, with what an earlier solve has handed on."""
    t = problem.grid.times[..., 0].to(y.dtype)
    state = start(problem.model, t if t.dim() == 0 else t.unsqueeze(-1), y)
    return state if problem.carry is None else state._replace(carry=problem.carry)


def outcome_of(rows: Tensor, failed_at: Tensor | None, grid: TimeGrid) -> Outcome:
    """Rows of a fixed grid with the status and counts that follow from the steps at which series failed."""
    if failed_at is None:
        good = grid.n_steps.expand(len(rows)).clone()
        return Outcome(rows, torch.zeros_like(good), good, torch.zeros_like(good))
    status = torch.where(failed_at <= grid.length, int(Status.NOT_FINITE), int(Status.SUCCESS))
    good = torch.minimum(failed_at - 1, grid.n_steps)
    return Outcome(rows, status, good, torch.zeros_like(good))


def is_finite(y: Tensor) -> bool:
    """Whether no entry is infinite or NaN: a finite sum says so at once."""
    return math.isfinite(float(y.detach().sum())) or bool(torch.isfinite(y).all())


def first_failure(rows: list[Tensor], first: int, failed_at: Tensor) -> Tensor:
    """Number of the step at which each series leaves the finite numbers."""
    broken = torch.stack([~torch.isfinite(row.detach()).all(-1) for row in rows])
    broken &= failed_at > first
    step = first + 1 + broken.to(torch.uint8).argmax(0)
    return torch.where(broken.any(0), torch.minimum(failed_at, step), failed_at)


class BlockSource:
    """Runs of steps with their noise, which is drawn for many steps at once.

    Parameters
    ----------
    problem
        What is solved.
    dtype
        Of the states.
    length
        Steps of a block; a section is a number of whole blocks.
    section
        Increments that are drawn at once, if a block has no more.
    """

    def __init__(self, problem: Problem, dtype: torch.dtype, length: int = CHUNK, section: int = _SECTION):
        self.problem, self.dtype, self.length = problem, dtype, length
        width = problem.noise.shape[0] * problem.noise.shape[1]
        section *= 1 if problem.grid.times.device.type == "cpu" else _WIDER
        self.size = length * max(1, section // (width * length))
        self.drawn = range(0)
        self.section: Block | None = None

    def block(self, first: int, *, afresh: bool = False) -> Block:
        """Steps of the block from number ``first`` on; ``afresh`` draws noise for them alone, keeps none."""
        last = self.end_of(first)
        if afresh:
            return self._draw(range(first, last))
        section = self.section_of(first)
        return section.part(first - self.drawn.start, last - self.drawn.start)

    def end_of(self, first: int) -> int:
        """Number of the step behind the block from ``first`` on; it ends with its section at the latest."""
        return min(first + self.length, first - first % self.size + self.size, self.problem.grid.length)

    def section_of(self, first: int) -> Block:
        """All steps whose noise is drawn together with that of step ``first``; ``drawn`` is their numbers."""
        if self.section is None or first not in self.drawn:
            begin = first - first % self.size
            self.drawn = range(begin, min(begin + self.size, self.problem.grid.length))
            self.section = self._draw(self.drawn)
        return self.section

    def _draw(self, steps: range) -> Block:
        problem = self.problem
        own = problem.grid.times[..., steps.start : steps.stop + 1]
        noise, shared = problem.noise.increments(own, steps.start), own.dim() == 1
        h = own.diff().to(self.dtype) if shared else own.diff().T.unsqueeze(-1).to(self.dtype)
        t = own[:-1].to(self.dtype) if shared else own[:, :-1].T.unsqueeze(-1).to(self.dtype)
        wide = (t.view(-1, 1, 1), h.view(-1, 1, 1)) if shared else (t, h)
        weights = problem.model.stepper.weights(problem.model.sde, *wide) if len(steps) else ()
        if problem.model.absorbing is not None:
            weights = (*weights, problem.model.absorbing.draws(t, self.dtype))
        return Block(t, noise._replace(dt=h), weights)


class _Runner:
    """Takes runs of steps: compiled or not, recomputed or not, around failed series or not."""

    def __init__(self, problem: Problem, state: State, recompute: bool, section: int):
        self.model, self.grid, self.origin = problem.model, problem.grid, state
        self.recompute = recompute and torch.is_grad_enabled()
        self.flows = problem.flows and torch.is_grad_enabled()
        kind = (
            *kind_of(problem.model, state.y, torch.is_grad_enabled()),
            problem.model.absorbing is not None,
        )
        kind = (*kind, self.recompute)  # fields that are differentiated do not compile under a checkpoint
        self.compiler = Compiler(kind, problem.compile)
        if self.compiler.on:
            problem = dataclasses.replace(problem, noise=problem.noise.compiled())
        records, graph = recordable(state.y, problem.compile), torch.is_grad_enabled()
        self.recorder = Recorder(kind, records and not graph)
        width = CHUNK * problem.noise.shape[0] * problem.noise.shape[1]
        self.on_cpu = state.y.device.type == "cpu"
        self.longest = LONG if self.compiler.on and graph and self.on_cpu else CHUNK
        chunks = self.longest // CHUNK
        if not self.compiler.on and not self.recorder.on:
            chunks = min(_EAGER, section // width) if self.on_cpu else _EAGER
        if self.recompute:
            chunks = round(problem.grid.length**0.5 / CHUNK)
        self.source = BlockSource(problem, state.y.dtype, CHUNK * max(1, chunks), section)
        self.puller: Puller | None = None
        if records and graph and self.compiler.on and not recompute:
            self.puller = puller_of(self.model, kind, self.source.block(0), state)
        self.failed_at: Tensor | None = None

    def steps(self, state: State, first: int, picker: "Picker") -> tuple[list[Tensor], State, int]:
        """Take steps from number ``first`` on: their rows (or the last ones), the state and its number."""
        plain = self.failed_at is None and self.model.absorbing is None
        if (self.recorder.on or self.puller is not None) and plain:
            return self._recorded(state, first, picker)
        if self.compiler.on and self.on_cpu and not torch.is_grad_enabled() and plain:
            self.source.section_of(first)
            last = min(picker.next_stop(), self.source.drawn.stop)
            if last - first >= CHUNK:
                after = self._through(state, first, last)
                return [row(after)], after, last
        last = self.source.end_of(first)
        every = picker.next_stop() < last
        if self.recompute:
            return *self._recomputed(state, first, every), last
        return *self._march(self.source.block(first), state, first, every), last

    def careful_steps(
        self, state: State, first: int, failed_at: Tensor | None
    ) -> tuple[list[Tensor], State, int, Tensor]:
        """Take a block again after a failure, and find out which series failed at which step of it."""
        last = self.source.end_of(first)
        block = self.source.block(first)
        if failed_at is None:
            failed_at = torch.full((len(state.y),), self.grid.length + 1, device=state.y.device)
        self.failed_at = first_failure(self._march(block, state, first, True)[0], first, failed_at)
        again = self._recomputed(state, first, True) if self.recompute else None
        rows, after = again or self._march(block, state, first, True)
        return rows, after, last, self.failed_at

    def _march(self, block: Block, state: State, first: int, every: bool) -> tuple[list[Tensor], State]:
        if self.failed_at is not None:
            number = first + 1 + torch.arange(len(block.t), device=self.failed_at.device)
            held = self.failed_at <= number.unsqueeze(-1)
            if bool(held.any()):
                return march_around(self.model, block, state, held, self.origin)
        if not self.compiler.on:
            return self.recorder(self.compiler, march, self.model, block, state, every)
        return self.recorder(self._march_compiled, block, state, every)

    def _march_compiled(self, block: Block, state: State, every: bool) -> tuple[list[Tensor], State]:
        if self.flows and not state.y.requires_grad:
            # as it will be after the first block: one program does for all
            state = state._replace(y=state.y.detach().requires_grad_())
        rows: list[Tensor] = []
        begin = 0
        while begin < len(block.t):
            size = self.longest if len(block.t) - begin >= self.longest else CHUNK
            part = block.part(begin, begin + size)
            n = len(part.t)
            if n < size and state.carry:  # a step of length zero may move what is carried
                more, state = march(self.model, part, state, every)
            else:
                part = part.padded(size)
                loosen_series(part, state)
                if self.puller is not None:
                    more, state = self.puller(part, state, every)
                else:
                    more, state = self.compiler(march, self.model, part, state, every, size=size)
            rows = rows + more[:n] if every else more
            begin += size
        return rows, state

    def _through(self, state: State, first: int, last: int) -> State:
        """Take many steps of which only the end is wanted."""
        section, start = self.source.section_of(first), self.source.drawn.start
        loosen_series(section, state)
        for part in (section.t, *section.noise, *section.weights):
            loosen(part, axis=0)
        begin, end = (torch.tensor(k - start, device=state.y.device) for k in (first, last))
        return self.compiler(march_through, self.model, section, begin, end, state)

    def _recorded(self, state: State, first: int, picker: "Picker") -> tuple[list[Tensor], State, int]:
        """Take many blocks before anyone looks at the values, which would wait for the device."""
        self.source.section_of(first)
        every = picker.next_stop() < self.source.end_of(first)
        rows: list[Tensor] = []
        for _ in range(_UNSEEN):
            more, state = self._march(self.source.block(first), state, first, every)
            rows = rows + more if every else more
            first = self.source.end_of(first)
            ended = first == self.source.drawn.stop
            if ended or (not every and picker.next_stop() < self.source.end_of(first)):
                break
        return rows, state, first

    def _recomputed(self, state: State, first: int, every: bool) -> tuple[list[Tensor], State]:
        """The same, leaving no trace but the ends; the noise is drawn again on the way back as well."""

        def again(*parts: Tensor) -> tuple[Tensor, ...]:
            rows, after = self._march(self.source.block(first, afresh=True), state_of(parts), first, every)
            return (torch.stack(rows), *after.flat())

        result = checkpoint(again, *state.flat(), use_reentrant=False, preserve_rng_state=False)
        rows, *parts = result
        return list(rows.unbind(0)), state_of(tuple(parts))


def loosen_series(block: Block, state: State) -> None:
    """Let the number of series change without compiling again."""
    for part in state.flat():
        loosen(part, axis=0)
    for part in (block.t, *block.noise, *block.weights):
        loosen(part, axis=1)


class Picker:
    """Collects the rows that were asked for as they come by, and lays them out at the end."""

    def __init__(self, grid: TimeGrid):
        self.shared, self.save = grid.save.dim() == 1, grid.save
        self.steps = grid.save.flatten()
        self.bounds = self.steps.tolist()
        self.order: Tensor | None = None  # None as it stands
        if not (self.shared and self.bounds[0] >= 0 and self.bounds == sorted(self.bounds)):
            order = torch.argsort(self.steps, stable=True)
            self.order = order[self.steps[order] >= 0]
            self.steps = self.steps[self.order]
            self.bounds = self.steps.tolist()
        self.taken = 0
        self.rows: list[Tensor] = []

    def next_stop(self) -> int:
        """Number of the next step whose row was asked for."""
        return self.bounds[self.taken] if self.taken < len(self.bounds) else sys.maxsize

    def take(self, rows: list[Tensor], first: int) -> None:
        """Keep what is asked for of the rows (series, column) after step ``first`` and the next."""
        end = self.taken
        while end < len(self.bounds) and self.bounds[end] < first + len(rows):
            end += 1
        if end == self.taken:
            return
        if self.shared or self.order is None:
            self.rows += [rows[step - first] for step in self.bounds[self.taken : end]]
        else:
            low = self.bounds[self.taken]
            some = torch.stack(rows[low - first : self.bounds[end - 1] - first + 1])
            series = self.order[self.taken : end] // self.save.shape[-1]
            self.rows.append(some[self.steps[self.taken : end] - low, series])
        self.taken = end

    def gather(self, failed_at: Tensor | None) -> Tensor:
        """Rows in the layout of the requested times, NaN for padding and after a failure."""
        rows = torch.stack(self.rows) if self.shared else torch.cat(self.rows)
        if self.order is not None:
            place = torch.zeros(self.save.numel(), dtype=torch.int64, device=rows.device)
            place[self.order] = torch.arange(len(self.order), device=rows.device)
            rows = rows[place]
        rows = rows.transpose(0, 1) if self.shared else rows.unflatten(0, tuple(self.save.shape))
        if failed_at is None and len(self.bounds) == self.save.numel():
            return rows
        lost = self.save < 0
        if failed_at is not None:
            lost = lost | (self.save >= failed_at[:, None])
        return torch.where(lost.unsqueeze(-1), torch.nan, rows) if bool(lost.any()) else rows


def look(sde: SDE, t: Tensor, y: Tensor) -> tuple[int, bool]:
    """Check what the fields give at the start; tell the noise channels, and whether a gradient flows.

    Raises
    ------
    ShapeError
        If a field does not have the shape that the noise type declares.
    DataError
        If it is no tensor, or of a dtype that the states cannot be stepped with.
    """
    fields, diagonal = sde.drift_and_diffusion(t, y), sde.noise_type == "diagonal"
    if not isinstance(fields, tuple | list) or len(fields) != 2:
        raise DataError(f"sde: drift_and_diffusion: expected a pair of tensors, got {reprlib.repr(fields)}.")
    f, g = fields
    _check_field("drift", f, y, tuple(y.shape), "(series, state)", "")
    n_noise, axes = y.shape[-1], "(series, state)"
    if not diagonal:
        several = sde.noise_type != "scalar" and isinstance(g, Tensor) and g.dim() > 0
        n_noise, axes = g.shape[-1] if several else 1, "(series, state, noise)"
    wanted = tuple(y.shape) if diagonal else (*y.shape, n_noise)
    _check_field("diffusion", g, y, wanted, axes, f" for {sde.noise_type} noise")
    if not diagonal and g.dtype != y.dtype:
        raise DataError(
            f"sde: diffusion: expected the dtype of the states, {y.dtype}, for it is multiplied with noise "
            f"of that dtype; got {g.dtype}. Return diffusion.to(y)."
        )
    return n_noise, f.requires_grad or g.requires_grad


def _check_field(name: str, field: Any, y: Tensor, wanted: tuple[int, ...], axes: str, noise: str) -> None:
    if not isinstance(field, Tensor):
        raise DataError(
            f"sde: {name}: expected a tensor {axes} = {wanted}{noise}, got {reprlib.repr(field)} of type "
            f"{type(field).__name__}; a constant c is torch.full_like(y, c)."
        )
    if tuple(field.shape) != wanted:
        raise ShapeError(f"sde: {name}: expected {axes} = {wanted}{noise}, got {tuple(field.shape)}.")
    if field.dtype == torch.bool or torch.promote_types(field.dtype, y.dtype) != y.dtype:
        raise DataError(
            f"sde: {name}: expected the dtype of the states, {y.dtype}, got {field.dtype}, which the states "
            f"would turn into; return {name}.to(y), or give y0 in that dtype."
        )


@torch.no_grad()
def look_at_costs(running: tuple[RunningCost, ...], t: Tensor, y: Tensor, n_noise: int) -> None:
    """Check what the running costs give at the start.

    Raises
    ------
    ShapeError
        If it is no tensor with one entry a series (and one a noise channel, of an integrand).
    DataError
        If it is complex.
    """
    why = "; with exits or adaptive steps t is (series, 1), so write t.squeeze(-1)" if t.dim() else ""
    for cost in running:
        for field, kind, axes in (
            (cost.c, "a rate", "(series,)"),
            (cost.h, "an integrand", "(series, noise)"),
        ):
            if field is None:
                continue
            wanted, value = (len(y),) if kind == "a rate" else (len(y), n_noise), field(t, y)
            if not isinstance(value, Tensor) or tuple(value.shape) != wanted:
                got = tuple(value.shape) if isinstance(value, Tensor) else reprlib.repr(value)
                raise ShapeError(
                    f"running: {cost.name!r}: expected {kind} {axes} = {wanted}, got {got}; one that is the "
                    f"same for all is written with expand{why}."
                )
            if value.is_complex():
                raise DataError(
                    f"running: {cost.name!r}: expected {kind} of real numbers, got {value.dtype}."
                )
