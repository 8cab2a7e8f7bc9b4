"""Linear parts that are matrices: exact transitions, orders, and the diagonal road in other coordinates."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

import neurosde as nsde
from neurosde.calculus import to_stratonovich
from neurosde.errors import ShapeError, SolveError
from neurosde.forms import LinearNoiseSDE
from neurosde.noise import BrownianIncrement, BrownianPath, StepNoise
from neurosde.solve import (
    EulerMaruyama,
    ExponentialEuler,
    ExponentialHeun,
    ExponentialShARK,
    LieSplitting,
    LinearTransition,
    Step,
)
from neurosde.solve.choice import choose_stepper

ALPHA = 1e-5
SYSTEMS = {
    "coupled": [[-1.0, 0.3], [0.2, -0.4]],
    "oscillator": [[0.0, 1.0], [-4.0, -0.5]],
    "rotation": [[0.0, 7.0], [-7.0, 0.0]],
    "shear": [[-1.0, 300.0], [0.0, -1.5]],
    "stiff": [[-2000.0, 1999.0], [1900.0, -2000.0]],
    "singular": [[0.0, 1.0], [0.0, -0.5]],
    "nothing": [[0.0, 0.0], [0.0, 0.0]],
}
NOISES = {
    "square": [[0.6, 0.0], [0.2, 0.5]],
    "wide": [[0.5, 0.1, 0.2], [0.0, 0.4, -0.3]],
    "velocity": [[0.0], [0.7]],
}
EXPONENTIAL = [ExponentialEuler(), ExponentialHeun(), ExponentialShARK()]


def name(value):
    return type(value).__name__


class Turned(nsde.SDE):
    """``dx = (-D x + e sin 2x) dt + s (1 + m sin t) dW`` in states ``y = V x``; D are rates or a matrix."""

    noise_type, additive = "additive", True

    def __init__(self, D, V=None, sde_type="ito", e=0.0, m=0.0, moving=0.0):
        super().__init__()
        self.sde_type, self.e, self.m, self.moving = sde_type, e, m, moving
        self.D = torch.as_tensor(D, dtype=torch.float64)
        self.V = torch.eye(len(self.D), dtype=torch.float64) if V is None else V
        self.as_matrix = V is not None or self.D.dim() == 2

    def matrix(self):
        D = torch.diag(self.D) if self.D.dim() == 1 else self.D
        return self.V @ D @ self.V.mT

    def growth(self, t):
        return 1 + self.moving * t

    def drift(self, t, y):
        x = y @ self.V
        return self.growth(t) * -(y @ self.matrix().mT) + self.e * torch.sin(2 * x + 1) @ self.V.mT

    def diffusion(self, t, y):
        s = torch.tensor([0.5, 0.8], dtype=torch.float64) * (1 + self.m * torch.sin(t))
        return (self.V * s.unsqueeze(-2)).expand(len(y), 2, 2)

    def decay(self, t):
        if self.as_matrix:
            return self.growth(t).unsqueeze(-1) * self.matrix() if t.dim() else self.growth(t) * self.matrix()
        return self.growth(t) * self.D if self.moving else self.D


def one_step(stepper, sde, h, t=0.0):
    """Matrices of one step: y+ = M y + shift + B (W, sqrt(12) H, sqrt(720) K) / sqrt(h)."""
    d = len(sde.A)
    m = sde.L.shape[1]
    rows = torch.eye(d + 3 * m, dtype=torch.float64)
    rows = torch.cat((rows, torch.zeros(1, d + 3 * m)))
    scale = math.sqrt(h) * torch.tensor([1.0, 12**-0.5, 720**-0.5], dtype=torch.float64)
    W, H, K = (part * s for part, s in zip(rows[:, d:].split(m, dim=1), scale, strict=True))
    t, length = torch.tensor(t, dtype=torch.float64), torch.tensor(h, dtype=torch.float64)
    weights = tuple(w[0] for w in stepper.weights(sde, t.reshape(1, 1, 1), length.reshape(1, 1, 1)))
    step = Step(t, length, BrownianIncrement(length, W, H, K), weights)
    y = rows[:, :d]
    ends = stepper.step(sde, step, y, stepper.start(sde, t, y)).y
    moves = (ends[:-1] - ends[-1]).mT
    return moves[:, :d], ends[-1], moves[:, d:]


def agreement(stepper, sde, h, **options):
    """Largest deviations of the mean, of the covariance, and of that with W, relative where large."""
    M, shift, B = one_step(stepper, sde, h, **options)
    A, b, L = (x.numpy() for x in (sde.A, sde.b, sde.L))
    block = np.zeros((len(A) + 1,) * 2)
    block[:-1, :-1], block[:-1, -1] = A * h, b * h
    exact = linalg.expm(block)
    Q = sde.transition(h).Q.numpy()
    phi = np.zeros((2 * len(A),) * 2)
    phi[: len(A), : len(A)], phi[: len(A), len(A) :] = A * h, np.eye(len(A))
    with_W = linalg.expm(phi)[: len(A), len(A) :] @ L * math.sqrt(h)
    m = L.shape[1]
    pairs = [(M, exact[:-1, :-1]), (shift, exact[:-1, -1]), (B @ B.mT, Q), (B[:, :m], with_W)]
    return [np.abs(got.numpy() - true).max() / max(np.abs(true).max(), 1e-3) for got, true in pairs]


@pytest.mark.parametrize("h", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("L", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("A", SYSTEMS.values(), ids=SYSTEMS)
def test_one_step_of_a_linear_sde_is_its_transition(A, L, h):
    """Fed with unit states and unit noise, at every step length: mean, covariance, and covariance with W."""
    sde = nsde.LinearSDE(A, [0.3, -0.2], L)
    stepper = choose_stepper(sde, adaptive=False)
    if (SYSTEMS["nothing"], NOISES["velocity"]) == (A, L):
        assert isinstance(stepper, ExponentialEuler)  # the position is not reached: nothing couples them
    else:
        assert isinstance(stepper, LinearTransition)
        assert max(agreement(stepper, sde, h)) < 1e-9


@pytest.mark.parametrize("h", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("A", SYSTEMS.values(), ids=SYSTEMS)
@pytest.mark.parametrize("stepper", EXPONENTIAL, ids=name)
def test_exponential_steps_are_exact_for_noise_alike_in_all_directions(stepper, A, h):
    sde = nsde.LinearSDE(A, [0.3, -0.2], [[0.6, -0.8], [0.8, 0.6]])
    assert max(agreement(stepper, sde, h)) < 1e-9


class Backward(nsde.LinearSDE):
    """The twin: a linear part of the wrong sign."""

    def decay(self, t):
        return self.A


class Plain(ExponentialEuler):
    """The twin: the regression on H, without the variance that it leaves out."""

    def weights(self, sde, t, h):
        *others, _ = super().weights(sde, t, h)
        x = h.unsqueeze(-1) * sde.decay(t)
        return *others, x - 0.5 * x @ x + 3 / 20 * x @ x @ x


def test_the_twins_are_not_exact():
    A, L = SYSTEMS["oscillator"], torch.eye(2)
    right, wrong = (kind(A, [0.3, -0.2], L) for kind in (nsde.LinearSDE, Backward))
    assert max(agreement(ExponentialEuler(), right, 0.3)) < 1e-9
    assert agreement(ExponentialEuler(), wrong, 0.3)[0] > 1e-3
    assert agreement(ExponentialEuler(), wrong, 0.3)[2] > 1e-3
    assert agreement(Plain(), right, 0.3)[2] > 1e-6
    assert agreement(EulerMaruyama(), right, 0.3)[2] > 1e-3


def whitened(paths, mean, covariance):
    """Largest deviation of the moments of whitened paths from those of white noise, in standard errors."""
    z = np.linalg.solve(np.linalg.cholesky(covariance), (paths - mean).T).T
    n, size = z.shape
    second = (z.T @ z / n - np.eye(size)) * np.sqrt(n) / np.sqrt(1 + np.eye(size))
    return max(np.abs(second).max(), np.abs(z.mean(0)).max() * np.sqrt(n))


@pytest.mark.parametrize("L", ["square", "velocity"])
@pytest.mark.parametrize("A", ["oscillator", "rotation", "shear", "stiff"])
def test_the_law_of_paths_is_exact_whatever_the_step(A, L):
    """Variances and autocovariances at times one step apart, from the plain call; 14 moments."""
    sde = nsde.LinearSDE(SYSTEMS[A], [0.3, -0.2], NOISES[L])
    n, times = 20_000, [0.0, 0.9, 1.1]
    start = torch.tensor([[1.0, -1.0]], dtype=torch.float64).expand(n, -1)
    first, second = (sde.transition(duration) for duration in (0.9, 0.2))
    mean = first.Phi @ start[0] + first.m
    means = torch.cat((mean, second.Phi @ mean + second.m)).numpy()
    cross = second.Phi @ first.Q
    covariance = torch.cat(
        (
            torch.cat((first.Q, cross.mT), 1),
            torch.cat((cross, second.Phi @ cross.mT + second.Q), 1),
        )
    ).numpy()
    limit = stats.norm.isf(ALPHA / 2 / 14)
    path = nsde.solve(sde, start, times, dt=1.0, seed=3)
    assert path.stats["accepted"].tolist() == [2] * n
    assert whitened(path.ys[:, 1:].flatten(1).numpy(), means, covariance) < limit
    twin = nsde.LinearSDE(1.1 * sde.A, [0.3, -0.2], NOISES[L])
    wrong = nsde.solve(twin, start, times, dt=1.0, seed=3).ys[:, 1:]
    assert whitened(wrong.flatten(1).numpy(), means, covariance) > limit


def test_steps_of_a_linear_sde_follow_one_path(lab):
    """Strong order 3: coarse and fine steps on the same noise."""
    sde = nsde.LinearSDE(SYSTEMS["oscillator"], [0.3, -0.2], NOISES["velocity"])
    noise, exponents = lab.noise("space-time-time", 400, 1, 8), range(1, 5)
    exact = lab.end(sde, LinearTransition(), noise, 8, [1.0, 0.0])
    errors = lab.strong_errors(sde, LinearTransition(), noise, exponents, [1.0, 0.0], exact)
    assert lab.slope(errors, exponents) == pytest.approx(3.0, abs=0.15)


V = torch.linalg.qr(torch.tensor([[1.0, 2.0], [-0.5, 1.5]], dtype=torch.float64)).Q


@pytest.mark.parametrize("moving", [0.0, 0.7])
@pytest.mark.parametrize("stepper", EXPONENTIAL, ids=name)
def test_a_symmetric_matrix_is_the_diagonal_road_turned(stepper, moving):
    """The second road, with a nonlinear rest, moving noise and a stiff rate: the same paths in y = V x."""
    calculus = stepper.sde_types[0]
    options = {"sde_type": calculus, "e": 0.6, "m": 0.4, "moving": moving}
    straight, turned = Turned([0.3, 60.0], **options), Turned([0.3, 60.0], V, **options)
    path = BrownianPath(0.0, 1.0, (20, 2), seed=0, levy="space-time", dtype=torch.float64)
    start = torch.linspace(-1, 1, 40, dtype=torch.float64).view(20, 2)
    xs = nsde.solve(straight, start, [0.0, 0.5, 1.0], dt=0.125, noise=path, stepper=stepper).ys
    ys = nsde.solve(turned, start @ V.mT, [0.0, 0.5, 1.0], dt=0.125, noise=path, stepper=stepper).ys
    assert torch.allclose(ys, xs @ V.mT, atol=1e-9)


class Growing(LinearNoiseSDE):
    """``dy = (-D y + .5) dt + .6 y dW``, its linear part declared as rates or as a matrix."""

    def __init__(self, D):
        super().__init__()
        self.D = torch.tensor(D, dtype=torch.float64)

    def drift(self, t, y):
        return 0.5 - (y * self.D if self.D.dim() == 1 else y @ self.D.mT)

    def relative_diffusion(self, t, y):
        return torch.full_like(y, 0.6)

    def decay(self, t):
        return self.D


@pytest.mark.parametrize("stepper", [ExponentialEuler(), LieSplitting()], ids=name)
def test_a_diagonal_matrix_is_its_rates(stepper):
    start = torch.linspace(0.5, 1, 40, dtype=torch.float64).view(20, 2)
    path = BrownianPath(0.0, 1.0, (20, 2), seed=0, levy="space-time", dtype=torch.float64)
    ends = [
        nsde.solve(Growing(D), start, [0.0, 1.0], dt=0.1, noise=path, stepper=stepper).ys
        for D in ([1.3, 20.0], [[1.3, 0.0], [0.0, 20.0]])
    ]
    assert torch.allclose(*ends, rtol=1e-10)


def test_splitting_takes_a_coupled_drift_exactly():
    class Quiet(Growing):
        def relative_diffusion(self, t, y):
            return torch.zeros_like(y)

    D = [[1.0, 9.0], [-9.0, 1.0]]
    start = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    end = nsde.solve(Quiet(D), start, [0.0, 2.0], dt=1.0, stepper=LieSplitting()).ys[:, -1]
    exact = nsde.LinearSDE((-torch.tensor(D)).tolist(), [0.5, 0.5]).transition(2.0)
    assert torch.allclose(end[0], exact.Phi @ start[0] + exact.m, rtol=1e-12)


SPIRAL = [[0.4, 3.0], [-2.0, 0.9]]  # not normal, not symmetric


@pytest.mark.parametrize("moving", [0.0, 0.5])
@pytest.mark.parametrize("stepper", EXPONENTIAL, ids=name)
def test_orders_are_kept_for_a_nonlinear_rest(lab, stepper, moving):
    sde = Turned(SPIRAL, sde_type=stepper.sde_types[0], e=0.6, m=0.4, moving=moving)
    noise, exponents = lab.noise("space-time", 300, 2, 9), range(3, 7)
    finest = Turned(SPIRAL, e=0.6, m=0.4, moving=moving)
    exact = lab.reference(("matrix", moving), finest, ExponentialShARK(), noise, 9, [0.5, -0.2])
    errors = lab.strong_errors(sde, stepper, noise, exponents, [0.5, -0.2], exact)
    assert lab.slope(errors, exponents) > stepper.strong_order[2] - 0.15
    assert errors[-1] < 0.03


def test_stiff_systems_that_euler_explodes_on():
    """Rates of 1 and 1e5, coupled: 20 steps keep the law of the slow states, Euler leaves the numbers."""

    class Pulled(nsde.LinearSDE):
        def drift(self, t, y):
            return super().drift(t, y) + 0.3 * torch.sin(y)

    fast = V @ torch.diag(torch.tensor([1.0, 1e5], dtype=torch.float64)) @ V.mT
    sde = Pulled(-fast, [0.1, 0.2], 0.5 * torch.eye(2))
    start = torch.ones(2000, 2, dtype=torch.float64)
    solution = nsde.solve(sde, start, [0.0, 2.0], dt=0.1, seed=0)
    assert isinstance(choose_stepper(sde, adaptive=False), ExponentialEuler)
    fine = nsde.solve(sde, start, [0.0, 2.0], dt=0.1 / 16, seed=0).ys[:, -1] @ V
    x = solution.ys[:, -1] @ V
    assert float((x - fine)[:, 0].abs().mean()) < 0.02  # the slow state, path by path
    spread = float(x[:, 1].var() / (0.25 / 2e5))  # the fast one in law
    assert abs(spread - 1) < stats.norm.isf(ALPHA / 2) * math.sqrt(2 / len(x)) + 1e-3
    with pytest.warns(RuntimeWarning, match="finite"):
        euler = nsde.solve(sde, start, [0.0, 8.0], dt=0.1, seed=0, stepper=EulerMaruyama())
    assert bool(euler.status.all())


@pytest.mark.parametrize("stepper", [*EXPONENTIAL, LinearTransition()], ids=name)
def test_own_clocks_padding_and_gradients(stepper):
    """Each series its own steps; gradients reach the matrix itself."""
    A = torch.tensor(SYSTEMS["oscillator"], dtype=torch.float64).requires_grad_()
    L = torch.tensor(NOISES["square"], dtype=torch.float64).requires_grad_()
    start = torch.tensor([[0.7, -0.2], [0.1, 0.4]], dtype=torch.float64)
    ts = torch.tensor([[0.0, 0.4, math.nan], [0.0, 0.5, 1.1]], dtype=torch.float64)
    noise = StepNoise((2, 2), seed=0, levy="space-time-time", dtype=torch.float64)

    def paths(A, L):
        sde = nsde.LinearSDE(A, None, L)
        ys = nsde.solve(sde, start, ts, dt=0.4, noise=noise, stepper=stepper, compile="off").ys
        return ys[~torch.isnan(ts)]

    assert torch.autograd.gradcheck(paths, (A, L))
    alone = nsde.solve(
        nsde.LinearSDE(A, None, L), start[:1], ts[0, :2], dt=0.4, stepper=stepper, compile="off",
        noise=StepNoise((1, 2), seed=0, levy="space-time-time", dtype=torch.float64),
    ).ys[0]  # fmt: skip
    assert torch.allclose(alone, paths(A, L)[:2], atol=1e-12)


def test_gradients_at_no_linear_part_at_all():
    """Nothing to divide by: A = 0 and equal rates have their gradients."""
    start, noise = (
        torch.ones(2, 2, dtype=torch.float64),
        StepNoise((2, 2), seed=0, levy="space-time-time", dtype=torch.float64),
    )
    for A in (torch.zeros(2, 2), -torch.eye(2)):
        for stepper in (ExponentialEuler(), LinearTransition()):
            assert torch.autograd.gradcheck(
                lambda A, s=stepper: (
                    nsde.solve(
                        nsde.LinearSDE(A), start, [0.0, 1.0], dt=0.5, noise=noise, stepper=s, compile="off"
                    ).ys
                ),
                (A.double().requires_grad_(),),
            )


def test_single_precision_stays_near():
    sde = nsde.LinearSDE(SYSTEMS["stiff"], [0.3, -0.2], NOISES["square"])
    start = torch.ones(50, 2)
    path = BrownianPath(0.0, 1.0, (50, 2), seed=0, levy="space-time-time", dtype=torch.float64)
    single = BrownianPath(0.0, 1.0, (50, 2), seed=0, levy="space-time-time")
    ends = [
        nsde.solve(sde, y, [0.0, 1.0], dt=0.25, noise=noise).ys[:, -1]
        for y, noise in ((start, single), (start.double(), path))
    ]
    assert ends[0].dtype == torch.float32
    assert torch.allclose(ends[0].double(), ends[1], atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own, on compiling
@pytest.mark.parametrize("own_clock", [False, True])
def test_compiled_steps_with_a_matrix_are_the_same(own_clock):
    torch._dynamo.reset()  # it keeps a few programs only, and gives up on the next
    start = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    ts = torch.tensor([[0.0, 1.0], [0.0, 0.8], [0.0, 0.6]] if own_clock else [0.0, 1.0], dtype=torch.float64)
    ends = [
        nsde.solve(
            Turned(SPIRAL, e=0.6), start, ts, dt=1 / 16, seed=0, stepper=ExponentialShARK(), compile=mode
        ).ys
        for mode in ("off", "chunk")
    ]
    assert torch.allclose(*ends, atol=1e-10)


def test_who_steps_what():
    class Own(nsde.LinearSDE):
        def drift(self, t, y):
            return super().drift(t, y) - y**3

    class Amplified(nsde.LinearSDE):
        def diffusion(self, t, y):
            return 2 * super().diffusion(t, y)

    oscillator, plain = SYSTEMS["oscillator"], torch.eye(2)
    assert LinearTransition().why_not(nsde.LinearSDE(oscillator)) is None
    for sde, sentence in (
        (Own(oscillator), "Own has a drift of its own"),
        (Amplified(oscillator), "Amplified has a diffusion of its own"),
        (nsde.LinearSDE(-plain, L=[[0.0], [1.0]]), r"reaches every state, rank \[L, A L\] = state"),
        (nsde.LinearSDE(oscillator, L=torch.zeros(2, 1)), "reaches every state"),
    ):
        assert isinstance(choose_stepper(sde, adaptive=False), ExponentialEuler)
        with pytest.raises(SolveError, match=sentence + ".*For this SDE take one of: .*ExponentialEuler"):
            nsde.solve(sde, torch.ones(3, 2), [0.0, 1.0], stepper=LinearTransition())
    other = to_stratonovich(nsde.LinearSDE(oscillator))
    assert isinstance(choose_stepper(other, adaptive=False), ExponentialEuler)


def test_what_is_no_linear_part_is_refused():
    class Odd(Turned):
        def decay(self, t):
            return torch.ones(1, 2, dtype=torch.float64)

    class Fickle(Turned):
        def decay(self, t):
            return self.D if t.dim() == 0 else None

    start = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(ShapeError, match=r"decay\(t\): expected rates \(state,\) or a matrix .*got \(1, 2\)"):
        nsde.solve(Odd([1.0, 2.0]), start, [0.0, 1.0], stepper=ExponentialEuler())
    with pytest.raises(SolveError, match=r"decay\(t\) gave None in the midst of a solve"):
        nsde.solve(Fickle([1.0, 2.0]), start, [0.0, 1.0], stepper=ExponentialEuler())
