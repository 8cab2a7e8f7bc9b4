"""Irregular, asynchronous observations of many series: one ragged record."""

import dataclasses
import functools
from typing import Any, Literal, Self

import numpy as np

from neurosde import noise
from neurosde.data import columns, grids, rows, tables
from neurosde.data.rows import Duplicates, OnUnsorted
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array, Sequence


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Series:
    """Observations of many series, each at its own times and in any of the channels.

    Row k says that channel ``channel[k]`` was ``value[k]`` at ``time[k]``. Series i owns the rows
    ``offsets[i]:offsets[i + 1]``, sorted by (time, channel), ties in the order in which they came. What has
    no row was not observed. Arrays are read-only and every method returns a new record. ``len``, ``shape``
    and indexing (integer, slice, mask, index array) go along the series, so that scikit-learn can split a
    record.

    Build one with `from_long`, `from_wide`, `from_padded`, `from_xarray` or `from_sktime`; the constructor
    itself takes rows that are in order already.

    Parameters
    ----------
    ids : (series,) integers or strings
    offsets : (series + 1,) int64
    time : (row,) float64
        In ``time_unit``, from any origin. Models map it in float64 before they cast, see `TimeMap`.
    channel : (row,) int32
        Index into ``channel_names``.
    value : (row,) float64
        NaN only in a query: a row that is asked for and whose value is not known.
    channel_names, static_names : tuple of str
    static : (series, covariate) float64, optional
        Covariates that do not change with time; NaN is missing.
    labels : (series,) array, optional
        One target for each series.
    time_unit : str
        A word for people, and the unit into which dates are turned.
    origin : numpy.datetime64, optional
        The date at which time is zero, where times came as dates.

    Raises
    ------
    DataError, ShapeError
        Where fields contradict one another, times are not finite, or rows are not in order.

    Examples
    --------
    >>> df = {"id": [7, 7, 9], "time": [0.5, 2, 1], "variable": ["HR", "HR", "pH"], "value": [80, 75, 7.4]}
    >>> series = Series.from_long(df)
    >>> series
    Series(2 series, 3 observations, 2 channels, time 0.5 to 2.0 h)
    >>> history, future = series.split(1.0)
    >>> history.counts, future.counts
    (array([1, 0]), array([1, 1]))
    """

    ids: Array
    offsets: Array
    time: Array
    channel: Array
    value: Array
    channel_names: tuple[str, ...]
    static: Array | None = None
    static_names: tuple[str, ...] = ()
    labels: Array | None = None
    time_unit: str = "h"
    origin: np.datetime64 | None = None

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        kinds = {"offsets": np.int64, "channel": np.int32, "time": float, "value": float, "static": float}
        for name in ("ids", "labels", *kinds):
            if getattr(self, name) is not None:
                put(name, columns.frozen(getattr(self, name), kinds.get(name)))
        count = len(self.channel_names)
        put("channel_names", columns.names(self.channel_names, count, argument="channel_names"))
        if self.static is not None:
            width = np.shape(self.static)[-1]
            put("static_names", columns.names(self.static_names or None, width, argument="static_names"))
        rows.check(self)

    @classmethod
    def from_long(
        cls, df: Any, id: str = "id", time: str = "time", variable: str = "variable",
        value: str | None = "value", static: Any = None, *, duplicates: Duplicates = "keep",
        on_unsorted: OnUnsorted = "sort", time_unit: str = "h", origin: Any = None,
    ) -> Self:  # fmt: skip
        """Read a long table: one row for each observation, in any order.

        Series come in the order of their ids and channels in that of their names, so that the order of rows
        does not matter. A NaN value means "not observed": its row goes, its id and its variable stay.

        Parameters
        ----------
        df : pandas.DataFrame or mapping of columns
        id, time, variable, value : str
            Names of columns. Ids and variables are integers or strings. Times are numbers (kept to the bit),
            durations, or dates, which become ``time_unit`` since ``origin``. ``value=None`` reads a query:
            every row is asked for and holds NaN.
        static : list of str, or table with one row for each id, optional
            Columns of ``df`` that are constant within an id; or a table of its own, with a column or an index
            of ids, which sets the order of the series and adds those without any observation.
        duplicates : "keep", "mean", "last" or "raise"
            What becomes of rows of one (id, time, variable), see `merge_duplicates`. The default loses
            nothing: two readings within a minute are two measurements.
        on_unsorted : "sort" or "raise"
        time_unit : str
            For dates and durations one of ns, us, ms, s, m, h, D.
        origin : date, optional
            Where time is zero if times are dates; by default the earliest date of the table. Give the same
            one to tables that share a clock.

        Raises
        ------
        DataError
            A missing or doubled column, text among the values, a time that is NaN or infinite, no rows.

        Examples
        --------
        >>> df = {"id": ["b", "a"], "time": [1.0, 0.0], "variable": ["x", "x"], "value": [2.0, 1.0]}
        >>> Series.from_long(df).ids.tolist()
        ['a', 'b']
        """
        names = (id, time, variable, value)
        return cls(**tables.from_long(df, names, static, duplicates, on_unsorted, time_unit, origin))

    @classmethod
    def from_wide(
        cls, df: Any, id: str = "id", time: str = "time", channels: Sequence[str] | None = None,
        static: Any = None, *, duplicates: Duplicates = "keep", on_unsorted: OnUnsorted = "sort",
        time_unit: str = "h", origin: Any = None,
    ) -> Self:  # fmt: skip
        """Read a wide table: one row for each visit, one column for each channel, NaN for not observed.

        ``channels`` are by default all columns but the id, the time and the static ones, in the order of the
        table. The other arguments are those of `from_long`.

        Examples
        --------
        >>> Series.from_wide({"id": [1, 1], "time": [0, 1], "HR": [80, float("nan")], "pH": [7.4, 7.3]})
        Series(1 series, 3 observations, 2 channels, time 0.0 to 1.0 h)
        """
        names = (id, time, channels)
        return cls(**tables.from_wide(df, names, static, duplicates, on_unsorted, time_unit, origin))

    @classmethod
    def from_padded(
        cls, values: Any, times: Any, lengths: Any = None, *, ids: Any = None,
        channel_names: Sequence[str] | None = None, duplicates: Duplicates = "keep",
        on_unsorted: OnUnsorted = "sort", time_unit: str = "h",
    ) -> Self:  # fmt: skip
        """Read a padded grid in which NaN means "not observed".

        Parameters
        ----------
        values : (series, time, channel)
            Time is second; sktime and aeon put it last, see `from_sktime`.
        times : (time,) or (series, time)
        lengths : (series,) integers, optional
            How many steps of each series count, by default all; what lies beyond is not looked at.
        ids, channel_names : sequences, optional
            By default 0, 1, ... and "0", "1", ...
        duplicates, on_unsorted, time_unit
            See `from_long`.

        Examples
        --------
        >>> Series.from_padded(np.ones((3, 5, 2)), np.arange(5), lengths=[5, 0, 2]).counts
        array([10,  0,  4])
        """
        names = (ids, channel_names)
        return cls(**grids.from_padded(values, times, lengths, names, duplicates, on_unsorted, time_unit))

    @classmethod
    def from_xarray(cls, ds: Any, *, duplicates: Duplicates = "keep", time_unit: str = "h") -> Self:
        """Read an xarray Dataset.

        Every variable on (series, time) is a channel, every variable on (series, time, channel) a block of
        them; ``time`` may be called ``step`` and ``channel`` may be called ``variable``. The coordinate
        ``time`` is (time,) or (series, time), the latter with ``length`` (series,) where it is padded.
        ``static`` on (series, covariate) and the attribute ``time_unit`` are read where they are.

        Examples
        --------
        >>> import xarray as xr
        >>> ds = xr.Dataset({"HR": (("series", "time"), [[80.0, float("nan")]])}, coords={"time": [0.0, 1.5]})
        >>> Series.from_xarray(ds)
        Series(1 series, 1 observations, 1 channels, time 0.0 to 0.0 h)
        """
        return cls(**grids.from_xarray(ds, duplicates, time_unit))

    @classmethod
    def from_sktime(cls, df: Any, *, duplicates: Duplicates = "keep", time_unit: str = "h") -> Self:
        """Read a panel of sktime or aeon.

        Either a DataFrame with index levels (instance, time) and a column for each channel, or their
        ``numpy3D`` (series, channel, time), which has no times: steps are counted from 0.

        Examples
        --------
        >>> Series.from_sktime(np.zeros((2, 3, 10)))
        Series(2 series, 60 observations, 3 channels, time 0.0 to 9.0 h)
        """
        return cls(**grids.from_sktime(df, duplicates, time_unit))

    @classmethod
    def concatenate(cls, parts: Sequence["Series"]) -> "Series":
        """Put the rows of records together by id; an id that occurs in several parts becomes one series.

        So records of different series are stacked, and the two sides of a `split` give back the whole. Ids
        come in the order in which they are first met.

        Raises
        ------
        DataError
            Where parts differ in channels, unit or origin, an id occurs twice in one part, or the covariates
            or labels of an id differ between parts.
        """
        return cls(**rows.concatenate(parts))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int]:
        """``(series,)``, as scikit-learn asks for it."""
        return (len(self.ids),)

    @property
    def counts(self) -> Array:
        """Number of rows of each series, ``(series,)``."""
        return np.diff(self.offsets)

    @functools.cached_property
    def keys(self) -> Array:
        """Stable int64 key of each id for keyed noise, ``(series,)``: integers themselves, strings hashed."""
        return columns.frozen(noise.series_keys(self.ids))

    def __getitem__(self, key: Any) -> Self:
        chosen = rows.positions(key, len(self))
        row, offsets = rows.gather(self.offsets, chosen)
        fields = {name: getattr(self, name)[row] for name in ("time", "channel", "value")}
        for name in ("ids", "static", "labels"):
            fields[name] = None if getattr(self, name) is None else getattr(self, name)[chosen]
        return self.replace(offsets=offsets, **fields)

    def replace(self, **fields: Any) -> Self:
        """Return the record with some fields exchanged and all of them checked again."""
        return dataclasses.replace(self, **fields)

    def with_values(self, value: Any) -> Self:
        """Return the same rows with other values, ``(row,)``."""
        return self.replace(value=value)

    def keep(self, mask: Array) -> Self:
        """Keep the rows where ``mask`` (row,) is true; every series stays, be it empty."""
        mask = np.asarray(mask)
        if mask.shape != self.time.shape or mask.dtype != bool:
            raise ShapeError(f"mask is {mask.dtype} {mask.shape}, expected bool {self.time.shape}")
        offsets = np.concatenate([[0], np.cumsum(mask)])[self.offsets]
        fields = {name: getattr(self, name)[mask] for name in ("time", "channel", "value")}
        return self.replace(offsets=offsets, **fields)

    def index_of(self, ids: Any) -> Array:
        """Position of each of ``ids`` among the series, ``(k,)`` int64; an unknown id is an error."""
        return rows.locate(self.ids, np.atleast_1d(np.asarray(ids)))

    def rows_of_series(self) -> Array:
        """Index of the series that each row belongs to, ``(row,)`` int64."""
        return np.repeat(np.arange(len(self)), self.counts)

    def select_channels(self, names: Sequence[str]) -> Self:
        """Keep the rows of the named channels, and number the channels in this order."""
        unknown = [name for name in names if name not in self.channel_names]
        if unknown:
            raise DataError(f"names: no channel {unknown[0]!r} among {', '.join(self.channel_names)}")
        return self.replace(**rows.recode(self, names))

    def align_channels(self, names: Sequence[str]) -> Self:
        """Number the channels as ``names`` does; a name that does not occur here is a channel without rows.

        What a fitted estimator does with new data. An observed channel that is not among the names is an
        error.
        """
        observed = [self.channel_names[k] for k in np.unique(self.channel).tolist()]
        unknown = [name for name in observed if name not in names]
        if unknown:
            raise DataError(f"channel {unknown[0]!r} is observed but not among {', '.join(names)}")
        return self.replace(**rows.recode(self, names))

    def split(self, time: Any) -> tuple[Self, Self]:
        """Split every series at ``time``: one number, or one for each series.

        Returns
        -------
        history, future : Series
            Rows with ``t < time`` and rows with ``t >= time``. Both have every series in the same order, some
            perhaps empty; `concatenate` puts them together again.
        """
        at = columns.finite(time, argument="time")
        if at.shape not in ((), (len(self),)):
            raise ShapeError(f"time has shape {at.shape}, expected () or ({len(self)},), one for each series")
        before = self.time < np.broadcast_to(at, (len(self),))[self.rows_of_series()]
        return self.keep(before), self.keep(~before)

    def drop(self, rate: float, how: Literal["points", "times"] = "points", *, seed: int = 0) -> Self:
        """Leave out the fraction ``rate`` of each series, rounded down.

        What goes is keyed by the seed and the id of the series, whatever other series there are, and what a
        low rate drops a higher one drops too. A series with observations keeps one, because ``rate`` is in
        [0, 1).

        Parameters
        ----------
        rate : float
        how : "points" or "times"
            Leave out rows one by one, or time points with all their channels.
        seed : int

        Examples
        --------
        >>> Series.from_sktime(np.zeros((1, 2, 10))).drop(0.3, "times", seed=1).counts
        array([14])
        """
        return self.keep(rows.survivors(self.offsets, self.time, self.keys, rate, how, seed))

    def merge_duplicates(self, how: Duplicates = "mean") -> Self:
        """Merge rows of one (series, time, channel).

        ``"mean"`` averages them, to the same bits in whatever order they came; ``"last"`` takes the one that
        came last; ``"raise"`` refuses them; ``"keep"`` leaves them.
        """
        series = self.rows_of_series()
        series, time, channel, value = rows.merge(
            series, self.time, self.channel, self.value, how, ids=self.ids, names=self.channel_names
        )
        offsets = rows.cut(series, len(self))
        return self.replace(offsets=offsets, time=time, channel=channel, value=value)

    def query(self, times: Any, channels: Sequence[str] | None = None) -> Self:
        """Ask for ``channels`` (by default all) of every series at ``times``, (time,) or (series, time)."""
        asked = self.channel_names if channels is None else self.select_channels(channels).channel_names
        return self.replace(**rows.asked(self, columns.finite(times, argument="times"), asked))

    def to_long(
        self, id: str = "id", time: str = "time", variable: str = "variable", value: str = "value"
    ) -> Any:
        """Return a pandas DataFrame with one row for each observation, in the order of the record.

        `from_long` reads it back to the bit. Series and channels without rows are not in it:
        ``static=to_static()`` restores the former, `align_channels` the latter.
        """
        return tables.to_long(self, (id, time, variable, value))

    def to_static(self, id: str = "id") -> Any:
        """Return a pandas DataFrame of the static covariates with one row for each series, indexed by id."""
        return tables.to_static(self, id)

    def to_padded(self, duplicates: Duplicates = "mean") -> tuple[Array, Array, Array]:
        """Lay each series on the grid of its own times.

        Parameters
        ----------
        duplicates : "mean", "last", "raise" or "keep"
            A grid has one place for each (time, channel), so rows that share one are merged, see
            `merge_duplicates`. ``"keep"`` repeats the time instead, and `from_padded` gives back every row.

        Returns
        -------
        values : (series, time, channel) float64, NaN where nothing was observed
        times : (series, time) float64, NaN beyond the length
        lengths : (series,) int64
        """
        return grids.to_padded(self.merge_duplicates(duplicates))

    def equals(self, other: "Series") -> bool:
        """Whether every field is the same to the bit; missing entries equal one another."""
        names = [field.name for field in dataclasses.fields(self)]
        return all(columns.same(getattr(self, name), getattr(other, name)) for name in names)

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        raise DataError(
            "a Series is ragged, not one array: use to_padded(), or an estimator that takes a Series"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def __repr__(self) -> str:
        size = f"{len(self)} series, {len(self.time)} observations, {len(self.channel_names)} channels"
        span = f", time {self.time.min()} to {self.time.max()} {self.time_unit}" if len(self.time) else ""
        return f"Series({size}{span})"
