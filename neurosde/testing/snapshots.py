"""Checks of estimators of snapshots: all of scikit-learn's own, and ours for any estimator."""

from sklearn.utils import check_random_state
from sklearn.utils.estimator_checks import check_estimator

from neurosde.testing.case import Case, run_checks
from neurosde.testing.estimator import estimator_checks
from neurosde.typing import Any, Array, Callable, Sequence

__all__ = ["check_snapshot_estimator", "snapshot_case"]

# scikit-learn runs it only where an environment variable switches SciPy to the array API.
_SKIPPED = {"check_array_api_input"}


def check_snapshot_estimator(
    estimator: Any,
    data: Callable[[int], tuple[Any, ...]],
    answer: Callable[[Any, Any], Sequence[Array]],
    *,
    expected_failures: dict[int, str] | None = None,
) -> dict[int, str]:
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
        Reasons by number of our checks that must fail; scikit-learn's have none.

    Returns
    -------
    dict of int to str
        Reasons of our checks that did not apply or failed as expected.

    Raises
    ------
    ExceptionGroup
        Of every failure.
    """
    generator = check_random_state(None)  # numpy's global one, which some of scikit-learn's checks draw from
    state = generator.get_state()
    results = check_estimator(estimator, on_fail=None, on_skip=None)
    generator.set_state(state)
    failures = [result["exception"] for result in results if result["status"] not in ("passed", "skipped")]
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"} - _SKIPPED
    failures += [AssertionError(f"scikit-learn skipped {name}") for name in sorted(skipped)]
    if failures:
        name = type(estimator).__name__
        raise ExceptionGroup(f"{name} fails {len(failures)} of {len(results)} scikit-learn checks", failures)
    return run_checks(estimator_checks(), snapshot_case(estimator, data, answer), expected_failures)


def snapshot_case(
    estimator: Any,
    data: Callable[[int], tuple[Any, ...]],
    answer: Callable[[Any, Any], Sequence[Array]],
) -> Case:
    """Case of an estimator of snapshots, for single checks; arguments as in `check_snapshot_estimator`."""
    return Case(estimator, data, answer, scales=True)
