"""The forecaster starts at its baseline, beats it where there is something to learn, refuses what it must."""

import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from neurosde import scores
from neurosde.baselines import LastValue, RidgeForecaster, ShrunkForecaster
from neurosde.data import ChannelScaler, Series
from neurosde.errors import DataError, ShapeError
from neurosde.estimators import NeuralSDEForecaster
from neurosde.estimators._forecast_network import CorrectionNetwork, Mixture
from neurosde.estimators._forecast_samples import SUMMARIES, Samples, summarize
from neurosde.testing import series_case, series_checks

SMALL = {"n_cuts": 3, "state_size": 4, "hidden": 16, "n_components": 2, "n_paths": 4, "batch_size": 16}
SMALL |= {"random_state": 0}


def patients(seed, n=150, static=False):
    """A level x for each series; its square, seen after the history alone; irregular times on [0, 10].

    What is linear in the history knows nothing of the square, nor that its noise grows with the level.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(20, 40, n)
    owner = np.repeat(np.arange(n), counts)
    time, level = rng.uniform(0, 10, len(owner)), rng.normal(size=n)[owner]
    channel = np.where(time < 5, 0, rng.integers(0, 2, len(owner)))
    noise = 0.2 * rng.normal(size=len(owner))
    value = np.where(channel == 0, 80 + 10 * (level + noise), level**2 + (0.2 + np.abs(level)) * noise)
    table = {"id": owner, "time": time, "variable": np.array(["level", "square"])[channel], "value": value}
    covariates = {"id": np.arange(n), "age": rng.normal(size=n)} if static else None
    return Series.from_long(table, static=covariates)


@pytest.fixture(scope="module")
def fitted():
    model = NeuralSDEForecaster(5, 5, start="zero", max_iter=12, learning_rate=1e-2, **SMALL)
    return model.fit(patients(0))


@pytest.fixture(scope="module")
def held_back():
    series = patients(1)
    return series, *series.split(5.0)


def test_before_training_the_forecast_is_the_baseline(held_back):
    _, history, future = held_back
    for name, baseline in (("ridge", RidgeForecaster), ("shrunk", ShrunkForecaster), ("last", LastValue)):
        model = NeuralSDEForecaster(
            5, 5, start="zero", baseline=name, max_iter=0, early_stopping=False, **SMALL
        ).fit(patients(0))
        expected = baseline().fit(patients(0), 5.0).predict(history, future)
        np.testing.assert_allclose(model.predict(history, future).value, expected, rtol=1e-6)
        interval = model.predict_interval(history, future, 0.9)
        covered = scores.coverage(future.value, interval[:, 0], interval[:, 1])
        assert 0.86 < covered < 0.96  # the spread of the residuals, not yet of this entry


def test_it_beats_its_baselines(fitted, held_back):
    _, history, future = held_back
    scale = fitted.scale_[future.channel]
    ours = scores.mse(future.value / scale, fitted.predict(history, future).value / scale)
    samples = fitted.sample(history, future, 40)
    crps = scores.crps_ensemble(future.value / scale, samples / scale)
    for baseline in (LastValue, ShrunkForecaster, RidgeForecaster):
        other = baseline().fit(patients(0), 5.0)
        points, draws = other.predict(history, future), other.sample(history, future, 40)
        assert ours < 0.7 * scores.mse(future.value / scale, points / scale)
        assert crps < 0.8 * scores.crps_ensemble(future.value / scale, draws / scale)


def test_intervals_cover_and_quantiles_do_not_cross(fitted, held_back):
    _, history, future = held_back
    quantiles = fitted.predict_quantiles(history, future, [0.05, 0.25, 0.5, 0.75, 0.95])
    assert (np.diff(quantiles, axis=1) > 0).all()
    np.testing.assert_array_equal(fitted.predict_interval(history, future, 0.9), quantiles[:, [0, 4]])
    covered = scores.coverage(future.value, quantiles[:, 0], quantiles[:, 4], average="none")
    assert 0.86 < covered.mean() < 0.94
    assert scores.coverage(future.value, quantiles[:, 1], quantiles[:, 3]) < 0.65  # 50 % are not 90 %


def test_samples_agree_with_quantiles_and_mean(fitted, held_back):
    series, _, _ = held_back
    history, future = series[:4].split(5.0)
    n = 1000
    samples = fitted.set_params(n_paths=400).sample(history, future, n, seed=3)
    try:
        mean, median = fitted.predict(history, future).value, fitted.predict_quantiles(history, future, 0.5)
    finally:
        fitted.set_params(n_paths=4)
    limit = stats.norm.isf(1e-5 / len(mean)) * np.sqrt(1 / n + 1 / 400)
    assert (np.abs(samples.mean(axis=0) - mean) < limit * samples.std(axis=0)).all()
    assert (np.abs((samples < median.T).mean(axis=0) - 0.5) < limit).all()


def test_a_sample_follows_one_path(fitted, held_back):
    """A path is a function of the seed and the series."""
    series, _, _ = held_back
    history = series[:2].split(5.0)[0]
    samples = fitted.sample(history, [6.0], 50)
    assert samples.shape == (50, 4)
    np.testing.assert_array_equal(samples, fitted.sample(history, [6.0], 50))
    assert not np.array_equal(samples, fitted.sample(history, [6.0], 50, seed=5))
    # what else is asked for changes the steps of the path, but not its noise
    more = fitted.sample(history, [6.0, 7.5], 50)[:, [0, 1, 4, 5]]
    np.testing.assert_allclose(more, samples, atol=0.05 * samples.std(axis=0).max())


def test_kinds_of_query(fitted, held_back):
    series, history, future = held_back
    few = series[:5]
    history, future = few.split(5.0)
    points = fitted.predict(history, future)
    assert isinstance(points, Series)
    np.testing.assert_array_equal(points.time, future.time)
    table = future.to_long().sample(frac=1, random_state=0).drop(columns="value")
    filled = fitted.predict(history.to_long(), table)
    assert filled.columns.tolist() == ["id", "time", "variable", "value"]
    assert filled.index.equals(table.index)
    back = filled.sort_index()["value"].to_numpy()
    np.testing.assert_allclose(back, points.value, rtol=1e-12)
    interval = fitted.predict_interval(history.to_long(), table)
    assert interval.columns.tolist() == ["id", "time", "variable", "lower", "upper"]
    assert fitted.predict_quantiles(history, table, [0.1, 0.9]).columns.tolist()[3:] == ["0.1", "0.9"]
    assert fitted.sample(history, table, 3).shape == (len(table), 6)
    assert fitted.predict(history, [6.0, 7.0]).shape == (5, 2, 2)
    assert fitted.predict_quantiles(history, np.array([6.0]), 0.5).shape == (10, 1)


def test_without_a_query_it_forecasts_what_it_was_given(fitted, held_back):
    series, _, _ = held_back
    few = series[:5]
    history, future = few.split(5.0)
    np.testing.assert_array_equal(fitted.predict(few).value, fitted.predict(history, future).value)
    table = fitted.predict(few.to_long())
    assert isinstance(table, pd.DataFrame)
    np.testing.assert_allclose(table["value"], fitted.predict(history, future).value, rtol=1e-12)
    np.testing.assert_array_equal(fitted.predict_interval(few), fitted.predict_interval(history, future))


def test_arrays_and_datasets_come_back_as_they_are():
    rng = np.random.default_rng(0)
    values = np.sin(np.arange(12) / 2 + rng.uniform(0, 6, (40, 1)))[..., None] + np.zeros(2)
    values[rng.random(values.shape) < 0.2] = np.nan
    model = NeuralSDEForecaster(8, 4, start="zero", max_iter=1, **SMALL).fit(values)
    result = model.predict(values)
    assert result.shape == values.shape
    np.testing.assert_array_equal(np.isnan(result), np.isnan(values) | (np.arange(12) < 8)[:, None])
    xarray = pytest.importorskip("xarray")
    ds = xarray.Dataset({"x": (("series", "time"), values[..., 0])}, coords={"time": np.arange(12.0)})
    again = NeuralSDEForecaster(8, 4, start="zero", max_iter=1, **SMALL).fit(ds).predict(ds)
    assert isinstance(again, xarray.Dataset)


def test_score_is_minus_the_crps_in_units_of_the_channels(fitted, held_back):
    series, history, future = held_back
    scale = fitted.scale_[future.channel]
    samples = fitted.sample(history, future, 60)
    expected = scores.crps_ensemble(future.value / scale, samples / scale)
    assert fitted.score(series) == pytest.approx(-expected, rel=0.03)


def test_a_longer_history_moves_the_forecast(fitted, held_back):
    series, _, _ = held_back
    history, future = series[:20].split(6.0)
    later = fitted.predict(history, future)
    earlier = fitted.predict(series[:20].split(5.0)[0], future)
    scale = fitted.scale_[future.channel]
    error = [scores.mse(future.value / scale, x.value / scale) for x in (later, earlier)]
    assert error[0] < error[1]


def test_a_query_that_looks_back_is_refused(fitted, held_back):
    series, history, future = held_back
    with pytest.raises(DataError, match=r"query: row \d+ lies at .* after the last observation"):
        fitted.predict(series, future)
    with pytest.raises(DataError, match="query: row 0 lies at 0"):
        fitted.predict(history, [0.0, 7.0])


def test_beyond_the_horizon_it_warns_and_stays_finite(fitted, held_back):
    series, _, _ = held_back
    history = series[:5].split(5.0)[0]
    with pytest.warns(UserWarning, match="10 of 20 entries lie beyond the horizon"):
        assert np.isfinite(fitted.predict(history, [9.0, 505.0])).all()
    with pytest.warns(UserWarning, match="beyond the horizon"):
        assert np.isfinite(fitted.predict_interval(history, [505.0])).all()


def test_little_or_no_history(fitted, held_back):
    series, history, future = held_back
    rank = np.arange(len(history.time)) - history.offsets[history.rows_of_series()]
    for mask in (rank < 0, rank == 0, history.channel == 0):
        assert np.isfinite(fitted.predict_interval(history.keep(mask), future)).all()
    nothing = series.keep(series.time < 0)
    np.testing.assert_allclose(np.ptp(fitted.predict(nothing[:1], [7.0])), abs(80 - 0.5), atol=8)


def test_channels_constant_rare_and_unknown(held_back):
    train, (_, history, future) = patients(0), held_back
    train = train.with_values(np.where(train.channel == 0, 3.0, train.value))
    names = (*train.channel_names, "absent")
    train, history = train.align_channels(names), history.align_channels(names)
    model = NeuralSDEForecaster(5, 5, start="zero", max_iter=1, **SMALL).fit(train)
    first = future.channel == 0
    np.testing.assert_array_equal(model.predict_interval(history, future)[first], 3.0)
    with pytest.raises(DataError, match="'absent', which was never observed in training"):
        model.predict(history, [7.0])
    with pytest.raises(DataError, match=r"never observed|not among"):
        model.predict(history, future.replace(channel_names=("new", "square", "absent")))


def test_covariates_are_learned_and_asked_for():
    train, test = patients(0, static=True), patients(1, static=True)
    model = NeuralSDEForecaster(5, 5, start="zero", max_iter=1, **SMALL).fit(train)
    assert model.static_names_ == ["age"]
    unknown = test.replace(static=np.full_like(test.static, np.nan))
    assert np.isfinite(model.predict(unknown).value).all()
    with pytest.raises(DataError, match=r"covariates \[\], expected \['age'\]"):
        model.predict(patients(1))


def test_units_of_time_and_value_do_not_matter(held_back):
    train, series = patients(0, n=60), patients(1, n=10)
    options = {"start": "first", "max_iter": 2, **SMALL}

    def seconds(s):
        return s.replace(time=1.7e9 + 4096.0 * s.time, value=1e12 * s.value)

    plain = NeuralSDEForecaster(5, 5, **options).fit(
        train.replace(time=seconds(train).time / 4096.0 - 1.7e9 / 4096.0)
    )
    other = NeuralSDEForecaster(5 * 4096.0, 5 * 4096.0, **options).fit(seconds(train))
    rounded = series.replace(time=seconds(series).time / 4096.0 - 1.7e9 / 4096.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some entries lie beyond the horizon in both
        expected, answer = plain.predict(rounded).value, other.predict(seconds(series)).value
    np.testing.assert_allclose(answer / 1e12, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", ["crps", "nll", "mse"])
def test_losses(loss):
    model = NeuralSDEForecaster(5, 5, start="zero", loss=loss, max_iter=4, learning_rate=1e-2, **SMALL)
    if loss == "mse":
        with pytest.warns(UserWarning, match="spread"):
            model.fit(patients(0))
    else:
        model.fit(patients(0))
    reported = [row["score"] for row in model.history_]
    assert min(reported[1:]) < reported[0]


def test_training_without_noise_in_the_loss_is_told_apart():
    """The spread of the latent paths is part of the forecast: the fair CRPS of two paths sees it."""
    target = torch.zeros(2000, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2, 2000, 1, generator=generator, dtype=torch.float64)
    one = torch.ones_like(means)
    honest = Mixture(means, 1e-3 * one, one).crps(torch.randn(2000, generator=generator, dtype=torch.float64))
    collapsed = Mixture(0 * means, 1e-3 * one, one).crps(target + torch.randn(2000, generator=generator))
    assert honest.mean() < 0.8 * collapsed.mean()


def test_mixture_quantiles_and_draws_are_those_of_its_law():
    generator = torch.Generator().manual_seed(1)
    shape = (5, 40, 3)
    mixture = Mixture(
        torch.randn(shape, generator=generator, dtype=torch.float64),
        0.2 + torch.rand(shape, generator=generator, dtype=torch.float64),
        torch.softmax(torch.randn(shape, generator=generator, dtype=torch.float64), -1),
    )
    q = mixture.quantile(0.3, n_halvings=60)
    below = (mixture.weight * torch.special.ndtr((q[:, None] - mixture.mean) / mixture.sd)).sum(-1).mean(0)
    np.testing.assert_allclose(below, 0.3, atol=1e-9)
    nll = mixture.nll(q)
    density = mixture.weight * torch.exp(-0.5 * ((q[:, None] - mixture.mean) / mixture.sd) ** 2)
    density = (density / mixture.sd / np.sqrt(2 * np.pi)).sum(-1).mean(0)
    np.testing.assert_allclose(nll, -density.log())
    wide = mixture.stretched(torch.full((40,), 2.0, dtype=torch.float64))
    np.testing.assert_allclose(wide.expectation(), mixture.expectation())
    many = Mixture(*(part[:1].expand(20_000, 40, 3) for part in mixture))
    draws = many.draw(0, torch.arange(20_000)[:, None], torch.arange(40))
    first = Mixture(*(part[:1] for part in mixture))
    limit = stats.norm.isf(1e-5 / 40) / np.sqrt(20_000)
    assert ((draws.mean(0) - first.expectation()).abs() < limit * draws.std(0)).all()
    below = (draws < first.quantile(0.3, n_halvings=60)).double().mean(0)
    assert ((below - 0.3).abs() < limit * np.sqrt(0.21)).all()


def test_summaries_by_hand():
    series = Series.from_padded([[[1.0], [3.0], [2.0]], [[np.nan]] * 3], [-8.0, -4.0, -1.0])
    scaler = ChannelScaler(np.array([1.0]), np.array([2.0]))
    table = summarize(series, 8.0, scaler)
    u, age = np.arcsinh([0.0, 1.0, 0.5]), np.array([1.0, 0.5, 0.125])
    weights = np.exp(-(age - age[-1]) * 5)
    slope = -((u - u.mean()) @ (age - age.mean())) / (((age - age.mean()) ** 2).sum() + 0.06)
    expected = {
        "last": u[2], "previous": u[1], "first": u[0], "mean": u.mean(), "max": u[1], "min": u[0],
        "sd": u.std(), "slope": slope, "seen": 1, "recency": 0.875, "count": np.log(4),
        "count_quarter": np.log(2), "count_twelfth": 0, "fading_long": weights @ u / weights.sum(),
    }  # fmt: skip
    for name, value in expected.items():
        assert table[0, 0, SUMMARIES.index(name)] == pytest.approx(value, abs=1e-5), name
    np.testing.assert_array_equal(table[1], 0.0)


def test_batches_gather_rows_and_instants():
    times = np.array([[0.0, 1.0, 1.0001, 4.0], [2.0, 3.0, np.nan, np.nan]])
    query = Series.from_padded(np.ones((2, 4, 1)), np.nan_to_num(times, nan=9.0), lengths=[4, 2])
    points, target = np.arange(6.0), np.arange(6.0)
    history = query.keep(query.time < 0)
    scaler = ChannelScaler(np.zeros(1), np.ones(1))
    samples = Samples.of(history, query, np.zeros((2, 0)), points, target, 5.0, 5.0, scaler)
    batch = samples.batch(np.array([1, 0]))
    np.testing.assert_array_equal(batch.series, [0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(batch.target, [4, 5, 0, 1, 2, 3])
    np.testing.assert_array_equal(batch.step, [1, 2, 0, 1, 1, 2])  # one instant for 1 and 1.0001
    np.testing.assert_allclose(batch.times, [[0, 0.4, 0.6], [0, 0.2, 0.8]], atol=1 / 4096)
    double = Samples.concatenate([samples, samples])
    for a, b in zip(double.batch(np.array([3, 2])), batch, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(double.take(np.array([3, 2])).batch(np.arange(2)), batch, strict=True):
        assert torch.equal(a, b)
    assert [chunk.tolist() for chunk in double.chunks(6)] == [[0, 1], [2, 3]]


def test_the_latent_sde_contracts_as_certified():
    network = CorrectionNetwork(
        2, 0, state_size=4, hidden=8, n_components=1, kappa=4.0, contraction=0.4, dropout=0.0
    )
    assert network.cell.contraction_rate >= 0.4 * (1 - 1e-6)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"history": 0}, "history must be a positive finite number"),
        ({"horizon": np.inf}, "horizon must be a positive finite number"),
        ({"n_cuts": 2}, "n_cuts must be odd"),
        ({"n_paths": 0}, "n_paths must be a positive integer"),
        ({"cell": "lstm"}, r"cell must be one of \['langevin'\]"),
        ({"baseline": "arima"}, "baseline must be one of"),
        ({"dropout": 1.0}, "dropout must lie between"),
        ({"contraction": 9.0}, "contraction must not exceed kappa"),
        ({"max_iter": -1}, "max_iter"),
        ({"penalty": "error"}, r"penalty must be None or a neurosde.solve.StepPenalty, got 'error'"),
        ({"penalty_weight": -1.0}, "penalty_weight must be a finite number >= 0 or a Schedule"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(DataError, match=message):
        NeuralSDEForecaster(**parameters).fit(patients(0, n=10))


def test_groups_are_held_back_together():
    series = patients(0, n=40)
    twins = series[np.repeat(np.arange(40), 2)].replace(ids=np.arange(80))
    options = {"start": "zero", "max_iter": 1, **SMALL}
    apart = NeuralSDEForecaster(5, 5, **options).fit(twins)
    together = NeuralSDEForecaster(5, 5, **options).fit(twins, groups=np.repeat(np.arange(40), 2))
    assert apart.history_[0]["score"] != together.history_[0]["score"]
    with pytest.raises(ShapeError, match=r"groups must have shape \(80,\)"):
        NeuralSDEForecaster(5, 5, **options).fit(twins, groups=[1, 2])


def test_a_clock_that_does_not_fit_the_data_is_named():
    series = patients(0, n=10)
    with pytest.raises(DataError, match="no series has observations both in the 5 before"):
        NeuralSDEForecaster(5, 5, start="zero").fit(series.replace(time=series.time + 1.7e9))


def conformance_series(seed):
    """Twelve series of three channels at irregular times on [0, 10]."""
    rng = np.random.default_rng((seed, 1))
    counts = rng.integers(10, 20, 12)
    owner = np.repeat(np.arange(12), counts)
    time, channel = rng.uniform(0, 10, len(owner)), rng.integers(0, 3, len(owner))
    value = rng.normal(size=(12, 3))[owner, channel] + np.sin(time) + 0.1 * rng.normal(size=len(owner))
    names = np.array(["a", "b", "c"])[channel]
    return Series.from_long({"id": owner + 100 * seed, "time": time, "variable": names, "value": value})


@pytest.mark.parametrize("check", series_checks(), ids=str)
def test_conformance(check):
    model = NeuralSDEForecaster(5, 10, **SMALL | {"hidden": 8, "batch_size": 8, "max_iter": 3})
    check(series_case(model, conformance_series))


@pytest.mark.slow
def test_physionet_set_a():
    if "NEUROSDE_DATA" not in os.environ:
        pytest.skip("NEUROSDE_DATA is not set: the PhysioNet 2012 files are not there")
    from neurosde.io import read_physionet2012

    stays = read_physionet2012(Path(os.environ["NEUROSDE_DATA"]) / "series" / "physionet2012_set_a.npz")
    train, test = stays[:1500], stays[3000:]
    history, future = test.split(24.0)
    model = NeuralSDEForecaster(24, 24, start="zero", n_cuts=3, max_iter=5, random_state=0).fit(train)
    unit = model.scale_[future.channel]
    interval = model.predict_interval(history, future)
    assert 0.88 < scores.coverage(future.value, interval[:, 0], interval[:, 1]) < 0.92
    ours = -model.score(test)
    for baseline in (LastValue, ShrunkForecaster, RidgeForecaster):
        draws = baseline().fit(train, 24.0).sample(history, future, 20)
        assert ours < 0.97 * scores.crps_ensemble(future.value / unit, draws / unit)
