"""Couplings of observed cells: marginals, the entropic plan against dense Sinkhorn, displacement."""

import math

import numpy as np
import pytest
import torch

from neurosde.bridge import (
    BrownianReference,
    LightInterval,
    LightMixture,
    LightObjective,
    LightPotential,
    displace,
    entropic_coupling,
    exact_coupling,
)
from neurosde.errors import DataError, NotConvergedError


@pytest.fixture
def interval():
    mixture = LightMixture(torch.zeros(1).double(), torch.zeros(1, 2).double(), torch.ones(1, 2).double())
    centre = torch.tensor([0.5, 0.0]).double()
    return LightInterval(BrownianReference(0.0, 2.0, 0.5 * torch.ones(2).double(), centre), mixture)


@pytest.fixture
def clouds():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, 2, generator=generator, dtype=torch.float64)
    y = y[:30] + 1.0
    a, b = (0.5 + torch.rand(n, generator=generator, dtype=torch.float64) for n in (40, 30))
    return x, y, a, b


def dense(coupling, n, m):
    plan = np.zeros((n, m))
    np.add.at(plan, (coupling.source, coupling.target), coupling.mass)
    return plan


def test_entropic_plan_is_that_of_dense_sinkhorn(interval, clouds):
    x, y, a, b = clouds
    kernel = -0.5 * torch.cdist(x, y).square() / (0.25 * 2.0)  # epsilon = sigma^2 Delta
    log_a, log_b = (a / a.sum()).log(), (b / b.sum()).log()
    f = torch.zeros_like(a)
    for _ in range(5000):
        g = log_b - torch.logsumexp(f[:, None] + kernel, 0)
        f = log_a - torch.logsumexp(g + kernel, 1)
    expected = (f[:, None] + g + kernel).exp().numpy()
    plan = dense(entropic_coupling(interval, x, y, a, b, top_k=30, tol=1e-9, max_iter=5000), 40, 30)
    np.testing.assert_allclose(plan, expected, atol=1e-8)
    np.testing.assert_allclose(plan.sum(1), (a / a.sum()).numpy(), rtol=1e-12)
    unweighted = dense(
        entropic_coupling(interval, x, y, torch.ones_like(a), b, top_k=30, tol=1e-9, max_iter=5000), 40, 30
    )
    assert np.abs(unweighted - expected).max() > 1e-3  # twin: weights dropped


def test_sparse_plan_keeps_the_rows_weights(interval, clouds):
    x, y, a, b = clouds
    coupling = entropic_coupling(interval, x, y, a, b, top_k=3)
    assert len(coupling.mass) == 3 * 40
    np.testing.assert_allclose(np.bincount(coupling.source, coupling.mass), (a / a.sum()).numpy())


def test_iterations_that_do_not_suffice_and_no_entries_are_refused(interval, clouds):
    with pytest.raises(NotConvergedError, match="row sums are off"):
        entropic_coupling(interval, *clouds, tol=1e-12, max_iter=2)
    with pytest.raises(DataError, match="top_k"):
        entropic_coupling(interval, *clouds, top_k=0)


def test_exact_plan_and_displacement(interval, clouds):
    x, y, a, b = clouds
    coupling = exact_coupling(interval.reference, x, y, a, b)
    plan = dense(coupling, 40, 30)
    np.testing.assert_allclose(plan.sum(1), (a / a.sum()).numpy(), atol=1e-12)
    np.testing.assert_allclose(plan.sum(0), (b / b.sum()).numpy(), atol=1e-12)
    points = displace(interval.reference, coupling, x, y, 0.5, 20_000)
    expected = 0.75 * (a / a.sum()) @ x + 0.25 * (b / b.sum()) @ y
    assert (points.mean(0) - expected).abs().max() < 5e-3  # systematic draws hardly vary
    pairs = 0.75 * x[:, None] + 0.25 * y[None]
    assert (points[:50, None, None] - pairs).abs().sum(-1).amin((1, 2)).max() < 1e-12


def test_objective_draws_every_cell_and_keeps_groups_apart(interval):
    """Snapshots of 10, 4 and 7 cells: the mean over all slots is the weighted mean over the cells."""
    reference, sizes = interval.reference, [10, 4, 7]
    generator = torch.Generator().manual_seed(0)
    cells = torch.randn(21, 2, generator=generator, dtype=torch.float64)
    weights = 0.5 + torch.rand(21, generator=generator, dtype=torch.float64)
    objective = LightObjective([reference, reference], cells, weights, sizes, seed=0)
    potential = LightPotential(2, 3, 2)
    every = torch.arange(objective.n_samples)
    expected = torch.zeros(())
    for i, (first, middle, last) in enumerate(((0, 10, 14), (10, 14, 21))):
        log_c = potential.normaliser().log_sum(reference.predict_from_start(cells[first:middle]))[i]
        log_v = potential.density().log_sum(reference.whiten(cells[middle:last]))[i]
        a, b = weights[first:middle], weights[middle:last]
        expected = expected + (a * log_c).sum() / a.sum() - (b * log_v).sum() / b.sum()
    loss = objective.loss(potential, every, 0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    groups = torch.from_numpy(objective.groups)
    for g in groups.unique():
        inside = {int(cell) for cell in objective.slots[:, groups == g].flatten()}
        outside = {int(cell) for cell in objective.slots[:, groups != g].flatten()}
        assert not inside & outside
    assert len(objective.slots.unique()) == 21


def test_light_potential_is_a_warm_start(interval):
    """A potential that is the solution needs one step; a wrong one needs more."""
    v = torch.tensor([[0.8, 0.8]]).double()
    s = 2 * v / (1 + (1 + 4 * v * v).sqrt())
    good = LightInterval(interval.reference, LightMixture(torch.zeros(1).double(), 0 * v, s))
    wrong = LightInterval(interval.reference, LightMixture(torch.zeros(1).double(), 0 * v + 3, 0.1 * s))
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(2, 2000, 2, generator=generator, dtype=torch.float64) * math.sqrt(0.8 * 0.5)
        + interval.reference.centre
    )
    ones = torch.ones(2000).double()
    assert entropic_coupling(good, x, y, ones, ones, tol=0.1, max_iter=1).mass.sum() == pytest.approx(1.0)
    with pytest.raises(NotConvergedError):
        entropic_coupling(wrong, x, y, ones, ones, tol=0.1, max_iter=1)
