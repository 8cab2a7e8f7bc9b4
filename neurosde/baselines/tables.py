"""What a forecaster knows of a history: one table of (series, channel) for each summary."""

import dataclasses
from typing import Self

import numpy as np

from neurosde.data import Series
from neurosde.errors import DataError
from neurosde.typing import Array


@dataclasses.dataclass(frozen=True)
class History:
    """Summaries of what was observed before the time at which a forecast is made.

    Attributes
    ----------
    count : (series, channel) int64
        Number of observations.
    last, mean : (series, channel) float64
        Last value and mean value; NaN where nothing was observed.
    age : (series, channel) float64
        Time from the last observation to the end of the history; NaN where nothing was observed.
    static : (series, covariate) float64
        Covariates, no column where there are none; NaN is missing.

    Examples
    --------
    >>> series = Series.from_padded([[[1.0], [3.0]]], [0.0, 1.0])
    >>> History.of(series, 4.0).age
    array([[3.]])
    """

    count: Array
    last: Array
    mean: Array
    age: Array
    static: Array

    @classmethod
    def of(cls, series: Series, end: float) -> Self:
        """Summarise a record whose observations all lie before ``end``.

        Raises
        ------
        DataError
            If an observation lies at or after ``end``: a forecast must not see what it forecasts.
        """
        late = series.time >= end
        if late.any():
            row = int(np.flatnonzero(late)[0])
            raise DataError(
                f"history: row {row} lies at {series.time[row]}, expected times before {end}, where the "
                "forecast starts; cut the record with series.split(...)"
            )
        shape = (len(series), len(series.channel_names))
        cell = series.rows_of_series() * shape[1] + series.channel
        size = shape[0] * shape[1]
        count = np.bincount(cell, minlength=size)
        total = np.bincount(cell, weights=series.value, minlength=size)
        last, time = np.full(size, np.nan), np.full(size, np.nan)
        last[cell], time[cell] = series.value, series.time  # rows are in order of time: the last one stays
        mean = np.divide(total, count, out=np.full(size, np.nan), where=count > 0)
        static = np.zeros((len(series), 0)) if series.static is None else np.asarray(series.static)
        count, last, mean, age = (table.reshape(shape) for table in (count, last, mean, end - time))
        return cls(count, last, mean, age, static)


@dataclasses.dataclass(frozen=True)
class Entries:
    """The entries asked for, by row.

    Attributes
    ----------
    series, channel : (row,) int64
        Where the row stands in the tables of the history.
    ahead : (row,) float64
        Time from the end of the history.
    value : (row,) float64
        What was observed there, in training; else NaN.
    """

    series: Array
    channel: Array
    ahead: Array
    value: Array

    @classmethod
    def of(cls, series: Series, end: float, place: Array) -> Self:
        """Rows of a record, whose i-th series stands at ``place[i]`` in the tables."""
        rows = place[series.rows_of_series()]
        return cls(rows, series.channel.astype(np.int64), series.time - end, series.value)

    def take(self, rows: Array) -> Self:
        """Some of the rows, by index."""
        return type(self)(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))
