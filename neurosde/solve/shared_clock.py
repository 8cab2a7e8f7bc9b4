"""Adaptive solves of series that step as one: the clock is plain Python, and tensors are the states alone."""

import math

import torch

from neurosde.noise import BrownianIncrement, BrownianPath
from neurosde.noise.records import Scaled
from neurosde.noise.single import SingleStack
from neurosde.solve.adaptive import AcceptedSteps, order_of
from neurosde.solve.compiling import Compile, Compiler, kind_of, loosen
from neurosde.solve.controller import PIController, Rule, scaled_error
from neurosde.solve.grid import TimeGrid
from neurosde.solve.march import Model
from neurosde.solve.solution import Status
from neurosde.solve.stepper import Carry, Step
from neurosde.typing import Tensor


def attempt(
    model: Model, rule: Rule, scales: Tensor, record: Scaled, y: Tensor, carry: Carry
) -> tuple[BrownianIncrement, Tensor, Carry, Tensor]:
    """Noise of a step, the state after it, what is carried on, and the scaled error ``(1,)``.

    ``scales`` are the time, the length, and factors of (W, H, K), float64 ``(5,)``.
    """
    t, h = scales[:2].to(y.dtype).unbind()
    noise = [
        None if part is None else (part * c).to(y)
        for part, c in zip(record, scales[2:].unbind(), strict=True)
    ]
    increment = BrownianIncrement(h, *noise)  # pyright: ignore[reportArgumentType]
    weights = model.stepper.weights(model.sde, t.view(1, 1, 1), h.view(1, 1, 1))
    step = Step(t, h, increment, tuple(part[0] for part in weights))
    stepped = model.stepper.step(model.sde, step, y, carry)
    error = torch.zeros_like(y) if stepped.error is None else stepped.error
    return increment, stepped.y, stepped.carry, scaled_error(rule, error, y, stepped.y, True)


class SharedSearch:
    """One adaptive pass of all series on one clock; :class:`StepSearch` is the same for a clock each.

    Parameters
    ----------
    model, controller
        What is stepped, how, and how well; the stepper has an embedded error.
    path
        Brownian path of all series over one span.
    times
        Times that steps must end on, ``(time,)``, padded with NaN: requested ones and jumps.
    max_steps
        Attempts after which the clock gives up.
    compile
        As :func:`neurosde.solve` is asked for.
    """

    def __init__(
        self,
        model: Model,
        controller: PIController,
        path: BrownianPath,
        times: Tensor,
        max_steps: int,
        compile: Compile = "off",
    ):
        self.model, self.controller, self.path = model, controller, path
        self.compile: Compile = compile
        self.max_steps, self.n_times, self.device = max_steps, len(times), times.device
        self.start, self.span = float(path.t0), float(path.t1 - path.t0)
        self.targets = [(t - self.start) / self.span for t in times.tolist() if not math.isnan(t)]
        self.order, self.stack = order_of(model.stepper, model.sde), SingleStack(path)
        self.finest = 2.0**-path.deepest

    @torch.no_grad()
    def run(self, y: Tensor, handed: Carry | None = None) -> AcceptedSteps:
        """Search from the initial states ``(series, state)``, and from what an earlier solve handed on."""
        controller, finest, model = self.controller, self.finest, self.model
        rule = controller.rule(self.order, self.device)
        least = max(controller.shortest / self.span, finest)
        longest = controller.first_of(self.span)
        carry = model.stepper.start(model.sde, self._time(0.0, y), y) if handed is None else handed
        pending, previous, rejected = self.stack.first, 1.0, 0
        taken, ends, met = [], [0.0], [(0, y)]
        status = Status.MAX_STEPS
        compiler = Compiler((*kind_of(model, y, False), self.path.levy, "shared"), self.compile)
        if compiler.on:
            loosen(y, *carry, *pending.record, axis=0)
            loosen(self.path.columns, axis=1)
        with compiler.open() as call:
            split = None if not compiler.on else call
            for _ in range(self.max_steps + 1):
                if len(met) == len(self.targets):
                    status = Status.SUCCESS
                    break
                if len(taken) + rejected == self.max_steps:
                    break
                target = self.targets[len(met)]
                candidate = self.stack.propose(pending, max(longest, least), target, split)
                end = candidate.taken.begin
                length = end - pending.begin
                scales = self._scales(pending.begin, length)
                increment, ahead, after, error = call(
                    attempt, model, rule, scales, candidate.record, y, carry
                )
                size = float(error)
                factor = controller.factor_of(size, previous, self.order)
                forced = length * self.span <= controller.shortest
                if size <= 1 or (forced and math.isfinite(size)):
                    longest = min(max(length * factor, longest), 1.0)  # a step cut short says little
                    pending, previous, y, carry = candidate.taken, max(size, 1e-4), ahead, after
                    taken.append(increment)
                    ends.append(end)
                    if end == target:
                        met.append((len(taken), y))
                        carry = self._behind_a_jump(end, y, carry)
                else:
                    rejected += 1
                    if forced or length <= finest:
                        status = Status.STEP_TOO_SMALL if math.isfinite(size) else Status.NOT_FINITE
                        break
                    longest, pending = length * min(factor, 0.5), candidate.refused
        return self._lay_out(taken, ends, met, status, rejected, carry)

    def _scales(self, begin: float, length: float) -> Tensor:
        """Time and length of a step, and what turns its record into the integrals in units of time."""
        root = self.span**0.5
        numbers = (self.start + begin * self.span, length * self.span, root, root / length, root / length**2)
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)

    def _behind_a_jump(self, end: float, y: Tensor, carry: Carry) -> Carry:
        """What the next step is handed; behind a jump the carried evaluations are made anew."""
        time = self.start + end * self.span
        if carry and any(math.isclose(time, jump, rel_tol=1e-12) for jump in self.controller.jump_times):
            return self.model.stepper.start(self.model.sde, self._time(end, y), y)
        return carry

    def _time(self, fraction: float, y: Tensor) -> Tensor:
        return y.new_tensor(self.start + fraction * self.span)

    def _lay_out(
        self,
        taken: list[BrownianIncrement],
        ends: list[float],
        met: list[tuple[int, Tensor]],
        status: Status,
        rejected: int,
        carry: Carry,
    ) -> AcceptedSteps:
        """Accepted steps as a fixed grid; times that were not met have no place in it."""
        y, missing = met[0][1], self.n_times - len(met)
        times = torch.tensor(ends, dtype=torch.float64, device=self.device) * self.span + self.start
        save = torch.tensor([number for number, _ in met] + [-1] * missing, device=self.device)
        ys = torch.stack([state for _, state in met] + [torch.full_like(y, torch.nan)] * missing, dim=1)
        W, H, K = (self._stacked([record[i] for record in taken]) for i in (1, 2, 3))
        W = y.new_zeros(0, *self.path.shape) if W is None else W
        counts = torch.tensor([int(status), len(taken), rejected], device=self.device)
        grid = TimeGrid(times, save, counts[1])
        ended, accepted, rejections = counts.unsqueeze(-1).expand(-1, len(y))
        increments = BrownianIncrement(times.diff(), W, H, K)
        return AcceptedSteps(grid, increments, ys, ended, accepted, rejections, carry)

    def _stacked(self, parts: list[Tensor | None]) -> Tensor | None:
        known = [part for part in parts if part is not None]
        return torch.stack(known) if known else None
