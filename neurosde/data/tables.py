"""Long and wide tables into the fields of a `Series`, and back."""

from typing import Any

import numpy as np

from neurosde.data import columns
from neurosde.data.rows import Duplicates, Fields, OnUnsorted, check_order, ragged
from neurosde.errors import DataError
from neurosde.typing import Array, Mapping, Sequence


def from_long(
    df: Any, names: tuple[str, str, str, str | None], static: Any, duplicates: Duplicates,
    on_unsorted: OnUnsorted, time_unit: str, origin: Any,
) -> Fields:  # fmt: skip
    """One row for each observation, see `Series.from_long`."""
    id, time, variable, value = names
    columns.check_lengths(df, [name for name in names if name is not None])
    ids, series = columns.codes(columns.column(df, id, argument="id"), argument=f"column {id!r}")
    kinds, channel = columns.codes(
        columns.column(df, variable, argument="variable"), argument=f"column {variable!r}"
    )
    at, origin = _clock(columns.column(df, time, argument="time"), time_unit, origin, f"column {time!r}")
    if value is None:
        amount, seen = np.full(len(at), np.nan), np.ones(len(at), dtype=bool)
    else:
        amount = columns.numbers(columns.column(df, value, argument="value"), argument=f"column {value!r}")
        seen = ~np.isnan(amount)
    ids, series, covariates = _covariates(df, static, id, ids, series)
    check_order(series, at, ids, on_unsorted)
    channel_names = columns.names(list(kinds), len(kinds), argument=f"column {variable!r}")
    fields = ragged(
        series[seen],
        at[seen],
        channel[seen],
        amount[seen],
        ids=ids,
        names=channel_names,
        duplicates=duplicates,
    )
    return fields | covariates | {"channel_names": channel_names, "time_unit": time_unit, "origin": origin}


def from_wide(
    df: Any, names: tuple[str, str, Sequence[str] | None], static: Any, duplicates: Duplicates,
    on_unsorted: OnUnsorted, time_unit: str, origin: Any,
) -> Fields:  # fmt: skip
    """One row for each visit and one column for each channel, see `Series.from_wide`."""
    id, time, channels = names
    apart = {id, time, *(static if isinstance(static, list | tuple) else ())}
    chosen = [name for name in df if name not in apart] if channels is None else channels
    columns.check_lengths(df, [id, time, *chosen])
    ids, series = columns.codes(columns.column(df, id, argument="id"), argument=f"column {id!r}")
    ids, series, covariates = _covariates(df, static, id, ids, series)
    visits = {name: columns.column(df, name, argument="channels") for name in chosen}
    stamp = columns.column(df, time, argument="time")
    return covariates | from_visits(ids, series, stamp, visits, duplicates, on_unsorted, time_unit, origin)


def from_visits(
    ids: Array, series: Array, stamp: Any, visits: Mapping[Any, Any], duplicates: Duplicates,
    on_unsorted: OnUnsorted, time_unit: str, origin: Any = None,
) -> Fields:  # fmt: skip
    """Visits as columns: each one's series and time, and its value (or NaN) in each channel."""
    at, origin = _clock(stamp, time_unit, origin, "time")
    check_order(series, at, ids, on_unsorted)
    names = columns.names(list(visits), len(visits), argument="channels")
    grid = np.full((len(at), len(visits)), np.nan)
    for j, (name, entries) in enumerate(visits.items()):
        grid[:, j] = columns.numbers(entries, argument=f"column {name!r}")
    row, channel = np.nonzero(~np.isnan(grid))
    fields = ragged(
        series[row], at[row], channel, grid[row, channel], ids=ids, names=names, duplicates=duplicates
    )
    return fields | {"channel_names": names, "time_unit": time_unit, "origin": origin}


def _clock(stamp: Any, unit: str, origin: Any, argument: str) -> tuple[Array, np.datetime64 | None]:
    at, origin = columns.times(stamp, unit, origin, argument=argument)
    return columns.finite(at, argument=argument), origin


def _covariates(df: Any, static: Any, id: str, ids: Array, series: Array) -> tuple[Array, Array, Fields]:
    """Static covariates, from constant columns of the table (a list of names) or from a table of their own.

    The rows of a table of its own set the order of the series, and name those without any observation.
    """
    if static is None:
        return ids, series, {}
    if isinstance(static, list | tuple):
        return ids, series, {"static": _constants(df, static, ids, series), "static_names": tuple(static)}
    listed = list(static)
    if id in listed or isinstance(static, dict):
        labels = columns.column(static, id, argument="static")
    else:
        labels = static.index
    own, place = columns.codes(labels, argument=f"static[{id!r}]")
    if len(own) < len(place):
        twice = own[columns.first(np.bincount(place) > 1)]
        raise DataError(f"static has more than one row for id {columns.told(twice)}")
    if len(ids) and len(own) and own.dtype.kind != ids.dtype.kind:
        a, b = columns.told(own[0]), columns.told(ids[0])
        raise DataError(f"static has ids like {a}, the table has ids like {b}; make them alike")
    every = np.concatenate([own[place], np.setdiff1d(ids, own)]) if len(ids) else own[place]
    sorter = np.argsort(every)
    names = [name for name in listed if name != id]
    values = np.full((len(every), len(names)), np.nan)
    for j, name in enumerate(names):
        values[: len(own), j] = columns.numbers(static[name], argument=f"static[{name!r}]")
    series = sorter[np.searchsorted(every, ids, sorter=sorter)][series]
    return every, series, {"static": values, "static_names": tuple(map(str, names))} if names else {}


def _constants(df: Any, names: Sequence[str], ids: Array, series: Array) -> Array:
    values = np.full((len(ids), len(names)), np.nan)
    for j, name in enumerate(names):
        entry = columns.numbers(columns.column(df, name, argument="static"), argument=f"column {name!r}")
        known = np.flatnonzero(~np.isnan(entry))
        values[series[known], j] = entry[known]
        differs = known[entry[known] != values[series[known], j]]
        if len(differs):
            row = differs[0]
            who, other = columns.told(ids[series[row]]), values[series[row], j]
            raise DataError(
                f"static column {name!r} changes within id {who}: {entry[row]} in row {row}, {other} later;"
                " read it as a variable instead"
            )
    return values


def to_long(series: Any, names: Sequence[str]) -> Any:
    """Return a DataFrame with one row for each observation, see `Series.to_long`."""
    import pandas as pd

    if len(np.unique(series.ids)) < len(series.ids):
        raise DataError("ids: an id occurs twice, so a long table could not tell the two series apart")
    stamp = series.time
    if series.origin is not None:
        stamp = columns.dates(series.time, series.time_unit, series.origin)
    entries = (
        columns.plain(series.ids)[series.rows_of_series()],
        stamp,
        np.array(series.channel_names, dtype=object)[series.channel],
        series.value,
    )
    return pd.DataFrame(dict(zip(names, entries, strict=True)))


def to_static(series: Any, id: str) -> Any:
    """Return a DataFrame of the static covariates, see `Series.to_static`."""
    import pandas as pd

    static = {} if series.static is None else dict(zip(series.static_names, series.static.T, strict=True))
    return pd.DataFrame(static, index=pd.Index(columns.plain(series.ids), name=id))
