"""The reversible gradient is that of the steps, without keeping them."""

import math

import pytest
import torch

import neurosde as nsde
from neurosde.cells import LangevinCell
from neurosde.errors import DataError, SolveError
from neurosde.solve import EulerMaruyama, PIController, ReversibleHeun


class Network(nsde.SDE):
    sde_type = "stratonovich"

    def __init__(self, noise_type, n_noise=2):
        super().__init__()
        self.noise_type, self.n_noise = noise_type, n_noise
        generator = torch.Generator().manual_seed(0)
        self.A = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))
        self.B = torch.nn.Parameter(torch.randn(3, 3 * n_noise, generator=generator, dtype=torch.float64))

    def drift(self, t, y):
        return torch.tanh(y @ self.A) * torch.cos(t)

    def diffusion(self, t, y):
        if self.noise_type == "diagonal":
            return 0.3 * torch.sigmoid(y @ self.B[:, :3])
        return 0.3 * torch.sigmoid(y @ self.B).unflatten(-1, (3, self.n_noise))


def gradients(sde, mode, ts, **more):
    sde.zero_grad()
    start = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3).requires_grad_()
    solution = nsde.solve(sde, start, ts, seed=0, stepper=ReversibleHeun(), gradient=mode, **more)
    known = torch.nan_to_num(solution.ys)
    (known.square() * torch.arange(1, known.shape[1] + 1).view(-1, 1)).sum().backward()
    return solution.ys.detach(), start.grad, *(p.grad.clone() for p in sde.parameters())


SHARED = [0.0, 0.31, 1.0]
OWN = [[0.0, 0.4, 1.0], [0.0, 0.7, math.nan], [0.2, 0.3, 0.9], [0.0, math.nan, math.nan]]


@pytest.mark.parametrize("noise_type", ["diagonal", "general"])
@pytest.mark.parametrize("ts", [SHARED, OWN], ids=["shared", "own"])
def test_it_is_the_gradient_of_backpropagation(noise_type, ts):
    sde, ts = Network(noise_type), torch.tensor(ts, dtype=torch.float64)
    kept, undone = (gradients(sde, mode, ts, dt=0.01) for mode in ("backprop", "reversible"))
    for a, b in zip(kept, undone, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10, equal_nan=True)


def test_for_the_steps_of_an_adaptive_solve_as_well():
    sde, controller = Network("diagonal"), PIController(1e-3, 1e-3)
    kept, undone = (
        gradients(sde, mode, SHARED, controller=controller) for mode in ("backprop", "reversible")
    )
    for a, b in zip(kept, undone, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


def test_a_cell_and_its_control_are_reached():
    cell = LangevinCell(3, control_size=2, hidden=8).double()
    cell.sde_type = "stratonovich"
    results = []
    for mode in ("backprop", "reversible"):
        cell.zero_grad()
        control = torch.ones(4, 2, dtype=torch.float64).requires_grad_()
        start = torch.ones(4, 3, dtype=torch.float64)
        driven = cell.with_control(control)
        nsde.solve(
            driven, start, [0.0, 1.0], dt=0.05, seed=0, stepper=ReversibleHeun(), gradient=mode
        ).ys.sum().backward()
        results.append([control.grad, *(p.grad.clone() for p in cell.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)


class Decay(nsde.SDE):
    sde_type = "stratonovich"

    def __init__(self, rate):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(rate))

    def drift(self, t, y):
        return -self.rate * y

    def diffusion(self, t, y):
        return 0.1 * torch.ones_like(y)


def test_a_strongly_dissipative_drift_is_refused_on_the_way_back():
    solution = nsde.solve(
        Decay(5.0), torch.ones(8, 1), [0.0, 10.0], dt=1 / 128, seed=0, gradient="reversible"
    )
    with pytest.raises(SolveError, match="the way back did not meet the initial states"):
        solution.ys.sum().backward()


def test_memory_does_not_grow_with_the_number_of_steps():
    """Tensors that the graph keeps between the way forth and the way back."""

    def kept(mode, n_steps):
        count = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: count.append(x.numel()) or x, lambda x: x):
            sde = Network("diagonal")
            start = torch.zeros(16, 3, dtype=torch.float64).requires_grad_()
            nsde.solve(sde, start, [0.0, 1.0], dt=1 / n_steps, stepper=ReversibleHeun(), gradient=mode)
        return sum(count)

    assert kept("reversible", 400) == kept("reversible", 40)
    assert kept("backprop", 400) > 5 * kept("backprop", 40)
    assert kept("checkpoint", 400) < 0.34 * kept("backprop", 400)


def test_what_it_cannot_do_is_said():
    sde, start = Network("diagonal"), torch.zeros(2, 3, dtype=torch.float64)
    with pytest.raises(SolveError, match="undoes ReversibleHeun steps; got EulerMaruyama"):
        nsde.solve(sde, start, SHARED, gradient="reversible", stepper=EulerMaruyama())
    cost = nsde.RunningCost(lambda t, y: y.sum(-1))
    with pytest.raises(DataError, match="costs need a gradient that keeps the steps"):
        nsde.solve(sde, start, SHARED, gradient="reversible", running=[cost])
