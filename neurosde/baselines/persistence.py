"""Forecasts without any fitted coefficient."""

import numpy as np

from neurosde.baselines.forecaster import Forecaster
from neurosde.baselines.tables import Entries, History
from neurosde.typing import Array


class LastValue(Forecaster):
    """The last observed value of the channel; the training mean where the history has none.

    Examples
    --------
    >>> from neurosde.data import Series
    >>> series = Series.from_padded([[[1.0], [3.0], [4.0]]], [0.0, 1.0, 2.0])
    >>> baseline = LastValue().fit(series, 2.0)
    >>> baseline.predict(*series.split(2.0))
    array([3.])
    """

    def _fit(self, history: History, targets: Entries) -> None:
        pass

    def _points(self, history: History, entries: Entries) -> Array:
        return known_or_mean(history.last[entries.series, entries.channel], self.mean_[entries.channel])


class PatientMean(Forecaster):
    """The mean of the channel over the history; the training mean where the history has none.

    Examples
    --------
    >>> from neurosde.data import Series
    >>> series = Series.from_padded([[[1.0], [3.0], [4.0]]], [0.0, 1.0, 2.0])
    >>> baseline = PatientMean().fit(series, 2.0)
    >>> baseline.predict(*series.split(2.0))
    array([2.])
    """

    def _fit(self, history: History, targets: Entries) -> None:
        pass

    def _points(self, history: History, entries: Entries) -> Array:
        return known_or_mean(history.mean[entries.series, entries.channel], self.mean_[entries.channel])


class TrainMean(Forecaster):
    """The mean of the channel over all training observations.

    Examples
    --------
    >>> from neurosde.data import Series
    >>> series = Series.from_padded([[[1.0], [3.0], [5.0]]], [0.0, 1.0, 2.0])
    >>> baseline = TrainMean().fit(series, 2.0)
    >>> baseline.predict(*series.split(2.0))
    array([3.])
    """

    def _fit(self, history: History, targets: Entries) -> None:
        pass

    def _points(self, history: History, entries: Entries) -> Array:
        return self.mean_[entries.channel]


def known_or_mean(value: Array, mean: Array) -> Array:
    """``value`` where it is known, else ``mean``."""
    return np.where(np.isnan(value), mean, value)
