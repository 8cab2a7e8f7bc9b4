"""Irregular, asynchronous observations of many series: one ragged record."""

import dataclasses
import functools
import hashlib
from typing import Any, Literal, Self

import numpy as np

from neurosde.data import columns, conversions
from neurosde.data.conversions import Duplicates, OnUnsorted
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array, Sequence


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Series:
    r"""Observations of many series, each at its own times and in any of the channels.

    Row :math:`k` says that channel ``channel[k]`` was ``value[k]`` at ``time[k]``; series :math:`i` owns the rows
    ``offsets[i]:offsets[i + 1]``, sorted by (time, channel), ties in the order in which they came. What has no row was
    not observed. Arrays are read-only; every method returns a new record. ``len``, ``shape``, indexing by an integer,
    slice, mask or index array go along the series axis, so that scikit-learn can split it. Build it with
    ``from_long``, ``from_wide``, ``from_padded``, ``from_xarray`` or ``from_sktime``; the constructor itself takes rows
    that are already in order.

    Parameters
    ----------
    ids : (series,) integers or strings
    offsets : (series + 1,) int64
    time : (row,) float64
        In ``time_unit``, from any origin; never cast to float32 here.
    channel : (row,) int32
        Index into ``channel_names``.
    value : (row,) float64
        NaN only in a query: the row is asked for and its value not known.
    channel_names : tuple of str
    static : (series, covariate) float64, optional
        Covariates that do not change with time; NaN is missing.
    static_names : tuple of str
    labels : (series,) array, optional
        One target a series.
    time_unit : str
        A word for people, and the unit into which dates were turned.
    origin : numpy.datetime64, optional
        The date at which time is zero, where the times came as dates.

    Raises
    ------
    DataError, ShapeError
        Where a field contradicts another, times are not finite, or rows are not in order.

    Examples
    --------
    >>> table = {"id": [7, 7, 9], "time": [0.5, 2.0, 1.0], "variable": ["HR", "HR", "pH"], "value": [80.0, 75.0, 7.4]}
    >>> series = Series.from_long(table)
    >>> series
    Series(2 series, 3 observations, 2 channels, time 0.5 to 2.0 h)
    >>> history, future = series.split(1.0)
    >>> len(history), history.counts.tolist(), future.counts.tolist()
    (2, [1, 0], [1, 1])
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
        kinds = {"offsets": np.int64, "time": np.float64, "channel": np.int32, "value": np.float64}
        for name, kind in kinds.items():
            put(name, _frozen(getattr(self, name), kind))
        put("ids", _frozen(self.ids))
        put("channel_names", tuple(self.channel_names))
        n = len(self.ids)
        if self.static is not None:
            put("static", _frozen(self.static, np.float64))
            width = np.shape(self.static)[-1]
            put(
                "static_names",
                columns.names(self.static_names or None, width, "static", argument="static_names"),
            )
            if np.shape(self.static) != (n, width):
                raise ShapeError(
                    f"static has shape {np.shape(self.static)}, expected (series, covariate) with {n} series"
                )
        if self.labels is not None:
            put("labels", _frozen(self.labels))
            if np.shape(self.labels) != (n,):
                raise ShapeError(
                    f"labels has shape {np.shape(self.labels)}, expected ({n},): one for each series"
                )
        self._check()

    def _check(self) -> None:
        n, m = len(self.ids), len(self.time)
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iU":
            raise DataError(
                f"ids is {self.ids.dtype} {self.ids.shape}, expected one axis of integers or strings"
            )
        if n == 0:
            raise DataError("0 series: a Series holds at least one")
        if (
            self.offsets.shape != (n + 1,)
            or self.offsets[0] != 0
            or self.offsets[-1] != m
            or (self.counts < 0).any()
        ):
            raise DataError(
                f"offsets must rise from 0 to {m}, the number of rows, in {n + 1} entries for {n} series"
            )
        for name in ("time", "channel", "value"):
            if getattr(self, name).shape != (m,):
                raise ShapeError(
                    f"{name} has shape {getattr(self, name).shape}, expected ({m},): one entry for each row"
                )
        bad = ~np.isfinite(self.time)
        if bad.any():
            raise DataError(f"time[{columns.first(bad)}] is {self.time[bad][0]}, expected a finite number")
        bad = np.isinf(self.value)
        if bad.any():
            raise DataError(f"value[{columns.first(bad)}] is {self.value[bad][0]}, expected a finite number")
        bad = (self.channel < 0) | (self.channel >= len(self.channel_names))
        if bad.any():
            raise DataError(
                f"channel[{columns.first(bad)}] = {self.channel[bad][0]}, expected 0 to {len(self.channel_names) - 1}"
            )
        before = (self.time[1:] < self.time[:-1]) | (
            (self.time[1:] == self.time[:-1]) & (self.channel[1:] < self.channel[:-1])
        )
        starts = self.offsets[1:-1]
        before[starts[(starts > 0) & (starts < m)] - 1] = False  # the next series may start earlier
        if before.any():
            row = int(np.argmax(before)) + 1
            raise DataError(
                f"row {row} (time {self.time[row]}) is out of order: rows of a series go by (time, channel)"
            )

    # building ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_long(
        cls, table: Any, id: str = "id", time: str = "time", variable: str = "variable", value: str | None = "value",
        static: Any = None, *, duplicates: Duplicates = "keep", on_unsorted: OnUnsorted = "sort",
        time_unit: str = "h", origin: Any = None,
    ) -> Self:  # fmt: skip
        """Read a long table: one row for each observation, in any order.

        Series come in the order of their sorted ids, channels by their sorted names, so that the order of the rows
        does not matter. A NaN value is "not observed": its row goes, its id and its variable stay.

        Parameters
        ----------
        table : pandas.DataFrame or mapping of columns
        id, time, variable, value : str
            Columns. Ids and variables are integers or strings. Times are numbers (kept to the bit), durations, or
            dates, which become ``time_unit`` since ``origin``. ``value=None`` reads a query: rows asked for, all NaN.
        static : list of str or table, optional
            Columns of ``table`` that are constant within an id, or a table of its own with one row an id (a column or
            an index of ids). The latter sets the order of the series and adds those without any observation.
        duplicates : "keep", "mean", "last" or "raise"
            What to do with rows of one (id, time, variable). The default loses nothing: two readings in one minute
            are two measurements. See `merge_duplicates`.
        on_unsorted : "sort" or "raise"
        time_unit : str
            For dates and durations one of ns, us, ms, s, m, h, D.
        origin : date, optional
            Where time is zero if times are dates; by default the earliest date of this table. Give the same one to
            every table that must share a clock.

        Raises
        ------
        DataError
            A missing or doubled column, text among the values, a time that is NaN or infinite, no rows.

        Examples
        --------
        >>> table = {"id": ["b", "a"], "time": [1.0, 0.0], "variable": ["x", "x"], "value": [2.0, 1.0]}
        >>> Series.from_long(table).ids.tolist()
        ['a', 'b']
        """
        fields = conversions.from_long(
            table, id=id, time=time, variable=variable, value=value, static=static, duplicates=duplicates,
            on_unsorted=on_unsorted, time_unit=time_unit, origin=origin,
        )  # fmt: skip
        return cls(**fields)

    @classmethod
    def from_wide(
        cls, table: Any, id: str = "id", time: str = "time", channels: Sequence[str] | None = None, static: Any = None,
        *, duplicates: Duplicates = "keep", on_unsorted: OnUnsorted = "sort", time_unit: str = "h", origin: Any = None,
    ) -> Self:  # fmt: skip
        """Read a wide table: one row for each visit, one column for each channel, NaN where it was not observed.

        ``channels`` are by default all columns but the id, the time and the static ones, in the order of the table;
        the other arguments are those of `from_long`.

        Examples
        --------
        >>> table = {"id": [1, 1], "time": [0.0, 1.0], "HR": [80.0, float("nan")], "pH": [7.4, 7.3]}
        >>> Series.from_wide(table)
        Series(1 series, 3 observations, 2 channels, time 0.0 to 1.0 h)
        """
        fields = conversions.from_wide(
            table, id=id, time=time, channels=channels, static=static, duplicates=duplicates, on_unsorted=on_unsorted,
            time_unit=time_unit, origin=origin,
        )  # fmt: skip
        return cls(**fields)

    @classmethod
    def from_padded(
        cls, values: Any, times: Any, lengths: Any = None, *, ids: Any = None,
        channel_names: Sequence[str] | None = None, duplicates: Duplicates = "keep", on_unsorted: OnUnsorted = "sort",
        time_unit: str = "h",
    ) -> Self:  # fmt: skip
        """Read a padded grid in which NaN means "not observed".

        Parameters
        ----------
        values : (series, time, channel)
            Time second: sktime and aeon put it last, see `from_sktime`.
        times : (time,) or (series, time)
        lengths : (series,) integers, optional
            Steps of each series that count; what lies beyond is padding and is not looked at. Never guessed from NaN.
        ids : (series,), optional
            By default 0, 1, ...
        channel_names : sequence of str, optional
            By default "0", "1", ...
        duplicates, on_unsorted, time_unit
            See `from_long`.

        Examples
        --------
        >>> import numpy as np
        >>> Series.from_padded(np.ones((3, 5, 2)), np.arange(5), lengths=[5, 0, 2]).counts.tolist()
        [10, 0, 4]
        """
        fields = conversions.from_padded(
            values, times, lengths, ids=ids, channel_names=channel_names, duplicates=duplicates,
            on_unsorted=on_unsorted, time_unit=time_unit,
        )  # fmt: skip
        return cls(**fields)

    @classmethod
    def concatenate(cls, parts: Sequence["Series"]) -> "Series":
        """Put the rows of several records together by id; an id that occurs in several parts becomes one series.

        So records of different series are stacked, and the two sides of a `split` give back the whole. Ids come in
        the order in which they are first met.

        Raises
        ------
        DataError
            Where parts differ in channels, unit or origin, an id is repeated within a part, or the covariates or
            labels of one id differ.
        """
        return cls(**conversions.concatenate(parts))

    # size and selection --------------------------------------------------------------------------------------------

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
        """Stable int64 key of each id for keyed noise, ``(series,)``: integers themselves, strings hashed to 63 bits."""
        if self.ids.dtype.kind == "i":
            return _frozen(self.ids, np.int64)
        digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in self.ids.tolist())
        return _frozen([int.from_bytes(digest, "big") >> 1 for digest in digests], np.int64)

    def __getitem__(self, key: Any) -> Self:
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]  # scikit-learn writes X[index, ...]
        chosen = np.atleast_1d(np.arange(len(self))[key])
        if chosen.ndim != 1:
            raise ShapeError(f"index has {chosen.ndim} axes, expected one: a Series has the series axis only")
        counts = self.counts[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], counts)
        return self.replace(
            ids=self.ids[chosen], offsets=offsets, time=self.time[rows], channel=self.channel[rows],
            value=self.value[rows], static=None if self.static is None else self.static[chosen],
            labels=None if self.labels is None else self.labels[chosen],
        )  # fmt: skip

    def index_of(self, ids: Any) -> Array:
        """Position of each of ``ids`` among the series, ``(k,)``; an id that is not here is a `DataError`."""
        wanted = np.atleast_1d(np.asarray(ids))
        place = {name: i for i, name in enumerate(self.ids.tolist())}
        found = np.array([place.get(name, -1) for name in wanted.tolist()], dtype=np.int64)
        if (found < 0).any():
            i = int(np.argmax(found < 0))
            raise DataError(f"ids[{i}] = {wanted[i]!r} is not among the {len(self)} series")
        return found

    def rows_of_series(self) -> Array:
        """Index of the series that each row belongs to, ``(row,)`` int64."""
        return np.repeat(np.arange(len(self)), self.counts)

    def select_channels(self, names: Sequence[str]) -> Self:
        """Keep the rows of the named channels, which become the channels in this order."""
        unknown = [name for name in names if name not in self.channel_names]
        if unknown:
            raise DataError(f"names: no channel {unknown[0]!r}; there are {', '.join(self.channel_names)}")
        return self._recode(names)

    def align_channels(self, names: Sequence[str]) -> Self:
        """Number the channels as ``names`` does; names without observations are allowed, the reverse is an error.

        What a fitted estimator does with new data, in which a rare channel may not occur.
        """
        for k in np.unique(self.channel).tolist():
            if self.channel_names[k] not in names:
                raise DataError(
                    f"channel {self.channel_names[k]!r} is observed but not among {', '.join(names)}"
                )
        return self._recode(names)

    def _recode(self, names: Sequence[str]) -> Self:
        names = columns.names(names, len(names), "", argument="names")
        code = np.array([names.index(c) if c in names else -1 for c in self.channel_names], dtype=np.int32)[
            self.channel
        ]
        order = np.lexsort((code, self.time, self.rows_of_series()))
        order = order[code[order] >= 0]
        offsets = np.concatenate([[0], np.cumsum(code >= 0)])[self.offsets]
        return self.replace(
            offsets=offsets,
            time=self.time[order],
            channel=code[order],
            value=self.value[order],
            channel_names=names,
        )

    def keep(self, rows: Array) -> Self:
        """Only the rows where the boolean array ``rows`` is true; every series stays, be it empty."""
        rows = np.asarray(rows)
        if rows.shape != self.time.shape or rows.dtype != bool:
            raise ShapeError(f"rows is {rows.dtype} {rows.shape}, expected bool {self.time.shape}")
        offsets = np.concatenate([[0], np.cumsum(rows)])[self.offsets]
        return self.replace(
            offsets=offsets, time=self.time[rows], channel=self.channel[rows], value=self.value[rows]
        )

    # laws ----------------------------------------------------------------------------------------------------------

    def split(self, time: Any) -> tuple[Self, Self]:
        """Split every series at ``time`` (one number, or one for each series) into what came before and the rest.

        Returns
        -------
        history, future : Series
            Rows with ``t < time`` and with ``t >= time``. Both have all series, in the same order, some perhaps empty;
            `concatenate` puts them together again.
        """
        at = columns.finite(time, argument="time")
        if at.shape not in ((), (len(self),)):
            raise ShapeError(
                f"time has shape {at.shape}, expected one number or ({len(self)},), one for each series"
            )
        before = self.time < np.broadcast_to(at, (len(self),))[self.rows_of_series()]
        return self.keep(before), self.keep(~before)

    def drop(self, rate: float, how: Literal["points", "times"] = "points", *, seed: int = 0) -> Self:
        """Leave out the fraction ``rate`` of each series, rounded down, chosen by ``seed`` and the series' id.

        The choice does not depend on the other series, and what a lower rate drops a higher one drops too. A series
        that has observations keeps at least one, because ``rate`` is below one.

        Parameters
        ----------
        rate : float
            In [0, 1).
        how : "points" or "times"
            Leave out rows one by one, or whole time points with all their channels.
        seed : int
        """
        if not 0 <= rate < 1:
            raise DataError(f"rate is {rate}, expected a number in [0, 1)")
        if how not in ("points", "times"):
            raise DataError(f"how is {how!r}, expected 'points' or 'times'")
        series = self.rows_of_series()
        fresh = np.ones(len(series), dtype=bool)
        if how == "times":
            fresh[1:] = (np.diff(self.time) != 0) | (np.diff(series) != 0)
        unit = np.cumsum(fresh) - 1  # what is dropped or kept as a whole
        owner = series[fresh]
        start = np.searchsorted(owner, np.arange(len(self)))
        size = np.bincount(owner, minlength=len(self))
        bits = _mix(
            _mix(_mix(np.uint64(seed % 2**64)) ^ self.keys.astype(np.uint64))[owner]
            ^ (np.arange(len(owner)) - start[owner]).astype(np.uint64)
        )
        order = np.lexsort((bits, owner))
        rank = np.empty(len(owner), dtype=np.int64)
        rank[order] = np.arange(len(owner)) - start[owner]
        return self.keep((rank >= np.floor(rate * size + 1e-9)[owner])[unit])

    def merge_duplicates(self, how: Duplicates = "mean") -> Self:
        """Treat rows of one (series, time, channel).

        ``"mean"`` averages them (to the same bits in whatever order they came), ``"last"`` takes the one that came
        last, ``"raise"`` refuses them, ``"keep"`` leaves them.
        """
        series, time, channel, value = conversions.merge_duplicates(
            self.rows_of_series(),
            self.time,
            self.channel,
            self.value,
            how,
            ids=self.ids,
            names=self.channel_names,
        )
        offsets = np.searchsorted(series, np.arange(len(self) + 1))
        return self.replace(offsets=offsets, time=time, channel=channel, value=value)

    def replace(self, **fields: Any) -> Self:
        """Return the record with some fields exchanged and all of them checked again."""
        return dataclasses.replace(self, **fields)

    def with_values(self, value: Any) -> Self:
        """Return the same rows with other values, ``(row,)``."""
        return self.replace(value=value)

    def query(self, times: Any, channels: Sequence[str] | None = None) -> Self:
        """Ask for every one of ``channels`` (all of them) of every series at ``times``, (time,) or (series, time)."""
        asked = self.channel_names if channels is None else tuple(channels)
        at = columns.finite(times, argument="times")
        if at.ndim not in (1, 2) or (at.ndim == 2 and len(at) != len(self)):
            raise ShapeError(
                f"times has shape {at.shape}, expected (time,) or (series, time) with {len(self)} series"
            )
        at = np.sort(np.broadcast_to(at, (len(self), at.shape[-1])), axis=1)
        code = np.sort([self.channel_names.index(name) for name in self.select_channels(asked).channel_names])
        shape = (*at.shape, len(code))
        return self.replace(
            offsets=np.arange(len(self) + 1) * (shape[1] * shape[2]), time=np.repeat(at.ravel(), len(code)),
            channel=np.broadcast_to(code, shape).ravel(), value=np.full(shape, np.nan).ravel(),
        )  # fmt: skip

    # giving back ---------------------------------------------------------------------------------------------------

    def to_long(
        self, id: str = "id", time: str = "time", variable: str = "variable", value: str = "value"
    ) -> Any:
        """Return a pandas DataFrame with one row an observation, in the order of the record.

        `from_long` reads it back to the bit. Series and channels without any row are not in it: give ``static=
        to_static()`` for the former and use `align_channels` for the latter.
        """
        import pandas as pd

        if len(np.unique(self.ids)) < len(self):
            raise DataError("ids: an id occurs twice, so a long table could not tell the two series apart")
        stamp = self.time if self.origin is None else columns.dates(self.time, self.time_unit, self.origin)
        names = np.array(self.channel_names, dtype=object)[self.channel]
        ids = (self.ids if self.ids.dtype.kind == "i" else self.ids.astype(object))[self.rows_of_series()]
        return pd.DataFrame({id: ids, time: stamp, variable: names, value: self.value})

    def to_static(self) -> Any:
        """Return a pandas DataFrame of the static covariates, one row a series, indexed by id."""
        import pandas as pd

        static = np.empty((len(self), 0)) if self.static is None else self.static
        index = pd.Index(self.ids if self.ids.dtype.kind == "i" else self.ids.astype(object), name="id")
        return pd.DataFrame(static.copy(), index=index, columns=list(self.static_names))

    def to_padded(self, duplicates: Duplicates = "mean") -> tuple[Array, Array, Array]:
        """Return each series on the grid of its own times.

        Parameters
        ----------
        duplicates : "mean", "last", "raise" or "keep"
            A grid has one place for each (time, channel): rows that share it are merged, see `merge_duplicates`.
            ``"keep"`` repeats the time instead, so that `from_padded` gives back every row to the bit.

        Returns
        -------
        values : (series, time, channel) float64, NaN where not observed
        times : (series, time) float64, NaN beyond the length
        lengths : (series,) int64
        """
        merged = self.merge_duplicates(duplicates)
        series, m = merged.rows_of_series(), len(merged.time)
        moved = np.ones(m, dtype=bool)
        moved[1:] = (np.diff(series) != 0) | (np.diff(merged.time) != 0)
        another = moved.copy()
        another[1:] |= np.diff(merged.channel) != 0
        row = np.arange(m)
        again = row - np.maximum.accumulate(
            np.where(another, row, 0)
        )  # how often this (time, channel) came before
        instant = np.cumsum(moved) - 1
        height = np.zeros(instant[-1] + 1 if m else 0, dtype=np.int64)
        np.maximum.at(height, instant, again + 1)
        below = np.concatenate([[0], np.cumsum(height)])
        step = below[instant] + again
        step -= step[np.minimum(merged.offsets[:-1], max(m - 1, 0))][series] if m else 0
        lengths = np.zeros(len(self), dtype=np.int64)
        np.maximum.at(lengths, series, step + 1)
        longest = int(lengths.max(initial=0))
        values = np.full((len(self), longest, len(self.channel_names)), np.nan)
        times = np.full((len(self), longest), np.nan)
        values[series, step, merged.channel] = merged.value
        times[series, step] = merged.time
        return values, times, lengths

    def equals(self, other: "Series") -> bool:
        """Whether every field is the same to the bit (missing entries equal one another)."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))
        return all(_same(a, b) for a, b in pairs)

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        raise DataError(
            "a Series is ragged and not one array; use to_padded(), or an estimator that takes a Series"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, f.name) for f in dataclasses.fields(self))

    def __repr__(self) -> str:
        span = f", time {self.time.min()} to {self.time.max()} {self.time_unit}" if len(self.time) else ""
        return f"Series({len(self)} series, {len(self.time)} observations, {len(self.channel_names)} channels{span})"


def _frozen(values: Any, dtype: Any = None) -> Array:
    array = np.asarray(values, dtype=dtype)
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array


def _same(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return type(a) is type(b) and a == b
    return a.dtype.kind == b.dtype.kind and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _mix(x: Array) -> Array:
    """Finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, figure 16): a bijection of 64 bits."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
