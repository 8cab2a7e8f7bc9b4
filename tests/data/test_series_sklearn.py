"""scikit-learn's machinery takes a record as it takes an array."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import GridSearchCV, GroupKFold, check_cv, cross_val_score, train_test_split
from sklearn.utils import _safe_indexing, check_array, indexable, resample

from neurosde.data import Series, Trajectories


class MeanOfSeries(RegressorMixin, BaseEstimator):
    """Predicts from the mean value of each series, shrunk by a parameter."""

    def __init__(self, shrink: float = 0.0):
        self.shrink = shrink

    def fit(self, X, y):
        assert isinstance(X, Series)
        self.offset_ = float(np.mean(y - (1 - self.shrink) * self._means(X)))
        return self

    def predict(self, X):
        return self.offset_ + (1 - self.shrink) * self._means(X)

    def _means(self, X):
        return np.bincount(X.rows_of_series(), weights=X.value, minlength=len(X)) / X.counts


@pytest.fixture
def series():
    values = np.random.default_rng(0).normal(size=(20, 5, 2)) + np.arange(20)[:, None, None]
    return Series.from_padded(values, np.arange(5.0)).replace(labels=np.arange(20.0))


def test_safe_indexing_takes_series(series):
    for key in ([0, 3, 3], np.array([5, 1]), np.arange(20) > 12, slice(2, 5), 4):
        part = _safe_indexing(series, key)
        assert isinstance(part, Series)
        np.testing.assert_array_equal(part.labels, np.atleast_1d(np.arange(20.0)[key]))
    assert indexable(series, series.labels)[0] is series
    assert isinstance(resample(series, random_state=0), Series)


def test_splitters_cover_every_series_once(series):
    seen = [test for _, test in check_cv(4).split(series, series.labels)]
    assert sorted(np.concatenate(seen)) == list(range(20))
    train, test = train_test_split(series, test_size=0.25, random_state=0)
    assert len(train) == 15
    assert sorted([*train.ids, *test.ids]) == list(range(20))


def test_cross_validation_and_grid_search_run(series):
    scores = cross_val_score(MeanOfSeries(), series, series.labels, cv=4)
    assert (scores > 0).sum() >= 0
    search = GridSearchCV(MeanOfSeries(), {"shrink": [0.0, 0.9]}, cv=GroupKFold(5), error_score="raise")
    search.fit(series, series.labels, groups=series.ids)
    assert search.best_params_ == {"shrink": 0.0}


def test_a_record_in_a_tabular_estimator_is_refused(series):
    """Case 15: the wrong container is named."""
    with pytest.raises(ValueError, match="a Series is ragged"):
        check_array(series)


def test_trajectories_are_split_alike():
    logged = Trajectories.from_arrays(
        np.arange(4.0), np.ones((6, 4, 2)), np.zeros((6, 4)), reward_kind="rate", end="horizon"
    )
    for _, test in check_cv(3).split(logged):
        part = _safe_indexing(logged, test)
        assert isinstance(part, Trajectories)
        assert part.ids.tolist() == test.tolist()
