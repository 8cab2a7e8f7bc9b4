"""One attempt at an adaptive step on every clock at once: pure functions of tensors, which compile."""

import torch

from neurosde.noise import BrownianIncrement
from neurosde.noise.records import Scaled
from neurosde.noise.stack import DyadicStack, Pending, Proposal, choose
from neurosde.solve.compiling import either, while_loop
from neurosde.solve.controller import Rule, change_of_length, scaled_error
from neurosde.solve.kept import Kept
from neurosde.solve.march import Model
from neurosde.solve.solution import Status
from neurosde.solve.stepper import Carry, Step, Stepped
from neurosde.typing import NamedTuple, Tensor

SPLITS = 1  # of an attempt: most clocks need one or none, and those that need more sit the attempt out
NEVER = 2.0  # a fraction of the span that no clock reaches


class Course(NamedTuple):
    """What stays the same during a search.

    Parameters
    ----------
    start, span
        Of each clock, in units of time, ``(clock,)``.
    targets
        Fractions of the span that steps must end on, ``(clock, target)``, padded with :data:`NEVER`.
    jumps
        Times behind which carried evaluations are made anew.
    rule
        The controller's.
    finest
        Shortest step of the path, as a fraction of the span.
    max_steps
        Attempts of a clock after which it gives up.
    whole_batch
        Whether one error speaks for all series.
    """

    start: Tensor
    span: Tensor
    targets: Tensor
    jumps: Tensor
    rule: Rule
    finest: Tensor
    max_steps: Tensor
    whole_batch: bool


class Clocks(NamedTuple):
    """State of the search, one entry a clock unless it is of the series.

    Parameters
    ----------
    y, carry
        State ``(series, state)``, and what the stepper carries.
    pending
        What lies ahead on the path.
    longest, previous
        Longest next step, as a fraction of the span, and the last step's error.
    target
        Column of the next target.
    status
        A :class:`Status`, or -1 of a clock that is still going.
    accepted, rejected
        Counts.
    exits
        Exit times and barriers of the series, with an absorbing set.
    """

    y: Tensor
    carry: Carry
    pending: Pending
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

    def stopped(self) -> "Clocks":
        """Let clocks rest whose series have all left."""
        done = (self.status < 0) & self.absorbed()
        return self.ended(torch.where(done, int(Status.SUCCESS), self.status))

    def flat(self) -> tuple[Tensor, ...]:
        """All tensors side by side; :meth:`like` turns them back."""
        record = (part for part in self.pending.record if part is not None)
        return (self.y, *self.carry, *self.pending[:3], *record, *self[3:9], *(self.exits or ()))

    def like(self, parts: tuple[Tensor, ...]) -> "Clocks":
        """Other tensors in the place of these."""
        left = iter(parts)
        y, carry, place = next(left), tuple(next(left) for _ in self.carry), [next(left) for _ in range(3)]
        record = [None if part is None else next(left) for part in self.pending.record]
        pending = Pending(*place, Scaled(*record))  # pyright: ignore[reportArgumentType, reportCallIssue]
        numbers = [next(left) for _ in range(6)]
        exits = None if self.exits is None else (next(left), next(left))
        return Clocks(y, carry, pending, *numbers, exits)  # pyright: ignore[reportCallIssue]

    def ended(self, status: Tensor) -> "Clocks":
        """The same with another status."""
        return Clocks(*self[:6], status, *self[7:])


class Attempted(NamedTuple):
    """What an attempt has come to.

    Parameters
    ----------
    clocks
        The state after it.
    end
        Fraction of the span at which each step ended.
    accepted
        Clocks that took it.
    increment
        Of the path over it, in units of time.
    """

    clocks: Clocks
    end: Tensor
    accepted: Tensor
    increment: BrownianIncrement


def propose(course: Course, stack: DyadicStack, now: Clocks) -> tuple[Proposal, Tensor, Tensor]:
    """Next steps, the fractions of the span that must be met, and clocks whose step hides one."""
    going = now.status < 0
    target = torch.where(going, _at(course.targets, now.target), NEVER)
    least = (course.rule.shortest / course.span).clamp(min=course.finest)
    longest = torch.where(going, torch.maximum(now.longest, least), 1.0)
    proposal = stack.descend(now.pending, longest, target, SPLITS)
    ready = proposal.ready & going
    return proposal.only(ready), target, ready & (proposal.refused.end > target)


def attempt_unseen(model: Model, course: Course, stack: DyadicStack, now: Clocks, ys: Tensor) -> Attempted:
    """Propose steps and try them at once; clocks whose step hides a time that must be met sit it out."""
    return _try_all(model, course, stack, now, ys)[0]


def attempt_on(
    model: Model,
    course: Course,
    stack: DyadicStack,
    now: Clocks,
    ys: Tensor,
    most: Tensor,
    kept: Kept | None = None,
) -> Clocks:
    """Attempts in a loop that the compiler sees as one: ``most`` of them, or until a clock waits to land.

    Accepted steps are ``kept`` as long as there is room for them.
    """
    course = course._replace(rule=Rule(*(number.clone() for number in course.rule)))  # none a part of another

    def going(left: Tensor, *parts: Tensor) -> Tensor:
        return (left > 0) & (now.like(parts).status < 0).any()

    def body(left: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        before = now.like(parts)
        tried, halt = _try_all(model, course, stack, before, ys, spare=course.whole_batch)
        halt = halt.any()
        if kept is not None:
            keep_steps(kept, before, tried)
            halt = halt | (tried.clocks.accepted >= kept.room).any()
        left = torch.where(halt, 0, left - 1)
        return (left, *(part.contiguous() for part in tried.clocks.flat()))

    return now.like(while_loop(going, body, (most, *(part.clone() for part in now.flat())))[1:])


def keep_steps(kept: Kept, before: Clocks, tried: Attempted) -> None:
    """Keep the steps that an attempt has taken."""
    row = torch.where(tried.accepted, before.accepted, kept.room)
    kept.put(row, tried.end, tried.increment)


def _try_all(
    model: Model, course: Course, stack: DyadicStack, now: Clocks, ys: Tensor, *, spare: bool = False
) -> tuple[Attempted, Tensor]:
    """Try what can be tried unseen; and the clocks that wait to land."""
    proposal, target, landing = propose(course, stack, now)
    ready = proposal.ready & ~landing
    return attempt(model, course, now, proposal.only(ready), target, ys, spare=spare), landing


def attempt(
    model: Model,
    course: Course,
    now: Clocks,
    proposal: Proposal,
    target: Tensor,
    ys: Tensor,
    *,
    spare: bool = False,
) -> Attempted:
    """Try a step on every clock that is ready; states that meet a target are written into ``ys``.

    With ``spare`` the fields are not asked where no clock is ready, which takes a look at that.
    """
    step, end, ready = _step_of(model, course, now, proposal)
    take = _step_or_stay if spare else _step
    stepped = take(model, step, now, ready)
    size = _size(course, now, stepped.error, stepped.y)
    finite = torch.isfinite(size)
    forced = proposal.length * course.span <= course.rule.shortest
    accepted = ready & ((size <= 1) | (forced & finite))
    factor = change_of_length(course.rule, size, now.previous)
    grown = torch.maximum(proposal.length * factor, now.longest)  # a step cut short says little
    longer = torch.where(accepted, grown, proposal.length * factor.clamp(max=0.5)).clamp(max=1.0)
    met = accepted & (end == target)
    y = _pick(accepted, stepped.y, now.y)
    after = Clocks(
        y,
        _carried(model, course, now, stepped.carry, y, end, accepted, met),
        choose(accepted, proposal),
        torch.where(ready, longer, now.longest),
        torch.where(accepted, size.clamp(min=1e-4), now.previous),
        now.target + met,
        now.status,
        now.accepted + accepted,
        now.rejected + (ready & ~accepted),
    )
    hopeless = ready & ~accepted & (forced | (proposal.length <= course.finest))
    after = after.ended(_status(course, after, met, hopeless, finite))
    if now.exits is not None:
        after = _until_exit(model, now, after, step, stepped.y, accepted)
    column = now.target.expand(len(ys)).clamp(max=ys.shape[1] - 1)
    place = torch.arange(len(ys), device=ys.device), column
    ys[place] = torch.where(met.expand(len(ys)).unsqueeze(-1), after.y, ys[place])
    return Attempted(after, end, accepted, step.noise)


def _step(model: Model, step: Step, now: Clocks, ready: Tensor) -> Stepped:
    return model.stepper.step(model.sde, step, now.y, now.carry)


def _step_or_stay(model: Model, step: Step, now: Clocks, ready: Tensor) -> Stepped:
    """The step, or the state as it is where no clock is ready."""

    def taken(y: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
        stepped = model.stepper.step(model.sde, step, y, carry)
        error = torch.zeros_like(y) if stepped.error is None else stepped.error
        return stepped.y.clone(), error.clone(), *(part.clone() for part in stepped.carry)

    def left(y: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
        return y.clone(), torch.zeros_like(y), *(part.clone() for part in carry)

    y, error, *carry = either(ready.any(), taken, left, (now.y, *now.carry))
    return Stepped(y, tuple(carry), error)


def _step_of(model: Model, course: Course, now: Clocks, proposal: Proposal) -> tuple[Step, Tensor, Tensor]:
    """The proposed step, the fractions of the span at its ends, and the clocks that are ready for it."""
    increment, begin = real_increment(course, proposal, now.y), proposal.refused.start
    end = begin + proposal.length
    if now.exits is not None:
        # to the last bit the length that the grid has, so that the steps taken again have the same exits
        dt = ((course.start + end * course.span) - (course.start + begin * course.span)).to(now.y)
        increment = increment._replace(dt=dt.reshape(increment.dt.shape))
    t, h = clock_time(course, begin, now.y), increment.dt
    weights = model.stepper.weights(model.sde, t.reshape(1, -1, 1), h.reshape(1, -1, 1))
    return Step(t, h, increment, tuple(part[0] for part in weights)), end, proposal.ready


def real_increment(course: Course, proposal: Proposal, y: Tensor) -> BrownianIncrement:
    """Proposed increments in units of time, in the dtype of the states."""
    length, record = proposal.length, proposal.record
    root, h = course.span.sqrt().unsqueeze(-1), length.unsqueeze(-1)
    H = None if record.H is None else (root * record.H / h).to(y)
    K = None if record.K is None else (root * record.K / h**2).to(y)
    dt = (length * course.span).to(y)
    dt = dt[0] if len(dt) == 1 else dt.unsqueeze(-1)
    return BrownianIncrement(dt, (root * record.W).to(y), H, K)


def clock_time(course: Course, fraction: Tensor, y: Tensor) -> Tensor:
    """Time of each clock, as a stepper takes it."""
    t = (course.start + fraction * course.span).to(y)
    return t[0] if len(t) == 1 else t.unsqueeze(-1)


def _size(course: Course, now: Clocks, error: Tensor | None, ahead: Tensor) -> Tensor:
    """Scaled error of each clock."""
    error = torch.zeros_like(ahead) if error is None else error
    if now.exits is not None:  # of the series that still move
        alive = now.exits[0].isinf().view(len(now.status), -1, 1)
        share = alive.mean(1, True, dtype=error.dtype).sqrt()
        error = torch.where(alive, error.view(*alive.shape[:2], -1) / share, 0.0).view_as(error)
        ahead = torch.where(alive.view(-1, 1), ahead, now.y)
    return scaled_error(course.rule, error, now.y, ahead, course.whole_batch)


def _status(course: Course, after: Clocks, met: Tensor, hopeless: Tensor, finite: Tensor) -> Tensor:
    """Status of clocks after an attempt: done, out of steps, or given up."""
    done = met & (_at(course.targets, after.target) >= NEVER)
    spent = after.accepted + after.rejected >= course.max_steps
    why = torch.where(finite, int(Status.STEP_TOO_SMALL), int(Status.NOT_FINITE))
    status = torch.where(spent, int(Status.MAX_STEPS), -1)
    status = torch.where(hopeless, why, status)
    status = torch.where(done, int(Status.SUCCESS), status)
    return torch.where(after.status < 0, status, after.status)


def _carried(
    model: Model,
    course: Course,
    now: Clocks,
    carry: Carry,
    y: Tensor,
    end: Tensor,
    accepted: Tensor,
    met: Tensor,
) -> Carry:
    """What the next step is handed; behind a jump the carried evaluations are made anew."""
    carry = tuple(_pick(accepted, a, b) for a, b in zip(carry, now.carry, strict=True))
    if not carry or not len(course.jumps):
        return carry
    time = course.start + end * course.span
    jumped = met & torch.isclose(time[:, None], course.jumps, rtol=1e-12, atol=0.0).any(-1)
    fresh = model.stepper.start(model.sde, clock_time(course, end, y), y)
    return tuple(_pick(jumped, a, b) for a, b in zip(fresh, carry, strict=True))


def _until_exit(
    model: Model, now: Clocks, after: Clocks, step: Step, ahead: Tensor, accepted: Tensor
) -> Clocks:
    """The clocks after a step, in the course of which some series may have left."""
    assert model.absorbing is not None
    assert now.exits is not None
    alive, draws = now.exits[0].isinf(), model.absorbing.draws(step.t, ahead.dtype)
    meeting = model.absorbing.meet(model.sde, step, now.y, ahead, draws, alive)
    exited, end = meeting.exited & accepted, step.t + meeting.share * step.h
    exit_time = torch.where(exited, end.squeeze(-1), now.exits[0])
    exits = exit_time, torch.where(exited, meeting.barrier, now.exits[1])
    return after._replace(y=_pick(alive & accepted, meeting.y, now.y), exits=exits).stopped()


def _at(table: Tensor, column: Tensor) -> Tensor:
    return table.gather(1, column.clamp(max=table.shape[1] - 1).unsqueeze(-1)).squeeze(-1)


def _pick(mask: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(mask.view(-1, *[1] * (yes.dim() - 1)), yes, no)
