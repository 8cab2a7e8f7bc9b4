"""The stochastic adjoint converges to the gradient of the steps; conversion between the calculi."""

import math

import numpy as np
import pytest
import torch

import neurosde as nsde
from neurosde.calculus import ConvertedSDE, drift_correction, to_ito, to_stratonovich
from neurosde.errors import DataError
from neurosde.noise import BrownianPath


class Field(nsde.SDE):
    """Awkward fields of every noise type."""

    def __init__(self, sde_type, noise_type):
        super().__init__()
        self.sde_type, self.noise_type = sde_type, noise_type
        self.additive, self.strength = noise_type == "additive", 0.6
        generator = torch.Generator().manual_seed(0)
        self.A = torch.nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))
        self.B = torch.nn.Parameter(torch.randn(2, 4, generator=generator, dtype=torch.float64))

    def drift(self, t, y):
        return torch.tanh(y @ self.A) * (1 + torch.sin(t)) - y

    def diffusion(self, t, y):
        if self.noise_type == "additive":
            return (0.3 * torch.sigmoid(self.B) * (1 + t)).unflatten(-1, (2, 2))[0].expand(len(y), 2, 2)
        if self.noise_type == "diagonal":
            return self.strength * torch.sigmoid(2 * y * self.B[0, :2])
        full = self.strength * torch.sigmoid(y @ self.B)
        return full[:, :2, None] if self.noise_type == "scalar" else full.unflatten(-1, (2, 2))


def gradient(sde, mode, dt, path):
    sde.zero_grad()
    start = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2).requires_grad_()
    solution = nsde.solve(sde, start, [0.0, 0.5, 1.0], dt=dt, noise=path, gradient=mode)
    (solution.ys.square() * torch.tensor([1.0, 2.0, 3.0]).view(-1, 1)).sum().backward()
    return torch.cat([start.grad.flatten(), *(p.grad.flatten() for p in sde.parameters())])


@pytest.mark.parametrize("sde_type", ["ito", "stratonovich"])
@pytest.mark.parametrize("noise_type", ["diagonal", "additive", "scalar", "general"])
def test_it_converges_to_the_gradient_of_the_steps(sde_type, noise_type):
    sde = Field(sde_type, noise_type)
    n_noise = 1 if noise_type == "scalar" else 2
    path = BrownianPath(0.0, 1.0, (4, n_noise), seed=1, dtype=torch.float64)
    exact = gradient(sde, "backprop", 2.0**-10, path)
    errors = [float((gradient(sde, "adjoint", 2.0**-k, path) - exact).norm() / exact.norm()) for k in (3, 8)]
    assert errors[1] < 0.02
    assert errors[1] < 0.5 * errors[0]


def test_the_wrong_calculus_on_the_way_back_is_noticed(monkeypatch):
    sde = Field("ito", "diagonal")
    sde.strength = 2.0
    path = BrownianPath(0.0, 1.0, (4, 2), seed=1, dtype=torch.float64)
    exact = gradient(sde, "backprop", 2.0**-10, path)
    right = float((gradient(sde, "adjoint", 2.0**-8, path) - exact).norm() / exact.norm())
    monkeypatch.setattr("neurosde.solve.adjoint.to_stratonovich", lambda sde: sde)
    wrong = float((gradient(sde, "adjoint", 2.0**-8, path) - exact).norm() / exact.norm())
    assert wrong > 4 * right


class Mixing(Field):
    """Diagonal noise whose entries depend on all states."""

    def diffusion(self, t, y):
        return torch.sigmoid(y @ self.B[:, :2])


@pytest.mark.parametrize("noise_type", ["diagonal", "scalar", "general", "mixing"])
def test_the_correction_against_the_full_jacobian(noise_type):
    sde = Mixing("ito", "diagonal") if noise_type == "mixing" else Field("ito", noise_type)
    t = torch.tensor(0.3, dtype=torch.float64)
    y = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    with torch.no_grad():
        mine = drift_correction(sde, t, y)
    for i, row in enumerate(y):
        full = torch.autograd.functional.jacobian(lambda x: _matrix(sde, t, x[None])[0], row)
        g = _matrix(sde, t, row[None])[0].detach()
        expected = 0.5 * torch.einsum("kj,ijk->i", g, full)
        assert torch.allclose(mine[i], expected, atol=1e-12)


def _matrix(sde, t, y):
    g = sde.diffusion(t, y)
    return torch.diag_embed(g) if sde.noise_type == "diagonal" else g


def test_both_calculi_have_one_limit():
    sde = Field("ito", "diagonal")
    start = torch.zeros(2000, 2, dtype=torch.float64)
    path = BrownianPath(0.0, 1.0, (2000, 2), seed=1, dtype=torch.float64)
    with torch.no_grad():
        ends = [
            nsde.solve(x, start, [0.0, 1.0], dt=2.0**-8, noise=path).ys[:, -1]
            for x in (sde, to_stratonovich(sde))
        ]
        wrong = Field("stratonovich", "diagonal")
        twin = nsde.solve(wrong, start, [0.0, 1.0], dt=2.0**-8, noise=path).ys[:, -1]
    gap = float((ends[0] - ends[1]).mean(0).abs().max())
    assert gap < 2e-3
    assert float((ends[0] - twin).mean(0).abs().max()) > 10 * gap


def test_conversion_there_and_back_and_nothing_where_nothing_is_to_do():
    sde = Field("ito", "general")
    assert to_ito(sde) is sde
    there = to_stratonovich(sde)
    assert isinstance(there, ConvertedSDE)
    t, y = torch.tensor(0.1, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    assert torch.allclose(to_ito(there).drift(t, y), sde.drift(t, y), atol=1e-12)
    assert len(there.dependencies()) == 2
    linear = nsde.LinearSDE([[-1.0]])
    assert torch.equal(to_stratonovich(linear).drift(t, y[:, :1]), linear.drift(t, y[:, :1]))


def test_own_times_and_costs():
    sde = Field("stratonovich", "diagonal")
    ts = torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.7, math.nan]], dtype=torch.float64)
    grads = []
    for mode, dt in (("backprop", 2.0**-9), ("adjoint", 2.0**-7)):
        sde.zero_grad()
        start = torch.ones(2, 2, dtype=torch.float64).requires_grad_()
        ys = nsde.solve(sde, start, ts, dt=dt, seed=0, gradient=mode).ys
        torch.nan_to_num(ys).sum().backward()
        grads.append(start.grad)
    assert np.allclose(*grads, rtol=0.05)
    cost = nsde.RunningCost(lambda t, y: y.sum(-1))
    with pytest.raises(DataError, match="costs need a gradient that keeps the steps"):
        nsde.solve(sde, start, ts, gradient="adjoint", running=[cost])
