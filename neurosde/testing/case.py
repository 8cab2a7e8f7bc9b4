"""What a check needs to know of an estimator, and what a check is."""

import dataclasses
import unittest

import numpy as np
from sklearn.base import clone

from neurosde.estimators import Estimator
from neurosde.typing import Any, Array, Callable, Sequence

__all__ = ["Case", "Check", "finite", "fitted", "numbered", "refused", "require", "run_checks", "same"]


@dataclasses.dataclass(frozen=True)
class Case:
    """An estimator with data to try it on.

    Parameters
    ----------
    estimator
        Unfitted, with an integer `random_state` and settings that make a fit quick.
    data
        Takes a seed, gives the arguments of `fit`; the first are the samples X.
    answer
        Takes the fitted estimator and X, gives one array a sample: what the estimator says of it.
    scales
        Whether the answers are in the units of the data, so that they scale as the data do.
    """

    estimator: Any
    data: Callable[[int], tuple[Any, ...]]
    answer: Callable[[Any, Any], Sequence[Array]]
    scales: bool = False

    def make(self, **params: Any) -> Any:
        """Fresh unfitted estimator with some parameters changed."""
        fresh: Any = clone(self.estimator)
        return fresh.set_params(**params)

    def fit(self, seed: int = 0, **params: Any) -> Any:
        """Fitted estimator."""
        return self.make(**params).fit(*self.data(seed))

    def ask(self, fitted: Any, seed: int = 1) -> Sequence[Array]:
        """Answers on data that were not fitted."""
        return self.answer(fitted, self.data(seed)[0])

    def need(self, *names: str) -> None:
        """Skip a check of parameters that this estimator does not have."""
        missing = set(names) - set(self.estimator.get_params(deep=False))
        if missing:
            raise unittest.SkipTest(f"{type(self.estimator).__name__} has no parameter {sorted(missing)}")


@dataclasses.dataclass(frozen=True)
class Check:
    """A numbered promise, called with a `Case`; where it does not apply it raises `unittest.SkipTest`."""

    number: int
    sentence: str
    run: Callable[[Case], None]

    def __call__(self, case: Case) -> None:
        """Raise where the promise is broken."""
        self.run(case)

    def __str__(self) -> str:
        return f"{self.number}: {self.sentence}"


def numbered(checks: list[Check], number: int) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Enter a function into a list of checks; the first line of its docstring is the promise."""

    def enter(run: Callable[[Case], None]) -> Callable[[Case], None]:
        checks.append(Check(number, (run.__doc__ or "").split("\n")[0].rstrip("."), run))
        return run

    return enter


def run_checks(
    checks: Sequence[Check], case: Case, expected_failures: dict[int, str] | None = None
) -> dict[int, str]:
    """Run all checks; raise one group of every failure.

    Parameters
    ----------
    checks, case
        What to run.
    expected_failures
        Reasons by number. A check listed here must fail: one that passes is an error too, so that the list
        stays true.

    Returns
    -------
    dict of int to str
        Reasons of the checks that did not apply or failed as expected.
    """
    expected, left_out, failures = expected_failures or {}, {}, []
    for check in checks:
        try:
            check(case)
        except unittest.SkipTest as skip:
            left_out[check.number] = str(skip)
        except Exception as error:
            if check.number in expected:
                left_out[check.number] = expected[check.number]
            else:
                error.add_note(f"check {check} on {case.estimator!r}")
                failures.append(error)
        else:
            if check.number in expected:
                failures.append(AssertionError(f"check {check} passes; take it off expected_failures"))
    if failures:
        name = type(case.estimator).__name__
        raise ExceptionGroup(f"{name} fails {len(failures)} of {len(checks)} checks", failures)
    return left_out


def require(holds: bool, message: str) -> None:
    """Assert that does not go away under ``python -O``."""
    if not holds:
        raise AssertionError(message)


def same(answers: Sequence[Array], others: Sequence[Array], *, rtol: float = 0.0) -> None:
    """Require equal answers: bit for bit, or up to `rtol` of the largest entry."""
    require(len(answers) == len(others), f"{len(answers)} answers against {len(others)}")
    for i, (a, b) in enumerate(zip(answers, others, strict=True)):
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
        require(a.shape == b.shape, f"answer {i} has shape {a.shape} against {b.shape}")
        size = np.abs([*np.ravel(a), *np.ravel(b)]).max(initial=0.0)
        off = np.abs(a - b).max(initial=0.0)
        require(bool(off <= rtol * size), f"answer {i} differs by {off:.3g}, of entries up to {size:.3g}")


def finite(answers: Sequence[Array]) -> None:
    """Require that no answer has a NaN or infinity."""
    for i, answer in enumerate(answers):
        require(
            bool(np.isfinite(np.asarray(answer, dtype=float)).all()), f"answer {i} is not finite: {answer!r}"
        )


def refused(
    call: Callable[[], Any],
    *,
    error: type[BaseException] | tuple[type[BaseException], ...] = ValueError,
    naming: str = "",
) -> None:
    """Require that a call raises `error` with a message that holds `naming`."""
    try:
        call()
    except error as raised:
        message = str(raised)
    else:
        raise AssertionError(f"nothing was refused, where {error} naming {naming!r} was expected")
    require(naming in message, f"the message does not name {naming!r}: {message}")


def fitted(estimator: Estimator) -> list[str]:
    """Names of fitted attributes that an estimator has."""
    return [name for name in vars(estimator) if name.endswith("_") and not name.startswith("_")]
