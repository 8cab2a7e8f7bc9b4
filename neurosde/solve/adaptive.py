"""Adaptive solves: find the steps without a graph, then take them again as a fixed grid."""

import contextlib
import dataclasses
import itertools

import torch

from neurosde.noise import BrownianIncrement, BrownianPath
from neurosde.noise.powers import power_of_two
from neurosde.noise.stack import DyadicStack
from neurosde.sde import SDE, is_additive
from neurosde.solve.clocks import (
    NEVER,
    Attempted,
    Clocks,
    Course,
    attempt,
    attempt_on,
    attempt_unseen,
    clock_time,
    keep_steps,
    propose,
)
from neurosde.solve.compiling import Compile, Compiler, kind_of, loosen
from neurosde.solve.controller import PIController
from neurosde.solve.grid import TimeGrid
from neurosde.solve.kept import Kept, gathered, room_for
from neurosde.solve.march import Model
from neurosde.solve.problem import Outcome
from neurosde.solve.recording import Recorder, recordable
from neurosde.solve.solution import Status
from neurosde.solve.stepper import AbstractStepper, Carry
from neurosde.typing import Any, Callable, Tensor

_UNSEEN = 2**22  # normals that a compiled loop may draw before it comes back, so that it can be stopped
Taken = tuple[Tensor, Tensor, BrownianIncrement]  # ends, which clocks took the step, and its noise


@dataclasses.dataclass(frozen=True)
class AcceptedSteps:
    """What an adaptive pass leaves behind: enough to take the same steps again.

    Parameters
    ----------
    grid
        The accepted steps as a fixed grid, each clock's own.
    increments
        Increments over them, ``(step, series, noise)``; zero where a clock is done.
    status
        A :class:`Status` a series.
    accepted, rejected
        Counts, ``(series,)``.
    carry
        What the stepper carries at the end.
    ys
        States met at the times to end on, ``(series, time, state)``, NaN where none was.
    exits
        Exit times and barriers, if there is an absorbing set.
    """

    grid: TimeGrid
    increments: BrownianIncrement
    ys: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    carry: Carry
    exits: tuple[Tensor, Tensor] | None = None

    def outcome(self, columns: Tensor) -> Outcome:
        """States at the requested times, which stand in these columns of all the times to end on."""
        wanted = columns.expand(len(self.ys), -1).unsqueeze(-1).expand(-1, -1, self.ys.shape[-1])
        return Outcome(
            self.ys.gather(1, wanted),
            self.status,
            self.accepted,
            self.rejected,
            self.carry,
            exits=self.exits,
        )

    def grid_of(self, columns: Tensor) -> TimeGrid:
        """The accepted steps as a fixed grid that keeps the requested times."""
        shared = self.grid.save.dim() == 1
        return self.grid._replace(
            save=self.grid.save[columns[0]] if shared else self.grid.save.gather(1, columns)
        )


class StepSearch:
    """One adaptive pass over all clocks at once.

    Parameters
    ----------
    model, controller
        What is stepped, how, and how well; the stepper has an embedded error. Series stop at its absorbing
        set, and a clock is done when all its series have.
    path
        Brownian path of every series over its own span.
    times
        Times that steps must end on, ``(clock, time)``, padded with NaN: requested ones and jumps.
    max_steps
        Attempts after which a clock gives up.
    compile
        As :func:`neurosde.solve` is asked for.
    blind
        Attempts between two looks at the clocks; clocks that would end on a time inside a node sit them out.
        By default none on a processor, and 15 on other devices, where a look waits for all that was asked.
    """

    def __init__(
        self,
        model: Model,
        controller: PIController,
        path: BrownianPath,
        times: Tensor,
        max_steps: int,
        compile: Compile = "off",
        blind: int | None = None,
    ):
        self.model, self.controller, self.path = model, controller, path
        self.compile: Compile = compile
        n = len(times)
        start, span = (torch.atleast_1d(x).expand(n) for x in (path.t0, path.t1 - path.t0))
        targets = torch.nan_to_num((times - start[:, None]) / span[:, None], nan=NEVER)
        numbers = {"dtype": torch.float64, "device": times.device}
        self.course = Course(
            start,
            span,
            torch.cat((targets, torch.full_like(targets[:, :1], NEVER)), dim=1),
            torch.tensor(controller.jump_times, **numbers),
            controller.rule(order_of(model.stepper, model.sde), times.device),
            power_of_two(-torch.as_tensor(path.levels, device=times.device)),
            torch.tensor(max_steps, device=times.device),
            controller.whole_batch,
        )
        self.blind = (0 if times.device.type == "cpu" else 15) if blind is None else blind
        met = targets[:, 1:]
        self.lands = bool(((met != 1.0) & (met < NEVER)).any())  # the end of the path is met by itself

    @torch.no_grad()
    def run(self, y: Tensor, handed: Carry | None = None, *, keep: bool = True) -> AcceptedSteps:
        """Search from the initial states ``(series, state)``, and from what an earlier solve handed on.

        ``keep`` the steps themselves, to take them again.
        """
        course, self.stack = self.course, DyadicStack(self.path, len(self.course.targets))
        now = self._first(y, handed)
        ys = y.new_full((len(y), course.targets.shape[1] - 1, y.shape[-1]), torch.nan)
        ys[:, 0] = y
        compiler = self._compiler(y)
        recorder, looped = Recorder(compiler.kind, recordable(y, self.compile)), self._looped(y, keep)
        if compiler.on:
            self._loosen(now, ys)
        taken: list[Taken] = []
        kept = room_for(len(course.targets), self.stack.first.record, y) if keep and looped.on else None
        if looped.on:
            now, kept = self._go_on(looped, now, ys, kept)
        with contextlib.closing(recorder), compiler.open() as call:
            for looking in itertools.cycle((True, *[False] * self.blind)):
                if looking and not bool((now.status < 0).any()):
                    break
                if self.lands or not looped.on:
                    tried, before = self._attempt(recorder, compiler, call, now, ys, looking), now
                    now = tried.clocks
                    kept = _with_room(kept, before)
                    if kept is not None:
                        keep_steps(kept, before, tried)
                    elif keep:
                        taken.append((tried.end, tried.accepted, tried.increment))
                if looped.on:
                    now, kept = self._go_on(looped, now, ys, kept)
        if taken:
            kept = gathered(taken, int(now.accepted.max()))
        if now.exits is not None:  # what was not met before the exit is met where the series left
            late = torch.arange(ys.shape[1], device=y.device) >= now.target.unsqueeze(-1)
            late = late & (course.targets[:, :-1] < NEVER) & now.absorbed().unsqueeze(-1)
            ys = torch.where(late.unsqueeze(-1), now.y.unsqueeze(1), ys)
        return self._lay_out(kept, now, ys)

    def _go_on(
        self, looped: Compiler, now: Clocks, ys: Tensor, kept: Kept | None
    ) -> tuple[Clocks, Kept | None]:
        """Many attempts in a compiled loop; where steps are kept, there is room for more."""
        most = torch.tensor(max(16, _UNSEEN // self.stack.waiting.W[0].numel()), device=ys.device)
        kept = _with_room(kept, now)
        if kept is not None and looped.on:
            kept.loosen()
        now = looped(attempt_on, self.model, self.course, self.stack, now, ys, most, kept)
        return now, kept

    def _attempt(
        self,
        recorder: Recorder,
        compiler: Compiler,
        call: Callable[..., Any],
        now: Clocks,
        ys: Tensor,
        looking: bool,
    ) -> Attempted:
        """One attempt of every clock; those whose step hides a time to end on land there, if one may look."""
        if not (looking and self.lands):
            return recorder(call, attempt_unseen, self.model, self.course, self.stack, now, ys)
        proposal, target, landing = recorder(call, propose, self.course, self.stack, now)
        if bool(landing.any()):
            proposal = self.stack.land(proposal, target, landing, call)
            if compiler.on:
                loosen(*proposal.flat(), axis=0)  # which programs do by themselves
        return recorder(call, attempt, self.model, self.course, now, proposal, target, ys)

    def loops(self, y: Tensor, *, keep: bool) -> bool:
        """Whether the search is one compiled loop, which need not look at its clocks."""
        return self._looped(y, keep).on

    def _compiler(self, y: Tensor) -> Compiler:
        clocks = "shared" if self.course.whole_batch else len(self.course.targets) > 1
        return Compiler((*kind_of(self.model, y, False), self.path.levy, clocks), self.compile)

    def _looped(self, y: Tensor, keep: bool) -> Compiler:
        looped = self._compiler(y).for_form("looped and kept" if keep else "looped")
        # where one clock lands, plain numbers are cheaper
        looped.on &= y.device.type == "cpu" and not (self.course.whole_batch and self.lands)
        return looped

    def _loosen(self, now: Clocks, ys: Tensor) -> None:
        """Let the numbers of series and of targets change without compiling again."""
        rows = (now.y, *now.carry, *now.pending[:3], *now.pending.record, *now[3:9], *(now.exits or ()))
        loosen(*rows, ys, self.stack.series, *self.course[:3], axis=0)
        loosen(ys, self.course.targets, *self.stack.waiting, self.path.columns, axis=1)

    def _first(self, y: Tensor, carry: Carry | None) -> Clocks:
        course, model = self.course, self.model
        n = len(course.targets)
        zeros = torch.zeros(n, dtype=torch.int64, device=y.device)
        longest = course.span.new_tensor([self.controller.first_of(span) for span in course.span.tolist()])
        status = torch.where(course.targets[:, 1] >= NEVER, int(Status.SUCCESS), -1)
        t = clock_time(course, torch.zeros_like(course.span), y)
        carry = model.stepper.start(model.sde, t, y) if carry is None else carry
        exits = None if model.absorbing is None else model.absorbing.start(t, y)[:2]
        # the first requested time is the start
        now = Clocks(
            y,
            carry,
            self.stack.first,
            longest,
            course.span * 0 + 1,
            zeros + 1,
            status,
            zeros,
            zeros + 0,
            exits,
        )
        return now if exits is None else now.stopped()

    def _lay_out(self, kept: Kept | None, clocks: Clocks, ys: Tensor) -> AcceptedSteps:
        """Accepted steps of every clock side by side, as a grid padded with steps of length zero."""
        course, n_clocks, n_steps = self.course, len(self.course.targets), int(clocks.accepted.max())
        n_steps = 0 if kept is None else n_steps
        ends = course.span.new_zeros(0, n_clocks) if kept is None else kept.ends[:n_steps]
        last = ends.amax(0) if n_steps else torch.zeros_like(course.span)
        done = torch.arange(n_steps, device=ys.device).unsqueeze(-1) >= clocks.accepted
        fractions = torch.cat((torch.zeros_like(last[None]), torch.where(done, last, ends)))
        times, targets = (course.start + fractions * course.span).T, course.targets[:, :-1]
        save = torch.searchsorted(fractions.T.contiguous(), targets.contiguous())
        reached = (targets <= last.unsqueeze(-1)) & (targets < NEVER)
        late = (targets < NEVER) & clocks.absorbed().unsqueeze(-1)  # these are met at the exit
        save = torch.where(reached, save, torch.where(late, clocks.accepted.unsqueeze(-1), -1))
        spread = len(ys) if n_clocks == 1 else 1
        grid = TimeGrid(times, save, clocks.accepted)
        if n_clocks == 1:
            grid = TimeGrid(times[0], save[0], clocks.accepted[0])
        parts = [] if kept is None else [part[:n_steps] for part in kept.parts]
        W, H, K = (*parts, None, None, None)[:3]
        W = ys.new_zeros(0, *self.path.shape) if W is None else W
        increments = BrownianIncrement(grid.times.diff(), W, H, K)
        status, accepted, rejected = (
            x.repeat(spread) for x in (clocks.status, clocks.accepted, clocks.rejected)
        )
        return AcceptedSteps(grid, increments, ys, status, accepted, rejected, clocks.carry, clocks.exits)


def _with_room(kept: Kept | None, now: Clocks) -> Kept | None:
    """Room for one more step of every clock at least."""
    full = kept is not None and int(now.accepted.max()) >= kept.room
    return kept.grown() if kept is not None and full else kept


def with_jumps(times: Tensor, jumps: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Put jump times among the requested ones.

    Parameters
    ----------
    times
        ``(clock, time)``, padded with NaN.
    jumps
        Times at which the SDE is discontinuous.

    Returns
    -------
    tuple of Tensor
        All times to end on, ``(clock, all)``, and the columns in which the requested ones stand.
    """
    if not jumps:
        return times, torch.arange(times.shape[1], device=times.device).expand(len(times), -1)
    extra = torch.tensor(jumps, dtype=times.dtype, device=times.device).sort().values.expand(len(times), -1)
    last = torch.nan_to_num(times, nan=-torch.inf).amax(-1, keepdim=True)
    known = (extra.unsqueeze(-1) == times.unsqueeze(1)).any(-1)
    inside = (extra > times[:, :1]) & (extra < last) & ~known
    merged = torch.cat((times, torch.where(inside, extra, torch.nan)), dim=1)
    every, order = merged.sort(dim=1, stable=True)
    return every, order.argsort(dim=1)[:, : times.shape[1]]


def order_of(stepper: AbstractStepper, sde: SDE) -> float:
    """Strong order of a stepper for the noise of an SDE; diagonal and scalar noise count as commutative."""
    general, commutative, additive = stepper.strong_order
    if is_additive(sde):
        return additive
    order = general if sde.noise_type == "general" else commutative
    return order if order is not None else additive
