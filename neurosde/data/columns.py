"""Columns as users bring them, turned into clean numpy arrays or refused with the row at fault."""

import datetime
from typing import Any

import numpy as np

from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array, Sequence

UNITS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "D": 86400 * 10**9,
}
"""Nanoseconds in each time unit into which dates and durations can be turned."""


def first(bad: Array) -> int | tuple[int, ...]:
    """Index of the first true entry of a boolean array: an int for one axis, a tuple for more."""
    place = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
    return place[0] if len(place) == 1 else place


def told(entry: Any) -> str:
    """Write an entry of an array as people do: 1 and 'a', not np.int64(1) and np.str_('a')."""
    return repr(entry.item() if isinstance(entry, np.generic) else entry)


def column(table: Any, name: str, *, argument: str) -> Any:
    """Column ``name`` of a DataFrame or of a mapping of arrays; a missing or doubled name is an error."""
    listed = list(table)
    if listed.count(name) == 1:
        return table[name]
    had = ", ".join(repr(n) for n in listed) or "none"
    if name in listed:
        raise DataError(
            f"{argument}: {listed.count(name)} columns are named {name!r} (columns: {had}); rename one"
        )
    raise DataError(f"{argument}: the table has no column {name!r} (columns: {had})")


def check_lengths(table: Any, listed: Sequence[str]) -> None:
    """Refuse columns of unequal length, which a mapping may have."""
    had = list(table)
    sizes = {name: len(table[name]) for name in listed if had.count(name) == 1}
    if len(set(sizes.values())) > 1:
        raise ShapeError(f"columns have lengths {sizes}, expected one row in each for every observation")


def _floats(values: Any, argument: str) -> Array:
    """Read as float64, missing entries as NaN; refuse text, complex numbers and other objects."""
    array = np.asarray(values)
    if array.dtype.kind == "O":
        text = np.array([isinstance(v, str | bytes) for v in array.ravel()], dtype=bool).reshape(array.shape)
    else:
        text = np.full(array.shape, array.dtype.kind in "SU")
    if text.any():
        at = first(text)
        raise DataError(
            f"{argument}[{at}] = {told(array[at])} is text, expected a number; convert the column first"
        )
    if array.dtype.kind not in "biufO":
        raise DataError(f"{argument} has dtype {array.dtype}, expected real numbers")
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{argument} holds objects that are not numbers ({error}); convert them first"
        ) from error


def numbers(values: Any, *, argument: str) -> Array:
    """Read a column or array as float64 in which NaN means "not observed"; infinities are refused."""
    array = _floats(values, argument)
    if np.isinf(array).any():
        at = first(np.isinf(array))
        raise DataError(
            f"{argument}[{at}] is {array[at]}, expected a finite number, or NaN for 'not observed'"
        )
    return array


def finite(values: Any, *, argument: str) -> Array:
    """Read as float64 where every entry must be finite."""
    array = _floats(values, argument)
    bad = ~np.isfinite(array)
    if bad.any():
        raise DataError(f"{argument}[{first(bad)}] is {array[first(bad)]}, expected a finite number")
    return array


def times(
    values: Any, unit: str, origin: Any = None, *, argument: str = "time"
) -> tuple[Array, np.datetime64 | None]:
    """Read times as float64 and the date at which they are zero.

    Numbers are taken as they are, in ``unit`` (origin None). Durations become ``unit``. Dates become ``unit``
    since ``origin``, by default the earliest date (in microseconds, or nanoseconds where a date needs them).
    NaN and infinite times pass through: the caller knows which of them count, see `finite`.
    """
    array = _stamps(values)
    if array.dtype.kind not in "mM":
        _check_digits(array, argument)
        return _floats(values, argument), None
    if unit not in UNITS:
        raise DataError(f"time_unit is {unit!r}, but dates and durations need one of {', '.join(UNITS)}")
    fine = array.astype(f"{array.dtype.kind}8[ns]")
    known = ~np.isnat(fine)
    lost = known & (fine.astype(array.dtype) != array)
    if lost.any():
        i = first(lost)
        raise DataError(f"{argument}[{i}] = {array[i]} is beyond the 292 years that nanoseconds can count")
    ticks = fine.astype(np.int64)
    if array.dtype.kind == "m":
        return np.where(known, ticks / UNITS[unit], np.nan), None
    start = np.datetime64(int(ticks[known].min()) if known.any() else 0, "ns") if origin is None else origin
    zero = np.datetime64(start).astype("datetime64[ns]")
    since = ticks - int(zero.astype(np.int64))
    whole = not (ticks[known] % UNITS["us"]).any() and not int(zero.astype(np.int64)) % UNITS["us"]
    return np.where(known, since / UNITS[unit], np.nan), zero.astype("datetime64[us]") if whole else zero


def _stamps(values: Any) -> Array:
    """Times as an array in which dates and durations have their own kind, whatever they came as."""
    array = np.asarray(values)
    if array.dtype.kind != "O":
        return array
    head = next((v for v in array.ravel() if v is not None), None)
    if isinstance(head, datetime.date):  # so are datetimes and the timestamps of pandas; zones become UTC
        return np.asarray(values, dtype="datetime64[ns]")
    return np.asarray(values, dtype="timedelta64[ns]") if isinstance(head, datetime.timedelta) else array


def _check_digits(array: Array, argument: str) -> None:
    """Refuse integers that float64 cannot hold: unix nanoseconds would collapse in silence."""
    if array.dtype.kind in "iu":
        with np.errstate(invalid="ignore"):
            lost = array.astype(np.float64).astype(array.dtype) != array
        if lost.any():
            i = first(lost)
            raise DataError(
                f"{argument}[{i}] = {array[i]} has more digits than float64; pass dates or subtract an origin"
            )


def dates(time: Array, unit: str, origin: np.datetime64) -> Array:
    """Turn times in ``unit`` since ``origin`` back into dates, rounded to the resolution of the origin.

    What `times` made of dates comes back exactly, nanoseconds up to some 26 days from the origin,
    microseconds up to some 70 years.
    """
    step = "ns" if np.datetime_data(origin.dtype)[0] == "ns" else "us"
    ticks = np.rint(time * (UNITS[unit] / UNITS[step])).astype(np.int64)
    return origin + ticks.astype(f"timedelta64[{step}]")


def codes(values: Any, *, argument: str) -> tuple[Array, Array]:
    """Read labels, all integers or all strings, as their sorted distinct values and each row's index."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ShapeError(f"{argument} has shape {array.shape}, expected one axis")
    if array.dtype.kind == "f":  # a column of integers with a hole in it comes as floats
        whole = np.isfinite(array) & (np.rint(array) == array)
        if not whole.all():
            raise DataError(
                f"{argument}[{first(~whole)}] = {array[first(~whole)]}, expected an integer or a string"
            )
        array = array.astype(np.int64)
    if array.dtype.kind in "iu":
        labels, index = np.unique(array, return_inverse=True)
        return labels.astype(np.int64), index.astype(np.int64)
    if array.dtype.kind not in "OU":
        raise DataError(f"{argument} has dtype {array.dtype}, expected integers or strings")
    entries = array.tolist()
    wanted = str if entries and isinstance(entries[0], str) else int | np.integer
    wrong = [v for v in dict.fromkeys(entries) if not isinstance(v, wanted) or isinstance(v, bool)]
    if wrong:
        at = next(i for i, v in enumerate(entries) if v is wrong[0])
        raise DataError(
            f"{argument}[{at}] = {told(wrong[0])}, expected all integers or all strings, none missing"
        )
    ordered = sorted(dict.fromkeys(entries))  # hashing millions of strings is quicker than sorting them
    place = {label: i for i, label in enumerate(ordered)}
    index = np.fromiter(map(place.__getitem__, entries), np.int64, count=len(entries))
    return np.array(ordered, dtype=np.str_ if wanted is str else np.int64), index


def names(values: Sequence[Any] | None, count: int, *, argument: str) -> tuple[str, ...]:
    """Return ``count`` distinct names, by default "0", "1", ..."""
    given = tuple(map(str, range(count) if values is None else values))
    if len(given) != count:
        raise ShapeError(f"{argument} has {len(given)} names, expected {count}")
    if len(set(given)) < count:
        i = next(i for i, name in enumerate(given) if name in given[:i])
        raise DataError(f"{argument}[{i}] = {given[i]!r} occurs twice; names must be distinct")
    return given


def unboxed(labels: Any) -> Array:
    """Labels as an array of int64 or of strings, in their own order and not an array of objects."""
    distinct, index = codes(labels, argument="labels")
    return distinct[index]


def plain(labels: Array) -> Array:
    """Labels as pandas likes them: integers as they are, strings as objects."""
    return labels.astype(object) if labels.dtype.kind == "U" else labels


def frozen(values: Any, dtype: Any = None) -> Array:
    """Return a read-only array that nobody else can write to."""
    array = np.asarray(values, dtype=dtype)
    if array.flags.writeable:
        array = array.copy()
        array.flags.writeable = False
    return array


def same(a: Any, b: Any) -> bool:
    """Whether two fields of a record are equal, missing entries included."""
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return type(a) is type(b) and a == b
    return a.dtype.kind == b.dtype.kind and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
