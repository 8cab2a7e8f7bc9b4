"""Series in whatever kind the user has them, and results in the kind that came."""

import dataclasses
import sys
from typing import Any

import numpy as np

from neurosde.data import Series, columns
from neurosde.errors import DataError, ShapeError
from neurosde.io.labelled import series_to_xarray
from neurosde.typing import Array, Sequence

_LONG = ("id", "time", "variable", "value")


def as_series(x: Any) -> Series:
    """Read series from any of the kinds that estimators take.

    Parameters
    ----------
    x : Series, pandas.DataFrame, numpy.ndarray, torch.Tensor, xarray.Dataset or xarray.DataArray
        A long table with columns id, time, variable, value; a table with index levels (instance, time) as
        sktime has them; an array (series, time, channel) with NaN for not observed and times 0, 1, ...;
        labelled arrays as `Series.from_xarray` reads them.

    Returns
    -------
    Series

    Raises
    ------
    DataError, ShapeError
        Another kind, or one that does not hold what it should.

    Examples
    --------
    >>> import numpy as np
    >>> as_series(np.zeros((2, 5, 3)))
    Series(2 series, 30 observations, 3 channels, time 0.0 to 4.0 h)
    """
    if isinstance(x, Series):
        return x
    kind = _kind(x)
    if kind == "table":
        missing = [name for name in _LONG if name not in x]
        if missing and x.index.nlevels == 2:
            return Series.from_sktime(x)
        if missing:
            had = ", ".join(map(repr, x.columns))
            raise DataError(
                f"the table has no column {missing[0]!r} (columns: {had}); expected a long table {_LONG}:"
                " use Series.from_long for other names, Series.from_wide for one column a channel"
            )
        return Series.from_long(x)
    if kind == "dataset":
        return Series.from_xarray(x)
    if kind == "labelled":
        return Series.from_xarray(x.to_dataset(name="value" if x.name is None else x.name))
    array = columns.numbers(x, argument="X")
    if array.ndim != 3:
        hint = "; rows of cells or features go to a snapshot estimator" if array.ndim == 2 else ""
        raise ShapeError(f"X has shape {array.shape}, expected a Series or (series, time, channel){hint}")
    return Series.from_padded(array, np.arange(array.shape[1]))


def like(series: Series, x: Any) -> Any:
    """Give a record back in the kind of ``x``, which `as_series` took.

    An array comes back as (series, time, channel) with as many steps as ``x``: rows of the record must lie at
    times 0, 1, ... Rows of one (time, channel) are averaged where the kind has one place for them.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.arange(6.0).reshape(1, 3, 2)
    >>> np.array_equal(like(as_series(x), x), x)
    True
    """
    if isinstance(x, Series):
        return series
    kind = _kind(x)
    if kind == "table":
        if all(name in x for name in _LONG):
            return series.to_long()
        merged = series.merge_duplicates().to_long()
        wide = merged.set_index(["id", "time", "variable"])["value"].unstack()
        return wide.reindex(columns=list(series.channel_names)).rename_axis(
            index=x.index.names, columns=x.columns.name
        )
    if kind in ("dataset", "labelled"):
        ds = series_to_xarray(series)
        return ds if kind == "dataset" else ds["value"].rename(x.name)
    merged = series.merge_duplicates()
    steps = np.shape(x)[1]
    off = (merged.time != np.rint(merged.time)) | (merged.time < 0) | (merged.time >= steps)
    if off.any():
        row = columns.first(off)
        raise DataError(
            f"time[{row}] is {merged.time[row]}, which is none of the {steps} steps of the array that came"
        )
    grid = np.full((len(merged), steps, len(merged.channel_names)), np.nan)
    grid[merged.rows_of_series(), merged.time.astype(int), merged.channel] = merged.value
    return grid


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """What a forecast was asked for, lined up with the history, and the way back to the asker.

    Parameters
    ----------
    series : Series
        Has the series and channels of the history. Its values are those that the query came with: NaN if
        none.
    order : (row,) int64
        For each row of ``series``, its place among the rows that were asked for.
    asked : Series, pandas.DataFrame or (time,) array
        The query as it came.
    """

    series: Series
    order: Array
    asked: Any

    def fill(self, value: Any) -> Any:
        """Return the query with values filled in, in the kind that came.

        Parameters
        ----------
        value : (row,)
            One for each row of ``series``.

        Returns
        -------
        Series, pandas.DataFrame or numpy.ndarray
            For 1-D times an array (series, time, channel), in the order of the times.
        """
        placed = self.place(value)
        if isinstance(self.asked, Series):
            return self.asked.with_values(placed)
        if _kind(self.asked) == "table":
            return self.asked.assign(value=placed)
        return placed.reshape(len(self.series), len(self.asked), -1)

    def label(self, values: Any, names: Sequence[str]) -> Any:
        """Return several values for each row: labelled columns beside the keys of a table, else an array.

        Parameters
        ----------
        values : (row, column)
        names : sequence of str
            Of the columns.
        """
        placed = self.place(values)
        if isinstance(self.asked, Series) or _kind(self.asked) != "table":
            return placed
        import pandas as pd

        table = pd.DataFrame(placed, index=self.asked.index, columns=pd.Index(names))
        return pd.concat([self.asked[["id", "time", "variable"]], table], axis=1)

    def place(self, values: Any) -> Array:
        """Put rows of ``series`` into the order of the asker, along the first axis."""
        values = np.asarray(values)
        if values.shape[:1] != self.order.shape:
            raise ShapeError(
                f"values has shape {values.shape}, expected {len(self.order)} rows, one for each asked for"
            )
        placed = np.empty_like(values)
        placed[self.order] = values
        return placed


def as_query(query: Any, history: Series) -> Query:
    """Line a query up with a history.

    Parameters
    ----------
    query : Series, pandas.DataFrame or (time,) array
        The (id, time, variable) entries to predict; a value column is not needed. A 1-D array of times asks
        for every channel of every series.
    history : Series

    Raises
    ------
    DataError
        A series or channel that the history does not have, or another clock.

    Examples
    --------
    >>> history = as_series(np.zeros((2, 5, 1)))
    >>> query = as_query([6.0, 5.0], history)
    >>> query.fill(query.series.time)
    array([[[6.],
            [5.]],
    <BLANKLINE>
           [[6.],
            [5.]]])
    """
    if isinstance(query, Series):
        time, origin, values = query.time, query.origin, query.value
        ids, names = query.ids[query.rows_of_series()], np.array(query.channel_names)[query.channel]
    elif _kind(query) == "table":
        ids, stamp, names = (columns.column(query, name, argument="query") for name in _LONG[:3])
        time, origin = columns.times(stamp, history.time_unit, history.origin, argument="query: time")
        values = columns.numbers(query["value"], argument="query: value") if "value" in query else None
    else:
        at, origin = columns.times(query, history.time_unit, history.origin, argument="query")
        if at.ndim != 1:
            raise ShapeError(f"query has shape {at.shape}, expected a Series, a long table or times (time,)")
        grid = np.indices((len(history), len(at), len(history.channel_names))).reshape(3, -1)
        ids, time, values = history.ids[grid[0]], at[grid[1]], None
        names = np.array(history.channel_names)[grid[2]]
    if origin != history.origin:
        raise DataError(
            f"query: time is zero at {origin}, but at {history.origin} in the history; see origin="
        )
    history.index_of(columns.codes(ids, argument="query: id")[0])
    rows = {
        "id": ids,
        "time": time,
        "variable": names,
        "value": np.arange(len(time)),
    }  # values: where they came
    series = Series.from_long(rows, static={"id": history.ids}).align_channels(history.channel_names)
    order = series.value.astype(np.int64)
    known = np.full(len(order), np.nan) if values is None else np.asarray(values)[order]
    series = dataclasses.replace(
        history, offsets=series.offsets, time=series.time, channel=series.channel, value=known
    )
    return Query(series, order, query)


def _kind(x: Any) -> str:
    """Which kind of data this is; a library that is not loaded yet cannot have made it."""
    kinds = {"pandas": {"DataFrame": "table"}, "xarray": {"Dataset": "dataset", "DataArray": "labelled"}}
    for library in sys.modules.keys() & kinds.keys():
        for name, kind in kinds[library].items():
            if isinstance(x, getattr(sys.modules[library], name)):
                return kind
    home, name = type(x).__module__.split(".")[0], type(x).__name__
    if home in ("anndata", "mudata"):
        raise DataError(f"X is a {name}: cells with time labels are snapshots, see snapshots_from_anndata")
    if home in ("polars", "pyarrow", "dask"):
        raise DataError(f"X is a {home} {name}, expected a pandas DataFrame: convert it first")
    return "array"
