"""Checks of estimators of snapshots: all of scikit-learn's own, and ours for any estimator."""

from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import check_estimator

from neurosde.testing.case import Case, run_checks
from neurosde.testing.estimator import estimator_checks
from neurosde.typing import Any, Array, Callable, Sequence

__all__ = ["check_snapshot_estimator", "snapshot_case"]

_SKIPS = {
    "check_array_api_input": "it runs only where SCIPY_ARRAY_API switches SciPy to the array API",
}


def check_snapshot_estimator(
    estimator: Any,
    data: Callable[[int], tuple[Any, ...]],
    answer: Callable[[Any, Any], Sequence[Array]],
    *,
    expected_failures: dict[int | str, str] | None = None,
) -> dict[int | str, str]:
    """Run scikit-learn's `check_estimator` and checks 1 to 21 on an estimator of a table of cells.

    Parameters
    ----------
    estimator
        Unfitted, with an integer `random_state` and settings that make a fit quick.
    data
        Takes a seed, gives the arguments of `fit`: X (cell, feature) and the time labels.
    answer
        Takes the fitted estimator and X, gives one array a cell.
    expected_failures
        Reasons of the checks that must fail: scikit-learn's by name, ours by number. One that passes is an
        error, so that the list stays true.

    Returns
    -------
    dict of int or str to str
        Reasons of the checks that did not apply or failed as expected.

    Raises
    ------
    ExceptionGroup
        Of every failure.
    """
    expected = expected_failures or {}
    theirs = {key: reason for key, reason in expected.items() if isinstance(key, str)}
    ours = {key: reason for key, reason in expected.items() if isinstance(key, int)}
    left_out = _run_scikit_learn(estimator, theirs)
    return left_out | run_checks(estimator_checks(), snapshot_case(estimator, data, answer), ours)


def _run_scikit_learn(estimator: Any, expected: dict[str, str]) -> dict[int | str, str]:
    generator = check_random_state(None)  # numpy's global one, which some of scikit-learn's checks draw from
    state = generator.get_state()
    results = check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks=expected)
    generator.set_state(state)
    left_out: dict[int | str, str] = {}
    failures = []
    for result in results:
        name, status, error = result["check_name"], result["status"], result["exception"]
        if status == "xfail" or (status == "skipped" and name in _SKIPS):
            left_out[name] = expected.get(name) or _SKIPS[name]
        elif status == "passed" and name in expected:
            failures.append(AssertionError(f"{name} passes; take it off expected_failures"))
        elif status != "passed":
            error = error or AssertionError(f"{name}: {status}")
            error.add_note(f"scikit-learn's {name}: {status}")
            failures.append(error)
    if failures:
        name = type(estimator).__name__
        raise ExceptionGroup(f"{name} fails {len(failures)} of {len(results)} scikit-learn checks", failures)
    return left_out


def snapshot_case(
    estimator: Any,
    data: Callable[[int], tuple[Any, ...]],
    answer: Callable[[Any, Any], Sequence[Array]],
) -> Case:
    """Case of an estimator of snapshots, for single checks; arguments as in `check_snapshot_estimator`."""
    return Case(estimator, data, answer, scales=True)
