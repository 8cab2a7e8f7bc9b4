"""The light bridge's closed forms against the published drift, quadrature and sampling."""

import math

import pytest
import torch

from neurosde.bridge import (
    BrownianReference,
    LightBridge,
    LightInterval,
    LightMixture,
    LightPotential,
    systematic,
)
from neurosde.errors import DataError, ShapeError


def published_drift(x, t, epsilon, logits, r, S):
    """Drift as in the authors' code, by automatic differentiation; v = sum alpha N(r, epsilon S)."""
    d = x.shape[1]
    x = x.clone().requires_grad_()
    inverse = torch.linalg.inv(S)
    A = t / (epsilon * (1 - t)) * torch.eye(d).to(x) + inverse / epsilon
    h = x[:, None] / (epsilon * (1 - t)) + (inverse @ r[..., None])[..., 0] / epsilon
    exponent = (
        logits
        - 0.5 * torch.logdet(S)
        - 0.5 * torch.logdet(A)
        - 0.5 * torch.einsum("kd,kde,ke->k", r, inverse, r) / epsilon
        + 0.5 * torch.einsum("nkd,kde,nke->nk", h, torch.linalg.inv(A), h)
    )
    (gradient,) = torch.autograd.grad(torch.logsumexp(exponent, -1).sum(), x)
    return (-x / (1 - t) + epsilon * gradient).detach()


def check_against_published(drift, mixture, cells, epsilon):
    """In data units the published components are r sqrt(epsilon) and S."""
    for t in (0.0, 0.3, 0.9, 0.99):
        expected = published_drift(
            cells, t, epsilon, mixture.logits, mixture.location * math.sqrt(epsilon), mixture.covariance
        )
        torch.testing.assert_close(
            drift(torch.tensor(t, dtype=torch.float64), cells), expected, rtol=1e-9, atol=1e-10
        )


def brownian(mixture, epsilon, duration=1.0):
    """One interval of length `duration` over which the reference's variance grows by epsilon."""
    sigma = math.sqrt(epsilon / duration) * torch.ones(2).double()
    reference = BrownianReference(0.0, duration, sigma=sigma, centre=torch.zeros(2).double())
    return LightBridge([LightInterval(reference, mixture)], [torch.zeros(5, 2).double()])


@pytest.mark.parametrize("name", ["full_mixture", "diagonal_mixture"])
def test_drift_equals_the_published_one(name, request, cells, epsilon):
    mixture = request.getfixturevalue(name)
    check_against_published(brownian(mixture, epsilon).drift, mixture, cells, epsilon)


def test_twin_that_takes_the_root_of_epsilon_is_rejected(full_mixture, cells, epsilon):
    broken = brownian(full_mixture, math.sqrt(epsilon)).drift
    with pytest.raises(AssertionError):
        check_against_published(broken, full_mixture, cells, epsilon)


def test_twin_that_inverts_the_posterior_precision_twice_is_rejected(full_mixture, cells, epsilon):
    twice = LightMixture(
        full_mixture.logits, full_mixture.location, 1 / full_mixture.scale, full_mixture.basis
    )
    with pytest.raises(AssertionError):
        check_against_published(brownian(twice, epsilon).drift, full_mixture, cells, epsilon)


def check_against_longer_clock(drift, mixture, cells, epsilon, duration):
    """A clock that runs slower by a factor makes the drift smaller by that factor."""
    unit = brownian(mixture, epsilon).drift
    for share in (0.0, 0.4, 1.0):
        expected = unit(torch.tensor(share, dtype=torch.float64), cells) / duration
        torch.testing.assert_close(
            drift(torch.tensor(share * duration, dtype=torch.float64), cells), expected
        )


def test_drift_is_in_physical_time(full_mixture, cells, epsilon):
    drift = brownian(full_mixture, epsilon, 3.0).drift
    check_against_longer_clock(drift, full_mixture, cells, epsilon, 3.0)
    unit = brownian(full_mixture, epsilon).drift
    with pytest.raises(AssertionError):  # twin: the interval's length is ignored
        check_against_longer_clock(lambda t, x: unit(t / 3.0, x), full_mixture, cells, epsilon, 3.0)


def log_h_by_quadrature(mixture, z, u, n=801, reach=16.0):
    """log E[v(Y) exp(|Y|^2/2)] for Y ~ N(z, u I), on a grid; exact up to quadrature in two dimensions."""
    axis = torch.linspace(-reach, reach, n, dtype=torch.float64)
    y = torch.cartesian_prod(axis, axis)
    log_v = mixture.log_density(y)
    kernel = -0.5 * torch.cdist(z, y).square() / u - math.log(2 * math.pi * u)
    return torch.logsumexp(log_v + 0.5 * y.square().sum(-1) + kernel, -1) + 2 * math.log(axis[1] - axis[0])


def test_normaliser_and_potential_against_quadrature(full_mixture, cells):
    expected = log_h_by_quadrature(full_mixture, cells, 1.0)
    log_c = full_mixture.log_normaliser(cells)
    torch.testing.assert_close(
        log_c - 0.5 * cells.square().sum(-1) - math.log(2 * math.pi), expected, rtol=0, atol=1e-10
    )
    u = torch.tensor(0.3, dtype=torch.float64)
    h = full_mixture.potential(u).log_sum(cells)
    expected = log_h_by_quadrature(full_mixture, cells, 0.3)
    # log h is known up to a constant of the interval
    torch.testing.assert_close(h - h[0], expected - expected[0], rtol=0, atol=1e-10)


def test_drift_holds_and_is_continuous_at_the_end(full_mixture, unit_reference, cells):
    bridge = brownian(full_mixture, 1.0)
    at_end = bridge.drift(torch.tensor(1.0, dtype=torch.float64), cells)
    x = cells.clone().requires_grad_()
    log_phi = full_mixture.log_density(x) + 0.5 * x.square().sum(-1)
    (gradient,) = torch.autograd.grad(log_phi.sum(), x)
    torch.testing.assert_close(at_end, gradient, rtol=1e-12, atol=1e-12)
    just_before = bridge.drift(torch.tensor(1 - 1e-9, dtype=torch.float64), cells)
    torch.testing.assert_close(at_end, just_before, rtol=1e-6, atol=1e-6)


def test_full_form_of_a_diagonal_mixture_is_the_diagonal_form(diagonal_mixture, cells):
    basis = torch.eye(2).double().expand(3, 2, 2)
    full = LightMixture(diagonal_mixture.logits, diagonal_mixture.location, diagonal_mixture.scale, basis)
    for u in (0.0, 0.4, 1.0):
        u = torch.tensor(u, dtype=torch.float64)
        torch.testing.assert_close(
            full.potential(u).gradient(cells), diagonal_mixture.potential(u).gradient(cells)
        )
        torch.testing.assert_close(full.plan(u).mean(cells), diagonal_mixture.plan(u).mean(cells))


def test_matrix_form_of_the_remaining_variance_is_the_scalar_form(full_mixture, cells):
    for u in (0.0, 0.4, 1.0):
        scalar, matrix = torch.tensor(u, dtype=torch.float64), u * torch.eye(2).double()
        for first, second in zip(full_mixture.potential(scalar), full_mixture.potential(matrix), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
        first, second = full_mixture.plan(scalar), full_mixture.plan(matrix)
        torch.testing.assert_close(first.mean(cells), second.mean(cells))
        torch.testing.assert_close(first.root @ first.root.mT, second.root @ second.root.mT)


def test_each_cell_may_have_its_own_time(full_mixture, diagonal_mixture, cells):
    for mixture in (full_mixture, diagonal_mixture):
        bridge = brownian(mixture, 1.0, 2.0)
        t = torch.tensor([0.0, 0.5, 0.5, 1.0, 1.5, 1.9, 2.0]).double()[:, None]
        together = bridge.sde().drift(t, cells)
        alone = [bridge.drift(t[i, 0], cells[i : i + 1]) for i in range(7)]
        torch.testing.assert_close(together, torch.cat(alone))


def test_mean_of_the_plan_is_where_the_drift_points(full_mixture, cells):
    u = torch.tensor(0.6, dtype=torch.float64)
    drift = full_mixture.potential(u).gradient(cells)
    torch.testing.assert_close(full_mixture.plan(u).mean(cells), cells + u * drift)


def test_samples_have_the_law_of_the_plan(full_mixture):
    n = 200_000
    z = torch.tensor([[0.4, -0.8]]).double()
    interval = brownian(full_mixture, 1.0).intervals[0]
    y = interval.sample(z.expand(n, 2), 0.0, 1.0, torch.Generator().manual_seed(3))
    w = full_mixture.plan(torch.ones(()).double()).log_weights(z)[0].exp()
    means = full_mixture.location + (full_mixture.covariance @ z[0])
    mean = w @ means
    covariance = (
        torch.einsum("k,kde->de", w, full_mixture.covariance)
        + (w[:, None] * means).T @ means
        - torch.outer(mean, mean)
    )
    standard_error = (covariance.diagonal() / n).sqrt()
    assert ((y.mean(0) - mean).abs() < 5 * standard_error).all()
    torch.testing.assert_close(torch.cov(y.T), covariance, rtol=0, atol=0.05)


def test_simulated_paths_end_in_the_plan(diagonal_mixture):
    """The drift and the plan are two roads to one law: 400 Euler-Maruyama steps against exact draws."""
    n, steps = 20_000, 400
    bridge = brownian(diagonal_mixture, 0.5)
    generator = torch.Generator().manual_seed(5)
    x = torch.tensor([[0.5, 0.2]]).double().expand(n, 2).clone()
    start = x.clone()
    for i in range(steps):
        noise = torch.randn(n, 2, generator=generator, dtype=torch.float64)
        x = (
            x
            + bridge.drift(torch.tensor(i / steps, dtype=torch.float64), x) / steps
            + (0.5 / steps) ** 0.5 * noise
        )
    exact = bridge.sample(start, 0.0, 1.0, seed=1)
    spread = exact.std(0)
    assert ((x.mean(0) - exact.mean(0)).abs() < 6 * spread * (2 / n) ** 0.5 + 0.01 * spread).all()
    assert ((x.std(0) / spread - 1).abs() < 0.03).all()


def test_sampling_in_two_legs_is_sampling_in_one(diagonal_mixture):
    n = 100_000
    bridge = brownian(diagonal_mixture, 0.5)
    start = torch.tensor([[0.5, 0.2]]).double().expand(n, 2)
    once = bridge.sample(start, 0.0, 0.8, seed=1)
    twice = bridge.sample(start, 0.0, [0.3, 0.8], seed=2)[:, 1]
    error = once.std(0) * (2 / n) ** 0.5
    assert ((once.mean(0) - twice.mean(0)).abs() < 5 * error).all()
    assert ((once.std(0) / twice.std(0) - 1).abs() < 0.02).all()


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_trained_module_and_frozen_mixture_agree(covariance):
    generator = torch.Generator().manual_seed(0)
    potential = LightPotential(2, 4, 3, covariance)
    cells = [torch.randn(50, 3, generator=generator).double() for _ in range(3)]
    for i in range(2):
        potential.initialise(i, cells[i], cells[i + 1], generator)
    with torch.no_grad():
        for parameter in potential.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    z, y = torch.stack(cells[:2]), torch.stack(cells[1:])
    log_c, log_v = potential.normaliser().log_sum(z), potential.density().log_sum(y)
    for i, mixture in enumerate(potential.mixtures()):
        torch.testing.assert_close(mixture.log_normaliser(z[i]), log_c[i])
        torch.testing.assert_close(mixture.log_density(y[i]), log_v[i])


def test_loss_weighs_the_cells():
    generator = torch.Generator().manual_seed(0)
    potential = LightPotential(1, 3, 2)
    cells = torch.randn(2, 6, 2, generator=generator).double()
    potential.initialise(0, cells[0], cells[1], generator)
    weight = torch.tensor([[2.0, 1.0, 1.0, 0.0, 1.0, 1.0]]).double()
    repeated = cells[:, [0, 0, 1, 2, 4, 5]]
    weighted = potential.loss(cells[:1], cells[1:], weight, weight)
    torch.testing.assert_close(weighted, potential.loss(repeated[:1], repeated[1:]))
    with pytest.raises(AssertionError):  # twin: the weights are dropped
        torch.testing.assert_close(
            potential.loss(cells[:1], cells[1:]), potential.loss(repeated[:1], repeated[1:])
        )


def test_systematic_draws_keep_to_the_weights():
    weight = torch.tensor([1.0, 2.0, 5.0]).double()
    counts = systematic(weight, 800, seed=0).bincount()
    assert counts.tolist() == [100, 200, 500]


def test_a_lone_end_cell_does_not_draw_a_component_to_zero_width():
    generator = torch.Generator().manual_seed(0)
    potential = LightPotential(1, 2, 2)
    potential.initialise(
        0, torch.randn(5, 2, generator=generator).double(), torch.zeros(1, 2).double(), generator
    )
    with torch.no_grad():
        potential.log_scale -= 100.0
    assert all(mixture.scale.min() > 1e-10 for mixture in potential.mixtures())


def test_times_and_cells_that_do_not_fit_are_refused(full_mixture, cells):
    bridge = brownian(full_mixture, 1.0)
    with pytest.raises(DataError, match="t1: expected rising times"):
        bridge.sample(cells, 0.5, 0.2)
    with pytest.raises(DataError, match=r"t: expected a time between 0 and 1, got 1\.5"):
        bridge.drift(torch.tensor(1.5), cells)
    with pytest.raises(ShapeError, match=r"x0: expected \(cell, 2\)"):
        bridge.sample(torch.zeros(3, 4), 0.0, 1.0)
    with pytest.raises(DataError, match="set of observed cells"):
        bridge.log_marginal(0.0, cells)
