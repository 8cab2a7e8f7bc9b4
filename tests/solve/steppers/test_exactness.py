"""Where a stepper is exact, or equal to another one."""

import math

import pytest
import torch
from scipy import integrate, linalg, stats

import neurosde as nsde
from neurosde.forms import GeometricSDE, LinearNoiseSDE, UnderdampedLangevin
from neurosde.linear import LinearSDE
from neurosde.noise import BrownianIncrement, BrownianPath, StepNoise
from neurosde.solve import (
    QUICSORT,
    EulerMaruyama,
    ExponentialEuler,
    ExponentialHeun,
    ExponentialShARK,
    GeneralShARK,
    Heun,
    LieSplitting,
    LogEuler,
    LogODE,
    Midpoint,
    ShARK,
    ShOULD,
    Step,
)
from neurosde.solve.langevin import _psi_H, _psi_K
from neurosde.solve.phi import phi1, phi2

ALPHA = 1e-5


@pytest.mark.parametrize("n_steps", [1, 7])
@pytest.mark.parametrize("noise_type", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_log_euler_is_exact_for_constant_rates(lab, calculus, noise_type, n_steps):
    sde = lab.BlackScholes(calculus, noise_type)
    path = BrownianPath(0, 1, (50, 1 if noise_type == "scalar" else 2), seed=1, dtype=torch.float64)
    start = torch.tensor([[2.0, -3.0]], dtype=torch.float64).expand(50, -1)
    end = nsde.solve(sde, start, [0.0, 1.0], dt=1 / n_steps, noise=path, stepper=LogEuler()).ys[:, -1]
    assert torch.allclose(end, start * sde.exact(path.increment(0.0, 1.0).W), rtol=1e-12)


class Fading(LinearNoiseSDE):
    """``dy = -1.3 y dt + .6 y dW``."""

    def __init__(self, sde_type):
        super().__init__()
        self.sde_type = sde_type

    def drift(self, t, y):
        return -1.3 * y

    def relative_diffusion(self, t, y):
        return torch.full_like(y, 0.6)

    def decay(self, t):
        return torch.tensor([1.3], dtype=torch.float64)


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_lie_splitting_is_exact_where_nothing_is_left_of_the_drift(calculus):
    path = BrownianPath(0, 2, (50, 2), seed=1, dtype=torch.float64)
    start = torch.tensor([[2.0, -3.0]], dtype=torch.float64).expand(50, -1)
    solution = nsde.solve(Fading(calculus), start, [0.0, 2.0], dt=1.0, noise=path, stepper=LieSplitting())
    ito = 0.5 * 0.6**2 if calculus == "ito" else 0.0
    exact = start * torch.exp(-2 * (1.3 + ito) + 0.6 * path.increment(0.0, 2.0).W)
    assert torch.allclose(solution.ys[:, -1], exact, rtol=1e-12)


def test_signs_are_kept_where_eulers_step_flips_them():
    """Euler's step turns a sign with probability Phi(-1 / (sigma sqrt h)): 17.3 % at sigma = 1.5, h = .5."""

    class Loud(GeometricSDE):
        def relative_drift(self, t, y):
            return torch.zeros_like(y)

        def relative_diffusion(self, t, y):
            return torch.full_like(y, 1.5)

    n = 10_000
    start, noise = torch.ones(n, 1, dtype=torch.float64), StepNoise((n, 1), seed=0, dtype=torch.float64)
    ends = {
        type(s): nsde.solve(Loud(), start, [0.0, 0.5], dt=0.5, noise=noise, stepper=s).ys[:, -1]
        for s in (LogEuler(), LieSplitting(), EulerMaruyama())
    }
    assert bool((ends[LogEuler] > 0).all())
    assert bool((ends[LieSplitting] > 0).all())
    flipped = int((ends[EulerMaruyama] < 0).sum())
    assert stats.binomtest(flipped, n, stats.norm.cdf(-1 / (1.5 * math.sqrt(0.5)))).pvalue > ALPHA


@pytest.mark.parametrize("stepper", [ExponentialHeun(), ExponentialShARK()], ids=lambda s: type(s).__name__)
def test_exponential_steps_agree_where_they_are_exact(relaxation, stepper):
    """A constant rest and constant noise: the higher orders have nothing to add, whatever the step."""
    sde = relaxation()
    sde.sde_type = stepper.sde_types[0]
    start = torch.full((50, 2), 2.0, dtype=torch.float64)
    solutions = [
        nsde.solve(model, start, [0.0, 3.0], dt=1.5, seed=0, stepper=s).ys
        for model, s in ((sde, stepper), (relaxation(), ExponentialEuler()))
    ]
    assert torch.allclose(*solutions, rtol=1e-12)


@pytest.mark.parametrize(
    ("exponential", "plain"),
    [(ExponentialEuler(), EulerMaruyama()), (ExponentialHeun(), Heun()), (ExponentialShARK(), ShARK())],
    ids=lambda s: type(s).__name__,
)
def test_without_decay_exponential_steps_are_the_plain_ones(relaxation, exponential, plain):
    class Undecaying(relaxation):
        sde_type = plain.sde_types[0]

        def decay(self, t):
            return torch.zeros(1, dtype=torch.float64)

    sde, start = Undecaying(e=0.3, m=0.7), torch.full((5, 2), 2.0, dtype=torch.float64)
    path = BrownianPath(0, 1, (5, 2), seed=1, levy="space-time", dtype=torch.float64)
    ends = [
        nsde.solve(sde, start, [0.0, 1.0], dt=0.1, noise=path, stepper=s).ys for s in (exponential, plain)
    ]
    assert torch.allclose(*ends, rtol=1e-12)


def test_general_shark_is_shark_where_the_noise_is_constant(relaxation):
    sde, start = relaxation(e=0.3), torch.full((5, 2), 2.0, dtype=torch.float64)
    sde.sde_type = "stratonovich"
    ends = [
        nsde.solve(sde, start, [0.0, 1.0], dt=0.1, noise=path, stepper=stepper).ys
        for path in [BrownianPath(0, 1, (5, 2), seed=1, levy="space-time", dtype=torch.float64)]
        for stepper in (GeneralShARK(), ShARK())
    ]
    assert torch.allclose(*ends, rtol=1e-12)


def langevin_step(stepper, sde, h):
    """Matrices of one step of a linear force: y+ = M y + B (W, sqrt(12) H, sqrt(720) K) / sqrt(h)."""
    rows = torch.eye(5, dtype=torch.float64)
    y, noise = rows[:, :2], rows[:, 2:] * math.sqrt(h) / torch.tensor([1.0, 12.0**0.5, 720.0**0.5])
    t, length = torch.zeros((), dtype=torch.float64), torch.tensor(h, dtype=torch.float64)
    weights = tuple(w[0] for w in stepper.weights(sde, t.reshape(1, 1, 1), length.reshape(1, 1, 1)))
    step = Step(t, length, BrownianIncrement(length, *noise.split(1, dim=1)), weights)
    y_next = stepper.step(sde, step, y, stepper.start(sde, t, y)).y
    return y_next[:2].T, y_next[2:].T


@pytest.mark.parametrize("stepper", [QUICSORT(), ShOULD()], ids=lambda s: type(s).__name__)
def test_langevin_steps_of_a_linear_force_have_the_exact_transition_to_high_order(stepper):
    """Against the matrix exponential; the covariance of the noise as well."""
    friction, u = 1.2, 0.8
    sde = UnderdampedLangevin(lambda x: x, friction, u)
    exact = LinearSDE([[0.0, 1.0], [-u, -friction]], L=[[0.0], [math.sqrt(2 * friction * u)]])
    errors = []
    for h in (0.2, 0.1):
        M, B = langevin_step(stepper, sde, h)
        Phi, _, Q = exact.transition(h)
        errors.append([float((M - Phi).abs().max()), float((B @ B.T - Q).abs().max())])
    assert errors[1][0] < 1e-5
    assert errors[1][1] < 1e-5
    assert errors[0][0] / errors[1][0] > 2**3.5  # local error of the drift
    assert errors[0][1] / errors[1][1] > 2**3.5


@pytest.mark.parametrize("stepper", [QUICSORT(), ShOULD()], ids=lambda s: type(s).__name__)
def test_langevin_steps_of_a_linear_force_keep_the_stationary_law(stepper):
    """Stationary covariance of the steps, from Lyapunov's equation, beside that of exp(-x^2/2 - v^2/2u)."""
    sde, errors = UnderdampedLangevin(lambda x: x, 1.2, 0.8), []
    for h in (0.4, 0.2):
        M, B = langevin_step(stepper, sde, h)
        covariance = linalg.solve_discrete_lyapunov(M.numpy(), (B @ B.T).numpy())
        errors.append(abs(covariance - [[1, 0], [0, 0.8]]).max())
    assert errors[1] < 1e-3
    assert errors[0] / errors[1] > 2**2.85


@pytest.mark.parametrize("stepper", [QUICSORT(), ShOULD()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("friction", [0.0, 0.5, [0.3, 40.0]])
def test_free_particles(stepper, friction):
    """No force: mean exact at any step, with friction of every size, one a position."""
    sde = UnderdampedLangevin(lambda x: torch.zeros_like(x), friction)
    start = torch.tensor([[1.0, -1.0, 0.7, 2.0]], dtype=torch.float64)
    still = BrownianIncrement(
        torch.tensor([0.7], dtype=torch.float64), *torch.zeros(3, 1, 1, 2, dtype=torch.float64)
    )
    h = still.dt[0]
    weights = tuple(w[0] for w in stepper.weights(sde, h.reshape(1, 1, 1) * 0, h.reshape(1, 1, 1)))
    step = Step(h * 0, h, still.at(0), weights)
    x, v = stepper.step(sde, step, start, stepper.start(sde, h * 0, start)).y.chunk(2, -1)
    rate = torch.as_tensor(friction, dtype=torch.float64).expand(2)
    reach = torch.where(rate > 0, -torch.expm1(-0.7 * rate) / rate.clamp(min=1e-9), 0.7)
    assert torch.allclose(x, start[:, :2] + reach * start[:, 2:], rtol=1e-12)
    assert torch.allclose(v, torch.exp(-0.7 * rate) * start[:, 2:], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("stepper", [QUICSORT(), ShOULD()], ids=lambda s: type(s).__name__)
def test_the_double_wells_stationary_law(stepper):
    """U = (x^2 - 1)^2 / 2; E x^2 by quadrature, and the law of half the friction's noise is another."""
    n = 8000

    def moment(power):
        return integrate.quad(lambda x: x**power * math.exp(-0.5 * (x * x - 1) ** 2), -6, 6)[0]

    def square(u):
        sde = UnderdampedLangevin(lambda x: 2 * x * (x * x - 1) / u, u=u)
        noise = StepNoise((n, 1), seed=0, levy="space-time-time", dtype=torch.float64)
        start = torch.zeros(n, 2, dtype=torch.float64)
        with torch.no_grad():
            solution = nsde.solve(sde, start, [0.0, 20.0], dt=0.2, noise=noise, stepper=stepper)
        return float(solution.ys[:, -1, 0].square().mean())

    mean, spread = moment(2) / moment(0), moment(4) / moment(0)
    bound = stats.norm.isf(ALPHA / 2) * math.sqrt((spread - mean**2) / n)
    assert abs(square(1.0) - mean) < bound
    assert abs(square(0.5) - mean) > bound  # the twin: the same force, too little noise


def weighted(s, density, rate):
    return density(s) * math.exp(-rate * s)


def test_weights_are_smooth_where_their_series_takes_over():
    x = torch.logspace(-9, 1.6, 80, dtype=torch.float64)
    moments = {
        phi1: lambda s: 1.0,
        phi2: lambda s: 1 - s,
        _psi_H: lambda s: 6 * s * (1 - s),
        _psi_K: lambda s: 60 * s * (1 - s) * (2 * s - 1),
    }
    for function, density in moments.items():
        values = function(x)
        for value, point in zip(values.tolist(), x.tolist(), strict=True):
            exact = integrate.quad(weighted, 0, 1, (density, point), epsabs=1e-12)[0]
            assert value == pytest.approx(exact, rel=1e-9, abs=1e-11)


class Area(nsde.SDE):
    """``dy1 = dW1, dy2 = dW2, dy3 = (y1 o dW2 - y2 o dW1) / 2``: the third state is the Levy area."""

    sde_type, noise_type = "stratonovich", "general"

    def drift(self, t, y):
        return torch.zeros_like(y)

    def diffusion(self, t, y):
        zero, one = torch.zeros_like(y[:, 0]), torch.ones_like(y[:, 0])
        rows = [one, zero, zero, one, -0.5 * y[:, 1], 0.5 * y[:, 0]]
        return torch.stack(rows, dim=-1).unflatten(-1, (3, 2))


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_log_ode_method_has_the_variance_of_the_area(n_steps):
    """Var A = T^2 / 4 from any number of steps; the increments' own part of one step is T^2 / 6."""
    n = 20_000
    noise = StepNoise((n, 2), seed=1, levy="area", dtype=torch.float64)
    start = torch.zeros(n, 3, dtype=torch.float64)
    with torch.no_grad():
        areas = [
            nsde.solve(Area(), start, [0.0, 2.0], dt=2 / n_steps, noise=noise, stepper=s).ys[:, -1, 2]
            for s in (LogODE(), Midpoint())
        ]
    increment = noise.increments(torch.linspace(0, 2, n_steps + 1, dtype=torch.float64))
    variances = [float(area.var()) for area in areas]
    bound = stats.norm.isf(ALPHA / 2) * math.sqrt((3 + 3 - 1) / n)  # kurtosis of the area is below 6
    assert abs(variances[0] - 1.0) < bound
    assert variances[1] < 1 - 1 / n_steps + bound  # the twin misses the area inside the steps
    if n_steps == 1:
        assert torch.allclose(areas[0], increment.A[0, :, 0, 1], atol=1e-12)
        expected = increment.H[0, :, 0] * increment.W[0, :, 1] - increment.W[0, :, 0] * increment.H[0, :, 1]
        assert abs(float(expected.var()) - 4 / 6) < bound


def test_areas_follow_the_true_path():
    """Given W and H, the area of a fine path has the mean and the variance that are drawn."""
    n, k = 3000, 256
    path = BrownianPath(0, 1, (n, 2), seed=1, levy="space-time", dtype=torch.float64)
    fine = path.increments(torch.linspace(0, 1, k + 1, dtype=torch.float64))
    before = fine.W.cumsum(0) - fine.W / 2 + fine.H  # mean of the path over each of its steps
    area = (before[..., 0] * fine.W[..., 1] - before[..., 1] * fine.W[..., 0]).sum(0) / 2
    whole = path.increment(0.0, 1.0)
    mean = whole.H[:, 0] * whole.W[:, 1] - whole.W[:, 0] * whole.H[:, 1]
    variance = 1 / 20 + (whole.H.square().sum(-1)) / 5
    z = (area - mean) / variance.sqrt()
    quantile = stats.norm.isf(ALPHA / 6)
    assert abs(float(z.mean())) < quantile / math.sqrt(n)
    assert abs(float((z * mean).mean())) < quantile * float(mean.std()) / math.sqrt(n)
    assert abs(float(z.square().mean()) - 1) < quantile * math.sqrt(4 / n) + 4 / k


def test_areas_are_keyed_by_series_and_interval():
    def area(series, s, t, seed=0):
        shape = (len(series), 3)
        path = BrownianPath(
            0, 1, shape, seed=seed, levy="area", series=torch.tensor(series), dtype=torch.float64
        )
        return path.increment(s, t).A

    batch = area([4, 7, 1], 0.2, 0.7)
    assert torch.equal(batch, -batch.mT)
    assert torch.equal(batch[1:2], area([7], 0.2, 0.7))
    assert not torch.equal(batch, area([4, 7, 1], 0.2, 0.8))
    assert not torch.equal(batch, area([4, 7, 1], 0.2, 0.7, seed=1))
    steps = [
        StepNoise((len(keys), 3), seed=0, levy="area", series=torch.tensor(keys), dtype=torch.float64)
        for keys in ([4, 7], [7])
    ]
    times = torch.linspace(0, 1, 4, dtype=torch.float64)
    many, one = (noise.increments(times) for noise in steps)
    assert torch.equal(many.A[:, 1:], one.A)
    assert torch.equal(many.at(1).A, many.A[1])
