"""Running costs: with which order they converge, and the divergence of two SDEs against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import neurosde as nsde
from neurosde.noise import BrownianPath
from neurosde.sde import divergence_cost
from neurosde.solve import EulerMaruyama, ExponentialEuler, Heun, PIController

ALPHA = 1e-5
EXPONENTS = range(3, 8)


class Motion(nsde.SDE):
    """``dy = dW``: the state of every step is exact, so that only the costs have an error."""

    additive = True

    def drift(self, t, y):
        return torch.zeros_like(y)

    def diffusion(self, t, y):
        return torch.ones_like(y)


class Turning(nsde.SDE):
    """``y' = -2 y + sin 3t``, without noise."""

    sde_type = "stratonovich"

    def drift(self, t, y):
        return -2 * y + torch.sin(3 * t)

    def diffusion(self, t, y):
        return torch.zeros_like(y)


class OrnsteinUhlenbeck(nsde.SDE):
    """``dy = -rate y dt + s dW`` with its linear part declared."""

    additive, s = True, 0.5

    def __init__(self, rate, shift=0.0):
        super().__init__()
        self.rate, self.shift = rate, shift

    def drift(self, t, y):
        return -self.rate * y + self.shift

    def diffusion(self, t, y):
        return torch.full_like(y, self.s)

    def decay(self, t):
        return torch.tensor([self.rate], dtype=torch.float64)


def slope(errors):
    return -np.polyfit(list(EXPONENTS), np.log2(errors), 1)[0]


def costs_of_motion(cost, n=1000):
    """The cost over [0, 1] at every step, and the path."""
    path = BrownianPath(0.0, 1.0, (n, 1), seed=1, levy="space-time", dtype=torch.float64)
    start = torch.zeros(n, 1, dtype=torch.float64)
    options = {"noise": path, "stepper": EulerMaruyama(), "running": [cost], "compile": "off"}
    ends = [
        nsde.solve(Motion(), start, [0.0, 1.0], dt=2.0**-k, **options).running["cost"][:, -1]
        for k in EXPONENTS
    ]
    return ends, path


def test_a_smooth_rate_has_the_order_of_the_trapezium_rule():
    start, errors = torch.ones(1, 1, dtype=torch.float64), []
    cost = nsde.RunningCost(lambda t, y: torch.exp(t).expand(len(y)), name="cost")
    for k in EXPONENTS:
        solution = nsde.solve(
            Turning(), start, [0.0, 1.0], dt=2.0**-k, running=[cost], stepper=Heun(), seed=0
        )
        errors.append(abs(float(solution.running["cost"][0, -1]) - (math.e - 1)))
    assert slope(errors) == pytest.approx(2.0, abs=0.15)


def test_a_smooth_rate_of_a_smooth_state_has_order_two():
    """``int y dt`` of the solution, which Heun's steps also have to order two."""
    start, errors = torch.ones(1, 1, dtype=torch.float64), []
    cost = nsde.RunningCost(lambda t, y: y.squeeze(-1), name="cost")

    def integral(t):  # of y = c e^{-2t} + (2 sin 3t - 3 cos 3t) / 13 with y(0) = 1
        return 16 / 13 * (1 - math.exp(-2 * t)) / 2 + (2 * (1 - math.cos(3 * t)) / 3 - math.sin(3 * t)) / 13

    for k in EXPONENTS:
        solution = nsde.solve(
            Turning(), start, [0.0, 1.0], dt=2.0**-k, running=[cost], stepper=Heun(), seed=0
        )
        errors.append(abs(float(solution.running["cost"][0, -1]) - integral(1.0)))
    assert slope(errors) == pytest.approx(2.0, abs=0.15)


def test_a_rate_along_a_rough_path_has_order_one():
    """The trapezium rule of ``int W dt`` misses the integrals H of its steps, of variance h^3 / 12."""
    ends, path = costs_of_motion(nsde.RunningCost(lambda t, y: y.squeeze(-1), name="cost"))
    whole = path.increment(0.0, 1.0)
    exact = (0.5 * whole.W + whole.H).squeeze(-1)
    errors = [float((end - exact).abs().mean()) for end in ends]
    assert slope(errors) == pytest.approx(1.0, abs=0.15)
    law = math.sqrt(2 / math.pi * 2.0 ** (-2 * EXPONENTS[-1]) / 12)  # mean of |N(0, h^2 / 12)|
    assert errors[-1] / law == pytest.approx(1.0, abs=stats.norm.isf(ALPHA / 2) * 0.76 / math.sqrt(1000))


def test_an_ito_integral_of_the_path_has_order_one_half():
    ends, path = costs_of_motion(nsde.RunningCost(h=lambda t, y: y, name="cost"))
    W = path.increment(0.0, 1.0).W.squeeze(-1)
    errors = [float((end - 0.5 * (W**2 - 1)).abs().mean()) for end in ends]
    assert slope(errors) == pytest.approx(0.5, abs=0.15)
    twin = [float((end - 0.5 * W**2).abs().mean()) for end in ends]  # Stratonovich's integral is another
    assert twin[-1] > 0.4


def test_an_integral_of_a_function_of_time_has_order_one():
    """``int t dW = W - int W dt``."""
    cost = nsde.RunningCost(h=lambda t, y: t.expand_as(y), name="cost")
    ends, path = costs_of_motion(cost)
    whole = path.increment(0.0, 1.0)
    exact = (whole.W - (0.5 * whole.W + whole.H)).squeeze(-1)
    assert slope([float((end - exact).abs().mean()) for end in ends]) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(
    "steps", [{"dt": 0.05}, {"controller": PIController(1e-2, 1e-2)}], ids=["equal", "own"]
)
def test_several_costs_in_one_pass_are_those_of_separate_passes(sinh_sde, steps):
    costs = [
        nsde.RunningCost(lambda t, y: y.square().sum(-1), name="energy"),
        nsde.RunningCost(h=lambda t, y: torch.cos(y), name="motion"),
        nsde.RunningCost(lambda t, y: torch.sin(y[:, 0]), lambda t, y: t.expand_as(y), name="both"),
    ]
    start = torch.linspace(-1, 1, 4, dtype=torch.float64).view(4, 1)

    def run(running):
        options = {"seed": 0, "stepper": Heun(), "running": running, "compile": "off", **steps}
        return nsde.solve(sinh_sde("stratonovich"), start, [0.0, 0.3, 1.0], **options)

    together = run(costs)
    for cost in costs:
        alone = run([cost])
        assert torch.equal(together.running[cost.name], alone.running[cost.name])
        assert torch.equal(together.ys, alone.ys)


def divergence(a, b, start, T, s):
    """KL of the paths of rate a from those of rate b: (a - b)^2 / 2s^2 times the integral of E y^2."""
    decay = -math.expm1(-2 * a * T) / (2 * a)
    square = start**2 * decay + s**2 / (2 * a) * (T - decay)
    return (a - b) ** 2 / (2 * s**2) * square


@pytest.mark.parametrize(
    "steps", [{"dt": 2.0**-5}, {"controller": PIController(1e-3, 1e-3)}], ids=["equal", "own"]
)
def test_the_divergence_of_two_ornstein_uhlenbeck_processes(steps):
    a, b, n, T = 1.3, 0.4, 4000 if "dt" in steps else 500, 1.5
    sde, other = OrnsteinUhlenbeck(a), OrnsteinUhlenbeck(b)
    start = torch.full((n, 1), 0.7, dtype=torch.float64)
    stepper = ExponentialEuler() if "dt" in steps else None
    with torch.no_grad():
        values = nsde.solve(
            sde,
            start,
            [0.0, T],
            seed=2,
            stepper=stepper,
            running=[divergence_cost(sde, other.drift)],
            **steps,
        ).running["divergence"][:, -1]
    error = float(values.std()) / math.sqrt(n) * stats.norm.isf(ALPHA / 2)
    exact, reverse = (divergence(*rates, 0.7, T, sde.s) for rates in ((a, b), (b, a)))
    bias = 2.0**-10 * exact  # of the trapezium rule at this step
    assert abs(float(values.mean()) - exact) < error + bias
    if "dt" in steps:
        assert abs(float(values.mean()) - reverse) > 2 * error  # the twin: the other way round


@pytest.mark.parametrize("noise_type", ["diagonal", "general"])
def test_a_constant_shift_of_the_drift_is_exact(noise_type):
    """``1/2 |g^-1 u|^2 T``, by a square matrix of noise as well."""
    u = torch.tensor([0.8, -0.3], dtype=torch.float64)
    G = torch.tensor([[0.5, 0.2], [-0.1, 0.7]], dtype=torch.float64)

    class Shifted(OrnsteinUhlenbeck):
        def drift(self, t, y):
            return super().drift(t, y) + u

        def diffusion(self, t, y):
            return G.diagonal().expand_as(y) if noise_type == "diagonal" else G.expand(len(y), 2, 2)

    sde = Shifted(1.0)
    sde.noise_type = noise_type
    cost = divergence_cost(sde, OrnsteinUhlenbeck(1.0).drift)
    running = nsde.solve(
        sde, torch.zeros(3, 2, dtype=torch.float64), [0.0, 0.5, 2.0], dt=0.1, seed=0, running=[cost],
        stepper=EulerMaruyama(),
    ).running["divergence"]  # fmt: skip
    z = u / G.diagonal() if noise_type == "diagonal" else torch.linalg.solve(G, u)
    exact = 0.5 * z.square().sum() * torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    assert torch.allclose(running, exact.expand(3, 3), rtol=1e-6, atol=1e-12)


def test_the_likelihood_ratio_is_a_martingale():
    """E exp(-int u dW - 1/2 int u^2 dt) = 1, and its logarithm has the mean of minus the divergence."""
    n, a, b = 4000, 1.0, 0.6
    sde = OrnsteinUhlenbeck(a)
    costs = [
        divergence_cost(sde, OrnsteinUhlenbeck(b).drift),
        nsde.RunningCost(h=lambda t, y: (b - a) * y / sde.s, name="motion"),
    ]
    with torch.no_grad():
        running = nsde.solve(
            sde, torch.ones(n, 1, dtype=torch.float64), [0.0, 1.0], dt=2.0**-6, seed=3, running=costs,
            stepper=EulerMaruyama(),
        ).running  # fmt: skip
    weight = torch.exp(-running["motion"][:, -1] - running["divergence"][:, -1])
    quantile = stats.norm.isf(ALPHA / 4) / math.sqrt(n)
    assert abs(float(weight.mean()) - 1) < quantile * float(weight.std())
    wrong = torch.exp(-running["motion"][:, -1] + running["divergence"][:, -1])  # the twin: the other sign
    assert abs(float(wrong.mean()) - 1) > quantile * float(wrong.std())
