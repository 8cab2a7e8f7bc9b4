"""Trivial forecasters: results by hand, the published protocol's table, honest intervals, named errors."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from neurosde import scores
from neurosde.baselines import (
    Forecaster,
    LastValue,
    PatientMean,
    RidgeForecaster,
    ShrunkForecaster,
    TrainMean,
)
from neurosde.data import Series
from neurosde.errors import DataError

ALL = (TrainMean, PatientMean, LastValue, ShrunkForecaster, RidgeForecaster)


def panel(n=400, seed=0, scale=1.0, level=0.0):
    """Two channels: an own level per series plus noise, and a channel that follows the first."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(n, 1))
    first = own + 0.3 * rng.normal(size=(n, 10))
    second = 0.5 * own + 0.1 * rng.normal(size=(n, 10))
    values = level + scale * np.stack([first, second], axis=2)
    values[rng.random(values.shape) < 0.3] = np.nan
    return Series.from_padded(values, np.arange(10.0), channel_names=["a", "b"])


def by_hand():
    """Series 0 knows only channel a, series 1 only b; the targets are at times 2 and 3."""
    values = np.array([
        [[1.0, np.nan], [3.0, np.nan], [5.0, 7.0], [9.0, np.nan]],
        [[np.nan, 2.0], [np.nan, 6.0], [1.0, 4.0], [np.nan, 8.0]],
    ])  # fmt: skip
    return Series.from_padded(values, np.arange(4.0), channel_names=["a", "b"])


def test_points_by_hand():
    series = by_hand()
    history, future = series.split(2.0)
    mean_a, mean_b = np.mean([1, 3, 5, 9, 1]), np.mean([7, 2, 6, 4, 8])
    np.testing.assert_allclose(future.channel, [0, 1, 0, 0, 1, 1])
    expected = {
        TrainMean: [mean_a, mean_b, mean_a, mean_a, mean_b, mean_b],
        LastValue: [3, mean_b, 3, mean_a, 6, 6],
        PatientMean: [2, mean_b, 2, mean_a, 4, 4],
    }
    for baseline, points in expected.items():
        np.testing.assert_allclose(baseline().fit(series, 2.0).predict(history, future), points)


def test_shrunk_is_the_least_squares_solution():
    series = panel()
    history, future = series.split(5.0)
    baseline = ShrunkForecaster(penalty=0.0).fit(series, 5.0)
    residual = future.value - baseline.predict(history, future)
    tables = [PatientMean().fit(series, 5.0), LastValue().fit(series, 5.0)]
    for k in range(2):
        mine = future.channel == k
        for other in tables:  # normal equations: the residual is orthogonal to both regressors
            regressor = (other.predict(history, future) - baseline.mean_[future.channel])[mine]
            assert abs(residual[mine] @ regressor) < 1e-8 * mine.sum()


def test_ridge_uses_the_other_channel():
    series, held_back = panel(seed=1), panel(seed=2)
    only_b = held_back.split(5.0)[0]
    only_b = only_b.keep(only_b.channel == 1)
    future = held_back.split(5.0)[1]
    asked = future.keep(future.channel == 0)
    error = {}
    for baseline in ALL:
        fitted = baseline(penalty=1.0) if baseline is RidgeForecaster else baseline()
        error[baseline] = scores.mse(asked.value, fitted.fit(series, 5.0).predict(only_b, asked))
    assert error[RidgeForecaster] < 0.5 * min(error[b] for b in ALL if b is not RidgeForecaster)


@pytest.mark.parametrize("baseline", ALL)
def test_quantiles_cover_and_do_not_cross(baseline):
    series, held_back = panel(n=1500, seed=3), panel(n=1500, seed=4)
    history, future = held_back.split(5.0)
    fitted = baseline().fit(series, 5.0)
    levels = [0.05, 0.25, 0.5, 0.75, 0.95]
    quantiles = fitted.predict_quantiles(history, future, levels)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    interval = fitted.predict_interval(history, future, 0.9)
    np.testing.assert_allclose(interval, quantiles[:, [0, 4]], atol=1e-12)
    covered = scores.coverage(future.value, interval[:, 0], interval[:, 1], average="none")
    # entries of one series go together: the error bar is that of a mean over series, training's beside it
    excess = np.bincount(future.rows_of_series(), weights=covered - 0.9, minlength=len(future))
    error = np.sqrt(2 * (excess**2).sum())
    assert abs(excess.sum()) < stats.norm.isf(1e-5 / 2) * error
    narrow = fitted.predict_interval(history, future, 0.6)  # the broken twin: 60 % given out as 90 %
    assert scores.coverage(future.value, narrow[:, 0], narrow[:, 1]) < 0.8


@pytest.mark.parametrize("baseline", ALL)
def test_samples_follow_the_quantiles(baseline):
    series = panel(seed=5)
    history, future = series[:20].split(5.0)
    fitted = baseline().fit(series, 5.0)
    samples = fitted.sample(history, future, 4000, seed=1)
    assert samples.shape == (4000, len(future.time))
    np.testing.assert_array_equal(samples, fitted.sample(history, future, 4000, seed=1))
    below = (samples <= fitted.predict_quantiles(history, future, 0.3).T).mean(axis=0)
    assert np.abs(below - 0.3).max() < stats.norm.isf(1e-5 / len(below)) * np.sqrt(0.21 / 4000)


@pytest.mark.parametrize("baseline", ALL)
def test_equivariant_to_scale_and_to_the_order_of_series(baseline):
    series, big = panel(seed=6), panel(seed=6, scale=1e12, level=5e12)
    history, future = series.split(5.0)
    points = baseline().fit(series, 5.0).predict(history, future)
    again = baseline().fit(big, 5.0).predict(*big.split(5.0))
    np.testing.assert_allclose((again - 5e12) / 1e12, points, atol=1e-8)
    order = np.random.default_rng(0).permutation(len(series))
    shuffled = baseline().fit(series[order], 5.0).predict(history, future)
    np.testing.assert_allclose(shuffled, points, atol=1e-8)


@pytest.mark.parametrize("baseline", ALL)
def test_edges(baseline):
    series = panel(seed=7)
    constant = series.with_values(np.where(series.channel == 0, 3.0, series.value))
    history, future = constant.split(5.0)
    fitted = baseline().fit(constant, 5.0)
    first = future.channel == 0
    np.testing.assert_array_equal(fitted.predict(history, future)[first], 3.0)
    np.testing.assert_array_equal(fitted.predict_interval(history, future)[first], 3.0)
    nothing = history.keep(np.zeros(len(history.time), dtype=bool))
    assert np.isfinite(fitted.predict(nothing, future)).all()
    far = future.replace(time=future.time + 1e4)
    assert np.isfinite(fitted.predict_quantiles(history, far, [0.1, 0.9])).all()
    assert fitted.predict(history, future.keep(future.time < 0)).shape == (0,)


@pytest.mark.parametrize("baseline", ALL)
def test_bad_input_is_named(baseline):
    series = panel(n=30, seed=8)
    history, future = series.split(5.0)
    fitted = baseline().fit(series, 5.0)
    with pytest.raises(DataError, match=r"query: row 0 lies at 0.0, expected times from 5.0 on"):
        fitted.predict(history, series.keep(series.time >= 0))
    with pytest.raises(DataError, match=r"history: row .* expected times before 5.0"):
        fitted.predict(series, future)
    with pytest.raises(DataError, match="alpha"):
        fitted.predict_quantiles(history, future, [0.0, 0.5])
    with pytest.raises(DataError, match="coverage"):
        fitted.predict_interval(history, future, 1.0)
    with pytest.raises(DataError, match="nothing to learn"):
        baseline().fit(history, 5.0)
    unseen = series.keep(series.channel == 0)
    with pytest.raises(DataError, match="'b', which was never observed in training"):
        baseline().fit(unseen, 5.0).predict(history, future)


@pytest.fixture(scope="module")
def protocol():
    """PhysioNet 2012, sets a and b, split 42: training part, test part, and the ranges of the channels."""
    if "NEUROSDE_DATA" not in os.environ:
        pytest.skip("NEUROSDE_DATA is not set: the PhysioNet 2012 files are not there")
    from sklearn.model_selection import train_test_split

    from neurosde.io import read_physionet2012

    folder = Path(os.environ["NEUROSDE_DATA"]) / "series"
    parts = [read_physionet2012(folder / f"physionet2012_set_{name}.npz") for name in "ab"]
    stays = Series.concatenate(parts)
    seen, test = train_test_split(np.arange(8000), train_size=0.8, random_state=42, shuffle=True)
    known = stays[seen]
    low, high = np.full(37, np.inf), np.full(37, -np.inf)
    np.minimum.at(low, known.channel, known.value)
    np.maximum.at(high, known.channel, known.value)
    return stays[seen[:4800]], stays[test], np.where(high > low, high - low, 1e-8)


@pytest.mark.parametrize(
    ("baseline", "table"),
    [
        (TrainMean, (11.77, 6.25, 8.28)),
        (PatientMean, (8.10, 4.55, 5.41)),
        (LastValue, (6.63, 3.95, 4.77)),
        (ShrunkForecaster, (5.78, 3.96, 3.81)),
        (RidgeForecaster, (5.60, 3.92, 3.58)),
    ],
)
def test_table_of_the_physionet_protocol(protocol, baseline, table):
    train, test, span = protocol
    history, future = test.split(24.0)
    assert len(future.time) == 272_791
    points = baseline().fit(train, 24.0).predict(history, future) / span[future.channel]
    truth = future.value / span[future.channel]
    ours = (
        1e3 * scores.mse(truth, points, channel=future.channel, average="macro"),
        1e2 * scores.mae(truth, points, channel=future.channel, average="macro"),
        1e3 * scores.mse(truth, points),
    )
    np.testing.assert_allclose(ours, table, rtol=1e-2)


def test_last_value_on_mujoco():
    if "NEUROSDE_DATA" not in os.environ:
        pytest.skip("NEUROSDE_DATA is not set: mujoco.npy is not there")
    walks = np.load(Path(os.environ["NEUROSDE_DATA"]) / "series" / "mujoco.npy").astype(np.float64)
    windows = np.stack([walks[i, j : j + 60] for i in range(100) for j in range(40)])
    train, test = (Series.from_padded(part, np.arange(60.0)) for part in (windows[:280], windows[3400:]))
    history, future = test.split(50.0)
    error = scores.mse(future.value, LastValue().fit(train, 50.0).predict(history, future))
    assert error == pytest.approx(0.00158, rel=1e-2)


def test_forecaster_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Forecaster()
