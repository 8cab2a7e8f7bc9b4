"""What a solve gives back: the states at the requested times, and how each series fared."""

import dataclasses
import enum

from neurosde.arguments import as_numbers
from neurosde.errors import ShapeError, SolveError
from neurosde.typing import Tensor


class Status(enum.IntEnum):
    """How the solve of one series ended."""

    SUCCESS = 0
    NOT_FINITE = 1
    MAX_STEPS = 2
    STEP_TOO_SMALL = 3

    @property
    def sentence(self) -> str:
        """The status in words."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.SUCCESS: "reached its last requested time.",
    Status.NOT_FINITE: "left the finite numbers: the drift, the diffusion or a running cost blew up; take "
    "smaller steps, a stabler stepper, or check the SDE and its costs at that state. Its states from there "
    "on are NaN.",
    Status.MAX_STEPS: "needed more steps than max_steps allows; raise it or loosen the tolerances. Its "
    "states from there on are NaN.",
    Status.STEP_TOO_SMALL: "needed a step shorter than the leaves of its Brownian path; loosen the "
    "tolerances, or pass a BrownianPath with a smaller tol. Its states from there on are NaN.",
}


@dataclasses.dataclass(frozen=True)
class Solution:
    """States of a solved SDE at the requested times.

    Parameters
    ----------
    ts
        Requested times, float64, ``(time,)`` or ``(*batch, time)``.
    ys
        States, ``(*batch, time, state)``; NaN where a time is padding or a series had failed before it.
    running
        Running costs by name, each ``(*batch, time)``.
    status
        A :class:`Status` for each series, ``(*batch,)``.
    stats
        Counts ``(*batch,)``: "nfe" (evaluations of the drift), "accepted" and "rejected" steps.
    penalty
        Differentiable measure of the solver's effort, a number; None unless asked for.
    exit_time
        When each series left the domain of the absorbing set, float64, ``(*batch,)``, infinite where it did
        not; None without one.
    exit_barrier
        Which of its barriers was met first, int64, ``(*batch,)``, -1 where none was; None without one.
    """

    ts: Tensor
    ys: Tensor
    running: dict[str, Tensor]
    status: Tensor
    stats: dict[str, Tensor]
    penalty: Tensor | None = None
    exit_time: Tensor | None = None
    exit_barrier: Tensor | None = None

    @property
    def succeeded(self) -> bool:
        """Whether every series reached its last requested time."""
        return not bool(self.status.any())

    def raise_if_failed(self) -> "Solution":
        """Return the solution itself if every series succeeded.

        Raises
        ------
        SolveError
            Naming the first series that failed, why, and how many did.
        """
        failed = self.status.flatten().nonzero().flatten()
        if len(failed):
            raise SolveError(describe_failure(self.status))
        return self

    def evaluate(self, t: float | Tensor) -> Tensor:
        """States at one of the requested times, ``(*batch, state)``; a solution knows no others.

        Raises
        ------
        SolveError
            If the time was not requested, or the series have times of their own.
        DataError, ShapeError
            If it is not one number.
        """
        if self.ts.dim() != 1:
            raise SolveError("evaluate: each series has its own times; index ys instead.")
        t = as_numbers("t", t, "one of the requested times", device=self.ts.device)
        if t.dim():
            raise ShapeError(f"t: expected one of the requested times, got shape {tuple(t.shape)}.")
        hit = (self.ts == t).nonzero().flatten()
        if not len(hit):
            raise SolveError(
                f"evaluate: {float(t)!r} is not one of the requested times; solve again with it among "
                "ts, for an interpolated state does not have the law of the path."
            )
        return self.ys[..., int(hit[0]), :]

    def increment(self, t0: float | Tensor, t1: float | Tensor) -> Tensor:
        """Difference of the states at two requested times, ``(*batch, state)``."""
        return self.evaluate(t1) - self.evaluate(t0)


def describe_failure(status: Tensor) -> str:
    """Say which series failed first, and why."""
    flat = status.flatten()
    failed = flat.nonzero().flatten()
    first = int(failed[0])
    return f"{len(failed)} of {len(flat)} series failed; series {first} {Status(int(flat[first])).sentence}"
