"""The Gaussian bridge against the textbook formulas, the moment equation and discrete Sinkhorn."""

import math

import pytest
import torch

from neurosde.bridge import BrownianReference, GaussianBridge, LinearReference
from neurosde.errors import DataError, ShapeError
from neurosde.linear import LinearSDE

DURATION = 2.0


def square_root(matrix):
    values, axes = torch.linalg.eigh(matrix)
    return (axes * values.clamp(min=0).sqrt()) @ axes.T


@pytest.fixture
def moments():
    generator = torch.Generator().manual_seed(2)
    roots = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    means = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return [(mean, root @ root.T + 0.1 * torch.eye(3)) for mean, root in zip(means, roots, strict=True)]


def brownian(moments, epsilon):
    sigma = math.sqrt(epsilon / DURATION) * torch.ones(3).double()
    centre = torch.tensor([0.3, -0.1, 2.0]).double()
    return GaussianBridge(*moments, BrownianReference(1.0, 1.0 + DURATION, sigma, centre))


def linear(moments):
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(3, 3, generator=generator, dtype=torch.float64) - 1.5 * torch.eye(3)
    L = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    sde = LinearSDE(A, [0.5, -1.0, 0.2], L)
    return GaussianBridge(*moments, LinearReference(1.0, 1.0 + DURATION, sde, torch.zeros(3).double())), sde


@pytest.mark.parametrize("epsilon", [0.01, 0.7, 30.0])
def test_coupling_is_the_textbook_one(moments, epsilon):
    (_, S0), (_, S1) = moments
    root, eye = square_root(S0), torch.eye(3).double()
    D = square_root(4 * root @ S1 @ root + epsilon**2 * eye)
    expected = 0.5 * (root @ D @ torch.linalg.inv(root) - epsilon * eye)
    actual = brownian(moments, epsilon).cross_covariance()
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("epsilon", [0.7, 1e4])
def test_joint_precision_has_the_kernels_off_diagonal(moments, epsilon):
    (_, S0), (_, S1) = moments
    C = brownian(moments, epsilon).cross_covariance()
    precision = torch.linalg.inv(torch.cat([torch.cat([S0, C], 1), torch.cat([C.T, S1], 1)]))
    eye = torch.eye(3).double()
    torch.testing.assert_close(epsilon * precision[:3, 3:], -eye, rtol=0, atol=1e-8)
    twin = precision[:3, 3:] * math.sqrt(epsilon)  # the root of epsilon in its place
    assert (twin + eye).abs().max() > 0.1


def test_joint_precision_under_a_linear_reference(moments):
    bridge, sde = linear(moments)
    Phi, _, Q = sde.transition(DURATION)
    (_, S0), (_, S1) = moments
    C = bridge.cross_covariance()
    precision = torch.linalg.inv(torch.cat([torch.cat([S0, C], 1), torch.cat([C.T, S1], 1)]))
    torch.testing.assert_close(precision[:3, 3:], -Phi.T @ torch.linalg.inv(Q), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["brownian", "linear"])
def test_moments_meet_the_ends_and_obey_the_moment_equation(moments, kind):
    """dm/dt = u(m), dS/dt = A S + S A' + L L', with the affine drift u, by central differences."""
    bridge = brownian(moments, 0.7) if kind == "brownian" else linear(moments)[0]
    for t, (mean, covariance) in zip((1.0, 1.0 + DURATION), moments, strict=True):
        torch.testing.assert_close(bridge.law(t).mean, mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(bridge.law(t).covariance, covariance, rtol=1e-9, atol=1e-9)
    L, h = bridge.diffusion(), 1e-4
    for t in (1.3, 2.0, 2.9):
        mean, covariance = bridge.law(t)
        points = torch.cat([mean[None], mean + torch.eye(3).double()])
        u = bridge.drift(torch.tensor(t, dtype=torch.float64), points)
        A = (u[1:] - u[0]).T
        before, after = bridge.law(t - h), bridge.law(t + h)
        torch.testing.assert_close((after.mean - before.mean) / (2 * h), u[0], rtol=1e-6, atol=1e-6)
        rate = A @ covariance + covariance @ A.T + L @ L.T
        change = (after.covariance - before.covariance) / (2 * h)
        torch.testing.assert_close(change, rate, rtol=1e-6, atol=1e-6)


def test_one_dimension_in_closed_form():
    one = torch.ones(1).double()
    bridge = GaussianBridge(
        (0 * one, 1.7 * one[None]),
        (2 * one, 0.4 * one[None]),
        BrownianReference(0.0, 1.0, math.sqrt(0.3) * one, 0 * one),
    )
    expected = 0.5 * (math.sqrt(4 * 1.7 * 0.4 + 0.3**2) - 0.3)
    assert abs(float(bridge.cross_covariance()) - expected) < 1e-12


def test_a_singular_start_is_taken():
    eye = torch.eye(2).double()
    start = (torch.zeros(2).double(), torch.diag(torch.tensor([1.0, 0.0]).double()))
    bridge = GaussianBridge(
        start, (torch.zeros(2).double(), eye), BrownianReference(0.0, 1.0, torch.ones(2).double(), eye[0])
    )
    assert torch.isfinite(bridge.law(0.5).covariance).all()
    torch.testing.assert_close(bridge.law(1.0).covariance, eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["brownian", "ou"])
def test_coupling_is_that_of_discrete_sinkhorn(kind):
    """Sinkhorn on a grid of 401 points, with the reference's own transition kernel."""
    one = torch.ones(1).double()
    v0, v1, centre = 1.2, 0.6, torch.zeros(1).double()
    if kind == "brownian":
        reference, Phi, m, Q = BrownianReference(0.0, 1.0, math.sqrt(0.5) * one, centre), 1.0, 0.0, 0.5
    else:
        sde = LinearSDE([[-0.8]], [0.4], [[0.9]])
        reference = LinearReference(0.0, 1.0, sde, centre)
        Phi, m, Q = (float(part) for part in sde.transition(1.0))
    bridge = GaussianBridge((0 * one, v0 * one[None]), (0.3 * one, v1 * one[None]), reference)
    x = torch.linspace(-8, 8, 401, dtype=torch.float64)
    log_a, log_b = -0.5 * x**2 / v0, -0.5 * (x - 0.3) ** 2 / v1
    log_a, log_b = log_a - log_a.logsumexp(0), log_b - log_b.logsumexp(0)
    kernel = -0.5 * (x[None] - Phi * x[:, None] - m) ** 2 / Q
    f = torch.zeros_like(x)
    for _ in range(500):
        g = log_b - torch.logsumexp(f[:, None] + kernel, 0)
        f = log_a - torch.logsumexp(g + kernel, 1)
    plan = (f[:, None] + g + kernel).exp()
    mean0, mean1 = (plan.sum(1) * x).sum(), (plan.sum(0) * x).sum()
    covariance = (plan * torch.outer(x - mean0, x - mean1)).sum()
    assert abs(float(bridge.cross_covariance()) - float(covariance)) < 1e-10


def test_draws_have_the_moments(moments):
    bridge = brownian(moments, 0.7)
    n, (mean, covariance) = 50_000, bridge.law(2.0)
    drawn = bridge.marginal(2.0, n, seed=0)
    pushed = bridge.sample(bridge.marginal(1.0, n, seed=1), 1.0, 2.0, seed=2)
    for cells in (drawn, pushed):
        assert ((cells.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt()).all()
        error = (torch.cov(cells.T) - covariance).abs() / covariance.diagonal().max()
        assert error.max() < 5 * math.sqrt(2 / n)


def test_moments_that_do_not_fit_are_refused():
    one = torch.ones(1).double()
    reference = BrownianReference(0.0, 1.0, one, 0 * one)
    good = (0 * one, one[None])
    with pytest.raises(ShapeError, match="end: expected a mean"):
        GaussianBridge(good, (torch.zeros(2), torch.eye(2)), reference)
    with pytest.raises(DataError, match="start covariance: expected no negative"):
        GaussianBridge((0 * one, -one[None]), good, reference)
    with pytest.raises(DataError, match="end: expected a positive definite"):
        GaussianBridge(good, (0 * one, 0 * one[None]), reference)
