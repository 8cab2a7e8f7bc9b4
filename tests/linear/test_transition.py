"""Transitions of linear SDEs against other roads."""

import math

import pytest
import torch
from scipy import linalg

import neurosde as nsde
from neurosde.errors import DataError, ShapeError


def test_scalar_ornstein_uhlenbeck():
    theta, mu, sigma, tau = 1.7, 0.4, 0.9, 0.6
    Phi, m, Q = nsde.LinearSDE([[-theta]], [theta * mu], [[sigma]]).transition(tau)
    assert float(Phi) == pytest.approx(math.exp(-theta * tau), abs=1e-14)
    assert float(m) == pytest.approx(-mu * math.expm1(-theta * tau), abs=1e-14)
    assert float(Q) == pytest.approx(-(sigma**2) * math.expm1(-2 * theta * tau) / (2 * theta), abs=1e-14)


@pytest.mark.parametrize("stiffness", [1.0, 10.0, 50.0, 200.0, 800.0])
def test_doubling_satisfies_the_lyapunov_equation_where_van_loan_fails(stiffness):
    A = torch.tensor([[-0.5, 0.3], [0.0, -stiffness]], dtype=torch.float64)
    Phi, _, Q = nsde.LinearSDE(A).transition(1.0)
    stationary = torch.as_tensor(linalg.solve_continuous_lyapunov(A.numpy(), -torch.eye(2).double().numpy()))
    assert torch.allclose(Q, stationary - Phi @ stationary @ Phi.T, atol=1e-10)
    block = torch.cat((torch.cat((-A, torch.eye(2).double()), 1), torch.cat((torch.zeros(2, 2), A.T), 1)))
    E = torch.linalg.matrix_exp(block)
    van_loan = E[2:, 2:].T @ E[:2, 2:]
    if stiffness >= 50:
        assert not torch.allclose(Q, van_loan, atol=1e-3)


def test_two_halves_make_a_whole():
    sde = nsde.LinearSDE([[0.0, 1.0], [-0.5, -0.3]], [0.1, 0.2], [[0.0], [0.7]])
    half, whole = sde.transition(0.8), sde.transition(1.6)
    assert torch.allclose(half.Phi @ half.Phi, whole.Phi, atol=1e-13)
    assert torch.allclose(half.m + half.Phi @ half.m, whole.m, atol=1e-13)
    assert torch.allclose(half.Q + half.Phi @ half.Q @ half.Phi.T, whole.Q, atol=1e-13)


def test_the_solver_meets_the_transition():
    sde = nsde.LinearSDE([[-0.4, 1.0], [-1.0, -0.4]], [0.3, 0.0], [[0.5, 0.0], [0.2, 0.3]])
    Phi, m, Q = sde.transition(1.0)
    start = torch.tensor([1.0, -1.0], dtype=torch.float64)
    ends = nsde.solve(sde, start.expand(40_000, 2), [0.0, 1.0], dt=1 / 128, seed=0).ys[:, -1]
    assert torch.allclose(ends.mean(0), Phi @ start + m, atol=0.02)
    assert torch.allclose(ends.T.cov(), Q, atol=0.01)


def test_no_time_is_no_change():
    Phi, m, Q = nsde.LinearSDE([[-1.0]]).transition(0.0)
    assert (float(Phi), float(m), float(Q)) == (1.0, 0.0, 0.0)


def test_what_does_not_fit_is_named():
    with pytest.raises(ShapeError, match=r"A: expected \(state, state\)"):
        nsde.LinearSDE([[1.0, 2.0]])
    with pytest.raises(ShapeError, match=r"b: expected \(1,\)"):
        nsde.LinearSDE([[1.0]], [1.0, 2.0])
    with pytest.raises(ShapeError, match=r"L: expected \(1, noise\)"):
        nsde.LinearSDE([[1.0]], L=[[1.0], [2.0]])
    with pytest.raises(DataError, match="A: expected finite entries"):
        nsde.LinearSDE([[math.nan]])
    with pytest.raises(DataError, match="duration: expected"):
        nsde.LinearSDE([[1.0]]).transition(-1.0)
