"""The joint law of (W, H, K) on intervals drawn at random, and that a query is a pure function."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from neurosde.noise import BrownianPath
from neurosde.noise.records import Scaled, join

ALPHA = 1e-5
LEVIES = ["none", "space-time", "space-time-time"]
SCALE = {"W": 1.0, "H": 12.0, "K": 720.0}
N_SERIES = 1500


def random_times(n, seed, t0=-0.7, t1=2.3):
    """Times that no lattice knows, with both ends and gaps from a ten thousandth of the span on."""
    rng = np.random.default_rng(seed)
    inside = np.sort(np.concatenate((rng.random(n), rng.beta(0.4, 2.0, n))))
    kept = inside[(np.diff(inside, prepend=0.0) > 1e-4) & (inside < 0.9999)]
    return torch.tensor([t0, *(t0 + (t1 - t0) * kept), t1], dtype=torch.float64)


def columns_of(record, dt):
    """Rows (interval and integral, series) that are independent standard normals if the law is right."""
    parts = [(name, getattr(record, name)) for name in SCALE if getattr(record, name) is not None]
    root = dt.sqrt()[:, None, None]
    return torch.cat([(part * math.sqrt(SCALE[name]) / root).flatten(1) for name, part in parts])


def departures(z):
    """Standard errors of the worst variance, of the worst correlation, and of the pooled variance."""
    n = z.shape[1]
    sums = z.square().sum(1).numpy()
    tails = np.minimum(stats.chi2.cdf(sums, n), stats.chi2.sf(sums, n))
    gram = (z @ z.T / n).fill_diagonal_(0.0)
    pooled = abs(float(z.square().mean()) - 1) * math.sqrt(z.numel() / 2)
    return float(tails.min()), float(gram.abs().max()) * math.sqrt(n), pooled


@pytest.mark.parametrize("levy", LEVIES)
def test_the_joint_law(levy):
    """Chi-square of every integral on every interval; all pairs uncorrelated, across intervals as well."""
    times = random_times(20, seed=3)
    path = BrownianPath(-0.7, 2.3, (N_SERIES, 1), seed=1, levy=levy, dtype=torch.float64)
    z = columns_of(path.increments(times), times.diff())
    tail, correlation, pooled = departures(z)
    pairs = len(z) * (len(z) - 1) / 2
    assert tail > ALPHA / 8 / len(z)
    assert correlation < stats.norm.isf(ALPHA / 8 / pairs)
    assert pooled < stats.norm.isf(ALPHA / 8)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > ALPHA / 4


def test_integrals_of_a_slightly_wrong_variance_are_rejected():
    """The twin: H of h/11 and K of h/680 instead of h/12 and h/720."""
    times = random_times(20, seed=3)
    path = BrownianPath(-0.7, 2.3, (N_SERIES, 1), seed=1, levy="space-time-time", dtype=torch.float64)
    record = path.increments(times)
    for name, factor in (("H", 12 / 11), ("K", 720 / 680)):
        wrong = record._replace(**{name: getattr(record, name) * math.sqrt(factor)})
        assert departures(columns_of(wrong, times.diff()))[2] > stats.norm.isf(ALPHA / 8)


@pytest.mark.parametrize("levy", LEVIES)
def test_overlapping_intervals_have_the_covariance_of_one_path(levy):
    """Cov of W over [s, t] and [u, v] is the length of what they share; joined parts are the whole."""
    path = BrownianPath(0.0, 1.0, (4000, 1), seed=2, levy=levy, dtype=torch.float64)
    rng = np.random.default_rng(5)
    for _ in range(3):
        s, u, t, v = np.sort(rng.random(4)).tolist()
        first, second = path.increment(s, t).W.flatten(), path.increment(u, v).W.flatten()
        spread = math.sqrt(((t - s) * (v - u) + (t - u) ** 2) / len(first))
        assert abs(float((first * second).mean()) - (t - u)) < stats.norm.isf(ALPHA / 18) * spread
        parts, whole = (path.increment(s, u), path.increment(u, t)), path.increment(s, t)
        scaled = [scale(record, h) for record, h in zip((*parts, whole), (u - s, t - u, t - s), strict=True)]
        joined = join(scaled[0], torch.tensor(u - s, dtype=torch.float64), scaled[1], t - u)
        for mine, other in zip(joined, scaled[2], strict=True):
            assert (mine is None) == (other is None)
            assert mine is None or torch.allclose(mine, other, atol=1e-12)


def scale(record, h):
    return Scaled(
        record.W, None if record.H is None else h * record.H, None if record.K is None else h * h * record.K
    )


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one[1:4], other[1:4], strict=True) if a is not None)


@pytest.mark.parametrize("levy", [*LEVIES, "area"])
def test_any_query_in_any_order_gives_the_same_bits(levy):
    rng = np.random.default_rng(1)
    pairs = [tuple(np.sort(rng.random(2)).tolist()) for _ in range(12)]
    fresh = [BrownianPath(0.0, 1.0, (3, 2), seed=9, levy=levy).increment(*pair) for pair in pairs]
    path = BrownianPath(0.0, 1.0, (3, 2), seed=9, levy=levy)
    for i in rng.permutation(12).tolist() * 2:
        assert same(path.increment(*pairs[i]), fresh[i])
    assert not same(BrownianPath(0.0, 1.0, (3, 2), seed=10, levy=levy).increment(*pairs[0]), fresh[0])


@pytest.mark.parametrize("levy", LEVIES)
def test_named_series_do_not_see_their_batch(levy):
    keys, times = torch.tensor([2**50, -7, 0, 13]), random_times(6, seed=2, t0=0.0, t1=1.0)
    own = torch.stack([times * (1 + i) for i in range(4)])
    ends = torch.zeros(4, dtype=torch.float64), 1.0 + torch.arange(4, dtype=torch.float64)

    def asked(rows):
        path = BrownianPath(
            *(end[rows] for end in ends), (len(rows), 2), seed=4, levy=levy, series=keys[rows]
        )
        return path.increments(own[rows])

    batch = asked([0, 1, 2, 3])
    for i in range(4):
        alone = asked([i])
        for a, b in zip(batch[1:4], alone[1:4], strict=True):
            assert a is None or torch.equal(a[:, i : i + 1], b)
