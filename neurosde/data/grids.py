"""Padded grids and labelled arrays into the fields of a `Series`, and back."""

from typing import Any

import numpy as np

from neurosde.data import columns
from neurosde.data.rows import Duplicates, Fields, OnUnsorted, check_order, ragged, repeats
from neurosde.data.tables import from_visits
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array, Sequence


def from_padded(
    values: Any, times: Any, lengths: Any, names: tuple[Any, Sequence[str] | None], duplicates: Duplicates,
    on_unsorted: OnUnsorted, time_unit: str,
) -> Fields:  # fmt: skip
    """Read a grid (series, time, channel), see `Series.from_padded`."""
    grid = columns.numbers(values, argument="values")
    if grid.ndim != 3:
        hint = "; a single channel has its axis too: values[..., None]" if grid.ndim == 2 else ""
        raise ShapeError(f"values has shape {grid.shape}, expected (series, time, channel){hint}")
    n, steps, channels = grid.shape
    at, origin = columns.times(times, time_unit, argument="times")
    inside = extent(at, lengths, n, steps)
    at = np.broadcast_to(at, (n, steps))
    ids = np.arange(n) if names[0] is None else columns.unboxed(names[0])
    if len(ids) != n:
        raise ShapeError(f"ids has {len(ids)} entries, expected one for each of {n} series")
    channel_names = columns.names(names[1], channels, argument="channel_names")
    check_order(np.nonzero(inside)[0], at[inside], ids, on_unsorted)
    series, step, channel = np.nonzero(inside[..., None] & ~np.isnan(grid))
    value = grid[series, step, channel]
    fields = ragged(
        series, at[series, step], channel, value, ids=ids, names=channel_names, duplicates=duplicates
    )
    return fields | {"channel_names": channel_names, "time_unit": time_unit, "origin": origin}


def extent(times: Array, lengths: Any, n: int, steps: int) -> Array:
    """Which entries of a padded grid count, ``(series, time)``; the times of these must be finite."""
    if times.shape not in ((steps,), (n, steps)):
        raise ShapeError(
            f"times has shape {times.shape}, expected (time,) = ({steps},) or (series, time) = {(n, steps)}"
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
    bad = inside & ~np.isfinite(times)
    if bad.any():
        i, j = np.argwhere(bad)[0].tolist()
        entry = np.broadcast_to(times, bad.shape)[i, j]
        raise DataError(f"times[{i}, {j}] is {entry}, expected a finite time; padding is told by lengths")
    return inside


def to_padded(record: Any) -> tuple[Array, Array, Array]:
    """Lay a record on the grid of each series' own times; a repeated (time, channel) opens another step."""
    n, m, series = len(record.ids), len(record.time), record.rows_of_series()
    row = np.arange(m)
    again = row - np.maximum.accumulate(np.where(repeats(series, record.time, record.channel), 0, row))
    opens = np.ones(m, dtype=bool)
    opens[1:] = (np.diff(series) != 0) | (np.diff(record.time) != 0)
    height = np.maximum.reduceat(again, np.flatnonzero(opens)) + 1 if m else np.zeros(0, dtype=np.int64)
    lengths = np.bincount(series[opens], weights=height, minlength=n).astype(np.int64)
    before = np.cumsum(height) - height
    step = before[np.cumsum(opens) - 1] + again - (np.cumsum(lengths) - lengths)[series]
    values = np.full((n, int(lengths.max()), len(record.channel_names)), np.nan)
    times = np.full(values.shape[:2], np.nan)
    values[series, step, record.channel] = record.value
    times[series, step] = record.time
    return values, times, lengths


def from_xarray(ds: Any, duplicates: Duplicates, time_unit: str) -> Fields:
    """Read a Dataset, see `Series.from_xarray`."""
    if type(ds).__name__ == "DataArray":
        raise DataError("ds is a DataArray, expected a Dataset: da.to_dataset(name='value')")
    blocks, names = [], []
    for name, array in ds.data_vars.items():
        clock = [dim for dim in array.dims if dim in ("time", "step")]
        kind = [dim for dim in array.dims if dim in ("channel", "variable")]
        if "series" not in array.dims or len(clock) != 1 or len(array.dims) != 2 + len(kind):
            continue
        ordered = array.transpose("series", *clock, *kind).values
        blocks.append(ordered if kind else ordered[..., None])
        names += [str(v) for v in ds[kind[0]].values] if kind else [str(name)]
    if not blocks or len({block.shape[1] for block in blocks}) != 1:
        shapes = {str(name): dict(array.sizes) for name, array in ds.data_vars.items()}
        raise ShapeError(f"ds has {shapes}, expected variables (series, time) or (series, time, channel)")
    grid = np.concatenate(blocks, axis=2)
    stamp = ds["time" if "time" in ds.coords or "time" in ds.dims else "step"]
    times = (stamp.transpose("series", ...) if stamp.ndim == 2 else stamp).values
    lengths = ds["length"].values if "length" in ds else None
    unit = str(ds.attrs.get("time_unit", time_unit))
    fields = from_padded(grid, times, lengths, (ds["series"].values, names), duplicates, "sort", unit)
    if "static" in ds:
        covariates = ds["static"].transpose("series", "covariate")
        fields |= {"static": covariates.values, "static_names": tuple(map(str, ds["covariate"].values))}
    return fields


def from_sktime(panel: Any, duplicates: Duplicates, time_unit: str) -> Fields:
    """Read a panel in one of sktime's layouts, see `Series.from_sktime`."""
    if isinstance(panel, np.ndarray):
        if panel.ndim != 3:
            raise ShapeError(
                f"panel has shape {panel.shape}, expected sktime's numpy3D (series, channel, time)"
            )
        grid = np.swapaxes(panel, 1, 2)
        steps = np.arange(grid.shape[1])
        return from_padded(grid, steps, None, (None, None), duplicates, "sort", time_unit)
    levels = panel.index.nlevels
    if levels != 2:
        raise DataError(f"panel has {levels} index levels, expected sktime's pd-multiindex (instance, time)")
    ids, series = columns.codes(panel.index.get_level_values(0), argument="instance")
    visits = {name: columns.column(panel, name, argument="panel") for name in panel}
    stamp = panel.index.get_level_values(1)
    return from_visits(ids, series, stamp, visits, duplicates, "sort", time_unit)
