"""Tables and grids as users bring them: what is read, and bad input that is refused, by case number."""

import datetime

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosde.data import Series
from neurosde.errors import DataError, ShapeError


def table(**change):
    columns = {
        "id": [1, 1, 2],
        "time": [0.0, 1.0, 0.5],
        "variable": ["HR", "pH", "HR"],
        "value": [80.0, 7.4, 60.0],
    }
    return pd.DataFrame(columns | change)


def test_mapping_and_dataframe_read_alike():
    df = table()
    assert Series.from_long(df).equals(Series.from_long({name: df[name].to_numpy() for name in df}))
    renamed = df.rename(columns={"id": "subject_id", "variable": "code", "value": "numeric_value"})
    assert Series.from_long(renamed, "subject_id", variable="code", value="numeric_value").equals(
        Series.from_long(df)
    )


@pytest.mark.parametrize("kind", ["category", "string", object])
def test_kinds_of_strings_read_alike(kind):
    df = table(id=["x", "x", "y"])
    assert Series.from_long(df.astype({"id": kind, "variable": kind})).equals(Series.from_long(df))


@pytest.mark.parametrize("kind", ["int8", "uint64", "Int64", "float64", "category", object])
def test_kinds_of_integer_ids_read_alike(kind):
    assert Series.from_long(table().astype({"id": kind})).equals(Series.from_long(table()))


@pytest.mark.parametrize("kind", ["Float64", "float32", object])
def test_kinds_of_values_read_alike(kind):
    df = table(value=[80.0, 7.5, np.nan])
    assert Series.from_long(df.astype({"value": kind})).equals(Series.from_long(df))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, None])
def test_case_3_missing_or_infinite_times(bad):
    with pytest.raises(DataError, match=r"column 'time'\[1\] is"):
        Series.from_long(table(time=[0.0, bad, 1.0]))


def test_case_3_missing_date():
    with pytest.raises(DataError, match=r"column 'time'\[2\] is nan"):
        Series.from_long(table(time=pd.to_datetime(["2024-01-01", "2024-01-02", None])))


@pytest.mark.parametrize("empty", [table().iloc[:0], {"id": [], "time": [], "variable": [], "value": []}])
def test_case_4_empty_tables(empty):
    with pytest.raises(DataError, match="0 series"):
        Series.from_long(empty)


def test_case_4_empty_grids_and_selections():
    with pytest.raises(DataError, match="0 series"):
        Series.from_padded(np.ones((0, 3, 1)), np.arange(3))
    with pytest.raises(DataError, match="0 series"):
        Series.from_long(table())[[]]


def test_case_5_and_6_series_with_no_or_one_observation():
    series = Series.from_long(table(value=[np.nan, np.nan, 60.0]))
    assert series.ids.tolist() == [1, 2]
    assert series.counts.tolist() == [0, 1]
    assert series.channel_names == ("HR", "pH")


def test_case_9_extreme_outlier_is_data_and_infinity_is_not():
    assert Series.from_long(table(value=[1e30, 1.0, 2.0])).value.max() == 1e30
    with pytest.raises(DataError, match=r"column 'value'\[0\] is inf"):
        Series.from_long(table(value=[np.inf, 1.0, 2.0]))


def test_case_10_complex_values():
    with pytest.raises(DataError, match="complex128"):
        Series.from_long(table(value=np.array([1, 2, 3j])))


@pytest.mark.parametrize("bad", [["1.0", "2.0", "3.0"], [1.0, "high", 2.0], np.array(["a", "b", "c"])])
def test_case_11_strings_as_values(bad):
    with pytest.raises(DataError, match=r"column 'value'\[[01]\] = .* is text, expected a number"):
        Series.from_long(table(value=bad))


def test_case_11_objects_as_values():
    with pytest.raises(DataError, match="objects that are not numbers"):
        Series.from_long(table(value=[{}, 1.0, 2.0]))


@pytest.mark.parametrize(
    "bad", [[1, None, 2], ["a", np.nan, "b"], ["a", 1, "b"], [1.5, 2.0, 3.0], [(1,), (2,), (3,)]]
)
def test_case_11_ids_that_are_missing_or_mixed(bad):
    with pytest.raises(DataError, match=r"column 'id'\[[01]\] = "):
        Series.from_long(table(id=bad))


def test_case_11_variables_that_are_missing():
    with pytest.raises(DataError, match=r"column 'variable'\[2\] = "):
        Series.from_long(table(variable=["HR", "pH", None]))


def test_case_13_doubled_and_missing_columns():
    df = table()
    doubled = pd.concat([df, df[["value"]]], axis=1)
    with pytest.raises(DataError, match="2 columns are named 'value'"):
        Series.from_long(doubled)
    with pytest.raises(DataError, match=r"no column 'value' \(columns: 'id', 'time', 'variable'\)"):
        Series.from_long(df.drop(columns="value"))
    wide = pd.DataFrame([[1, 0.0, 5.0, 6.0]], columns=["id", "time", "HR", "HR"])
    with pytest.raises(DataError, match="2 columns are named 'HR'"):
        Series.from_wide(wide)


def test_columns_of_unequal_length():
    with pytest.raises(ShapeError, match=r"columns have lengths .*'time': 2"):
        Series.from_long({**table().to_dict("list"), "time": [0.0, 1.0]})
    with pytest.raises(ShapeError, match="columns have lengths"):
        Series.from_wide({"id": [1], "time": [0.0], "HR": [1.0, 2.0]})


def test_case_15_wrong_number_of_axes():
    with pytest.raises(ShapeError, match=r"\(series, time, channel\); a single channel has its axis too"):
        Series.from_padded(np.ones((3, 4)), np.arange(4))
    with pytest.raises(ShapeError, match="numpy3D"):
        Series.from_sktime(np.ones((3, 4)))


def test_case_16_unsorted_times_are_sorted_or_refused():
    df = table(id=[1, 1, 1], time=[1.0, 0.0, 0.5])
    assert Series.from_long(df).equals(Series.from_long(df.iloc[[1, 2, 0]]))
    with pytest.raises(DataError, match=r"row 1: time 0.0 is before an earlier row of id 1"):
        Series.from_long(df, on_unsorted="raise")
    assert Series.from_long(df.iloc[[1, 2, 0]], on_unsorted="raise").equals(Series.from_long(df))
    with pytest.raises(DataError, match="before an earlier row"):
        Series.from_padded(np.ones((1, 3, 1)), [0.0, 2.0, 1.0], on_unsorted="raise")
    with pytest.raises(DataError, match="on_unsorted is 'drop'"):
        Series.from_long(df, on_unsorted="drop")


def test_case_17_duplicates_by_policy():
    df = table(id=[1, 1, 1], time=[0.0, 0.0, 1.0], variable=["HR"] * 3, value=[80.0, 90.0, 70.0])
    assert Series.from_long(df).value.tolist() == [80, 90, 70]
    assert Series.from_long(df, duplicates="mean").value.tolist() == [85, 70]
    assert Series.from_long(df, duplicates="last").value.tolist() == [90, 70]
    with pytest.raises(DataError, match=r"1 rows repeat .* time 0.0, variable 'HR'"):
        Series.from_long(df, duplicates="raise")
    with pytest.raises(DataError, match="duplicates is 'first'"):
        Series.from_long(df, duplicates="first")


def test_case_17_a_padded_grid_never_repeats_a_time_unless_asked():
    df = table(id=[1, 1, 1], time=[0.0, 0.0, 1.0], variable=["HR"] * 3)
    _, times, lengths = Series.from_long(df).to_padded()
    assert times.tolist() == [[0, 1]]
    _, times, lengths = Series.from_long(df).to_padded(duplicates="keep")
    assert times.tolist() == [[0, 0, 1]]
    assert lengths.tolist() == [3]


def test_case_19_negative_times():
    series = Series.from_long(table(time=[-3.0, -1.0, -0.0]))
    assert series.time.tobytes() == np.array([-3.0, -1.0, -0.0]).tobytes()


def test_case_21_grids_of_unequal_length():
    values, times = np.ones((2, 3, 1)), np.array([[0.0, 1.0, 2.0], [0.5, np.nan, np.nan]])
    assert Series.from_padded(values, times, lengths=[3, 1]).time.tolist() == [0, 1, 2, 0.5]
    with pytest.raises(DataError, match=r"times\[1, 1\] is nan, .* padding is told by lengths"):
        Series.from_padded(values, times)
    with pytest.raises(DataError, match=r"lengths\[0\] = 4"):
        Series.from_padded(values, times, lengths=[4, 1])
    with pytest.raises(ShapeError, match="lengths is float64"):
        Series.from_padded(values, times, lengths=[3.0, 1.0])
    with pytest.raises(ShapeError, match="times has shape"):
        Series.from_padded(values, np.arange(4))
    with pytest.raises(ShapeError, match="ids has 1"):
        Series.from_padded(values, np.arange(3), ids=["a"])
    with pytest.raises(ShapeError, match="channel_names has 2 names, expected 1"):
        Series.from_padded(values, np.arange(3), channel_names=["a", "b"])


def test_dates_become_hours_since_the_first_and_come_back():
    stamps = pd.to_datetime(["2024-03-01 06:00:00.0", "2024-03-01 07:30:00.000250", "2024-02-29 18:00:00.0"])
    series = Series.from_long(table(time=stamps))
    assert series.origin == np.datetime64("2024-02-29T18:00")
    assert series.time[0] == 12.0
    back = series.to_long()
    assert sorted(back["time"]) == sorted(stamps)
    assert Series.from_long(back).equals(series)
    assert Series.from_long(table(time=stamps), origin="2024-02-29").time.min() == 18.0
    coarse = Series.from_long(
        table(time=stamps), origin="2024-02"
    )  # a month is no unit of time, its start is
    assert sorted(coarse.to_long()["time"]) == sorted(stamps)
    other = Series.from_long(table(time=stamps + pd.Timedelta("1D")), origin=series.origin)
    np.testing.assert_allclose(other.time - series.time, 24.0, rtol=1e-15)
    days = Series.from_long(table(time=stamps), time_unit="D")
    np.testing.assert_allclose(days.time * 24, series.time, rtol=1e-15)
    with pytest.raises(DataError, match="time_unit is 'year'"):
        Series.from_long(table(time=stamps), time_unit="year")


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(
        st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2040, 1, 1)), min_size=3, max_size=3
    ),
    st.sampled_from(["us", "ms", "s", "m", "h", "D"]),
)
def test_dates_come_back_exactly_to_the_microsecond(stamps, unit):
    series = Series.from_long(table(time=pd.to_datetime(stamps), id=[0, 1, 2]), time_unit=unit)
    assert series.time.min() == 0.0
    assert series.to_long()["time"].tolist() == stamps
    assert Series.from_long(series.to_long(), time_unit=unit).equals(series)


def test_nanoseconds_come_back_within_days():
    stamps = pd.to_datetime([0, 1, 7 * 86400 * 10**9 + 1])
    assert Series.from_long(table(time=stamps, id=[0, 1, 2])).to_long()["time"].tolist() == list(stamps)


def test_dates_with_a_zone_are_read_as_universal_time():
    stamps = pd.to_datetime(["2024-03-31 00:30", "2024-03-31 04:00", "2024-03-31 05:00"])
    summer = Series.from_long(table(time=stamps.tz_localize("Europe/Paris"), id=[1, 1, 1]))
    assert np.diff(summer.time).tolist() == [2.5, 1.0]  # an hour was skipped that night


def test_kinds_of_dates_and_durations_read_alike():
    stamps = [datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 2), datetime.datetime(2024, 1, 1, 12)]
    series = Series.from_long(table(time=pd.to_datetime(stamps)))
    for kind in (
        np.array(stamps, dtype="datetime64[s]"),
        np.array(stamps, dtype=object),
        [stamp.date() for stamp in stamps[:2]] + [stamps[2]],
    ):
        assert Series.from_long({**table().to_dict("list"), "time": kind}).time.tolist() in (
            [0, 24, 12],
            series.time.tolist(),
        )
    spans = [stamp - stamps[0] for stamp in stamps]
    for kind in (
        pd.to_timedelta(spans),
        np.array(spans, dtype=object),
        np.array(spans, dtype="timedelta64[ms]"),
    ):
        lasted = Series.from_long({**table().to_dict("list"), "time": kind})
        assert lasted.time.tolist() == series.time.tolist()
        assert lasted.origin is None


def test_integers_that_float64_cannot_hold_are_refused():
    nanoseconds = [1_700_000_000_000_000_001, 1_700_000_000_000_000_000, 1_700_000_000_000_000_000]
    with pytest.raises(DataError, match=r"\[0\] = 1700000000000000001 has more digits than float64"):
        Series.from_long(table(time=nanoseconds))
    assert Series.from_long(table(time=[2**53, 1, 0])).time.max() == 2.0**53


def test_dates_beyond_the_clock_are_refused():
    with pytest.raises(DataError, match="beyond the 292 years"):
        Series.from_long(
            {**table().to_dict("list"), "time": np.array(["1066-10-14"] * 3, dtype="datetime64[D]")}
        )


def test_static_columns_and_tables():
    df = table(age=[70.0, np.nan, 30.0], sex=[1, 1, 0])
    series = Series.from_long(df, static=["age", "sex"])
    assert series.static.tolist() == [[70, 1], [30, 0]]
    assert series.static_names == ("age", "sex")
    own = Series.from_long(table(), static=pd.DataFrame({"id": [3, 2], "age": [50.0, 30.0]}))
    assert own.ids.tolist() == [3, 2, 1]
    assert own.counts.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(own.static, [[50.0], [30.0], [np.nan]])
    assert Series.from_long(table(), static=own.to_static()).equals(own)
    with pytest.raises(DataError, match="static column 'age' changes within id"):
        Series.from_long(table(age=[70.0, 71.0, 30.0]), static=["age"])
    with pytest.raises(DataError, match="more than one row for id"):
        Series.from_long(table(), static=pd.DataFrame({"id": [1, 1], "age": [1.0, 2.0]}))
    with pytest.raises(DataError, match="static: the table has no column 'id'"):
        Series.from_long(table(), static={"age": [1.0, 2.0]})
    with pytest.raises(DataError, match="make them alike"):
        Series.from_long(table(), static=pd.DataFrame({"id": ["1", "2"], "age": [1.0, 2.0]}))


def test_query_tables_need_no_values():
    query = Series.from_long(table().drop(columns="value"), value=None)
    assert len(query.time) == 3
    assert np.isnan(query.value).all()


def test_wide_tables():
    df = pd.DataFrame(
        {"id": [2, 1, 1], "time": [0, 1, 0], "HR": [60.0, np.nan, 80.0], "pH": [np.nan, 7.4, np.nan]}
    )
    series = Series.from_wide(df)
    assert series.equals(Series.from_long(df.melt(["id", "time"])))
    assert Series.from_wide(df, channels=["pH"]).channel_names == ("pH",)
    assert Series.from_wide(df.assign(age=[30.0, 70.0, 70.0]), static=["age"]).static.tolist() == [[70], [30]]
    with pytest.raises(DataError, match=r"column 'HR'\[0\] = 'x' is text"):
        Series.from_wide(df.assign(HR=["x", "y", "z"]))


def test_sktime_panels():
    grid = np.arange(12.0).reshape(2, 2, 3)  # series, channel, time
    index = pd.MultiIndex.from_product([[0, 1], [0, 1, 2]], names=["instance", "time"])
    frame = pd.DataFrame({"0": grid[:, 0].ravel(), "1": grid[:, 1].ravel()}, index=index)
    assert Series.from_sktime(frame).equals(Series.from_sktime(grid))
    np.testing.assert_array_equal(Series.from_sktime(grid).to_padded()[0], np.swapaxes(grid, 1, 2))
    with pytest.raises(DataError, match="1 index levels"):
        Series.from_sktime(frame.reset_index())


def test_datasets_of_xarray():
    values = np.array([[[1.0, 2.0], [np.nan, 4.0]]])
    block = xr.Dataset(
        {"x": (("series", "time", "channel"), values)}, {"time": [0.0, 1.5], "channel": ["HR", "pH"]}
    )
    series = Series.from_xarray(block)
    assert series.channel_names == ("HR", "pH")
    assert series.time.tolist() == [0, 0, 1.5]
    apart = xr.Dataset(
        {name: (("time", "series"), values[..., k].T) for k, name in enumerate(("HR", "pH"))},
        {"time": [0.0, 1.5]},
    )
    assert Series.from_xarray(apart).equals(series)
    with pytest.raises(DataError, match="to_dataset"):
        Series.from_xarray(block["x"])
    with pytest.raises(ShapeError, match="expected variables"):
        Series.from_xarray(xr.Dataset({"x": ("time", [1.0])}))
