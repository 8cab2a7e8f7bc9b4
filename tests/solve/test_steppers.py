"""Orders, limits and laws of the steppers."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import neurosde as nsde
from neurosde.errors import SolveError
from neurosde.noise import BrownianPath
from neurosde.solve import STEPPERS, EulerMaruyama, ExponentialEuler, Heun, ReversibleHeun, Step

ALPHA = 1e-5


def slope(errors, exponents):
    return -np.polyfit(exponents, np.log2(errors), 1)[0]


def endpoint_errors(sde, exponents, stepper, n=2000):
    path = BrownianPath(0.0, 1.0, (n, 1), seed=1, dtype=torch.float64)
    exact = sde.exact(1.0, path.increment(0.0, 1.0).W)
    start = torch.zeros(n, 1, dtype=torch.float64)
    solutions = (
        nsde.solve(sde, start, [0.0, 1.0], dt=2.0**-k, noise=path, stepper=stepper) for k in exponents
    )
    return [float((solution.ys[:, -1] - exact).abs().mean()) for solution in solutions]


@pytest.mark.parametrize(
    ("stepper", "calculus", "order"),
    [(EulerMaruyama(), "ito", 0.5), (Heun(), "stratonovich", 1.0), (ReversibleHeun(), "stratonovich", 1.0)],
)
def test_strong_order_and_limit(sinh_sde, stepper, calculus, order):
    exponents = range(4, 10)
    errors = endpoint_errors(sinh_sde(calculus), exponents, stepper)
    assert slope(errors, exponents) == pytest.approx(order, abs=0.15)
    assert errors[-1] < 0.03  # the limit is the right one, which a slope alone does not show


def test_the_wrong_calculus_converges_to_something_else(sinh_sde):
    sde = sinh_sde("stratonovich")
    sde.sde_type = "ito"
    sde.drift = lambda t, y: sde.a * torch.sqrt(1 + y * y)  # the twin forgets the correction
    errors = endpoint_errors(sde, range(4, 10), EulerMaruyama())
    assert errors[-1] > 0.1


def test_strong_order_of_the_exponential_step(relaxation):
    sde = relaxation(e=0.3, m=0.7)
    exponents = range(2, 8)
    path = BrownianPath(0.0, 1.0, (2000, 1), seed=1, levy="space-time", dtype=torch.float64)
    start = torch.zeros(2000, 1, dtype=torch.float64)
    with torch.no_grad():
        ends = [
            nsde.solve(sde, start, [0.0, 1.0], dt=2.0**-k, noise=path).ys[:, -1] for k in (*exponents, 12)
        ]
    errors = [float((end - ends[-1]).abs().mean()) for end in ends[:-1]]
    assert slope(errors, exponents) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("n_steps", [1, 5])
@pytest.mark.parametrize("horizon", [0.01, 0.5, 10.0])
def test_the_exponential_step_is_exact_in_law_for_a_linear_sde(relaxation, horizon, n_steps):
    sde, n = relaxation(), 40_000
    start = torch.full((n, 1), 2.0, dtype=torch.float64)
    with torch.no_grad():
        end = nsde.solve(sde, start, [0.0, horizon], dt=horizon / n_steps, seed=0).ys[:, -1, 0]
    mean = 2 * math.exp(-sde.k * horizon) + sde.c * -math.expm1(-sde.k * horizon) / sde.k
    variance = sde.s**2 * -math.expm1(-2 * sde.k * horizon) / (2 * sde.k)
    z = (end - mean) / math.sqrt(variance)
    assert stats.kstest(z.numpy(), "norm").pvalue > ALPHA / 6
    quantile = stats.norm.isf(ALPHA / 12)
    assert abs(float(z.mean())) * math.sqrt(n) < quantile
    assert abs(float(z.var()) - 1) * math.sqrt(n / 2) < quantile


def test_the_exponential_integral_and_the_increment_have_their_joint_law(relaxation):
    """Var I and Cov(W, I) as on paper; at kappa = 1.3, h = 0.5 they are 0.27980 and 0.36766."""
    kappa, h, n = 1.3, 0.5, 200_000
    record = BrownianPath(0.0, h, (n, 1), seed=0, levy="space-time", dtype=torch.float64).increment(0.0, h)
    sde = relaxation(k=kappa, c=0.0, s=1.0)
    times = torch.zeros(1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1), h, dtype=torch.float64)
    weights = tuple(part[0] for part in ExponentialEuler().weights(sde, *times))
    step = Step(torch.zeros(()), torch.tensor(h), record, weights)
    integral = ExponentialEuler().step(sde, step, torch.zeros(n, 1, dtype=torch.float64), ()).y.detach()
    variance, covariance = float(integral.var()), float((integral * record.W).mean())
    expected = -math.expm1(-2 * kappa * h) / (2 * kappa), -math.expm1(-kappa * h) / kappa
    assert expected == pytest.approx((0.27980, 0.36766), abs=1e-5)
    quantile = stats.norm.isf(ALPHA / 4)
    assert abs(variance - expected[0]) < quantile * expected[0] * math.sqrt(2 / n)
    assert abs(covariance - expected[1]) < quantile * math.sqrt((h * expected[0] + expected[1] ** 2) / n)
    plain = float((record.W**2).mean())  # the twin that takes dW for the integral
    assert abs(plain - expected[0]) > quantile * expected[0] * math.sqrt(2 / n)


def test_exponential_weights_are_smooth_at_zero(relaxation):
    rates = torch.logspace(-12, 1, 60, dtype=torch.float64)
    h = torch.ones(1, 1, 1, dtype=torch.float64)

    def weights(rate):
        return [float(w) for w in ExponentialEuler().weights(relaxation(k=float(rate)), h * 0, h)[1:]]

    table = np.array([weights(rate) for rate in rates])
    x = rates.numpy()
    v, p = -np.expm1(-2 * x) / (2 * x), -np.expm1(-x) / x
    assert np.allclose(table[:, 2], p, rtol=1e-8)
    far = x > 0.05
    assert np.allclose(table[far, 3] ** 2 / 12, (v - p**2)[far], rtol=1e-7)
    assert np.allclose(table[~far, 3], x[~far], rtol=0.04)
    assert (np.diff(table[:, 3]) > 0)[x[1:] < 1].all()


def test_heun_on_the_corrected_drift_is_euler(sinh_sde):
    start = torch.zeros(4000, 1, dtype=torch.float64)
    path = BrownianPath(0.0, 1.0, (4000, 1), seed=4, dtype=torch.float64)
    ito = nsde.solve(sinh_sde("ito"), start, [0.0, 1.0], dt=2.0**-11, noise=path).ys
    stratonovich = nsde.solve(sinh_sde("stratonovich"), start, [0.0, 1.0], dt=2.0**-11, noise=path).ys
    assert float((ito - stratonovich).abs().mean()) < 0.02


class Rotating(nsde.SDE):
    """General noise, two channels on three states."""

    noise_type = "general"

    def drift(self, t, y):
        return -y

    def diffusion(self, t, y):
        return torch.stack((torch.sin(y), 0.3 * torch.ones_like(y)), dim=-1)


@pytest.mark.parametrize("stepper", STEPPERS, ids=lambda s: type(s).__name__)
def test_every_stepper_says_what_it_does_not_fit(stepper, relaxation):
    class Neither(Rotating):
        sde_type = "stratonovich" if "ito" in stepper.sde_types else "ito"

    with pytest.raises(SolveError, match=r"For this SDE take one of: \w+"):
        nsde.solve(Neither(), torch.zeros(1, 3), [0.0, 1.0], stepper=stepper)


def test_general_and_diagonal_noise_agree_where_they_are_the_same(sinh_sde):
    class Diagonal(sinh_sde):
        noise_type = "general"

        def diffusion(self, t, y):
            return torch.diag_embed(super().diffusion(t, y))

    start = torch.zeros(3, 2, dtype=torch.float64)
    for calculus in ("ito", "stratonovich"):
        a = nsde.solve(sinh_sde(calculus), start, [0.0, 1.0], seed=0).ys
        b = nsde.solve(Diagonal(calculus), start, [0.0, 1.0], seed=0).ys
        assert torch.allclose(a, b, atol=1e-12)
