"""Records and sample paths as labelled arrays of xarray."""

from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from neurosde.data import Series, columns
from neurosde.errors import ShapeError
from neurosde.typing import Array, Mapping, Sequence


def series_to_xarray(series: Series) -> Any:
    """Return an xarray Dataset that `Series.from_xarray` reads back.

    Returns
    -------
    xarray.Dataset
        ``value`` (series, time, channel) if all series share their times; otherwise ``value`` (series, step,
        channel) with the coordinate ``time`` (series, step), NaN beyond ``length`` (series,). ``static``
        (series, covariate) where there are covariates. Rows of one (series, time, channel) are averaged.

    Examples
    --------
    >>> ds = series_to_xarray(Series.from_padded(np.ones((2, 3, 1)), [0.0, 1.0, 5.0]))
    >>> dict(ds["value"].sizes)
    {'series': 2, 'time': 3, 'channel': 1}
    """
    import xarray as xr

    values, times, lengths = series.to_padded()
    stamp = _stamp(times, series.time_unit, series.origin)
    coords: dict[str, Any] = {
        "series": columns.plain(series.ids),
        "channel": np.array(series.channel_names, object),
    }
    shared = len(times.T) > 0 and not np.isnan(times).any() and (times == times[0]).all()
    if shared:
        coords["time"] = stamp[0]
    else:
        coords |= {"time": (("series", "step"), stamp), "length": ("series", lengths)}
    data: dict[str, Any] = {"value": (("series", "time" if shared else "step", "channel"), values)}
    if series.static is not None:
        coords["covariate"] = np.array(series.static_names, object)
        data["static"] = (("series", "covariate"), series.static)
    return xr.Dataset(data, coords, {"time_unit": series.time_unit})


def paths_to_xarray(
    paths: Any, times: Any, *, ids: Any = None, variables: Sequence[str] | None = None, time_unit: str = "h",
    origin: Any = None, attrs: Mapping[str, Any] | None = None,
) -> Any:  # fmt: skip
    """Return sample paths as an xarray Dataset, ready for ``quantile(dim="sample")``, netCDF and zarr.

    Parameters
    ----------
    paths : (sample, time, variable) or (sample, series, time, variable)
        Array or tensor; a tensor is detached and copied to the CPU.
    times : (time,) or (series, time)
        In ``time_unit``; the latter may be padded with NaN.
    ids : (series,), optional
        By default 0, 1, ...
    variables : sequence of str, optional
        By default "0", "1", ...
    time_unit : str
    origin : date, optional
        Where time is zero: the coordinate then holds dates.
    attrs : mapping, optional
        More attributes: the estimator, the seed. Strings and numbers, so that they can be written to a file.

    Returns
    -------
    xarray.Dataset
        ``paths`` on (sample, series, time, variable), or without series; per-series times are a coordinate
        (series, step). Attributes ``neurosde_version`` and ``time_unit``.

    Examples
    --------
    >>> import numpy as np
    >>> ds = paths_to_xarray(np.zeros((10, 4, 2)), [0.0, 1.0, 2.0, 3.0], variables=["x", "v"])
    >>> dict(ds["paths"].sizes)
    {'sample': 10, 'time': 4, 'variable': 2}
    """
    import xarray as xr

    block = columns.numbers(_to_numpy(paths), argument="paths")
    if block.ndim not in (3, 4):
        raise ShapeError(f"paths has shape {block.shape}, expected (sample, [series,] time, variable)")
    clock, _ = columns.times(_to_numpy(times), time_unit, origin, argument="times")
    if clock.shape != block.shape[1:-1] and clock.shape != block.shape[-2:-1]:
        raise ShapeError(
            f"times has shape {clock.shape}, expected that of the time axis of paths {block.shape}"
        )
    stamp = _stamp(clock, time_unit, origin)
    names = columns.names(variables, block.shape[-1], argument="variables")
    coords: dict[str, Any] = {"sample": np.arange(len(block)), "variable": np.array(names, object)}
    step = "time" if clock.ndim == 1 else "step"
    coords["time"] = ("time", stamp) if clock.ndim == 1 else (("series", "step"), stamp)
    dims = ("sample", step, "variable")
    if block.ndim == 4:
        dims = ("sample", "series", step, "variable")
        coords["series"] = columns.plain(columns.unboxed(np.arange(block.shape[1]) if ids is None else ids))
    facts = {"neurosde_version": version("neurosde"), "time_unit": time_unit} | dict(attrs or {})
    return xr.Dataset({"paths": (dims, block)}, coords, facts)


def _stamp(time: Array, unit: str, origin: Any) -> Array:
    """Times as they are, or as dates (NaT where they are NaN) if they have an origin."""
    if origin is None:
        return time
    known = ~np.isnan(time)
    stamp = np.full(time.shape, np.datetime64("NaT"), dtype="datetime64[ns]")
    stamp[known] = columns.dates(time[known], unit, np.datetime64(origin))
    return stamp


def _to_numpy(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
