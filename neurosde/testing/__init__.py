"""Conformance suites: what every estimator of this package promises, as numbered checks.

`check_snapshot_estimator` runs all of scikit-learn's own checks and ours; `check_series_estimator` runs ours
for irregular series, to which scikit-learn's do not apply. The lists `estimator_checks()` and
`series_checks()` give the single checks, for ``pytest.mark.parametrize``.
"""

from neurosde.testing.case import Case, Check
from neurosde.testing.estimator import estimator_checks
from neurosde.testing.series import check_series_estimator, forecast_answer, series_case, series_checks
from neurosde.testing.snapshots import check_snapshot_estimator, snapshot_case

__all__ = [
    "Case",
    "Check",
    "check_series_estimator",
    "check_snapshot_estimator",
    "estimator_checks",
    "forecast_answer",
    "series_case",
    "series_checks",
    "snapshot_case",
]
