"""Adaptive solves: find the steps without a graph, then take them again as a fixed grid."""

import dataclasses

import torch

from neurosde.noise import BrownianIncrement, BrownianPath
from neurosde.noise.single import Candidate, Interval, stack_of
from neurosde.noise.stack import Pending, Proposal
from neurosde.sde import SDE, is_additive
from neurosde.solve import engine
from neurosde.solve.absorbing import Absorber
from neurosde.solve.controller import PIController
from neurosde.solve.grid import TimeGrid
from neurosde.solve.solution import Status
from neurosde.solve.stepper import AbstractStepper, Carry, Step
from neurosde.typing import Tensor


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

    def outcome(self, columns: Tensor) -> engine.Outcome:
        """States at the requested times, which stand in these columns of all the times to end on."""
        wanted = columns.expand(len(self.ys), -1).unsqueeze(-1).expand(-1, -1, self.ys.shape[-1])
        return engine.Outcome(
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


@dataclasses.dataclass(frozen=True)
class _Clocks:
    """State of the search, one entry a clock unless it is the state of the series."""

    y: Tensor
    carry: Carry
    pending: Pending | Interval
    longest: Tensor
    previous: Tensor
    target: Tensor
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    exits: tuple[Tensor, Tensor] | None = None

    def absorbed(self) -> Tensor:
        """Clocks all of whose series have left, ``(clock,)``; none without an absorbing set."""
        if self.exits is None:
            return torch.zeros_like(self.status, dtype=torch.bool)
        return torch.isfinite(self.exits[0]).view(len(self.status), -1).all(-1)


class StepSearch:
    """One adaptive pass over all clocks at once.

    Parameters
    ----------
    sde, stepper, controller
        What is stepped, how, and how well; the stepper has an embedded error.
    path
        Brownian path of every series over its own span.
    times
        Times that steps must end on, ``(clock, time)``, padded with NaN: requested ones and jumps.
    max_steps
        Attempts after which a clock gives up.
    absorbing
        Where series stop; a clock is done when all its series have.
    """

    def __init__(
        self,
        sde: SDE,
        stepper: AbstractStepper,
        controller: PIController,
        path: BrownianPath,
        times: Tensor,
        max_steps: int,
        absorbing: Absorber | None = None,
    ):
        self.absorbing = absorbing
        self.sde, self.stepper, self.controller, self.path = sde, stepper, controller, path
        self.max_steps = max_steps
        start, span = torch.atleast_1d(path.t0), torch.atleast_1d(path.t1 - path.t0)
        self.start, self.span = start.expand(len(times)), span.expand(len(times))
        self.targets = torch.nan_to_num((times - self.start[:, None]) / self.span[:, None], nan=2.0)
        self.targets = torch.cat((self.targets, torch.full_like(self.targets[:, :1], 2.0)), dim=1)
        self.jumps = torch.tensor(controller.jump_times, dtype=torch.float64, device=times.device)
        self.order = order_of(stepper, sde)
        self.stack = stack_of(path, len(times))
        self.finest = 2.0**-path.levels

    @torch.no_grad()
    def run(self, y: Tensor, carry: Carry | None = None) -> AcceptedSteps:
        """Search from the initial states ``(series, state)``, and from what an earlier solve handed on."""
        clocks = self._first(y, carry)
        taken: list[tuple[Tensor, Tensor, BrownianIncrement]] = []
        ys = y.new_full((len(y), self.targets.shape[1] - 1, y.shape[-1]), torch.nan)
        ys[:, 0] = y
        for _ in range(self.max_steps):
            if not bool((clocks.status < 0).any()):
                break
            before = clocks.target
            clocks, end, accepted, increment = self._attempt(clocks)
            taken.append((end, accepted, increment))
            met = (clocks.target > before).expand(len(y)).nonzero().flatten()
            ys[met, before.expand(len(y))[met]] = clocks.y[met]
        status = torch.where(clocks.status < 0, int(Status.MAX_STEPS), clocks.status)
        if clocks.exits is not None:  # what was not met before the exit is met where the series left
            late = torch.arange(ys.shape[1], device=y.device) >= clocks.target.unsqueeze(-1)
            late = late & (self.targets[:, :-1] < 1.5) & clocks.absorbed().unsqueeze(-1)
            ys = torch.where(late.unsqueeze(-1), clocks.y.unsqueeze(1), ys)
        return self._lay_out(taken, status, clocks, ys)

    def _first(self, y: Tensor, carry: Carry | None) -> _Clocks:
        n = len(self.targets)
        zeros = torch.zeros(n, dtype=torch.int64, device=y.device)
        first = self.controller.first
        longest = torch.full_like(self.span, 0.01) if first is None else (first / self.span).clamp(max=1.0)
        target = zeros + 1  # the first requested time is the start
        status = torch.where(self._at(self.targets, target) > 1.5, int(Status.SUCCESS), -1)
        if carry is None:
            carry = self.stepper.start(self.sde, self._time(torch.zeros_like(self.span), y), y)
        first = _Clocks(y, carry, self.stack.first, longest, self.span * 0 + 1, target, status, zeros, zeros)
        if self.absorbing is None:
            return first
        exits = self.absorbing.start(self._time(torch.zeros_like(self.span), y), y)[:2]
        return self._stopped(dataclasses.replace(first, exits=exits))

    def _stopped(self, now: _Clocks) -> _Clocks:
        """Let clocks rest whose series have all left."""
        done = (now.status < 0) & now.absorbed()
        return dataclasses.replace(now, status=torch.where(done, int(Status.SUCCESS), now.status))

    def _until_exit(
        self, now: _Clocks, after: _Clocks, step: Step, ahead: Tensor, accepted: Tensor
    ) -> _Clocks:
        """The clocks after a step, in the course of which some series may have left."""
        if self.absorbing is None or now.exits is None:
            return after
        alive, draws = now.exits[0].isinf(), self.absorbing.draws(step.t, ahead.dtype)
        meeting = self.absorbing.meet(self.sde, step, now.y, ahead, draws, alive)
        exited, end = meeting.exited & accepted, step.t + meeting.share * step.h
        exit_time = torch.where(exited, end.squeeze(-1), now.exits[0])
        exits = exit_time, torch.where(exited, meeting.barrier, now.exits[1])
        y = self._pick(alive & accepted, meeting.y, now.y)
        return self._stopped(dataclasses.replace(after, y=y, exits=exits))

    def _attempt(self, now: _Clocks) -> tuple[_Clocks, Tensor, Tensor, BrownianIncrement]:
        """Try one step on every clock that is still going."""
        going = now.status < 0
        target = torch.where(going, self._at(self.targets, now.target), 2.0)
        least = (self.controller.shortest / self.span).clamp(min=self.finest)
        longest = torch.where(going, torch.maximum(now.longest, least), 1.0)
        proposal = self.stack.propose(now.pending, longest, target)
        increment = self._real(proposal, now.y)
        t = self._time(now.pending.start, now.y)
        if now.exits is not None:
            # to the last bit the length that the grid has, so that the steps taken again have the same exits
            ends = (
                self.start + x * self.span for x in (now.pending.start + proposal.length, now.pending.start)
            )
            dt = torch.sub(*ends).to(now.y)
            increment = increment._replace(dt=dt.reshape(increment.dt.shape))
        wide = (x.reshape(1, -1, 1) for x in (t, increment.dt))
        weights = tuple(part[0] for part in self.stepper.weights(self.sde, *wide))
        step = Step(t, increment.dt, increment, weights)
        stepped = self.stepper.step(self.sde, step, now.y, now.carry)
        error = torch.zeros_like(now.y) if stepped.error is None else stepped.error
        if now.exits is not None:  # of the series that still move
            alive = now.exits[0].isinf().view(len(going), -1, 1)
            error = torch.where(
                alive, error.view(*alive.shape[:2], -1) / alive.mean(1, True, dtype=error.dtype).sqrt(), 0.0
            ).view_as(error)
        size = self.controller.error(error, now.y, stepped.y)
        forced = proposal.length * self.span <= self.controller.shortest
        accepted = going & ((size <= 1) | (forced & torch.isfinite(size)))
        factor = self.controller.factor(size, now.previous, self.order)
        grown = torch.maximum(proposal.length * factor, now.longest)  # a step cut short says little
        longer = torch.where(accepted, grown, proposal.length * factor.clamp(max=0.5))
        end = now.pending.start + proposal.length
        met = accepted & (end == target)
        next_target = now.target + met.to(torch.int64)
        too_small = going & ~accepted & (proposal.length <= self.finest)
        done = going & met & (self._at(self.targets, next_target) > 1.5)
        status = torch.where(too_small, int(Status.STEP_TOO_SMALL), now.status)
        after = _Clocks(
            self._pick(accepted, stepped.y, now.y),
            self._restart(met, end, accepted, stepped.carry, now, stepped.y),
            self.stack.choose(accepted, proposal),
            torch.where(going, longer.clamp(max=1.0), now.longest),
            torch.where(accepted, size.clamp(min=1e-4), now.previous),
            next_target,
            torch.where(done, int(Status.SUCCESS), status),
            now.accepted + accepted.to(torch.int64),
            now.rejected + (going & ~accepted).to(torch.int64),
        )
        return self._until_exit(now, after, step, stepped.y, accepted), end, accepted, increment

    def _restart(
        self, met: Tensor, end: Tensor, accepted: Tensor, carry: Carry, now: _Clocks, ahead: Tensor
    ) -> Carry:
        """What the next step is handed; behind a jump the carried evaluations are made anew."""
        carry = tuple(self._pick(accepted, a, b) for a, b in zip(carry, now.carry, strict=True))
        if not carry or not len(self.jumps):
            return carry
        time = self.start + end * self.span
        jumped = met & torch.isclose(time[:, None], self.jumps, rtol=1e-12, atol=0.0).any(-1)
        y = self._pick(accepted, ahead, now.y)
        fresh = self.stepper.start(self.sde, self._time(end, y), y)
        return tuple(self._pick(jumped, a, b) for a, b in zip(fresh, carry, strict=True))

    def _real(self, proposal: Proposal | Candidate, y: Tensor) -> BrownianIncrement:
        """Proposed increments in units of time, in the dtype of the states."""
        length, record = proposal.length, proposal.record
        root = self.span.sqrt().unsqueeze(-1)
        h = length.unsqueeze(-1)
        H = None if record.H is None else (root * record.H / h).to(y)
        K = None if record.K is None else (root * record.K / h**2).to(y)
        dt = (length * self.span).to(y)
        dt = dt[0] if len(self.targets) == 1 else dt.unsqueeze(-1)
        return BrownianIncrement(dt, (root * record.W).to(y), H, K)

    def _time(self, fraction: Tensor, y: Tensor) -> Tensor:
        t = (self.start + fraction * self.span).to(y)
        return t[0] if len(self.targets) == 1 else t.unsqueeze(-1)

    def _at(self, table: Tensor, column: Tensor) -> Tensor:
        return table.gather(1, column.clamp(max=table.shape[1] - 1).unsqueeze(-1)).squeeze(-1)

    def _pick(self, mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (yes.dim() - 1)), yes, no)

    def _lay_out(
        self,
        taken: list[tuple[Tensor, Tensor, BrownianIncrement]],
        status: Tensor,
        clocks: _Clocks,
        ys: Tensor,
    ) -> AcceptedSteps:
        """Accepted steps of every clock side by side, as a grid padded with steps of length zero."""
        n_clocks, n_steps = len(self.targets), int(clocks.accepted.max())
        ends = torch.stack([end for end, _, _ in taken]) if taken else self.span.new_zeros(0, n_clocks)
        masks = torch.stack([mask for _, mask, _ in taken]) if taken else ends.bool()
        place = torch.where(
            masks, masks.cumsum(0) - 1, n_steps
        )  # rejected attempts go to a row that is cut off
        last = (ends * masks).amax(0) if len(ends) else torch.zeros_like(self.span)
        fractions = last.expand(n_steps + 1, -1).clone().scatter_(0, place, ends)[:n_steps]
        fractions = torch.cat((torch.zeros_like(fractions[:1]) if n_steps else last[None] * 0, fractions))
        times = (self.start + fractions * self.span).T
        meets = fractions.T.contiguous(), self.targets[:, :-1].contiguous()
        save = torch.searchsorted(*meets)
        reached = (self.targets[:, :-1] <= last.unsqueeze(-1)) & (self.targets[:, :-1] < 1.5)
        late = (self.targets[:, :-1] < 1.5) & clocks.absorbed().unsqueeze(-1)  # these are met at the exit
        save = torch.where(reached, save, torch.where(late, clocks.accepted.unsqueeze(-1), -1))
        W, H, K = (self._gather([step[2][i] for step in taken], place, n_steps) for i in (1, 2, 3))
        spread = len(ys) if n_clocks == 1 else 1
        grid = TimeGrid(times, save, clocks.accepted)
        if n_clocks == 1:
            grid = TimeGrid(times[0], save[0], clocks.accepted[0])
        W = ys.new_zeros(0, *self.path.shape) if W is None else W
        increments = BrownianIncrement(grid.times.diff(), W, H, K)
        status, accepted, rejected = (x.repeat(spread) for x in (status, clocks.accepted, clocks.rejected))
        return AcceptedSteps(grid, increments, ys, status, accepted, rejected, clocks.carry, clocks.exits)

    def _gather(self, rows: list[Tensor | None], place: Tensor, n_steps: int) -> Tensor | None:
        known = [row for row in rows if row is not None]
        if not known:
            return None
        stacked = torch.stack(known)
        out = stacked.new_zeros(n_steps + 1, *stacked.shape[1:])
        index = place.unsqueeze(-1).expand(len(stacked), *stacked.shape[1:])
        return out.scatter_(0, index, stacked)[:n_steps]


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
