"""Whatever kind comes in, the same record; and results in the kind that came."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosde.data import Series
from neurosde.errors import DataError, ShapeError
from neurosde.io import as_query, as_series, like, series_to_xarray


@pytest.fixture
def grid():
    values = np.random.default_rng(0).normal(size=(3, 4, 2))
    values[0, 1, 0] = values[2, :, 1] = np.nan
    return values


def sktime_panel(grid):
    n, steps, channels = grid.shape
    index = pd.MultiIndex.from_product([range(n), range(steps)], names=["instance", "time"])
    return pd.DataFrame(grid.reshape(-1, channels), index=index, columns=list(map(str, range(channels))))


def dataset(grid):
    n, steps, channels = grid.shape
    coords = {
        "series": np.arange(n),
        "time": np.arange(steps),
        "channel": np.array([str(k) for k in range(channels)], object),
    }
    return xr.Dataset({"x": (("series", "time", "channel"), grid)}, coords)


def test_every_kind_reads_as_the_same_record(grid):
    series = Series.from_padded(grid, np.arange(4.0))
    for kind in (
        series,
        series.to_long(),
        grid,
        torch.tensor(grid),
        sktime_panel(grid),
        dataset(grid),
        dataset(grid)["x"],
    ):
        assert as_series(kind).equals(series), type(kind)


def test_results_come_back_in_the_kind_that_came(grid):
    np.testing.assert_array_equal(like(as_series(grid), grid), grid)
    panel = sktime_panel(grid)
    pd.testing.assert_frame_equal(
        like(as_series(panel), panel), panel.loc[panel.notna().any(axis=1)], check_index_type=False
    )
    long = as_series(grid).to_long()
    pd.testing.assert_frame_equal(like(as_series(long), long), long)
    ds = dataset(grid)
    assert as_series(like(as_series(ds), ds)).equals(as_series(ds))
    assert isinstance(like(as_series(ds["x"]), ds["x"]), xr.DataArray)
    series = as_series(grid)
    assert like(series, series) is series
    with pytest.raises(DataError, match=r"time\[0\] is 0.5, which is none of the 4 steps"):
        like(series.replace(time=series.time + 0.5), grid)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.booleans())
def test_datasets_hold_ragged_and_shared_times(seed, shared):
    rng = np.random.default_rng(seed)
    times = rng.uniform(size=(3, 5)).cumsum(axis=1)
    series = Series.from_padded(
        rng.normal(size=(3, 5, 2)),
        times[0] if shared else times,
        None if shared else [5, 0, 2],
        ids=["b", "a", "c"],
    ).replace(static=np.array([[1.0], [np.nan], [3.0]]), static_names=("age",), time_unit="D")
    ds = series_to_xarray(series)
    assert ("time" in ds["value"].dims) == shared
    assert Series.from_xarray(ds).equals(series)


def test_dates_survive_a_dataset_and_a_file(tmp_path):
    stamps = pd.to_datetime(["2024-01-01", "2024-01-03", "2024-01-02"])
    series = Series.from_long(
        {"id": [0, 0, 1], "time": stamps, "variable": ["x"] * 3, "value": [1.0, 2.0, 3.0]}
    )
    ds = series_to_xarray(series)
    ds.to_netcdf(tmp_path / "series.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "series.nc", engine="h5netcdf") as back:
        assert Series.from_xarray(back.load()).to_long().equals(series.to_long())


def test_case_15_other_containers_are_named():
    with pytest.raises(ShapeError, match=r"X has shape \(3, 4\), .* snapshot estimator"):
        as_series(np.ones((3, 4)))
    with pytest.raises(DataError, match="snapshots_from_anndata"):
        as_series(AnnData(np.eye(2)))
    with pytest.raises(DataError, match=r"no column 'variable' \(columns: 'id', 'time', 'HR'\).*from_wide"):
        as_series(pd.DataFrame({"id": [1], "time": [0.0], "HR": [3.0]}))
    with pytest.raises(DataError, match="is text"):
        as_series("series.csv")


@pytest.fixture
def history():
    values = np.arange(12.0).reshape(2, 3, 2)
    series = Series.from_padded(values, np.arange(3.0), ids=["b", "a"], channel_names=["HR", "pH"])
    return series.replace(static=np.array([[1.0], [2.0]]), static_names=("age",))


def table():
    rows = {"id": ["a", "b", "a", "a"], "time": [5.0, 4.0, 3.0, 5.0], "variable": ["pH", "HR", "pH", "HR"]}
    return pd.DataFrame(rows, index=[9, 7, 5, 3])


def answers(query):
    """A prediction that knows what it was asked: the row as text."""
    s = query.series
    return np.array(
        [
            f"{s.ids[i]} {t:g} {s.channel_names[c]}"
            for i, t, c in zip(s.rows_of_series(), s.time, s.channel, strict=True)
        ]
    )


def test_table_queries_come_back_row_by_row(history):
    df = table()
    query = as_query(df, history)
    assert query.series.ids.tolist() == ["b", "a"]
    assert query.series.channel_names == history.channel_names
    assert query.series.static.tolist() == [[1.0], [2.0]]
    filled = query.fill(answers(query))
    assert filled["value"].tolist() == [f"{i} {t:g} {v}" for i, t, v in df.itertuples(index=False)]
    pd.testing.assert_frame_equal(filled[["id", "time", "variable"]], df)
    labelled = query.label(np.stack([query.series.time, -query.series.time], axis=1), ["low", "high"])
    assert labelled["low"].tolist() == df["time"].tolist()
    assert list(labelled.columns) == ["id", "time", "variable", "low", "high"]
    assert np.isnan(query.series.value).all()
    scored = as_query(df.assign(value=[1.0, np.nan, 3.0, 4.0]), history)
    np.testing.assert_array_equal(scored.place(scored.series.value), [1.0, np.nan, 3.0, 4.0])


def test_series_queries_come_back_row_by_row(history):
    asked = Series.from_long(table(), value=None)
    query = as_query(asked, history)
    back = query.fill(query.series.time)
    assert back.equals(asked.with_values(asked.time))
    assert query.label(query.series.time[:, None], ["t"]).ravel().tolist() == asked.time.tolist()
    same = history.query([7.0])
    assert as_query(same, history).order.tolist() == list(range(4))


def test_time_queries_come_back_as_a_grid(history):
    query = as_query([6.0, 5.0], history)
    filled = query.fill(answers(query))
    assert filled.shape == (2, 2, 2)
    assert filled[0].tolist() == [["b 6 HR", "b 6 pH"], ["b 5 HR", "b 5 pH"]]
    assert filled[1, 1].tolist() == ["a 5 HR", "a 5 pH"]


def test_queries_share_the_clock_of_the_history():
    stamps = pd.to_datetime(["2024-01-01", "2024-01-02"])
    history = Series.from_long({"id": [0, 0], "time": stamps, "variable": ["x"] * 2, "value": [1.0, 2.0]})
    later = pd.DataFrame({"id": [0], "time": stamps[1:] + pd.Timedelta("6h"), "variable": ["x"]})
    assert as_query(later, history).series.time.tolist() == [30.0]
    assert as_query(later["time"].to_numpy(), history).series.time.tolist() == [30.0]
    assert as_query(history.query([30.0]), history).series.origin == history.origin
    for wrong in (later.assign(time=30.0), [30.0]):
        with pytest.raises(DataError, match="query: time is zero at None"):
            as_query(wrong, history)


def test_queries_that_the_history_cannot_answer(history):
    with pytest.raises(DataError, match="'z' is not among the 2 series"):
        as_query(table().assign(id="z"), history)
    with pytest.raises(DataError, match="channel 'Na' is observed but not among HR, pH"):
        as_query(table().assign(variable="Na"), history)
    with pytest.raises(DataError, match="query: the table has no column 'variable'"):
        as_query(table().drop(columns="variable"), history)
    with pytest.raises(ShapeError, match=r"query has shape \(1, 1\)"):
        as_query([[1.0]], history)
    with pytest.raises(ShapeError, match="expected 4 rows"):
        as_query(table(), history).fill(np.ones(3))
