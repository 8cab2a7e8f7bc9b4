"""Maps of times and channels: exact where they must be, and a float32 twin that collapses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosde.data import ChannelScaler, Series, TimeMap
from neurosde.errors import DataError, ShapeError

law = settings(derandomize=True, deadline=None, max_examples=60)


@law
@given(
    st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20), st.floats(-1e12, 1e12), st.floats(1e-3, 1e6)
)
def test_model_time_does_not_see_origin_or_unit(times, shift, unit):
    """Case 18: t and unit * t + shift have the same model time, up to the digits that the shift leaves."""
    times = np.array(times)
    moved = unit * times + shift
    u, v = (TimeMap.fit(t).apply(t) for t in (times, moved))
    lost = (
        8
        * np.finfo(float).eps
        * (np.abs(moved).max() / (np.ptp(moved) or 1.0) + np.abs(times).max() / (np.ptp(times) or 1.0))
    )
    if np.ptp(moved) > 0 and np.ptp(times) > 0:
        np.testing.assert_allclose(u, v, rtol=0, atol=lost + 1e-15)


@law
@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20))
def test_time_map_inverts(times):
    clock = TimeMap.fit(times)
    back = clock.invert(clock.apply(times))
    assert np.abs(back - times).max() <= 4 * np.finfo(float).eps * max(np.abs(times).max(), 1.0)
    assert clock.apply(times).min() == 0.0
    assert clock.apply(times).max() <= 1.0


def test_case_18_unix_seconds_collapse_in_float32_and_not_in_model_time():
    seconds = 1.7e9 + 30.0 * np.arange(200)
    series = Series.from_padded(np.zeros((1, 200, 1)), seconds, time_unit="s")
    assert len(np.unique(series.time)) == 200
    model_time = TimeMap.fit(series.time).apply(series.time).astype(np.float32)
    assert (np.diff(model_time) > 0).all()
    np.testing.assert_allclose(model_time, np.arange(200) / 199, rtol=1e-7)
    twin = seconds.astype(np.float32)  # cast first, shift later: the steps of 30 s are lost
    assert len(np.unique(twin)) < 100
    assert (np.diff(twin - twin[0]) == 0).any()


def test_time_map_refuses_what_is_no_time():
    for times, message in (([0.0, np.nan], r"times\[1\] is nan"), ([], "0 times"), (["a"], "is text")):
        with pytest.raises(DataError, match=message):
            TimeMap.fit(times)
    assert TimeMap.fit([5.0, 5.0]) == TimeMap(5.0, 1.0)
    with pytest.raises(DataError, match=r"scale 0.0"):
        TimeMap(0.0, 0.0)


def panel(values):
    """A record with one channel for each column."""
    return Series.from_padded(np.asarray(values, dtype=float)[None], np.arange(len(values)))


def test_standard_units():
    values = np.random.default_rng(0).normal([3.0, -2.0], [5.0, 0.1], size=(500, 2))
    values[::3, 1] = np.nan
    series = panel(values)
    scaler = ChannelScaler.fit(series)
    np.testing.assert_allclose(scaler.location, np.nanmean(values, axis=0), rtol=1e-13)
    np.testing.assert_allclose(scaler.scale, np.nanstd(values, axis=0), rtol=1e-13)
    scaled = scaler.apply(series)
    np.testing.assert_allclose(scaler.invert(scaled.value, series.channel), series.value, rtol=1e-13)


def test_robust_units_do_not_follow_an_outlier():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(2001, 1))
    clean = ChannelScaler.fit(panel(values), "robust")
    assert clean.scale[0] == pytest.approx(2.0, rel=0.1)
    values[0] = 1e30
    spoilt = ChannelScaler.fit(panel(values), "robust")
    assert spoilt.scale[0] == pytest.approx(clean.scale[0], rel=0.01)
    assert ChannelScaler.fit(panel(values), "standard").scale[0] > 1e28  # the twin that does follow
    clipped = ChannelScaler.fit(panel(values), "robust", winsorize=0.01)
    assert np.abs(clipped.apply(panel(values)).value).max() < 4


@pytest.mark.parametrize("method", ["standard", "robust"])
def test_case_7_constant_channels_and_channels_without_values(method):
    series = panel([[5.1, np.nan], [5.1, np.nan], [5.1, np.nan]])
    scaler = ChannelScaler.fit(series, method)
    assert scaler.scale.tolist() == [1, 1]
    np.testing.assert_allclose(scaler.apply(series).value, 0.0, atol=1e-14)


@pytest.mark.parametrize("method", ["standard", "robust"])
@pytest.mark.parametrize("unit", [1e12, 1e-12, 1e300])
def test_case_8_a_change_of_unit_changes_nothing(method, unit):
    values = np.random.default_rng(1).normal(size=(50, 1))
    a, b = (ChannelScaler.fit(panel(v), method).apply(panel(v)).value for v in (values, unit * values))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_mostly_constant_channel_falls_back_to_the_standard_deviation():
    values = np.ones((20, 1))
    values[0] = 11.0
    assert ChannelScaler.fit(panel(values), "robust").scale[0] == pytest.approx(values.std())


def test_scaler_refuses_what_does_not_fit():
    scaler = ChannelScaler.fit(panel([[1.0], [2.0]]))
    with pytest.raises(ShapeError, match="expected 1 of them"):
        scaler.apply(panel([[1.0, 2.0]]))
    with pytest.raises(DataError, match="'standard' or 'robust'"):
        ChannelScaler.fit(panel([[1.0]]), "minmax")
    with pytest.raises(DataError, match=r"winsorize is 0.5"):
        ChannelScaler.fit(panel([[1.0]]), winsorize=0.5)
    with pytest.raises(DataError, match=r"scale\[1\]"):
        ChannelScaler([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(ShapeError, match="scale has shape"):
        ChannelScaler([0.0, 0.0], [1.0])
