"""Distances between snapshots against closed forms, brute force and twins that must fail."""

import itertools
import math

import numpy as np
import pytest

from neurosde import scores
from neurosde.errors import DataError, ShapeError
from neurosde.scores.snapshots import split_halves, trivial_predictions


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return rng.standard_normal((6, 3)), rng.standard_normal((6, 3)) + 1.0


def brute_force(x, y, p):
    cost = np.linalg.norm(x[:, None] - y[None], axis=-1) ** p
    best = min(cost[range(6), list(order)].mean() for order in itertools.permutations(range(6)))
    return best ** (1 / p)


@pytest.mark.parametrize("p", [1, 2])
def test_wasserstein_is_the_best_assignment(clouds, p):
    x, y = clouds
    assert scores.wasserstein(x, y, p) == pytest.approx(brute_force(x, y, p), rel=1e-12)
    twin = scores.wasserstein(x, y, 3 - p)  # W1 called W2
    assert twin != pytest.approx(brute_force(x, y, p), rel=1e-3)


def test_wasserstein_of_a_shift_is_its_length_at_every_scale(clouds):
    x, _ = clouds
    for scale in (1e-9, 1.0, 1e9):
        for p in (1, 2):
            shifted = scores.wasserstein(scale * x, scale * (x + np.array([3.0, 4.0, 0.0])), p)
            assert shifted == pytest.approx(5 * scale, rel=1e-9)


def test_weights_are_repetitions(clouds):
    x, y = clouds
    weights = np.array([3.0, 1, 1, 1, 1, 1])
    repeated = np.concatenate([np.repeat(x[:1], 2, 0), x])
    for p in (1, 2):
        weighted = scores.wasserstein(x, y, p, x_weights=weights)
        assert weighted == pytest.approx(scores.wasserstein(repeated, y, p), rel=1e-12)
        assert scores.wasserstein(x, y, p) != pytest.approx(weighted, rel=1e-3)  # twin: weights dropped


def test_optimal_coupling_has_the_marginals_and_the_cost(clouds):
    x, y = clouds
    weights = np.array([3.0, 1, 1, 2, 1, 1])
    plan = scores.optimal_coupling(x, y, x_weights=weights)
    assert np.bincount(plan.source, plan.mass) == pytest.approx(weights / 9)
    assert np.bincount(plan.target, plan.mass) == pytest.approx(np.full(6, 1 / 6))
    cost = (plan.mass * ((x[plan.source] - y[plan.target]) ** 2).sum(1)).sum()
    assert math.sqrt(cost) == pytest.approx(scores.wasserstein(x, y, 2, x_weights=weights))


def test_energy_distance_by_its_definition(clouds):
    x, y = clouds
    y = y[:4]

    def mean(a, b, same):
        distance = np.linalg.norm(a[:, None] - b[None], axis=-1)
        return distance.sum() / (len(a) * (len(b) - same))

    expected = 2 * mean(x, y, 0) - mean(x, x, 1) - mean(y, y, 1)
    assert scores.energy_distance(x, y) == pytest.approx(expected)
    assert scores.energy_distance(x, y, kind="half") == pytest.approx(expected / 2)


def test_energy_distance_is_unbiased():
    """Two samples of one law: mean zero. The V-statistic, which keeps the zero distances, is not."""
    rng = np.random.default_rng(1)
    draws = [scores.energy_distance(*rng.standard_normal((2, 8, 2))) for _ in range(2000)]
    assert abs(np.mean(draws)) < 4.5 * np.std(draws) / math.sqrt(2000)


def test_sliced_distance_of_lines_and_of_a_shift(clouds):
    x, y = clouds
    for p in (1, 2):
        line = scores.sliced_wasserstein(x[:, :1], y[:4, :1], p)
        assert line == pytest.approx(scores.wasserstein(x[:, :1], y[:4, :1], p))
    shifted = scores.sliced_wasserstein(x, x + np.array([3.0, 4.0, 0.0]), 2, n_projections=20_000)
    assert shifted == pytest.approx(5 / math.sqrt(3), rel=0.03)


def test_bars_of_a_validation_table():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 2)), rng.standard_normal((4, 2)) + np.array([10.0, 0.0])
    bars = trivial_predictions(x, y, 0.25)
    assert list(bars) == ["copy previous", "copy next", "pool", "exact OT"]
    points, weights = bars["pool"]
    assert points.shape == (9, 2)
    assert weights[:5].sum() == pytest.approx(0.75)
    points, weights = bars["exact OT"]
    assert weights @ points == pytest.approx(0.75 * x.mean(0) + 0.25 * y.mean(0))
    assert 0 < split_halves(x) < 5


@pytest.mark.parametrize(
    ("x", "weights", "error", "message"),
    [
        ([[0.0], [np.nan]], None, DataError, r"x must be finite, entry \(1, 0\) is nan"),
        (np.zeros((0, 1)), None, DataError, "0 sample"),
        ([0.0, 1.0], None, ShapeError, r"x must be \(cell, feature\)"),
        ([[0.0, 1.0]], None, ShapeError, "x has 2 features, y has 1"),
        ([[0.0], [1.0]], [1.0, -1.0], DataError, r"x_weights must be positive and finite, entry \(1,\)"),
        ([[0.0], [1.0]], [1.0], ShapeError, "one a cell"),
    ],
)
def test_bad_clouds_are_refused_before_the_solver_sees_them(x, weights, error, message):
    with pytest.raises(error, match=message):
        scores.wasserstein(x, [[0.0]], x_weights=weights)


def test_bad_settings_are_refused():
    one = [[0.0], [1.0]]
    with pytest.raises(DataError, match="W1"):
        scores.wasserstein(one, one, p=3)
    with pytest.raises(DataError, match="half"):
        scores.energy_distance(one, one, kind="third")
    with pytest.raises(DataError, match="two"):
        scores.energy_distance(one, [[0.0]])
    with pytest.raises(DataError, match="share"):
        trivial_predictions(one, one, 1.0)
