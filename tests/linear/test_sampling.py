"""Exact samples: their joint law, and the discipline of their keys."""

import math

import numpy as np
import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError, ShapeError

A, b, L = [[-0.6, 0.4], [-0.3, -1.1]], [0.2, 0.5], [[0.5, 0.0], [0.2, 0.7]]
TIMES = [0.0, 0.05, 0.8, 0.8, 1.9, 6.0]


@pytest.fixture
def sde():
    return nsde.LinearSDE(A, b, L)


def largest_deviation(paths, mean, covariance):
    """Of the moments of whitened paths from those of white noise, in standard errors."""
    z = np.linalg.solve(np.linalg.cholesky(covariance), (paths - mean).T).T
    n, size = z.shape
    second = (z.T @ z / n - np.eye(size)) * np.sqrt(n) / np.sqrt(1 + np.eye(size))
    return max(np.abs(second).max(), np.abs(z.mean(0)).max() * np.sqrt(n))


def test_joint_law_at_irregular_times(sde, dense_law):
    n, times = 40_000, [t for i, t in enumerate(TIMES) if i != 3]  # a repeated time has a singular law
    mean, covariance = dense_law(A, b, L, times)
    start = sde.stationary().sample(n, seed=1)
    paths = sde.sample(start, times, seed=2).flatten(1).numpy()
    assert largest_deviation(paths, mean, covariance) < 5.8  # 65 moments, false alarm below 1e-5
    late = [0.0, *(1.05 * t for t in times[1:])]  # the twin: every transition over a wrong interval
    assert largest_deviation(sde.sample(start, late, seed=2).flatten(1).numpy(), mean, covariance) > 5.8


def test_degenerate_noise_is_sampled(dense_law):
    kinetic = [[0.0, 1.0], [-1.0, -0.8]], [0.0, 0.0], [[0.0], [0.7]]
    sde, times = nsde.LinearSDE(*kinetic), [0.0, 1e-3, 0.5, 2.0]
    paths = sde.sample(sde.stationary().sample(20_000, seed=3), times, seed=4).flatten(1).numpy()
    assert largest_deviation(paths, *dense_law(*kinetic, times)) < 5.8


def test_no_time_is_no_step(sde):
    path = sde.sample([1.0, -1.0], TIMES, seed=0)
    assert path[0].tolist() == [1.0, -1.0]
    assert torch.equal(path[2], path[3])


def test_a_series_alone_is_that_series_in_a_batch(sde):
    generator = torch.Generator().manual_seed(0)
    times = (torch.rand(6, 9, generator=generator, dtype=torch.float64) * 5).sort(1)[0]
    times[2, 5:] = math.nan
    y0 = torch.randn(6, 2, generator=generator)
    together = sde.sample(y0, times, seed=5)
    assert torch.isnan(together[2, 5:]).all()
    assert not torch.isnan(together[2, :5]).any()
    alone = sde.sample(y0[2], times[2, :5], seed=5, series=2)
    assert torch.allclose(alone, together[2, :5], rtol=1e-12, atol=1e-13)
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    shuffled = sde.sample(y0[order], times[order], seed=5, series=order)
    assert torch.allclose(shuffled, together[order], rtol=1e-12, atol=1e-13, equal_nan=True)


def test_batch_axes_come_back(sde):
    assert sde.sample(torch.zeros(2, 3, 2), [0.0, 1.0], seed=0).shape == (2, 3, 2, 2)
    assert sde.sample(torch.zeros(2), [0.0, 1.0], seed=0).shape == (2, 2)


def test_gradients_along_the_path():
    parameters = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (A, b, L)]
    y0 = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)

    def paths(A, b, L, y0):
        return nsde.LinearSDE(A, b, L).sample(y0, [0.0, 0.4, 1.5], seed=0)

    assert torch.autograd.gradcheck(paths, (*parameters, y0))


def test_bad_input_is_named(sde):
    with pytest.raises(ShapeError, match=r"y0: expected \(\*batch, 2\)"):
        sde.sample([0.0], [0.0, 1.0])
    with pytest.raises(DataError, match=r"y0\[1\] is nan"):
        sde.sample([0.0, math.nan], [0.0, 1.0])
    with pytest.raises(DataError, match=r"ts\[0, 1\] is 0.0 after 1.0"):
        sde.sample([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(DataError, match=r"ts\[1\] is inf"):
        sde.sample([0.0, 0.0], [1.0, math.inf])
    with pytest.raises(DataError, match="after nan"):
        sde.sample([0.0, 0.0], [0.0, math.nan, 1.0])
    with pytest.raises(ShapeError, match=r"ts: expected \(time,\) or \(3, time\)"):
        sde.sample(torch.zeros(3, 2), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match="series: expected an integer for each of 3"):
        sde.sample(torch.zeros(3, 2), [0.0, 1.0], series=[1, 2])
    with pytest.raises(DataError, match="seed"):
        sde.sample([0.0, 0.0], [0.0, 1.0], seed=1.5)
