"""The Langevin cell keeps what it certifies."""

import math

import pytest
import torch

import neurosde as nsde
from neurosde.cells import LangevinCell
from neurosde.errors import DataError, ShapeError
from neurosde.nets import MLP, LipschitzMLP, spectral_norm


def trained_cell(contraction=0.5, kappa=2.0, control_size=0):
    """A cell whose weights have been pushed far beyond the bound, as training might."""
    cell = LangevinCell(3, control_size, kappa=kappa, contraction=contraction, hidden=16).double()
    with torch.no_grad():
        for layer in cell.pull.layers:
            layer.weight.mul_(8.0)
    return cell


@pytest.mark.parametrize("h", [0.01, 0.1, 0.5, 1.0])
def test_coupled_solutions_approach_at_the_certified_discrete_rate(h):
    kappa, K = 2.0, 0.5
    cell = trained_cell(K, kappa)
    rho = 1 - K / kappa * -math.expm1(-kappa * h)  # one step of the exponential scheme, in closed form
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 3, generator=generator, dtype=torch.float64)
    near = start + 0.1 * torch.randn(64, 3, generator=generator, dtype=torch.float64)
    keys = torch.arange(64)
    with torch.no_grad():
        a, b = (
            nsde.solve(cell, y, torch.arange(11) * h, dt=h, seed=0, series=keys).ys for y in (start, near)
        )
    distance = (a - b).norm(dim=-1)
    assert bool((distance[:, 1:] <= rho * distance[:, :-1] + 1e-12).all())
    assert cell.contraction_rate >= K - 1e-9


def test_without_the_bound_solutions_part():
    cell = trained_cell()
    start = 0.01 * torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def unbounded(y, x=None, weights=None):
        return cell.pull(y, x, [layer.weight for layer in cell.pull.layers])

    class Broken(LangevinCell):
        def driven_drift(self, t, y, path, weights):
            return unbounded(y) - self.kappa * y

    twin = Broken(3, kappa=2.0, contraction=0.5, hidden=16).double()
    with torch.no_grad():
        a, b = (nsde.solve(twin, y, [0.0, 2.0], dt=0.1, seed=0).ys for y in (start, start + 1e-3))
    assert float(((a - b)[:, -1].norm(dim=-1) / (a - b)[:, 0].norm(dim=-1)).max()) > 1


def test_contraction_holds_for_every_control():
    cell = trained_cell(control_size=2)
    generator = torch.Generator().manual_seed(1)
    control = 10 * torch.randn(32, 2, generator=generator, dtype=torch.float64)
    sde = cell.with_control(control)
    y = torch.randn(32, 3, generator=generator, dtype=torch.float64)
    other = torch.randn(32, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor(0.3)
    with torch.no_grad():
        inner = ((y - other) * (sde.drift(t, y) - sde.drift(t, other))).sum(-1)
    assert bool((inner <= -cell.contraction_rate * (y - other).square().sum(-1) + 1e-9).all())


def test_the_control_is_handed_over_and_not_kept():
    cell = LangevinCell(2, control_size=1)
    start = torch.zeros(1, 2)
    low, high = (cell.with_control(torch.full((1, 1), c)) for c in (-3.0, 3.0))
    solve = {"ts": [0.0, 1.0], "seed": 0, "dt": 0.1}
    first = nsde.solve(low, start, **solve).ys
    nsde.solve(high, start, **solve)
    assert torch.equal(nsde.solve(low, start, **solve).ys, first)
    with pytest.raises(ShapeError, match=r"takes 1 channels and got 0; set the path with cell.with_control"):
        nsde.solve(cell, start, **solve)


def test_gradients_reach_every_parameter_and_match_the_unprepared_cell():
    cell = LangevinCell(3, control_size=2, hidden=8).double()
    sde = cell.with_control(torch.ones(4, 2, dtype=torch.float64))
    nsde.solve(sde, torch.ones(4, 3, dtype=torch.float64), [0.0, 1.0], dt=0.2, seed=0).ys.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in cell.parameters())
    t, y = torch.tensor(0.1), torch.ones(4, 3, dtype=torch.float64)
    assert torch.allclose(sde.drift(t, y), sde.prepared().drift(t, y))


def test_the_diffusion_is_bounded_away_from_zero():
    cell = LangevinCell(3)
    with torch.no_grad():
        for parameter in cell.amplitude.parameters():
            parameter.fill_(-100.0)
        assert float(cell.diffusion(torch.tensor(1.0), torch.zeros(2, 3)).min()) >= 1e-3


def test_rates_are_checked():
    for contraction in (0.0, 3.0):
        with pytest.raises(DataError, match="contraction: expected 0 < contraction <= kappa"):
            LangevinCell(2, contraction=contraction)


def test_spectral_norm_and_its_gradient():
    weight = torch.randn(
        5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).requires_grad_()
    assert torch.allclose(spectral_norm(weight), torch.linalg.matrix_norm(weight, 2))
    mine = torch.autograd.grad(spectral_norm(weight), weight)[0]
    theirs = torch.autograd.grad(torch.linalg.matrix_norm(weight, 2), weight)[0]
    assert torch.allclose(mine, theirs, atol=1e-10)


def test_networks_are_drawn_from_their_generator_alone():
    nets = [MLP(3, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    x = torch.ones(1, 3)
    assert torch.equal(nets[0](x), nets[1](x))
    assert not torch.equal(nets[0](x), nets[2](x))
    assert torch.equal(MLP(3, 2, out_scale=0.0)(x), torch.zeros(1, 2))
    with pytest.raises(DataError, match="activation: expected one of"):
        MLP(3, 2, activation="relu6")


def test_a_certificate_covers_large_weights():
    net = LipschitzMLP(4, 4, lipschitz=0.7).double()
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.mul_(50.0)
    z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x).sum(0), z).permute(1, 0, 2)
    assert float(torch.linalg.matrix_norm(jacobian, 2).max()) <= 0.7 + 1e-9
    assert net.certificate().item() == pytest.approx(0.7, abs=1e-9)
