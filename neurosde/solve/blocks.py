"""Runs of steps with their noise, which is drawn for many of them at once."""

import torch

from neurosde.noise import BrownianIncrement
from neurosde.solve.compiling import loosen
from neurosde.solve.march import Block, State
from neurosde.solve.problem import Problem
from neurosde.solve.through import Table

CHUNK = 10  # steps of a compiled block: compiling more costs more and gains little
SECTION = 2**19  # increments that are drawn at once: two MiB or four, however long the solve
SMALL_SECTION = 2**17  # the same where memory is what counts
_TABLE = 2**12  # steps that are tabled at once where their noise is drawn one by one,
_UNSEEN = 2**24  # and increments drawn so before anyone looks: less than a second
_WIDER = 32  # times as many on other devices, where kernels are dearer to ask for


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

    def __init__(self, problem: Problem, dtype: torch.dtype, length: int = CHUNK, section: int = SECTION):
        self.problem, self.dtype, self.length = problem, dtype, length
        width = problem.noise.shape[0] * problem.noise.shape[1]
        section *= 1 if problem.grid.times.device.type == "cpu" else _WIDER
        self.size = length * max(1, section // (width * length))
        self.drawn = self.tabled = range(0)
        self.section: Block | None = None
        self.table: Table | None = None

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

    def table_of(self, first: int) -> Table:
        """Many steps for a compiled loop, number ``first`` among them; ``tabled`` is their numbers."""
        if self.table is None or first not in self.tabled:
            draws = self.problem.noise.draws()
            if draws is None:
                block = self.section_of(first)
                self.tabled = self.drawn
            else:
                block = self._noiseless(first)
            start = torch.tensor(self.tabled.start, device=block.t.device)
            self.table = Table(start, block, draws)
        return self.table

    def _noiseless(self, first: int) -> Block:
        times, (n_series, n_noise) = self.problem.grid.times, self.problem.noise.shape
        n_clocks = 1 if times.dim() == 1 else n_series
        size = max(CHUNK, min(_TABLE, SECTION // n_clocks, _UNSEEN // (n_series * n_noise)))
        begin = first - first % size
        self.tabled = range(begin, min(begin + size, self.problem.grid.length))
        return self._draw(self.tabled, noisy=False)

    def _draw(self, steps: range, *, noisy: bool = True) -> Block:
        problem = self.problem
        own = problem.grid.times[..., steps.start : steps.stop + 1]
        shared, nothing = own.dim() == 1, own.new_empty(len(steps), 0)
        noise = problem.noise.increments(own, steps.start) if noisy else BrownianIncrement(nothing, nothing)
        h = own.diff().to(self.dtype) if shared else own.diff().T.unsqueeze(-1).to(self.dtype)
        t = own[:-1].to(self.dtype) if shared else own[:, :-1].T.unsqueeze(-1).to(self.dtype)
        wide = (t.view(-1, 1, 1), h.view(-1, 1, 1)) if shared else (t, h)
        weights = problem.model.stepper.weights(problem.model.sde, *wide) if len(steps) else ()
        if problem.model.absorbing is not None:
            weights = (*weights, problem.model.absorbing.draws(t, self.dtype))
        return Block(t, noise._replace(dt=h), weights)


def loosen_series(block: Block, state: State) -> None:
    """Let the number of series change without compiling again."""
    for part in state.flat():
        loosen(part, axis=0)
    for part in (block.t, *block.noise, *block.weights):
        loosen(part, axis=1)
