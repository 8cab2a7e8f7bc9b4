"""Forecasts that are linear in the summaries of a history, one least-squares fit a channel."""

import numpy as np

from neurosde.baselines.forecaster import Forecaster
from neurosde.baselines.persistence import known_or_mean
from neurosde.baselines.tables import Entries, History
from neurosde.errors import DataError
from neurosde.typing import Array

_DECAY = 4.0  # the effect of the last value fades as exp(-4 ahead / horizon): over 6 h of 24 h
_CLIP = 4.0  # standard deviations


class ShrunkForecaster(Forecaster):
    """Last value and mean of the own channel, shrunk towards the training mean: two coefficients a channel.

    ``mu + a (last - mu) + b (mean - mu)``, with a and b by least squares on the training targets and the
    penalty ``penalty * n * var`` on each.

    Parameters
    ----------
    penalty
        Relative to the variance of the regressors; large enough to keep rare channels in order.

    Examples
    --------
    >>> from neurosde.data import Series
    >>> series = Series.from_padded([[[0.0], [0.0]], [[2.0], [1.0]]], [0.0, 1.0])
    >>> baseline = ShrunkForecaster(penalty=0.0).fit(series, 1.0)
    >>> baseline.predict(*series.split(1.0)).round(2)
    array([0.44, 1.26])
    """

    coefficients_: Array

    def __init__(self, penalty: float = 1e-3):
        self.penalty = penalty

    def _fit(self, history: History, targets: Entries) -> None:
        regressors = self._regressors(history, targets)
        self.coefficients_ = np.zeros((len(self.mean_), 2))
        for k in np.unique(targets.channel).tolist():
            mine = targets.channel == k
            X, y = regressors[mine], targets.value[mine] - self.mean_[k]
            gram = X.T @ X + self.penalty * len(y) * np.diag(X.var(axis=0))
            # last and mean are one and the same where a history has one value: then the least-norm solution
            self.coefficients_[k] = np.linalg.lstsq(gram, X.T @ y, rcond=None)[0]

    def _points(self, history: History, entries: Entries) -> Array:
        shrunk = (self._regressors(history, entries) * self.coefficients_[entries.channel]).sum(axis=1)
        return self.mean_[entries.channel] + shrunk

    def _regressors(self, history: History, entries: Entries) -> Array:
        mean = self.mean_[entries.channel]
        own = (table[entries.series, entries.channel] for table in (history.last, history.mean))
        return np.stack([known_or_mean(value, mean) - mean for value in own], axis=1)


class RidgeForecaster(Forecaster):
    """Ridge regression of each channel on the summaries of all channels, the covariates and the time ahead.

    Regressors: 1; last value and mean of every channel in standard units, clipped at 4; ``log(1 + count)``;
    the standardised covariates; ``[last, mean, age last]`` of the own channel times ``exp(-4 ahead /
    horizon)``; that factor alone; ``ahead / horizon``; the own ``mean`` and ``age last``. Age is relative to
    the length of the history and 1 for what was never seen; beyond the training horizon the forecast stays
    what it is at its end.

    Parameters
    ----------
    penalty
        Ridge penalty on every coefficient, in squared standard units: it counts like so many observations.
    max_rows
        At most so many training rows a channel, evenly spaced; the fit of a frequent channel gains nothing
        from more.

    Examples
    --------
    >>> from neurosde.data import Series
    >>> series = Series.from_padded([[[0.0], [0.0]], [[2.0], [1.0]]], [0.0, 1.0])
    >>> baseline = RidgeForecaster(penalty=0.01).fit(series, 1.0)
    >>> baseline.predict(*series.split(1.0)).round(2)
    array([0., 1.])
    """

    coefficients_: Array
    scale_: Array
    span_: float

    def __init__(self, penalty: float = 300.0, max_rows: int = 30_000):
        self.penalty = penalty
        self.max_rows = max_rows

    def _fit(self, history: History, targets: Entries) -> None:
        n_channels = len(self.mean_)
        self.span_ = float(np.nanmax(history.age, initial=0.0)) or 1.0
        self.scale_ = np.ones(n_channels)
        for k in np.unique(targets.channel).tolist():
            self.scale_[k] = targets.value[targets.channel == k].std() or 1.0
        known = np.isfinite(history.static)
        size = np.maximum(known.sum(axis=0), 1)
        self.static_mean_ = np.where(known, history.static, 0.0).sum(axis=0) / size
        deviation = np.where(known, history.static - self.static_mean_, 0.0)
        scale = np.sqrt((deviation**2).sum(axis=0) / size)
        self.static_scale_ = np.where(scale > 0, scale, 1.0)
        shared = self._shared(history)
        self.coefficients_ = np.zeros((n_channels, shared.shape[1] + 7))
        for k in np.unique(targets.channel).tolist():
            rows = np.flatnonzero(targets.channel == k)
            mine = targets.take(rows[:: -(-len(rows) // self.max_rows)])
            X = self._regressors(history, shared, mine)
            y = (mine.value - self.mean_[k]) / self.scale_[k]
            self.coefficients_[k] = np.linalg.solve(X.T @ X + self.penalty * np.eye(X.shape[1]), X.T @ y)

    def _points(self, history: History, entries: Entries) -> Array:
        if history.static.shape[1] != len(self.static_mean_):
            raise DataError(
                f"history: {history.static.shape[1]} covariates, expected {len(self.static_mean_)}, as in fit"
            )
        shared = self._shared(history)
        points = self.mean_[entries.channel]
        for k in np.unique(entries.channel).tolist():
            rows = np.flatnonzero(entries.channel == k)
            X = self._regressors(history, shared, entries.take(rows))
            points[rows] += self.scale_[k] * (X @ self.coefficients_[k])
        return points

    def _standard(self, table: Array) -> Array:
        unit = (table - self.mean_) / self.scale_
        return np.clip(np.where(np.isnan(unit), 0.0, unit), -_CLIP, _CLIP)

    def _shared(self, history: History) -> Array:
        """Regressors that every entry of a series has in common, ``(series, regressor)``."""
        static = (history.static - self.static_mean_) / self.static_scale_
        columns = (
            np.ones((len(history.count), 1)),
            self._standard(history.last),
            self._standard(history.mean),
            np.log1p(history.count),
            np.where(np.isnan(static), 0.0, static),
        )
        return np.concatenate(columns, axis=1)

    def _regressors(self, history: History, shared: Array, entries: Entries) -> Array:
        """All regressors of entries of one channel, ``(row, regressor)``."""
        at = (entries.series, entries.channel)
        last = shared[at[0], 1 + at[1]]
        mean = shared[at[0], 1 + len(self.mean_) + at[1]]
        age = known_or_mean(history.age[at], np.full(len(at[0]), self.span_)) / self.span_
        ahead = np.minimum(entries.ahead / self.horizon_, 1.0)
        fading = np.exp(-_DECAY * ahead)
        own = np.stack([last, mean, age * last], axis=1) * fading[:, None]
        return np.column_stack([shared[at[0]], own, fading, ahead, mean, age * last])
