"""Rows (series, time, channel, value) in any order, brought into the one order that a `Series` keeps."""

from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from neurosde import noise
from neurosde.data import columns
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array, Sequence

Duplicates: TypeAlias = Literal["keep", "mean", "last", "raise"]
OnUnsorted: TypeAlias = Literal["sort", "raise"]
Fields: TypeAlias = dict[str, Any]


def ragged(
    series: Array, time: Array, channel: Array, value: Array, *, ids: Array, names: Sequence[str],
    duplicates: Duplicates,
) -> Fields:  # fmt: skip
    """Sort rows by (series, time, channel), ties in the order they came, and cut them into series."""
    if len(ids) == 0:
        raise DataError("0 series: there is nothing to read")
    if not _is_sorted(series, time, channel):
        order = np.lexsort((channel, time, series))
        series, time, channel, value = series[order], time[order], channel[order], value[order]
    series, time, channel, value = merge(series, time, channel, value, duplicates, ids=ids, names=names)
    return {"ids": ids, "offsets": cut(series, len(ids)), "time": time, "channel": channel, "value": value}


def cut(series: Array, n: int) -> Array:
    """Offsets of ``n`` series among rows that are sorted by series, ``(series + 1,)``."""
    return np.searchsorted(series, np.arange(n + 1))


def gather(offsets: Array, chosen: Array) -> tuple[Array, Array]:
    """Rows of the chosen series, one series after the other, and their offsets."""
    counts = np.diff(offsets)[chosen]
    new = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(new[-1]) + np.repeat(offsets[chosen] - new[:-1], counts), new


def positions(key: Any, n: int) -> Array:
    """Positions along the series axis for an integer, slice, mask or index array, ``(k,)``."""
    if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
        key = key[0]  # scikit-learn writes X[index, ...]
    chosen = np.atleast_1d(np.arange(n)[key])
    if chosen.ndim != 1:
        raise ShapeError(f"index has {chosen.ndim} axes, expected one: the series axis")
    return chosen


def locate(ids: Array, wanted: Array) -> Array:
    """Position of each of the wanted ids among ``ids``, ``(k,)`` int64."""
    place = {name: i for i, name in enumerate(ids.tolist())}
    found = np.array([place.get(name, -1) for name in wanted.tolist()], dtype=np.int64)
    if (found < 0).any():
        i = columns.first(found < 0)
        raise DataError(f"ids[{i}] = {columns.told(wanted[i])} is not among the {len(ids)} series")
    return found


def _is_sorted(series: Array, time: Array, channel: Array) -> bool:
    new, later = np.diff(series), np.diff(time)
    return bool(np.all((new > 0) | ((new == 0) & ((later > 0) | ((later == 0) & (np.diff(channel) >= 0))))))


def check_order(series: Array, time: Array, ids: Array, policy: OnUnsorted) -> None:
    """Under "raise", refuse rows whose time is below that of the row before in the same series."""
    if policy not in ("sort", "raise"):
        raise DataError(f"on_unsorted is {policy!r}, expected 'sort' or 'raise'")
    if policy == "raise":
        order = np.argsort(series, kind="stable")
        falls = (np.diff(series[order]) == 0) & (np.diff(time[order]) < 0)
        if falls.any():
            row = int(order[1:][falls].min())
            raise DataError(
                f"row {row}: time {time[row]} is before an earlier row of id {columns.told(ids[series[row]])}"
            )


def check(record: Any) -> None:
    """Refuse the fields of a `Series` that contradict one another, see its constructor."""
    n, m, c = len(record.ids), len(record.time), len(record.channel_names)
    if record.ids.ndim != 1 or record.ids.dtype.kind not in "iU":
        kind = f"{record.ids.dtype} {record.ids.shape}"
        raise DataError(f"ids is {kind}, expected one axis of integers or strings")
    if n == 0:
        raise DataError("0 series: a record holds at least one")
    offsets = record.offsets
    if offsets.shape != (n + 1,) or offsets[0] != 0 or offsets[-1] != m or (np.diff(offsets) < 0).any():
        raise DataError(f"offsets must be {n + 1} integers that rise from 0 to {m}, the number of rows")
    width = len(record.static_names)
    for name, shape in {
        "time": (m,),
        "channel": (m,),
        "value": (m,),
        "labels": (n,),
        "static": (n, width),
    }.items():
        field = getattr(record, name)
        if field is not None and field.shape != shape:
            raise ShapeError(f"{name} has shape {field.shape}, expected {shape} for {n} series and {m} rows")
    unsorted = np.zeros(m, dtype=bool)
    if m:
        gap = np.diff(record.time)
        unsorted[1:] = (gap < 0) | ((gap == 0) & (np.diff(record.channel) < 0))
        unsorted[offsets[:-1][np.diff(offsets) > 0]] = False  # where a series begins
    for name, bad, wanted in (
        ("time", ~np.isfinite(record.time), "a finite number"),
        ("value", np.isinf(record.value), "a finite number"),
        ("channel", (record.channel < 0) | (record.channel >= c), f"0 to {c - 1}, an index of channel_names"),
        ("time", unsorted, "the rows of a series to be sorted by (time, channel)"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise DataError(f"{name}[{row}] is {getattr(record, name)[row]}, expected {wanted}")


def repeats(series: Array, time: Array, channel: Array) -> Array:
    """Whether each row has the (series, time, channel) of the row before, ``(row,)``."""
    same = np.zeros(len(time), dtype=bool)
    same[1:] = (np.diff(series) == 0) & (np.diff(time) == 0) & (np.diff(channel) == 0)
    return same


def merge(
    series: Array, time: Array, channel: Array, value: Array, policy: Duplicates, *, ids: Array,
    names: Sequence[str],
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Treat repeats of (series, time, channel) among sorted rows, see `Series.merge_duplicates`."""
    if policy not in ("keep", "mean", "last", "raise"):
        raise DataError(f"duplicates is {policy!r}, expected 'keep', 'mean', 'last' or 'raise'")
    again = repeats(series, time, channel)
    if policy == "keep" or not again.any():
        return series, time, channel, value
    if policy == "raise":
        i = int(np.argmax(again))
        where = f"id {columns.told(ids[series[i]])}, time {time[i]}, variable {names[channel[i]]!r}"
        raise DataError(
            f"{int(again.sum())} rows repeat an (id, time, variable), first {where}; accept them with"
            " duplicates='mean', 'last' or 'keep'"
        )
    start = np.flatnonzero(~again)
    stop = np.append(start[1:], len(time))
    if policy == "last":
        merged = value[stop - 1]
    else:
        group, size = np.cumsum(~again) - 1, stop - start
        ascending = value[np.lexsort((value, group))]  # one order of summation, whatever order they came in
        least = ascending[start]  # equal readings have themselves as their mean; halves do not overflow
        half = np.add.reduceat((ascending / 2 - least[group] / 2) / size[group], start)
        merged = least + half + half
    return series[start], time[start], channel[start], merged


def recode(record: Any, names: Sequence[str]) -> Fields:
    """Fields of a record whose channels are numbered as ``names`` does, without the rows of the others."""
    names = columns.names(names, len(names), argument="names")
    code = np.array([names.index(c) if c in names else -1 for c in record.channel_names], dtype=np.int32)
    channel, series = code[record.channel], record.rows_of_series()
    order = np.flatnonzero(channel >= 0)
    if not _is_sorted(series[order], record.time[order], channel[order]):
        order = order[np.lexsort((channel[order], record.time[order], series[order]))]
    fields = {name: getattr(record, name)[order] for name in ("time", "value")}
    offsets = cut(series[order], len(record.ids))
    return fields | {"offsets": offsets, "channel": channel[order], "channel_names": names}


def asked(record: Any, times: Array, names: Sequence[str]) -> Fields:
    """Fields of a query for the named channels of every series at ``times``, (time,) or (series, time)."""
    n = len(record.ids)
    if times.ndim not in (1, 2) or (times.ndim == 2 and len(times) != n):
        raise ShapeError(f"times has shape {times.shape}, expected (time,) or ({n} series, time)")
    at = np.sort(np.broadcast_to(times, (n, times.shape[-1])), axis=1)
    code = np.sort([record.channel_names.index(name) for name in names])
    value = np.full((*at.shape, len(code)), np.nan)
    fields = {"offsets": np.arange(n + 1) * value[0].size, "time": np.repeat(at, len(code))}
    return fields | {"channel": np.broadcast_to(code, value.shape).ravel(), "value": value.ravel()}


def survivors(offsets: Array, time: Array, keys: Array, rate: float, how: str, seed: int) -> Array:
    """Which rows stay when the fraction ``rate`` of each series is left out, see `Series.drop`."""
    if not 0 <= rate < 1:
        raise DataError(f"rate is {rate}, expected a number in [0, 1)")
    if how not in ("points", "times"):
        raise DataError(f"how is {how!r}, expected 'points' or 'times'")
    series = np.repeat(np.arange(len(keys)), np.diff(offsets))
    opens = np.ones(len(time), dtype=bool)  # the row opens a new unit: what stays or goes as a whole
    if how == "times":
        opens[1:] = (np.diff(time) != 0) | (np.diff(series) != 0)
    owner = series[opens]
    start = cut(owner, len(keys))
    within = np.arange(len(owner)) - start[owner]
    draw = noise.chain(noise.as_seed(seed), torch.tensor(keys[owner]), torch.as_tensor(within))
    order = np.lexsort((np.asarray(draw), owner))
    stays = np.empty(len(owner), dtype=bool)
    stays[order] = within >= np.floor(rate * np.diff(start) + 1e-9)[owner]  # 0.3 of 10 is 3, not 2.99...
    return stays[np.cumsum(opens) - 1]


def concatenate(parts: Sequence[Any]) -> Fields:
    """Put records together by id, see `Series.concatenate`."""
    if len(parts) == 0:
        raise DataError("parts: 0 series: there is nothing to put together")
    shared = ("channel_names", "static_names", "time_unit", "origin")
    for p, part in enumerate(parts):
        for name in shared:
            if getattr(part, name) != getattr(parts[0], name):
                was, now = getattr(parts[0], name), getattr(part, name)
                raise DataError(
                    f"{name}: parts[0] has {was!r}, parts[{p}] has {now!r}; see align_channels, origin="
                )
        if part.ids.dtype.kind != parts[0].ids.dtype.kind:
            a, b = columns.told(parts[0].ids[0]), columns.told(part.ids[0])
            raise DataError(f"ids: parts[0] has ids like {a}, parts[{p}] like {b}; use one type")
        if len(np.unique(part.ids)) < len(part.ids):
            raise DataError(f"parts[{p}]: an id occurs twice, so its series cannot be told apart")
    every = np.concatenate([part.ids for part in parts])
    _, met, inverse = np.unique(every, return_index=True, return_inverse=True)
    position = np.argsort(np.argsort(met))[inverse]  # ids in the order in which they are first met
    sizes = [len(part.ids) for part in parts]
    pieces = zip(np.cumsum(sizes) - sizes, parts, strict=True)
    series = np.concatenate([position[start + part.rows_of_series()] for start, part in pieces])
    time, channel, value = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("time", "channel", "value")
    )
    first = np.sort(met)
    fields = ragged(
        series, time, channel, value, ids=every[first], names=parts[0].channel_names, duplicates="keep"
    )
    for name in ("static", "labels"):
        given = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        if len(given) not in (0, len(parts)):
            raise DataError(f"{name}: {len(given)} of {len(parts)} parts have it; give it to all or to none")
        if given:
            stacked = np.concatenate(given)
            expected = stacked[first][position]
            differs = (stacked != expected) & ((stacked == stacked) | (expected == expected))
            if differs.any():
                row = int(np.argmax(differs.reshape(len(every), -1).any(axis=1)))
                raise DataError(f"{name}: the parts differ for id {columns.told(every[row])}")
            fields[name] = stacked[first]
    return fields | {name: getattr(parts[0], name) for name in shared}
