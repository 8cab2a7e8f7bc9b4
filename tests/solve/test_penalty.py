"""Penalties on the solver's effort: values by hand, gradients, and the sampled forms."""

import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError, SolveError
from neurosde.noise import BrownianPath
from neurosde.solve import EulerMaruyama, Heun, PIController, StepPenalty

N = 16


class Curved(nsde.SDE):
    sde_type = "stratonovich"

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def drift(self, t, y):
        return -self.rate * torch.sin(3 * y)

    def diffusion(self, t, y):
        return 0.3 * torch.cos(y)


def start(n=4):
    return torch.linspace(-1, 1, 2 * n, dtype=torch.float64).view(n, 2)


def path(n=4):
    return BrownianPath(0.0, 1.0, (n, 2), seed=0, dtype=torch.float64)


def by_hand(sde, penalty, n=4):
    """E_j h_j of every step, from the formulas, one step after the other."""
    y, h, values = start(n), 1 / N, []
    for k in range(N):
        W = path(n).increment(k * h, (k + 1) * h).W
        t = torch.tensor(k * h, dtype=torch.float64)
        f, g = sde.drift(t, y), sde.diffusion(t, y)
        z = y + h * f + g * W
        ahead = y + 0.5 * h * (f + sde.drift(t, z)) + 0.5 * (g + sde.diffusion(t, z)) * W
        error = ahead - z
        scale = penalty.atol + penalty.rtol * torch.maximum(y.abs(), ahead.abs())
        E = (error / scale).square().mean(-1).sqrt()
        S = (sde.drift(t, ahead) - sde.drift(t, z)).norm(dim=-1) / error.norm(dim=-1)
        values.append({"error": E * h, "squared_error": E**2 * h, "stiffness": S}[penalty.kind])
        y = ahead
    return torch.stack(values)


@pytest.mark.parametrize("kind", ["error", "squared_error", "stiffness"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_the_value_is_the_formula(kind, gradient):
    sde, penalty = Curved(), StepPenalty(kind)
    solution = nsde.solve(
        sde, start(), [0.0, 1.0], dt=1 / N, noise=path(), penalty=penalty, gradient=gradient
    )
    expected = by_hand(sde, penalty).mean()
    assert torch.allclose(solution.penalty, expected, rtol=1e-6)
    mine = torch.autograd.grad(solution.penalty, sde.rate)[0]
    assert torch.allclose(mine, torch.autograd.grad(expected, sde.rate)[0], rtol=1e-5)


def test_the_error_that_forgets_the_error_is_another_number():
    """A published implementation put the change of the state in its place."""
    sde, penalty = Curved(), StepPenalty()
    value = nsde.solve(sde, start(), [0.0, 1.0], dt=1 / N, noise=path(), penalty=penalty).penalty
    ys = nsde.solve(sde, start(), torch.linspace(0, 1, N + 1), noise=path(), dt=1 / N).ys
    scale = penalty.atol + penalty.rtol * torch.maximum(ys[:, 1:].abs(), ys[:, :-1].abs())
    twin = (ys.diff(dim=1) / scale).square().mean(-1).sqrt().mean() / N
    assert twin.item() > 3 * value.item()


@pytest.mark.parametrize("sample", ["one_step", "one_time"])
def test_a_sampled_step_stands_for_all_and_touches_no_other(sample):
    sde, n = Curved(), 300
    start_ = start(1).expand(n, 2).clone()
    values = []
    for seed in range(40):
        solution = nsde.solve(
            sde, start_, [0.0, 1.0], dt=1 / N, seed=1, penalty=StepPenalty(sample=sample, seed=seed)
        )
        values.append(float(solution.penalty.detach()))
    every = float(
        nsde.solve(sde, start_, [0.0, 1.0], dt=1 / N, seed=1, penalty=StepPenalty()).penalty.detach()
    )
    assert sum(values) / len(values) == pytest.approx(every, rel=0.15)
    assert len(set(values)) > 5
    plain = nsde.solve(sde, start_, [0.0, 1.0], dt=1 / N, seed=1)
    assert torch.equal(plain.ys, solution.ys)
    assert torch.autograd.grad(solution.penalty, sde.rate)[0].isfinite()


@pytest.mark.parametrize("sample", ["all", "one_step", "one_time"])
def test_adaptive_solves_and_own_times_have_it_too(sample):
    sde = Curved()
    ts = torch.tensor([[0.0, 1.0], [0.2, 0.5], [0.0, 0.7], [0.0, 0.3]], dtype=torch.float64)
    for more in ({"controller": PIController(1e-2, 1e-2)}, {"dt": 0.05}):
        solution = nsde.solve(sde, start(), ts, seed=0, penalty=StepPenalty(sample=sample, seed=3), **more)
        assert solution.penalty.dim() == 0
        assert float(torch.autograd.grad(solution.penalty, sde.rate)[0].abs()) > 0
        assert not solution.ys.isnan().any()


@pytest.mark.parametrize("gradient", ["reversible", "adjoint"])
def test_gradients_without_a_graph_carry_a_sampled_step(gradient):
    sde = Curved()
    call = {"dt": 1 / N, "seed": 0, "gradient": gradient}
    solution = nsde.solve(sde, start(), [0.0, 1.0], penalty=StepPenalty(sample="one_step", seed=0), **call)
    (solution.ys.sum() + solution.penalty).backward()
    assert sde.rate.grad.isfinite()
    with pytest.raises(DataError, match="penalty: of all steps it needs a gradient that keeps them"):
        nsde.solve(sde, start(), [0.0, 1.0], penalty=StepPenalty(), **call)


def test_there_is_none_unless_asked_for_and_errors_are_named():
    sde = Curved()
    assert nsde.solve(sde, start(), [0.0, 1.0], dt=0.1, seed=0, stepper=Heun()).penalty is None
    for arguments, message in (
        ({"kind": "cost"}, "kind: expected one of"),
        ({"sample": "some"}, "sample: expected one of"),
        ({"atol": 0.0}, "rtol, atol: expected"),
        ({"rtol": "1"}, "rtol, atol: expected numbers"),
        ({"rtol": True}, "rtol, atol: expected numbers"),
        ({"seed": -1}, "seed: expected None or an integer >= 0"),
        ({"seed": 0.5}, "seed: expected None or an integer >= 0"),
    ):
        with pytest.raises(DataError, match=message):
            StepPenalty(**arguments)
    sde.sde_type = "ito"
    with pytest.raises(SolveError, match="EulerMaruyama does not estimate its error"):
        nsde.solve(sde, start(), [0.0, 1.0], stepper=EulerMaruyama(), penalty=StepPenalty())


def test_training_on_it_makes_an_adaptive_solve_cheaper():
    sde = Curved()
    with torch.no_grad():
        sde.rate.fill_(8.0)
    controller = PIController(1e-3, 1e-3)

    def cost():
        with torch.no_grad():
            return float(
                nsde.solve(sde, start(), [0.0, 1.0], seed=0, controller=controller)
                .stats["nfe"]
                .float()
                .mean()
            )

    before, optimizer = cost(), torch.optim.Adam(sde.parameters(), 0.3)
    for _ in range(20):
        optimizer.zero_grad()
        nsde.solve(sde, start(), [0.0, 1.0], dt=1 / 64, seed=0, penalty=StepPenalty()).penalty.backward()
        optimizer.step()
    assert cost() < 0.8 * before


def test_it_is_measured_in_units_of_its_tolerances():
    """Ten times smaller tolerances: error ten times, squared error a hundred times, stiffness the same."""

    def value(kind, tolerance):
        penalty = StepPenalty(kind, rtol=tolerance, atol=tolerance)
        return nsde.solve(Curved(), start(), [0.0, 1.0], dt=1 / N, noise=path(), penalty=penalty).penalty

    for kind, factor in (("error", 10.0), ("squared_error", 100.0), ("stiffness", 1.0)):
        ratio = float((value(kind, 1e-3) / value(kind, 1e-2)).detach())
        assert ratio == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize("kind", ["error", "squared_error", "stiffness"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_without_error_cost_nothing_and_have_a_gradient(kind, dtype):
    """A constant drift is followed exactly: no error, no ratio of two nothings."""

    class Straight(Curved):
        def drift(self, t, y):
            return self.rate.to(y) * torch.ones_like(y)

        def diffusion(self, t, y):
            return torch.zeros_like(y)

    sde = Straight()
    y0 = start().to(dtype)
    value = nsde.solve(sde, y0, [0.0, 1.0], dt=1 / N, seed=0, penalty=StepPenalty(kind)).penalty
    assert 0 <= float(value.detach()) < 1e-6  # the twin sqrt(x + tiny) / sqrt(0 + tiny) says 1
    value.backward()
    assert sde.rate.grad is None or bool(torch.isfinite(sde.rate.grad))


def test_one_time_draws_steps_by_their_length():
    """A long step and nine short ones: evenly drawn it is met one time in nine, by length nine in ten."""
    from neurosde.solve.grid import TimeGrid

    times = torch.cat((torch.tensor([0.0]), torch.linspace(0.9, 1.0, 10))).double()
    grid = TimeGrid(times, torch.tensor([0, 10]), torch.tensor(10))
    n = 2000
    for sample, p in (("one_step", 1 / 9), ("one_time", 0.9)):
        drawn = [int(StepPenalty(sample=sample, seed=k).draw(grid, 1)) for k in range(n)]
        met = sum(number == 0 for number in drawn) / n
        assert abs(met - p) < 4.5 * (p * (1 - p) / n) ** 0.5  # false alarms: 1e-5
        assert (max(drawn) == 9) == (sample == "one_time")  # the last is never drawn evenly
