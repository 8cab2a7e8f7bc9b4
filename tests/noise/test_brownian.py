"""The Brownian path: exact joint law, purity, additivity, and what it refuses."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosde.errors import DataError, ShapeError
from neurosde.noise import BrownianPath, StepNoise
from neurosde.noise.records import Scaled, difference, interpolate, join, split

ALPHA = 1e-5
LEVIES = ("none", "space-time", "space-time-time")
SCALE = {"W": 1.0, "H": 12.0, "K": 720.0}


def standardised(record, h):
    """Columns that are independent standard normals if the law is right."""
    parts = [(name, getattr(record, name)) for name in "WHK"]
    return [(part * math.sqrt(SCALE[name] / h)).flatten() for name, part in parts if part is not None]


def worst_moment(columns) -> float:
    """Largest departure of a mean or covariance from the standard normal law, in standard errors."""
    x = torch.stack(columns)
    n = x.shape[1]
    means = x.mean(1).abs() * math.sqrt(n)
    gram = x @ x.T / n - torch.eye(len(x), dtype=x.dtype)
    error = torch.full_like(gram, 1 / math.sqrt(n)).fill_diagonal_(math.sqrt(2 / n))
    return max(float(means.max()), float((gram.abs() / error).max()))


@pytest.mark.parametrize("levy", LEVIES)
def test_joint_law_on_intervals_that_no_lattice_knows(levy):
    path = BrownianPath(-1.0, 2.7, (20_000, 2), seed=1, levy=levy, dtype=torch.float64)
    times = [-1.0, -0.83, 0.1, 0.1234, 1.9, 2.7]
    columns = []
    for s, t in itertools.pairwise(times):
        columns += standardised(path.increment(s, t), t - s)
    tests = len(columns) * (len(columns) + 3) / 2
    assert worst_moment(columns) < stats.norm.isf(ALPHA / (2 * tests))
    for column in columns:
        assert stats.kstest(column.numpy(), "norm").pvalue > ALPHA / len(columns)


def test_a_path_redrawn_at_each_query_is_rejected():
    def redrawn(s, t, seed):
        return BrownianPath(0.0, 1.0, (20_000, 1), seed=seed, dtype=torch.float64).increment(s, t).W

    whole, left, right = redrawn(0, 1, 1), redrawn(0, 0.3, 2), redrawn(0.3, 1, 3)
    assert float((whole - left - right).var()) > 1.9


@pytest.mark.parametrize("levy", LEVIES)
def test_purity_additivity_and_shared_against_own_times(levy):
    path = BrownianPath(0.0, 1.0, (6, 3), seed=5, levy=levy, dtype=torch.float64)
    first = path.increment(0.3, 0.71)
    path.increment(0.0, 0.5)
    again = BrownianPath(0.0, 1.0, (6, 3), seed=5, levy=levy, dtype=torch.float64).increment(0.3, 0.71)
    own = path.increment(
        torch.full((6,), 0.3, dtype=torch.float64), torch.full((6,), 0.71, dtype=torch.float64)
    )
    for name in "WHK":
        if getattr(first, name) is not None:
            assert torch.equal(getattr(first, name), getattr(again, name))
            assert torch.allclose(getattr(first, name), getattr(own, name), atol=1e-12)
    a, b = path.increment(0.3, 0.5), path.increment(0.5, 0.71)
    scaled = [
        Scaled(r.W, _times(r.H, h), _times(r.K, h * h)) for r, h in ((a, 0.2), (b, 0.21), (first, 0.41))
    ]
    joined = join(scaled[0], torch.tensor(0.2), scaled[1], 0.21)
    for mine, whole in zip(joined, scaled[2], strict=True):
        if mine is not None:
            assert torch.allclose(mine, whole, atol=1e-12)


def _times(x, c):
    return None if x is None else x * c


@pytest.mark.parametrize("levy", LEVIES)
def test_the_quick_road_along_one_level_is_the_same_path(levy):
    path = BrownianPath(0.0, 1.0, (3, 2), seed=0, levy=levy, dtype=torch.float64)
    grid = torch.linspace(0, 1, 129, dtype=torch.float64)
    level = path.increments(grid)
    part, thinned = path.increments(grid[37:90]), path.increments(torch.cat((grid[:5], grid[6:])))
    for name in "WHK":
        whole = getattr(level, name)
        if whole is not None:
            assert torch.equal(whole[37:89], getattr(part, name))
            rest = torch.cat((whole[:4], whole[6:]))
            other = getattr(thinned, name)
            assert torch.allclose(rest, torch.cat((other[:4], other[5:])), atol=1e-10)


def from_origin(path, u):
    """Record of [0, u] by going down the tree, node by node: the second road."""
    node, index, start = path.root(), 0, 0.0
    before = Scaled(*(None if part is None else torch.zeros_like(part) for part in node))
    for level in range(path.levels):
        h = 2.0**-level
        left, right = split(node, h, path.node_normals(level, index))
        index, node = 2 * index, left
        if u >= start + h / 2:
            before = join(before, torch.tensor(start, dtype=torch.float64), left, h / 2)
            index, node, start = index + 1, right, start + h / 2
    p = torch.tensor([[(u - start) * 2.0**path.levels]], dtype=torch.float64)
    if float(p) == 0.0:
        return before
    part, _ = path.cut_leaf(node, index, p)
    return join(before, torch.tensor(start, dtype=torch.float64), part, p * 2.0**-path.levels)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("levy", LEVIES)
def test_sums_over_the_tree_are_the_descent_through_it(levy, own):
    path = BrownianPath(0.0, 1.0, (3, 3), seed=1, levy=levy, dtype=torch.float64)
    times = torch.tensor([0.0, 0.1, 0.1, 0.25, 0.3, 0.5, 0.51, 0.7301, 0.75, 0.98], dtype=torch.float64)
    steps = path.increments(times.expand(3, -1) if own else times)
    origin = [from_origin(path, float(u)) for u in times]
    worst, wrong = 0.0, 0.0
    for i, h in enumerate(times.diff().tolist()):
        record = difference(origin[i], times[i], origin[i + 1], times[i + 1])
        for power, part in enumerate(record):
            mine = steps[1 + power]
            if part is None:
                continue
            if h == 0.0:
                assert not mine[i].any()
                continue
            worst = max(worst, float((part / h**power - mine[i]).abs().max()) / h**0.5)
            wrong = max(wrong, float((part / h**power - mine[i - 1]).abs().max()) / h**0.5)
    assert worst < 1e-9
    assert wrong > 0.1


def test_float32_steps_keep_the_digits_of_the_integrals():
    """Shares are made in float64 and nothing is subtracted, so short steps lose nothing."""
    times = 0.7 + 2.0**-12 * torch.arange(4, dtype=torch.float64)
    draws = [
        BrownianPath(0.0, 1.0, (500, 2), seed=1, levy="space-time-time", dtype=dtype).increments(times)
        for dtype in (torch.float32, torch.float64)
    ]
    for name, law in (("W", 1), ("H", 12), ("K", 720)):
        rough, exact = (getattr(draw, name).double() for draw in draws)
        assert float((rough - exact).abs().max()) < 1e-4 * math.sqrt(2.0**-12 / law)


def test_normals_of_nodes_and_series_are_independent():
    """Products of two, and of four that stand at the corners of a rectangle of nodes and series."""
    path = BrownianPath(0.0, 1.0, (400, 2), seed=0, dtype=torch.float64)
    z = torch.stack([path.node_normals(12, node)[..., 0] for node in range(200)])
    pairs = [z[1:] * z[:-1], z[:, 1:] * z[:, :-1], z[..., :1] * z[..., 1:], z[2:] * z[:-2]]
    corners = [z[1:, 1:] * z[:-1, :-1] * z[1:, :-1] * z[:-1, 1:], z[::2, ::2] * z[1::2, 1::2] * z[::2, 1::2]]
    quantile = stats.norm.isf(ALPHA / 12)
    for product in (*pairs, *corners):
        assert abs(float(product.mean())) * math.sqrt(product.numel()) < quantile
    twin = z + z.flip(0)  # the broken twin: every normal serves two nodes
    assert abs(float((twin * twin.flip(0)).mean())) > 1


def test_every_grid_meets_the_same_path():
    path = BrownianPath(0.0, 1.0, (4, 2), seed=2, dtype=torch.float64)
    coarse = path.increments(torch.linspace(0, 1, 11, dtype=torch.float64)).W
    fine = path.increments(torch.linspace(0, 1, 101, dtype=torch.float64)).W
    assert torch.allclose(fine.unflatten(0, (10, 10)).sum(1), coarse, atol=1e-12)


@pytest.mark.parametrize("levy", LEVIES)
@pytest.mark.parametrize("kind", [BrownianPath, StepNoise])
def test_a_series_alone_is_the_series_in_a_batch(kind, levy):
    times = torch.tensor([0.0, 0.1, 0.37, 1.0], dtype=torch.float64)

    def noise(keys, grid):
        if kind is StepNoise:
            return StepNoise((len(keys), 3), seed=3, levy=levy, series=keys).increments(grid(keys))
        path = BrownianPath(0.0, 1.0, (len(keys), 3), seed=3, levy=levy, series=keys)
        return path.increments(grid(keys))

    keys = torch.tensor([9, 4, 7])
    for grid in (lambda keys: times, lambda keys: times.expand(len(keys), -1)):
        batch, alone = noise(keys, grid), noise(keys[1:2], grid)
        for name in "WHK":
            if getattr(batch, name) is not None:
                assert torch.equal(getattr(batch, name)[:, 1:2], getattr(alone, name))


@pytest.mark.parametrize("levy", LEVIES)
def test_step_noise_has_the_law_of_its_steps(levy):
    times = torch.tensor([0.0, 0.2, 0.7], dtype=torch.float64)
    record = StepNoise((20_000, 1), seed=0, levy=levy, dtype=torch.float64).increments(times)
    columns = standardised(record.at(0), 0.2) + standardised(record.at(1), 0.5)
    assert worst_moment(columns) < stats.norm.isf(ALPHA / 60)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(h=st.floats(0.01, 10.0), p=st.floats(0.02, 0.98), seed=st.integers(0, 1000))
def test_splitting_and_joining_are_inverse(h, p, seed):
    z = torch.as_tensor(np.random.default_rng(seed).standard_normal((2, 3)), dtype=torch.float64)
    parent = Scaled(z[0, :1] * h**0.5, z[0, 1:2] * h**1.5, z[0, 2:] * h**2.5)
    left, right = split(parent, h, z[1:])
    half = torch.tensor(h / 2, dtype=torch.float64)
    for mine, whole in zip(join(left, half, right, h / 2), parent, strict=True):
        assert torch.allclose(mine, whole, rtol=1e-10, atol=1e-12)
    unit = Scaled(z[0, :1], z[0, 1:2], z[0, 2:])
    part = interpolate(unit, torch.tensor([p], dtype=torch.float64), z[1:])
    ends = torch.tensor(p, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    rest = difference(part, ends[0], unit, ends[1])
    for mine, whole in zip(join(part, ends[0], rest, 1 - p), unit, strict=True):
        assert torch.allclose(mine, whole, rtol=1e-9, atol=1e-12)


def test_interpolation_has_the_conditional_law():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200_000, 6, generator=generator, dtype=torch.float64)
    unit = Scaled(z[:, 0], z[:, 1] / 12**0.5, z[:, 2] / 720**0.5)
    p = torch.tensor(0.37, dtype=torch.float64)
    left = interpolate(unit, p.expand(len(z)), z[:, 3:])
    right = difference(left, p, unit, torch.tensor(1.0, dtype=torch.float64))
    columns = []
    for record, h in ((left, 0.37), (right, 0.63)):
        columns += [record.W / h**0.5, record.H * (12 / h**3) ** 0.5, record.K * (720 / h**5) ** 0.5]
    assert worst_moment(columns) < stats.norm.isf(ALPHA / 54)


def test_float32_differences_from_the_origin_would_lose_the_integrals():
    """Why the tree is kept in float64: rounding its records to float32 ruins K over short steps."""
    path = BrownianPath(0.0, 1.0, (500, 1), seed=1, levy="space-time-time", dtype=torch.float64)
    h = 2.0**-10
    s = 0.7 - 0.7 % h
    good = path.increment(s, s + h).K
    origin = [path.increment(0.0, t) for t in (s, s + h)]
    rounded = [
        Scaled(*(x.float().double() for x in (r.W, r.H * t, r.K * t * t)))
        for r, t in zip(origin, (s, s + h), strict=True)
    ]
    ends = [torch.tensor(t, dtype=torch.float64) for t in (s, s + h)]
    bad = difference(rounded[0], ends[0], rounded[1], ends[1]).K / h**2
    law = math.sqrt(h / 720)
    assert float((good - bad).std()) > law
    assert abs(float(good.std()) / law - 1) < 0.2


def test_own_ends_are_independent_of_the_batch():
    t0, t1 = torch.tensor([0.0, 5.0]), torch.tensor([1.0, 9.0])
    both = BrownianPath(t0, t1, (2, 1), seed=0, dtype=torch.float64)
    mids = both.increment(t0, (t0 + t1) / 2).W
    alone = BrownianPath(5.0, 9.0, (1, 1), seed=0, series=torch.tensor([1]), dtype=torch.float64)
    assert torch.equal(mids[1:], alone.increment(5.0, 7.0).W)


def test_many_queries_take_constant_memory_and_agree():
    path = BrownianPath(0.0, 1.0, (1, 1), seed=0, dtype=torch.float64)
    before = set(vars(path))
    total = sum(float(path.increment(k / 64, (k + 1) / 64).W) for k in range(64))
    assert set(vars(path)) == before
    assert total == pytest.approx(float(path.increment(0.0, 1.0).W), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"t1": 0.0}, "t1: expected every end after its start"),
        ({"t0": math.nan}, "t0: expected finite times"),
        ({"levy": "davie"}, "levy: expected one of"),
        ({"tol": -1.0}, "tol: expected a positive length"),
        ({"seed": 0.5}, "seed: expected an integer"),
    ],
)
def test_unusable_arguments_are_named(arguments, message):
    defaults = {"t0": 0.0, "t1": 1.0, "shape": (1, 1), "seed": 0}
    with pytest.raises(DataError, match=message):
        BrownianPath(**{**defaults, **arguments})


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match="shape: expected"):
        BrownianPath(0.0, 1.0, (0, 1), seed=0)
    with pytest.raises(ShapeError, match="series: expected 2 integer keys"):
        BrownianPath(0.0, 1.0, (2, 1), seed=0, series=torch.zeros(3, dtype=torch.int64))


def test_queries_outside_backwards_or_inside_one_leaf_are_refused():
    path = BrownianPath(0.0, 1.0, (1, 1), seed=0, tol=0.1)
    for s, t in ((-0.5, 0.2), (0.5, 1.5), (0.6, 0.2), (0.501, 0.502)):
        with pytest.raises(DataError, match="times: "):
            path.increment(s, t)
