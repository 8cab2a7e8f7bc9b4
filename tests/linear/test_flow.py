"""Matrix functions of a linear flow, and what it makes of noise, against SciPy and quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, linalg

from neurosde.errors import DataError
from neurosde.linear import linear_transition
from neurosde.linear.flow import distinct, filtered_noise, isometry, linear_flow, matched

ROTATION, OSCILLATOR = [[0.0, 1.0], [-1.0, 0.0]], [[0.0, 1.0], [-4.0, -0.5]]
MATRICES = {
    "nothing": np.zeros((2, 2)),
    "short": 1e-3 * np.array([[-1.0, 2.0], [0.5, -3.0]]),
    "coupled": np.array([[-1.0, 0.3], [0.2, -0.4]]),
    "oscillator": np.array(OSCILLATOR),
    "a turn": 2 * math.pi * np.array(ROTATION),
    "no regression": 8.986818915818128 * np.array(ROTATION),  # tan(x/2) = x/2: H tells nothing
    "shear": np.array([[-1.0, 300.0], [0.0, -1.0]]),
    "singular": np.array([[0.0, 1.0], [0.0, -0.5]]),
    "growing": np.array([[3.0, 1.0], [-1.0, 2.0]]),
    "stiff": np.array([[-2000.0, 1999.0], [1999.0, -2000.0]]),
}
every_matrix = pytest.mark.parametrize("Z", MATRICES.values(), ids=MATRICES)


def average(Z, density):
    """``int_0^1 density(s) e^{Z s} ds`` by quadrature on a mesh that is fine near 0."""
    mesh = np.concatenate(([0.0], np.geomspace(1e-6, 1, 25)))
    pieces = [
        integrate.quad_vec(lambda s: density(s) * linalg.expm(Z * s), a, b, epsabs=1e-13)[0]
        for a, b in itertools.pairwise(mesh)
    ]
    return sum(pieces)


@every_matrix
def test_functions_are_their_integrals(Z):
    flow, noise = filtered_noise(torch.tensor(Z), torch.eye(2))
    scale = np.abs(linalg.expm(Z)).max() + 1
    assert np.allclose(flow.Phi, linalg.expm(Z), atol=1e-11 * scale)
    densities = [
        (flow.phi1, lambda s: 1.0),
        (flow.phi2, lambda s: 1 - s),
        (noise.slopes[0], lambda s: 6 * s * (1 - s)),
        (noise.slopes[1], lambda s: 60 * s * (1 - s) * (2 * s - 1)),
    ]
    for value, density in densities:
        assert np.allclose(value, average(Z, density), rtol=1e-9, atol=1e-10 * scale)


@every_matrix
@pytest.mark.parametrize(
    "L", [np.eye(2), [[0.7, 0.1], [-0.2, 0.4]], [[0.3], [0.7]]], ids=["I", "L", "column"]
)
def test_noise_has_the_covariance_of_the_exact_transition(Z, L):
    Z, L = torch.tensor(Z), torch.tensor(L, dtype=torch.float64)
    flow, noise = filtered_noise(Z, L)
    Q = linear_transition(Z, torch.zeros(2), L, 1.0).Q
    along, swing = flow.phi1 @ L, Z @ noise.root
    assert torch.allclose(along @ along.mT + swing @ swing.mT, Q, rtol=1e-10, atol=1e-13 * float(Q.max()))
    for richness in (1, 2):
        if richness * L.shape[1] >= 2:
            swing = Z @ matched(noise, richness)
            whole = along @ along.mT + swing @ swing.mT
            assert torch.allclose(whole, Q, rtol=1e-10, atol=1e-13 * float(Q.max()))


def test_stiffness_costs_no_digits():
    """A slow and a fast mode, turned: both variances to nine digits, where forming S would leave none."""
    V = torch.linalg.qr(torch.tensor([[1.0, 2.0], [-0.5, 1.5]], dtype=torch.float64)).Q
    x = torch.tensor([1.0, 1e7], dtype=torch.float64)
    Z = -(V * x) @ V.mT
    flow, noise = filtered_noise(Z, torch.eye(2))
    mean, swing = V.mT @ flow.phi1 @ V, V.mT @ Z @ noise.root
    p, v = -torch.expm1(-x) / x, -torch.expm1(-2 * x) / (2 * x)
    assert torch.allclose(mean.diagonal(), p, rtol=1e-8)
    assert torch.allclose((swing @ swing.mT).diagonal(), v - p**2, rtol=1e-8)


def test_the_coupling_is_the_nearest_one():
    """No other root of S is closer to the regression; it tends to the regression as time shrinks."""
    Z = torch.tensor(OSCILLATOR, dtype=torch.float64)
    gaps = []
    for tau in (0.2, 0.1):
        _, noise = filtered_noise(tau * Z, torch.eye(2))
        k, regression = matched(noise, 1), noise.slopes[0] / 12**0.5
        gaps.append(float((k - regression).norm()))
        for angle in (0.3, -0.3, math.pi):
            turn = torch.tensor(
                [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64
            )
            assert float((k @ turn - regression).norm()) > gaps[-1]
    assert gaps[0] / gaps[1] > 2**1.8


def test_a_batch_of_times_is_each_alone():
    A = torch.tensor(OSCILLATOR, dtype=torch.float64)
    tau = torch.tensor([0.0, 1e-3, 0.7, 30.0], dtype=torch.float64)
    together = linear_flow(A * tau[:, None, None])
    for k, one in enumerate(tau):
        for part, alone in zip(together, linear_flow(A * one), strict=True):
            assert torch.allclose(part[k], alone, rtol=1e-11, atol=1e-13)
    assert torch.equal(together.phi1[0], torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [0.0, 0.2, 3.0])
def test_gradients(scale):
    generator = torch.Generator().manual_seed(0)
    Z = (scale * torch.randn(3, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    g = torch.randn(3, 2, generator=generator, dtype=torch.float64).requires_grad_()

    def weights(Z, g):
        flow, noise = filtered_noise(Z, g)
        return *flow, Z @ matched(noise, 2)

    if scale:
        assert torch.autograd.gradcheck(weights, (Z, g))
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda Z: Z @ matched(filtered_noise(Z, eye)[1], 1), (Z,))


def test_an_isometry_has_a_gradient_where_singular_values_meet():
    turn = torch.linalg.qr(torch.tensor([[1.0, 2.0], [-0.5, 1.5]], dtype=torch.float64)).Q
    wide = torch.cat((2 * turn, torch.zeros(2, 1)), -1)
    for M in (2 * turn, wide):
        assert torch.allclose(isometry(M), M / 2, atol=1e-12)
        assert torch.autograd.gradcheck(isometry, (M.clone().requires_grad_(),))


def test_times_that_differ_by_rounding_are_one():
    steps = torch.linspace(0, 1, 101, dtype=torch.float64).diff().reshape(10, 10)
    values, place = distinct(torch.cat((steps, torch.zeros(10, 1), 2 * steps[:, :1]), 1))
    assert len(values) <= 5  # two neighbours of a rounded value each, at worst
    assert torch.allclose(values[place][:, :10], steps, rtol=1e-12)
    assert not bool(values[place][:, 10].any())


def test_what_is_not_finite_is_refused():
    with pytest.raises(DataError, match="Z: expected finite entries"):
        linear_flow(torch.tensor([[math.inf]]))
