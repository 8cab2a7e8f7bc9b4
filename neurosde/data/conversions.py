"""Tables, grids and labelled arrays into the fields of a `Series`."""

from typing import Any, Literal, TypeAlias

import numpy as np

from neurosde.data import columns
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array, Sequence

Duplicates: TypeAlias = Literal["keep", "mean", "last", "raise"]
OnUnsorted: TypeAlias = Literal["sort", "raise"]
Fields: TypeAlias = dict[str, Any]


def ragged(
    series: Array,
    time: Array,
    channel: Array,
    value: Array,
    *,
    ids: Array,
    names: Sequence[str],
    duplicates: Duplicates,
) -> Fields:
    """Rows in any order as ragged fields, each series sorted by (time, channel), ties in the order they came."""
    if len(ids) == 0:
        raise DataError("0 series: there is nothing to read")
    if not _is_sorted(series, time, channel):
        order = np.lexsort((channel, time, series))
        series, time, channel, value = series[order], time[order], channel[order], value[order]
    series, time, channel, value = merge_duplicates(
        series, time, channel, value, duplicates, ids=ids, names=names
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(series, minlength=len(ids)))])
    return {"ids": ids, "offsets": offsets, "time": time, "channel": channel, "value": value}


def _is_sorted(series: Array, time: Array, channel: Array) -> bool:
    step, same = np.diff(series), np.diff(series) == 0
    later, tied = np.diff(time), np.diff(time) == 0
    return bool(np.all((step > 0) | (same & ((later > 0) | (tied & (np.diff(channel) >= 0))))))


def check_order(series: Array, time: Array, ids: Array, policy: OnUnsorted) -> None:
    """Under "raise", refuse rows whose time is below that of an earlier row of the same series."""
    if policy not in ("sort", "raise"):
        raise DataError(f"on_unsorted is {policy!r}, expected 'sort' or 'raise'")
    if policy == "raise":
        order = np.argsort(series, kind="stable")
        falls = (np.diff(series[order]) == 0) & (np.diff(time[order]) < 0)
        if falls.any():
            row = int(order[1:][falls].min())
            raise DataError(
                f"row {row}: time {time[row]} comes before an earlier row of series {ids[series[row]]!r}"
            )


def merge_duplicates(
    series: Array,
    time: Array,
    channel: Array,
    value: Array,
    policy: Duplicates,
    *,
    ids: Array,
    names: Sequence[str],
) -> tuple[Array, Array, Array, Array]:
    """Rows sorted by (series, time, channel) with repeated triples treated by ``policy``.

    "keep" leaves them, "mean" averages them (the same bits in whatever order they came), "last" takes the one that
    came last, "raise" refuses them.
    """
    if policy not in ("keep", "mean", "last", "raise"):
        raise DataError(f"duplicates is {policy!r}, expected 'keep', 'mean', 'last' or 'raise'")
    repeat = np.zeros(len(time), dtype=bool)
    repeat[1:] = (np.diff(series) == 0) & (np.diff(time) == 0) & (np.diff(channel) == 0)
    if policy == "keep" or not repeat.any():
        return series, time, channel, value
    if policy == "raise":
        i = int(np.argmax(repeat))
        raise DataError(
            f"{int(repeat.sum())} rows repeat an (id, time, variable); the first is id {ids[series[i]]!r}, time"
            f" {time[i]}, variable {names[channel[i]]!r}; duplicates='mean', 'last' or 'keep' accepts them"
        )
    start = np.flatnonzero(~repeat)
    stop = np.append(start[1:], len(time))
    if policy == "last":
        value = value[stop - 1]
    else:
        group = np.cumsum(~repeat) - 1
        value = value[np.lexsort((value, group))]
        least = value[start]
        value = least + np.add.reduceat(value - least[group], start) / (stop - start)
    return series[start], time[start], channel[start], value


def from_long(
    table: Any, *, id: str, time: str, variable: str, value: str | None, static: Any, duplicates: Duplicates,
    on_unsorted: OnUnsorted, time_unit: str, origin: Any,
) -> Fields:  # fmt: skip
    """One row per observation."""
    ids, series = columns.codes(columns.column(table, id, argument="id"), argument=f"column {id!r}")
    variables, channel = columns.codes(
        columns.column(table, variable, argument="variable"), argument=f"column {variable!r}"
    )
    stamp = columns.column(table, time, argument="time")
    at, origin = columns.times(stamp, time_unit, origin, argument=f"column {time!r}")
    at = columns.finite(at, argument=f"column {time!r}")
    names = columns.names(list(variables), len(variables), "", argument=f"column {variable!r}")
    if value is None:
        amount, seen = np.full(len(at), np.nan), slice(None)
    else:
        amount = columns.numbers(columns.column(table, value, argument="value"), argument=f"column {value!r}")
        seen = ~np.isnan(amount)
    covariates: Fields = {}
    if static is not None:
        ids, series, covariates = _static(table, static, id, ids, series)
    check_order(series, at, ids, on_unsorted)
    fields = ragged(
        series[seen], at[seen], channel[seen], amount[seen], ids=ids, names=names, duplicates=duplicates
    )
    return {**fields, "channel_names": names, **covariates, "time_unit": time_unit, "origin": origin}


def _static(table: Any, static: Any, id: str, ids: Array, series: Array) -> tuple[Array, Array, Fields]:
    """Static covariates from columns of the long table (a list of names) or from a table of their own, one row an id.

    The rows of a table of its own set the order of the series, and name those that have no observation.
    """
    if isinstance(static, list | tuple):
        values = np.full((len(ids), len(static)), np.nan)
        for j, name in enumerate(static):
            entry = columns.numbers(
                columns.column(table, name, argument="static"), argument=f"column {name!r}"
            )
            known = np.flatnonzero(~np.isnan(entry))
            values[series[known][::-1], j] = entry[known][::-1]
            differs = known[entry[known] != values[series[known], j]]
            if len(differs):
                raise DataError(
                    f"static column {name!r} is not constant within id {ids[series[differs[0]]]!r}: row {differs[0]} has"
                    f" {entry[differs[0]]}, an earlier row {values[series[differs[0]], j]}; give it as a variable"
                )
        return ids, series, {"static": values, "static_names": tuple(static)}
    listed = list(static)
    own, place = columns.codes(static[id] if id in listed else static.index, argument=f"static[{id!r}]")
    if len(own) != len(place):
        raise DataError(f"static has more than one row for id {own[np.argmax(np.bincount(place) > 1)]!r}")
    if own.dtype.kind != ids.dtype.kind and len(own) and len(ids):
        raise DataError(f"static has ids like {own[0]!r}, the table ids like {ids[0]!r}; give both one type")
    every = np.concatenate([own[place], np.setdiff1d(ids, own)]) if len(ids) else own[place]
    sorter = np.argsort(every)
    names = [name for name in listed if name != id]
    values = np.full((len(every), len(names)), np.nan)
    for j, name in enumerate(names):
        values[: len(own), j] = columns.numbers(static[name], argument=f"static[{name!r}]")
    fields: Fields = {"static": values, "static_names": tuple(map(str, names))} if names else {}
    return every, sorter[np.searchsorted(every, ids, sorter=sorter)][series], fields


def from_wide(
    table: Any, *, id: str, time: str, channels: Sequence[str] | None, static: Any, duplicates: Duplicates,
    on_unsorted: OnUnsorted, time_unit: str, origin: Any,
) -> Fields:  # fmt: skip
    """One row per visit, one column per channel; NaN is not observed."""
    apart = {id, time, *(static if isinstance(static, list | tuple) else ())}
    chosen = list(channels) if channels is not None else [name for name in table if name not in apart]
    names = columns.names(chosen, len(chosen), "", argument="channels")
    ids, series = columns.codes(columns.column(table, id, argument="id"), argument=f"column {id!r}")
    at, origin = columns.times(
        columns.column(table, time, argument="time"), time_unit, origin, argument=f"column {time!r}"
    )
    at = columns.finite(at, argument=f"column {time!r}")
    grid = np.full((len(at), len(chosen)), np.nan)
    for j, name in enumerate(chosen):
        grid[:, j] = columns.numbers(
            columns.column(table, name, argument="channels"), argument=f"column {name!r}"
        )
    covariates: Fields = {}
    if static is not None:
        ids, series, covariates = _static(table, static, id, ids, series)
    check_order(series, at, ids, on_unsorted)
    row, channel = np.nonzero(~np.isnan(grid))
    fields = ragged(
        series[row], at[row], channel, grid[row, channel], ids=ids, names=names, duplicates=duplicates
    )
    return {**fields, "channel_names": names, **covariates, "time_unit": time_unit, "origin": origin}


def from_padded(
    values: Any, times: Any, lengths: Any, *, ids: Any, channel_names: Sequence[str] | None, duplicates: Duplicates,
    on_unsorted: OnUnsorted, time_unit: str,
) -> Fields:  # fmt: skip
    """A grid (series, time, channel); NaN is not observed, padding is what lies beyond ``lengths``."""
    grid = columns.numbers(values, argument="values")
    if grid.ndim != 3:
        hint = "; give the channel axis too: values[..., None]" if grid.ndim == 2 else ""
        raise ShapeError(f"values has shape {grid.shape}, expected (series, time, channel){hint}")
    n, steps, channels = grid.shape
    at, origin = columns.times(times, time_unit, argument="times")
    if at.shape not in ((steps,), (n, steps)):
        raise ShapeError(
            f"times has shape {at.shape}, expected ({steps},) or ({n}, {steps}): (time,) or (series, time)"
        )
    length = np.full(n, steps) if lengths is None else np.asarray(lengths)
    if length.shape != (n,) or length.dtype.kind not in "iu":
        raise ShapeError(
            f"lengths is {length.dtype} {length.shape}, expected one integer for each of {n} series"
        )
    wrong = (length < 0) | (length > steps)
    if wrong.any():
        i = columns.first(wrong)
        raise DataError(f"lengths[{i}] = {length[i]}, expected 0 to {steps}, the size of the time axis")
    inside = np.arange(steps) < length[:, None]
    at = np.broadcast_to(at, (n, steps))
    bad = inside & ~np.isfinite(at)
    if bad.any():
        raise DataError(
            f"times[{columns.first(bad)}] is {at[bad][0]}, expected a finite time; give lengths if it is padding"
        )
    labels = np.arange(n) if ids is None else np.asarray(ids)
    names = columns.names(channel_names, channels, "", argument="channel_names")
    series, step = np.nonzero(inside)
    check_order(series, at[inside], labels, on_unsorted)
    series, step, channel = np.nonzero(inside[..., None] & ~np.isnan(grid))
    fields = ragged(
        series,
        at[series, step],
        channel,
        grid[series, step, channel],
        ids=labels,
        names=names,
        duplicates=duplicates,
    )
    return {**fields, "channel_names": names, "time_unit": time_unit, "origin": origin}


def concatenate(parts: Sequence[Any]) -> Fields:
    """Fields of several records put together by id."""
    if not parts:
        raise DataError("parts: 0 series: there is nothing to put together")
    head = parts[0]
    for p, part in enumerate(parts):
        for name in ("channel_names", "static_names", "time_unit", "origin"):
            if getattr(part, name) != getattr(head, name):
                raise DataError(
                    f"parts[{p}].{name} is {getattr(part, name)!r}, that of parts[0] {getattr(head, name)!r}; make them equal"
                    " (align_channels, origin=) first"
                )
        if len(np.unique(part.ids)) < len(part.ids):
            raise DataError(f"parts[{p}]: an id occurs twice, so its series cannot be told apart")
    every = np.concatenate([part.ids for part in parts])
    _, met, inverse = np.unique(every, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(met))  # ids in the order in which they are first met
    position = rank[inverse]
    order = np.sort(met)
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])
    series = np.concatenate(
        [position[s:][part.rows_of_series()] for s, part in zip(starts, parts, strict=False)]
    )
    time, channel, value = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("time", "channel", "value")
    )
    fields = ragged(
        series, time, channel, value, ids=every[order], names=head.channel_names, duplicates="keep"
    )
    for name in ("static", "labels"):
        given = [getattr(part, name) for part in parts]
        if any(g is None for g in given) and any(g is not None for g in given):
            raise DataError(f"{name}: some of the parts have it and some have not")
        if given[0] is not None:
            stacked = np.concatenate(given)
            merged = stacked[order]
            differs = ~(
                (stacked == merged[position])
                | ((stacked != stacked) & (merged[position] != merged[position]))
            )
            if differs.any():
                raise DataError(
                    f"{name}: the parts differ for id {every[columns.first(differs.reshape(len(every), -1).any(1))]!r}"
                )
            fields[name] = merged
    keep = ("channel_names", "static_names", "time_unit", "origin")
    return {**fields, **{name: getattr(head, name) for name in keep}}
