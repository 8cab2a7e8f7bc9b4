"""Scores against closed forms, against scoringrules, and against broken twins."""

import math

import numpy as np
import pytest
import scoringrules
import torch
from scipy import stats

from neurosde import scores
from neurosde.errors import DataError, ShapeError


@pytest.fixture
def rng():
    return np.random.default_rng(20240501)


def test_micro_pools_and_macro_averages_channels():
    y = np.zeros(5)
    prediction = np.array([1.0, 1.0, 1.0, 1.0, 6.0])
    channel = np.array([0, 0, 0, 0, 3])
    assert scores.mse(y, prediction) == pytest.approx((4 + 36) / 5)
    assert scores.mse(y, prediction, channel=channel, average="macro") == pytest.approx((1 + 36) / 2)
    assert scores.mae(y, prediction, channel=channel, average="macro") == pytest.approx((1 + 6) / 2)
    by_channel = scores.mse(y, prediction, channel=channel, average="channel")
    np.testing.assert_allclose(by_channel, [1.0, np.nan, np.nan, 36.0])
    # The broken twin, the pooled mean given out as macro, is told apart.
    assert abs(scores.mse(y, prediction) - scores.mse(y, prediction, channel=channel, average="macro")) > 1


def test_macro_pools_a_channel_over_all_its_entries_not_over_batches():
    y, prediction = np.zeros((2, 3)), np.array([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]])
    channel = np.array([[0, 0, 0], [0, 1, 1]])
    macro = scores.mse(y, prediction, channel=channel, average="macro")
    assert macro == pytest.approx(((1 + 1 + 1 + 4) / 4 + 0) / 2)


def test_weights_mask_and_weigh(rng):
    y, prediction = rng.normal(size=(4, 7)), rng.normal(size=(4, 7))
    mask = rng.random((4, 7)) < 0.5
    holes = np.where(mask, y, np.nan)
    assert scores.mse(holes, prediction, weights=mask) == pytest.approx(((y - prediction)[mask] ** 2).mean())
    pointwise = scores.mse(holes, prediction, weights=mask, average="none")
    np.testing.assert_array_equal(np.isnan(pointwise), ~mask)
    doubled = scores.mse(np.r_[y[0], y[0]], np.r_[prediction[0], prediction[0]])
    assert scores.mse(y[0], prediction[0], weights=np.full(7, 2.0)) == pytest.approx(doubled)


def test_gaussian_scores_equal_scoringrules_and_closed_forms(rng):
    y, mean, sd = rng.normal(size=200), rng.normal(size=200), rng.uniform(0.1, 3.0, size=200)
    ours = scores.crps_gaussian(y, mean, sd, average="none")
    np.testing.assert_allclose(ours, scoringrules.crps_normal(y, mean, sd), rtol=1e-10)
    assert scores.crps_gaussian(1.0, 1.0, 2.0) == pytest.approx(2.0 * (math.sqrt(2) - 1) / math.sqrt(math.pi))
    assert scores.nll_gaussian(y, mean, sd) == pytest.approx(
        -stats.norm.logpdf(y, mean, sd).mean(), rel=1e-12
    )


def test_ensemble_crps_is_fair_and_equals_scoringrules(rng):
    y, samples = rng.normal(size=50), rng.normal(size=(9, 50))
    ours = scores.crps_ensemble(y, samples, average="none")
    np.testing.assert_allclose(ours, scoringrules.crps_ensemble(y, samples.T, estimator="fair"), atol=1e-12)


def test_fair_crps_is_unbiased_for_two_samples_and_the_plain_form_is_not(rng):
    n = 200_000
    y, samples = rng.normal(size=n), rng.normal(size=(2, n))
    truth = 1.0 / math.sqrt(math.pi)  # E of the Gaussian CRPS under its own law, sd 1
    fair = scores.crps_ensemble(y, samples, average="none")
    plain = np.abs(samples - y).mean(0) - np.abs(samples[0] - samples[1]) / 4.0
    limit = stats.norm.isf(1e-5 / 2) / math.sqrt(n)
    assert abs(fair.mean() - truth) < limit * fair.std()
    assert abs(plain.mean() - truth) > limit * plain.std()  # the broken twin is rejected


def test_mixture_crps_equals_scoringrules_and_contains_the_other_two(rng):
    shape = (30, 3)
    y, mean, sd = rng.normal(size=30), rng.normal(size=shape), rng.uniform(0.2, 2.0, size=shape)
    weight = rng.dirichlet(np.ones(3), size=30)
    ours = scores.crps_mixture(y, mean[None], sd[None], weight[None], average="none")
    np.testing.assert_allclose(ours, scoringrules.crps_mixnorm(y, mean, sd, weight), rtol=1e-9)
    one = scores.crps_mixture(y, mean[None, :, :1], sd[None, :, :1], np.ones((1, 30, 1)), average="none")
    np.testing.assert_allclose(one, scores.crps_gaussian(y, mean[:, 0], sd[:, 0], average="none"))
    members = rng.normal(size=(7, 30, 1))
    narrow = scores.crps_mixture(y, members, np.full((7, 30, 1), 1e-9), np.ones((7, 30, 1)), average="none")
    np.testing.assert_allclose(narrow, scores.crps_ensemble(y, members[..., 0], average="none"), atol=1e-8)


def test_mixture_crps_is_fair_for_two_members(rng):
    n = 200_000
    y, members, weight = rng.normal(size=n), 0.8 * rng.normal(size=(2, n, 1)), np.ones((2, n, 1))
    fair = scores.crps_mixture(y, members, np.full((2, n, 1), 0.6), weight, average="none")
    pooled = members.transpose(2, 1, 0), np.full((1, n, 2), 0.6), np.full((1, n, 2), 0.5)
    plain = scores.crps_mixture(y, *pooled, average="none")  # the broken twin: the two members as one mixture
    truth = 1.0 / math.sqrt(math.pi)  # the law is N(0, 1)
    limit = stats.norm.isf(1e-5 / 2) / math.sqrt(n)
    assert abs(fair.mean() - truth) < limit * fair.std()
    assert abs(plain.mean() - truth) > limit * plain.std()


def test_pinball_integrates_to_half_the_crps(rng):
    y = rng.normal(size=20)
    levels = (np.arange(2000) + 0.5) / 2000
    loss = np.mean([scores.pinball(y, np.full(20, stats.norm.ppf(a)), a) for a in levels])
    assert 2 * loss == pytest.approx(scores.crps_gaussian(y, np.zeros(20), np.ones(20)), rel=2e-3)


def test_intervals_against_scoringrules_and_by_hand(rng):
    y, lower = rng.normal(size=100), rng.normal(size=100) - 1.0
    upper = lower + rng.uniform(0.1, 2.0, size=100)
    ours = scores.winkler(y, lower, upper, 0.9, average="none")
    np.testing.assert_allclose(ours, scoringrules.interval_score(y, lower, upper, 0.1), rtol=1e-12)
    assert scores.coverage([0.0, 1.0, 2.0], [0.0] * 3, [1.0] * 3) == pytest.approx(2 / 3)
    assert scores.width(lower, upper) == pytest.approx((upper - lower).mean())
    half = stats.norm.ppf(0.95)
    assert scores.coverage(rng.normal(size=20_000), np.full(20_000, -half), np.full(20_000, half)) == (
        pytest.approx(0.9, abs=4.5 * math.sqrt(0.09 / 20_000))
    )


def test_pit_is_flat_for_a_calibrated_ensemble_and_not_for_a_narrow_one(rng):
    n, m = 20_000, 49
    y, samples = rng.normal(size=n), rng.normal(size=(m, n))
    honest = scores.pit_calibration(scores.pit(y, samples), n_levels=m)
    narrow = scores.pit_calibration(scores.pit(y, 0.7 * samples), n_levels=m)
    assert honest < 0.01 < 0.05 < narrow
    assert scores.pit_calibration(np.ones(10)) == pytest.approx(0.5)
    channel = np.repeat([0, 1], n // 2)
    u = np.where(channel == 0, rng.random(n), 1.0)
    assert scores.pit_calibration(u, channel=channel, average="macro") == pytest.approx(0.25, abs=0.01)
    np.testing.assert_allclose(scores.pit([0.0], [[0.0], [0.0], [0.0]]), [0.5])


def test_tensors_stay_tensors_and_carry_gradients():
    y = torch.tensor([0.0, 1.0, float("nan")], dtype=torch.float64)
    mask = torch.tensor([True, True, False])
    mean = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    log_sd = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def loss(mean, log_sd):
        return scores.crps_gaussian(y, mean, log_sd.exp(), weights=mask)

    assert torch.autograd.gradcheck(loss, (mean, log_sd))
    (gradient,) = torch.autograd.grad(loss(mean, log_sd), mean)
    assert gradient.isfinite().all()
    samples = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ensemble = scores.crps_ensemble(torch.zeros(3, dtype=torch.float64), samples.requires_grad_())
    assert ensemble.requires_grad
    assert ensemble.item() == pytest.approx(scores.crps_ensemble(np.zeros(3), samples.detach().numpy()))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: scores.mse([0.0], [0.0, 1.0]), ShapeError, "prediction must have the shape of y"),
        (lambda: scores.mse([0.0, np.nan], [0.0, 1.0]), DataError, r"y must be finite.*entry \(1,\) is nan"),
        (lambda: scores.mse([], []), DataError, "no entry of positive weight"),
        (lambda: scores.mse([0.0], [0.0], weights=[0.0]), DataError, "no entry of positive weight"),
        (lambda: scores.mse([0.0], [0.0], weights=[-1.0]), DataError, "not negative"),
        (lambda: scores.mse([0.0], [0.0], average="macro"), DataError, "channel is needed"),
        (lambda: scores.mse([0.0], [0.0], average="mean"), DataError, "average must be"),
        (lambda: scores.mse([0.0], [0.0], channel=[0.5], average="macro"), DataError, "integers"),
        (lambda: scores.mse([0.0], [0.0], channel=[-1], average="macro"), DataError, "negative"),
        (lambda: scores.mse(["a"], [0.0]), DataError, "real numbers"),
        (lambda: scores.crps_ensemble([0.0], [[0.0]]), ShapeError, "at least 2 samples"),
        (lambda: scores.crps_ensemble([0.0, 1.0], [[0.0], [1.0]]), ShapeError, "sample"),
        (lambda: scores.crps_mixture([0.0], [[0.0]], [[1.0]], [[1.0]]), ShapeError, "component"),
        (lambda: scores.crps_mixture([0.0], [[[0.0]]], [[[1.0, 1.0]]], [[[1.0]]]), ShapeError, "one shape"),
        (lambda: scores.crps_gaussian([0.0], [0.0], [0.0]), DataError, "sd must be positive"),
        (lambda: scores.coverage([0.0], [1.0], [0.0]), DataError, "not below lower"),
        (lambda: scores.pinball([0.0], [0.0], 1.0), DataError, "alpha must lie strictly between"),
        (lambda: scores.winkler([0.0], [0.0], [0.0], 0.0), DataError, "level must lie strictly between"),
        (lambda: scores.pit_calibration([1.5]), DataError, r"in \[0, 1\]"),
        (lambda: scores.pit_calibration([0.5], average="none"), DataError, "calibration error"),
        (lambda: scores.pit_calibration([0.5], n_levels=0), DataError, "at least 1"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
