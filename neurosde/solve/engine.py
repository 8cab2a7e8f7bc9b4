"""The loop over blocks of time steps: failures, recomputation, recordings, and what is kept."""

import contextlib
import dataclasses

import torch
from torch.utils.checkpoint import checkpoint

from neurosde.solve.blocks import CHUNK, SECTION, BlockSource, loosen_series
from neurosde.solve.compiling import Compile, Compiler, kind_of, loosen
from neurosde.solve.grid import TimeGrid
from neurosde.solve.looking import is_finite
from neurosde.solve.march import Block, Model, State, march, march_around, row, split_carry, state_of
from neurosde.solve.picker import Picker
from neurosde.solve.problem import Outcome, Problem, first_state, outcome_of
from neurosde.solve.pullback import Puller, puller_of
from neurosde.solve.recording import Recorder, recordable
from neurosde.solve.through import march_through
from neurosde.typing import Tensor

LONG = 20  # steps of a compiled block where a gradient flows: much is handed over between the ends of a block
_EAGER = 5  # blocks that may be taken as they are before a look for failures
_UNSEEN = 32  # recorded blocks between two looks for failures, which wait for the GPU


def run(problem: Problem, y: Tensor, *, recompute: bool, section: int = SECTION) -> Outcome:
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


def first_failure(rows: list[Tensor], first: int, failed_at: Tensor) -> Tensor:
    """Number of the step at which each series leaves the finite numbers."""
    broken = torch.stack([~torch.isfinite(row.detach()).all(-1) for row in rows])
    broken &= failed_at > first
    step = first + 1 + broken.to(torch.uint8).argmax(0)
    return torch.where(broken.any(0), torch.minimum(failed_at, step), failed_at)


def looks_itself(model: Model, y: Tensor, mode: Compile, grid: TimeGrid) -> bool:
    """Whether a solve without a gradient begins with a compiled loop, which looks at the fields itself.

    It does while the compiler reads it, and that reads again wherever something else would be seen.
    """
    if torch.is_grad_enabled() or model.absorbing is not None or y.device.type != "cpu":
        return False
    if grid.save.dim() > 1 or len(grid.save) < 2 or int(grid.save[1]) < CHUNK:
        return False
    return Compiler(_kind(model, y, False, False), mode).knows(march_through)


def _kind(model: Model, y: Tensor, graph: bool, recompute: bool) -> tuple:
    """What counts as the same work; fields that are differentiated do not compile under a checkpoint."""
    return (*kind_of(model, y, graph), model.absorbing is not None, recompute)


class _Runner:
    """Takes runs of steps: compiled or not, recomputed or not, around failed series or not."""

    def __init__(self, problem: Problem, state: State, recompute: bool, section: int):
        graph, records = torch.is_grad_enabled(), recordable(state.y, problem.compile)
        self.model, self.grid, self.origin = problem.model, problem.grid, state
        self.on_cpu = state.y.device.type == "cpu"
        self.recompute, self.flows = recompute and graph, problem.flows and graph
        kind = _kind(self.model, state.y, graph, self.recompute)
        self.compiler, self.recorder = Compiler(kind, problem.compile), Recorder(kind, records and not graph)
        if self.compiler.on:
            problem = dataclasses.replace(problem, noise=problem.noise.compiled())
        self.longest = LONG if self.compiler.on and graph and self.on_cpu else CHUNK
        self.source = BlockSource(problem, state.y.dtype, self._length(problem, section), section)
        self.puller: Puller | None = None
        if records and graph and self.compiler.on and not recompute:
            self.puller = puller_of(self.model, kind, self.source.block(0), state)
        self.failed_at: Tensor | None = None

    def _length(self, problem: Problem, section: int) -> int:
        """Steps of a block."""
        if self.recompute:
            return CHUNK * max(1, round(self.grid.length**0.5 / CHUNK))
        if self.compiler.on or self.recorder.on:
            return self.longest
        n_series, n_noise = problem.noise.shape
        most = section // (CHUNK * n_series * n_noise) if self.on_cpu else _EAGER
        return CHUNK * max(1, min(_EAGER, most))

    def steps(self, state: State, first: int, picker: Picker) -> tuple[list[Tensor], State, int]:
        """Take steps from number ``first`` on: their rows (or the last ones), the state and its number."""
        plain = self.failed_at is None and self.model.absorbing is None
        if (self.recorder.on or self.puller is not None) and plain:
            return self._recorded(state, first, picker)
        if self.compiler.on and self.on_cpu and not torch.is_grad_enabled() and plain:
            self.source.table_of(first)
            last = min(picker.next_stop(), self.source.tabled.stop)
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
            if n < size and (state.carry or part.weights):  # a step of length zero may change these
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
        table = self.source.table_of(first)
        loosen_series(table.block, state)
        for part in (table.block.t, *table.block.noise, *table.block.weights):
            loosen(part, axis=0)
        if table.draws is not None:
            loosen(table.draws.series, axis=0)
        begin, end = (torch.tensor(k, device=state.y.device) for k in (first, last))
        return self.compiler(march_through, self.model, table, begin, end, state)

    def _recorded(self, state: State, first: int, picker: Picker) -> tuple[list[Tensor], State, int]:
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
