"""The suites pass on sound estimators, and every check rejects an estimator that breaks its promise."""

import contextlib
import unittest

import numpy as np
import pytest
import torch

from neurosde.errors import NotConvergedError
from neurosde.testing import (
    check_series_estimator,
    check_snapshot_estimator,
    estimator_checks,
    series_case,
    series_checks,
    snapshot_case,
)
from neurosde.training import TrainingOptions


def predictions(estimator, X):
    return list(estimator.predict(X))


def test_a_table_estimator_passes_all_of_scikit_learn_and_all_of_ours(ridge_class, table):
    left_out = check_snapshot_estimator(ridge_class(random_state=0, max_iter=60), table, predictions)
    assert set(left_out) == {"check_array_api_input"}


def test_scikit_learn_checks_must_pass_or_fail_as_expected(ridge_class, table, monkeypatch):
    def results(estimator, **kwargs):
        statuses = {
            "check_a": "passed",
            "check_b": "xfail",
            "check_c": "passed",
            "check_d": "failed",
            "check_e": "skipped",
        }
        return [
            {"check_name": name, "status": status, "exception": None} for name, status in statuses.items()
        ]

    monkeypatch.setattr("neurosde.testing.snapshots.check_estimator", results)
    expected = {"check_b": "its reason", "check_c": "no reason any more"}
    with pytest.raises(ExceptionGroup, match="TorchRidge fails 3 of 5 scikit-learn checks") as caught:
        check_snapshot_estimator(ridge_class(random_state=0), table, predictions, expected_failures=expected)
    complaints = [str(error) for error in caught.value.exceptions]
    assert complaints == [
        "check_c passes; take it off expected_failures",
        "check_d: failed",
        "check_e: skipped",
    ]


@pytest.mark.parametrize("check", series_checks(), ids=str)
def test_a_series_estimator_passes(check, forecaster, series_maker):
    check(series_case(forecaster, series_maker))


def test_numbers_and_sentences_are_unique():
    checks = series_checks()
    assert len({check.number for check in checks}) == len({check.sentence for check in checks}) == len(checks)
    assert [check.number for check in checks] == sorted(check.number for check in checks)


BROKEN = {}


def broken(number, complaint):
    """Enter a function that makes a sound class break check `number`, and what the check says of it."""

    def enter(make):
        BROKEN[number] = make, complaint
        return make

    return enter


@broken(1, r"Cannot clone")
def changes_arguments(base):
    class Broken(base):
        def __init__(self, random_state=None):
            super().__init__(random_state=random_state)
            self.random_state = (random_state or 0) + 1000

    return Broken


@broken(2, r"NotFittedError")
def answers_unfitted(base):
    class Broken(base):
        def predict(self, X, query):
            return super().predict(X, query) if hasattr(self, "module_") else query

    return Broken


@broken(3, r"does not return")
def fit_returns_none(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)

    return Broken


@broken(4, r"differs by")
def fresh_entropy(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            self.offset_ = np.random.default_rng().normal()
            return self

        def predict(self, X, query):
            answer = super().predict(X, query)
            return answer.with_values(answer.value + self.offset_)

    return Broken


@broken(5, r"random_state")
def takes_any_seed(base):
    class Broken(base):
        def _seed(self):
            return 0

    return Broken


@broken(6, r"generator")
def seeds_torch(base):
    class Broken(base):
        def fit(self, X, y=None):
            torch.manual_seed(np.random.SeedSequence().generate_state(1)[0])
            return super().fit(X)

    return Broken


@broken(7, r"changed the estimator")
def remembers_questions(base):
    class Broken(base):
        def predict(self, X, query):
            self.last_question_ = len(X)
            return super().predict(X, query)

    return Broken


@broken(8, r"torch object")
def keeps_a_tensor(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            self.spare_ = torch.zeros(2)
            return self

    return Broken


@broken(9, r"differs by")
def hides_state_from_files(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            self._offset = 1.0
            return self

        def predict(self, X, query):
            answer = super().predict(X, query)
            return answer.with_values(answer.value + vars(self).get("_offset", 0.0))

    return Broken


@broken(10, r"differs by")
def remembers_fits(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            self._n_fits = vars(self).get("_n_fits", 0) + 1
            return self

        def predict(self, X, query):
            answer = super().predict(X, query)
            return answer.with_values(answer.value * self._n_fits)

    return Broken


@broken(11, r"left behind")
def is_not_guarded(base):
    class Broken(base):
        fit = base.fit.__wrapped__

    return Broken


@broken(12, r"swallowed")
def swallows_ctrl_c(base):
    class Broken(base):
        def fit(self, X, y=None):
            with contextlib.suppress(KeyboardInterrupt):
                super().fit(X)
            return self

    return Broken


@broken(13, r"not finite")
def keeps_bad_weights(base):
    class Broken(base):
        def fit(self, X, y=None):
            try:
                return super().fit(X)
            except NotConvergedError:
                self.module_.weight.data.fill_(torch.nan)
                raise

    return Broken


@broken(14, r"cell")
def takes_any_word(base):
    class Broken(base):
        def fit(self, X, y=None):
            word, self.cell = self.cell, "shrink"
            try:
                return super().fit(X)
            finally:
                self.cell = word

    return Broken


@broken(15, r"nothing was refused")
def takes_any_number(base):
    class Broken(base):
        def _training_options(self, **overrides):
            return TrainingOptions(max_iter=2)

    return Broken


@broken(16, r"out of range")
def stumbles_over_zero(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            self.final_loss_ = self.history_[-1]["loss"]
            return self

    return Broken


@broken(17, r"device")
def falls_back_silently(base):
    class Broken(base):
        def _device(self):
            return torch.device("cpu")

    return Broken


@broken(18, r"did not go on")
def starts_cold(base):
    class Broken(base):
        def _continued(self):
            return None

    return Broken


@broken(19, r"printed")
def talks(base):
    class Broken(base):
        def fit(self, X, y=None):
            print("fitting")
            return super().fit(X)

    return Broken


@broken(20, r"held-back score")
def holds_nothing_back(base):
    class Broken(base):
        def _training_options(self, **overrides):
            return super()._training_options(early_stopping=False)

    return Broken


@broken(21, r"differs by")
def checkpoints_change_the_result(base):
    class Broken(base):
        def _training_options(self, **overrides):
            return super()._training_options(max_iter=self.max_iter + (self.checkpoint is not None))

    return Broken


@broken(31, r"not among")
def loses_rows_of_tables(base):
    class Broken(base):
        def _check_series(self, X, *, reset):
            series = super()._check_series(X, reset=reset)
            return series if X is series else series[:-1]

    return Broken


def answers(base, change):
    """An estimator whose values go through `change(value, asked, history)`."""

    class Broken(base):
        def predict(self, X, query):
            asked = super().predict(X, query)
            return asked.with_values(change(asked.value, asked, X))

    return Broken


@broken(32, r"differs by")
def counts_positions(base):
    return answers(base, lambda value, asked, X: value + asked.rows_of_series())


@broken(33, r"differs by")
def looks_at_the_batch(base):
    return answers(base, lambda value, asked, X: value - value.mean())


@broken(34, r"differs by")
def takes_nan_for_zero(base):
    class Broken(base):
        def _check_series(self, X, *, reset):
            return super()._check_series(X.fillna(0.0) if hasattr(X, "fillna") else X, reset=reset)

    return Broken


@broken(35, r"differs by")
def trusts_the_first_row(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            self.first_ = float(X["value"].iloc[0]) if hasattr(X, "iloc") else float(X.value[0])
            return self

        def predict(self, X, query):
            answer = super().predict(X, query)
            return answer.with_values(answer.value + self.first_)

    return Broken


@broken(36, r"is inf")
def divides_by_the_spread(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            spread = np.array([np.ptp(X.value[X.channel == c]) for c in range(self.n_features_in_)])
            self.factor_ = np.where(spread > 0, 1.0, np.nan)
            return self

        def predict(self, X, query):
            answer = super().predict(X, query)
            return answer.with_values(np.nan_to_num(answer.value * self.factor_[answer.channel], nan=np.inf))

    return Broken


@broken(37, r"differs by")
def knows_its_units(base):
    return answers(base, lambda value, asked, X: np.clip(value, -1e6, 1e6))


@broken(38, r"sorted by")
def casts_times(base):
    class Broken(base):
        def _check_series(self, X, *, reset):
            series = super()._check_series(X, reset=reset)
            return series.replace(time=series.time.astype(np.float32).astype(np.float64))

    return Broken


@broken(39, r"not finite")
def overflows(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            if self.scaler_.scale.max() > 1e20:
                self.module_.weight.data.fill_(torch.nan)
            return self

    return Broken


@broken(40, r"is inf")
def needs_two_observations(base):
    return answers(base, lambda value, asked, X: value / (X.counts.min() > 1))


@broken(41, r"is inf")
def needs_two_series(base):
    class Broken(base):
        def fit(self, X, y=None):
            super().fit(X)
            self.module_.weight.data /= len(X) - 1
            return self

    return Broken


@broken(42, r"differs by|never seen")
def takes_channels_by_place(base):
    class Broken(base):
        def _check_series(self, X, *, reset):
            if reset:
                return super()._check_series(X, reset=True)
            return X.replace(channel_names=tuple(self.channel_names_[: len(X.channel_names)]))

    return Broken


@broken(43, r"nothing was refused")
def takes_anything(base):
    class Broken(base):
        def fit(self, X, y=None):
            try:
                return super().fit(X)
            except ValueError:
                return self

    return Broken


@broken(44, r"not? finite|non-finite")
def scores_nan(base):
    class Broken(base):
        def score(self, X, y=None):
            return np.nan

    return Broken


@broken(45, r"gap of zero")
def divides_by_gaps(base):
    def change(value, asked, X):
        gaps = np.abs(np.diff(X.time)) + np.diff(X.channel) + np.diff(X.rows_of_series())
        if (gaps == 0).any():
            raise ZeroDivisionError("gap of zero")
        return value

    return answers(base, change)


@broken(46, r"sorted by")
def takes_times_for_positive(base):
    class Broken(base):
        def _check_series(self, X, *, reset):
            series = super()._check_series(X, reset=reset)
            return series.replace(time=np.abs(series.time))

    return Broken


def broken_class(number, forecaster):
    """The class, at a place where pickle finds it."""
    cls = BROKEN[number][0](type(forecaster))
    cls.__module__, cls.__qualname__ = __name__, f"Broken{number}"
    globals()[cls.__qualname__] = cls
    return cls


@pytest.mark.parametrize("check", series_checks(), ids=lambda check: str(check.number))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_check_rejects_a_broken_estimator(check, forecaster, series_maker):
    cls = broken_class(check.number, forecaster)
    before = torch.get_rng_state()
    try:
        with pytest.raises((AssertionError, Exception), match=BROKEN[check.number][1]) as caught:
            check(series_case(cls(random_state=0), series_maker))
    finally:
        torch.set_rng_state(before)
    assert not isinstance(caught.value, unittest.SkipTest)


@pytest.mark.parametrize("every", [0.0, 10.0])
def test_the_resume_check_meets_a_checkpoint_whatever_the_interval(
    every, forecaster, series_maker, monkeypatch
):
    """A quick fit ends before the usual ten seconds; beginning anew is no resuming, for all it is exact."""
    check = {check.number: check for check in series_checks()}[21]
    case = series_case(type(forecaster)(random_state=0, checkpoint_every=every), series_maker)
    check(case)
    monkeypatch.setattr("neurosde.training.checkpoints.Checkpoint.read", lambda self, path=None: None)
    with pytest.raises(AssertionError, match="began anew; its checkpoint was not read"):
        check(case)


def test_the_suite_reports_every_failure_with_its_check(forecaster, series_maker):
    cls = broken_class(44, forecaster)
    with pytest.raises(ExceptionGroup, match="Broken fails 1 of 37 checks") as caught:
        check_series_estimator(cls(random_state=0), series_maker)
    (failure,) = caught.value.exceptions
    assert "44: GridSearchCV" in failure.__notes__[0]


def test_expected_failures_must_fail(forecaster, series_maker):
    cls = broken_class(44, forecaster)
    reason = "its score is under construction"
    assert check_series_estimator(cls(random_state=0), series_maker, expected_failures={44: reason}) == {
        44: reason
    }
    with pytest.raises(ExceptionGroup) as caught:
        check_series_estimator(forecaster, series_maker, expected_failures={44: reason})
    assert "take it off" in str(caught.value.exceptions[0])


def test_what_does_not_apply_is_told_with_its_reason(ridge_class, table):
    class WithoutDevice(ridge_class):
        def __init__(self, random_state=None):
            super().__init__(random_state=random_state, max_iter=3)

    case = snapshot_case(WithoutDevice(random_state=0), table, predictions)
    check = {check.number: check for check in estimator_checks()}[17]
    with pytest.raises(unittest.SkipTest, match=r"WithoutDevice has no parameter.*device"):
        check(case)
