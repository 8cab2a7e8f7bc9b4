"""What every trivial forecaster shares: points by its own rule, spread by the residuals of its training."""

import abc
from typing import Self

import numpy as np

from neurosde.baselines.residuals import ResidualQuantiles
from neurosde.baselines.tables import Entries, History
from neurosde.data import Series
from neurosde.errors import DataError
from neurosde.typing import Any, Array


class Forecaster(abc.ABC):
    """Abstract forecaster of irregular series from their summaries before one time.

    A subclass says how it fits (`_fit`) and what its point forecast is (`_points`). Quantiles are the point
    plus the empirical quantiles of the training residuals of the same channel and time ahead, so that a
    trivial forecast too has intervals, samples and a CRPS.

    Attributes
    ----------
    channel_names_ : list of str
        Channels of the training series, in order.
    history_end_ : float
        Where histories end and forecasts start, in the series' own time.
    horizon_ : float
        Longest time ahead in training.
    mean_ : (channel,) float64
        Mean of each channel over all training observations, NaN for a channel without any.
    """

    channel_names_: list[str]
    history_end_: float
    horizon_: float
    mean_: Array

    @abc.abstractmethod
    def _fit(self, history: History, targets: Entries) -> None:
        """Learn from the training histories and what followed them; channels never observed have mean NaN."""

    @abc.abstractmethod
    def _points(self, history: History, entries: Entries) -> Array:
        """Point forecasts, ``(row,)``."""

    def fit(self, series: Series, history_end: float) -> Self:
        """Learn from whole series: histories before ``history_end``, targets at or after it.

        Parameters
        ----------
        series
            Training series.
        history_end
            In the series' own time; the same for all of them.

        Raises
        ------
        DataError
            If no observation lies at or after ``history_end``.
        """
        past, future = series.split(history_end)
        if not len(future.time):
            raise DataError(
                f"series: no observation at or after history_end = {history_end}: nothing to learn"
            )
        history = History.of(past, history_end)
        targets = Entries.of(future, history_end, np.arange(len(series)))
        self.channel_names_ = list(series.channel_names)
        self.history_end_ = float(history_end)
        self.horizon_ = float(targets.ahead.max()) or 1.0
        n_channels = len(self.channel_names_)
        count = np.bincount(series.channel, minlength=n_channels)
        total = np.bincount(series.channel, weights=series.value, minlength=n_channels)
        self.mean_ = np.divide(total, count, out=np.full(n_channels, np.nan), where=count > 0)
        self._fit(history, targets)
        seen = history.count[targets.series, targets.channel] > 0
        self.residuals_ = ResidualQuantiles.fit(
            targets.value - self._points(history, targets), targets.channel, targets.ahead, seen, n_channels
        )
        return self

    def predict(self, history: Series, query: Series) -> Array:
        """Point forecasts of the entries asked for.

        Parameters
        ----------
        history
            Observations before ``history_end``.
        query
            The entries asked for; their values are not looked at. Its series are among those of the history.

        Returns
        -------
        (row,) float64, one for each row of the query

        Raises
        ------
        DataError
            If a history reaches beyond ``history_end``, an entry lies before it, or its channel was never
            observed in training.
        """
        return self._points(*self._look_up(history, query))

    def predict_quantiles(self, history: Series, query: Series, alpha: Any) -> Array:
        """Quantiles of the levels ``alpha``, ``(row, alpha)``; arguments and errors as in `predict`."""
        levels = np.atleast_1d(np.asarray(alpha, dtype=np.float64))
        if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
            raise DataError(f"alpha must hold levels strictly between 0 and 1, got {alpha!r}")
        tables, entries = self._look_up(history, query)
        return self._points(tables, entries)[:, None] + self._spread(tables, entries, levels[None, :])

    def predict_interval(self, history: Series, query: Series, coverage: float = 0.9) -> Array:
        """Lower and upper end of central intervals, ``(row, 2)``; arguments and errors as in `predict`."""
        if not 0 < coverage < 1:
            raise DataError(f"coverage must lie strictly between 0 and 1, got {coverage!r}")
        return self.predict_quantiles(history, query, [(1 - coverage) / 2, (1 + coverage) / 2])

    def sample(self, history: Series, query: Series, n: int, seed: int = 0) -> Array:
        """Draws from the forecast, ``(sample, row)``, independent from row to row; errors as in `predict`."""
        tables, entries = self._look_up(history, query)
        levels = np.random.default_rng(seed).random((len(entries.series), n))
        return (self._points(tables, entries)[:, None] + self._spread(tables, entries, levels)).T

    def state(self) -> dict[str, Any]:
        """Fitted state of the point forecast, plain arrays and numbers: what `restore` needs."""
        return {
            name: value for name, value in vars(self).items() if name.endswith("_") and name != "residuals_"
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        """Forecaster with default parameters and the given fitted state; its forecasts are points."""
        forecaster = cls()
        vars(forecaster).update(state)
        return forecaster

    def _spread(self, history: History, entries: Entries, levels: Array) -> Array:
        seen = history.count[entries.series, entries.channel] > 0
        return self.residuals_.evaluate(levels, entries.channel, entries.ahead, seen)

    def _look_up(self, history: Series, query: Series) -> tuple[History, Entries]:
        """Tables of the history and rows of the query, checked."""
        history, query = (
            history.align_channels(self.channel_names_),
            query.align_channels(self.channel_names_),
        )
        entries = Entries.of(query, self.history_end_, history.index_of(query.ids))
        bad = (entries.ahead < 0) | np.isnan(self.mean_[entries.channel])
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            if entries.ahead[row] < 0:
                raise DataError(
                    f"query: row {row} lies at {query.time[row]}, expected times from {self.history_end_} on,"
                    " where the history ends"
                )
            name = self.channel_names_[entries.channel[row]]
            raise DataError(f"query: row {row} asks for {name!r}, which was never observed in training")
        return History.of(history, self.history_end_), entries
