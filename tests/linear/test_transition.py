"""Transitions of linear SDEs against other roads."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg

import neurosde as nsde
from neurosde.errors import DataError, ShapeError
from neurosde.linear import linear_transition


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


def test_many_durations_are_many_transitions():
    sde = nsde.LinearSDE([[-0.4, 1.0], [-1.0, -0.4]], [0.3, 0.0], [[0.5, 0.0], [0.2, 0.3]])
    durations = torch.tensor([[0.0, 0.3, 7.0], [1e-6, 40.0, 2.0]], dtype=torch.float64)
    together = sde.transition(durations)
    assert [part.shape for part in together] == [(2, 3, 2, 2), (2, 3, 2), (2, 3, 2, 2)]
    for i, k in np.ndindex(2, 3):
        for part, alone in zip(together, sde.transition(float(durations[i, k])), strict=True):
            assert torch.allclose(part[i, k], alone, rtol=1e-13, atol=1e-15)
    assert sde.transition(torch.zeros(0)).Phi.shape == (0, 2, 2)


@pytest.mark.parametrize("stiffness", [8e2, 8e5, 8e8])
def test_a_slow_mode_keeps_its_digits_beside_a_fast_one(stiffness):
    """Squaring Phi instead of Phi - I multiplies its rounding by the number of squarings' power of two."""
    slow, coupling = 0.5, 0.25
    A = torch.tensor([[-slow, coupling], [0.0, -stiffness]], dtype=torch.float64)
    Phi = nsde.LinearSDE(A).transition(1.0).Phi
    assert float(Phi[0, 0]) == pytest.approx(math.exp(-slow), rel=1e-14)
    assert float(Phi[0, 1]) == pytest.approx(coupling * math.exp(-slow) / (stiffness - slow), rel=1e-13)
    squared = torch.linalg.matrix_exp(A * 2.0**-40)
    for _ in range(40):
        squared = squared @ squared
    assert float(squared[0, 0]) != pytest.approx(math.exp(-slow), rel=1e-9)


@pytest.mark.parametrize("tau", [1e-9, 1e-3, 1.0, 1e3])
def test_integrated_noise_is_exact_however_short_the_time(tau):
    """Kinetic: Q is (tau^3/3, tau^2/2; tau^2/2, tau), all to relative precision."""
    Phi, m, Q = nsde.LinearSDE([[0.0, 1.0], [0.0, 0.0]], [0.0, 2.0], [[0.0], [1.0]]).transition(tau)
    exact = torch.tensor([[tau**3 / 3, tau**2 / 2], [tau**2 / 2, tau]], dtype=torch.float64)
    assert torch.allclose(Q, exact, rtol=1e-13, atol=0)
    assert torch.allclose(m, torch.tensor([tau**2, 2 * tau], dtype=torch.float64), rtol=1e-13, atol=0)
    assert Phi.tolist() == [[1.0, pytest.approx(tau, rel=1e-14)], [0.0, 1.0]]


def test_what_has_decayed_keeps_its_digits():
    assert float(nsde.LinearSDE([[-1.0]]).transition(300.0).Phi) == pytest.approx(math.exp(-300.0), rel=1e-12)


def test_gradients_pass_through_everything():
    generator = torch.Generator().manual_seed(0)
    A, b, L, tau = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).abs().requires_grad_()
        for shape in ((2, 2), (2,), (2, 3), (4,))
    )
    assert torch.autograd.gradcheck(
        lambda *args: tuple(linear_transition(-args[0], *args[1:])), (A, b, L, tau)
    )


@pytest.mark.parametrize("stiffness", [1.0, 800.0])
def test_the_stationary_law_solves_lyapunov(stiffness):
    A, b = (
        torch.tensor([[-0.5, 0.3], [-0.2, -stiffness]], dtype=torch.float64),
        torch.tensor([1.0, 2.0]).double(),
    )
    L = torch.tensor([[0.3, 0.1], [0.0, 2.0]], dtype=torch.float64)
    mean, P = nsde.LinearSDE(A, b, L).stationary()
    assert torch.allclose(A @ mean, -b, atol=1e-11)
    exact = linalg.solve_continuous_lyapunov(A.numpy(), -(L @ L.T).numpy())
    assert torch.allclose(P, torch.as_tensor(exact), rtol=1e-11, atol=1e-14)
    Phi, m, Q = nsde.LinearSDE(A, b, L).transition(0.7)
    assert torch.allclose(Phi @ P @ Phi.T + Q, P, atol=1e-13)
    assert torch.allclose(Phi @ mean + m, mean, atol=1e-13)


@pytest.mark.parametrize("A", [[[0.0]], [[0.1]], [[0.0, 1.0], [-1.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])
def test_without_a_stationary_law_there_is_an_error(A):
    with pytest.raises(DataError, match="negative real parts"):
        nsde.LinearSDE(A).stationary()


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
    with pytest.raises(DataError, match=r"duration: .* entry \[1\] is nan"):
        nsde.LinearSDE([[1.0]]).transition(torch.tensor([1.0, math.nan]))
    with pytest.raises(DataError, match="Phi overflows within 1000"):
        nsde.LinearSDE([[1.0]]).transition(1000.0)
    with pytest.raises(DataError, match="duration overflows"):
        nsde.LinearSDE([[-1e200]]).transition(1e200)
