"""Sample paths as labelled arrays."""

import numpy as np
import pytest
import torch
import xarray as xr

import neurosde
from neurosde.errors import DataError, ShapeError
from neurosde.io import paths_to_xarray


def test_axes_names_and_facts():
    ds = paths_to_xarray(np.zeros((7, 2, 3, 1)), [0.0, 1.0, 2.0], ids=["b", "a"], attrs={"seed": 3})
    assert dict(ds["paths"].sizes) == {"sample": 7, "series": 2, "time": 3, "variable": 1}
    assert ds["series"].values.tolist() == ["b", "a"]
    assert ds.attrs == {"neurosde_version": neurosde.__version__, "time_unit": "h", "seed": 3}
    assert ds["paths"].quantile(0.5, dim="sample").interp(time=0.5).shape == (2, 1)


def test_tensors_are_detached_and_files_give_them_back(tmp_path):
    paths = torch.randn(
        4, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    ds = paths_to_xarray(paths, torch.arange(3.0), variables=["x", "v"])
    ds.to_netcdf(tmp_path / "paths.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "paths.nc", engine="h5netcdf") as back:
        xr.testing.assert_identical(back.load(), ds)
    np.testing.assert_array_equal(ds["paths"].values, paths.detach().numpy())


def test_times_of_each_series_and_dates():
    times = [[0.0, 1.0], [5.0, np.nan]]
    ds = paths_to_xarray(np.zeros((3, 2, 2, 1)), times)
    assert ds["time"].dims == ("series", "step")
    dated = paths_to_xarray(np.zeros((3, 2, 2, 1)), times, origin="2024-01-01")
    assert dated["time"].values[1, 0] == np.datetime64("2024-01-01T05")
    assert np.isnat(dated["time"].values[1, 1])


def test_axes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"paths has shape \(3, 2\)"):
        paths_to_xarray(np.zeros((3, 2)), [0.0, 1.0])
    with pytest.raises(ShapeError, match=r"times has shape \(2,\)"):
        paths_to_xarray(np.zeros((3, 4, 1)), [0.0, 1.0])
    with pytest.raises(ShapeError, match="variables has 1 names"):
        paths_to_xarray(np.zeros((3, 2, 2)), [0.0, 1.0], variables=["x"])
    with pytest.raises(DataError, match=r"paths\[\(0, 0, 0\)\] is inf"):
        paths_to_xarray(np.full((1, 1, 1), np.inf), [0.0])
