"""Exits: their law against closed forms at any step, and what is promised of series that have left."""

import math
import warnings

import pytest
import torch

import neurosde as nsde
from neurosde import RunningCost
from neurosde.errors import DataError, ShapeError
from neurosde.noise import BrownianPath, StepNoise
from neurosde.solve import AbsorbingSet, EulerMaruyama, Heun, PIController, Status, StepPenalty
from neurosde.solve.absorbing import Absorber, crossing_share

KS = math.sqrt(math.log(2 / 1e-5) / 2)  # over sqrt(n): false alarms of Kolmogorov's test at 1e-5
Z = 4.42  # two-sided normal quantile of 1e-5


def full(n, *values):
    return torch.tensor(values, dtype=torch.float64).expand(n, -1).clone()


def steps(n, noise=1, seed=0):
    return StepNoise((n, noise), seed=seed, dtype=torch.float64)


def Phi(x):
    return torch.special.ndtr(x)


class Drifted(nsde.SDE):
    """``dy = mu dt + sigma dW``."""

    additive = True

    def __init__(self, mu=0.0, sigma=1.0):
        super().__init__()
        self.mu = torch.nn.Parameter(torch.tensor(mu, dtype=torch.float64))
        self.sigma = torch.nn.Parameter(torch.tensor(sigma, dtype=torch.float64))

    def drift(self, t, y):
        return self.mu * torch.ones_like(y)

    def diffusion(self, t, y):
        return self.sigma * torch.ones_like(y)


class RootDrift(nsde.SDE):
    """Pushed towards 1, and not defined above."""

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def drift(self, t, y):
        return self.rate * torch.sqrt(1 - y)

    def diffusion(self, t, y):
        return 0.7 * torch.ones_like(y)


half_line = AbsorbingSet(lambda t, y: y[..., 0])
below_one = AbsorbingSet(lambda t, y: 1 - y[..., 0])
interval = AbsorbingSet(lambda t, y: torch.cat((1 - y, 1 + y), dim=-1))


def no_bridge(monkeypatch):
    """The broken twin: a crossing between the ends of a step is never seen."""
    draws = Absorber.draws

    def certain(self, t, dtype):
        return torch.stack((z := draws(self, t, dtype)[..., ::2], torch.ones_like(z)), -1).flatten(-2)

    monkeypatch.setattr(Absorber, "draws", certain)


def distance_to_law(exit_time, cdf, T):
    """Kolmogorov's statistic on [0, T], times sqrt(n)."""
    tau = exit_time[exit_time <= T].sort().values
    n, i = len(exit_time), torch.arange(len(tau), dtype=torch.float64)
    gaps = torch.cat((cdf(tau) - i / n, (i + 1) / n - cdf(tau), (cdf(full(1, T)[0]) - len(tau) / n).abs()))
    return float(gaps.max()) * math.sqrt(n)


def first_passage(mu, sigma, d):
    """``P(tau <= t)`` of ``d + mu t + sigma W_t`` at zero (Karatzas & Shreve 1991, section 3.5.C)."""

    def cdf(t):
        s = sigma * t.sqrt()
        return Phi((-d - mu * t) / s) + math.exp(-2 * mu * d / sigma**2) * Phi((-d + mu * t) / s)

    return cdf


@pytest.mark.parametrize("far", [0.6, -0.6, 1e-9, -3.0])
def test_the_share_of_a_crossing_has_the_law_of_a_bridge(far):
    """Against its density: first passage times Gaussian over Gaussian, integrated numerically."""
    near, h, variance_rate, n = 0.8, 1.7, 0.5, 40000
    generator = torch.Generator().manual_seed(0)
    square = torch.randn(n, generator=generator, dtype=torch.float64).square()
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    d0, d1, v = full(n, near, far, variance_rate * h).unbind(-1)
    share = crossing_share(d0, d1, v, square, uniform)
    middle = (torch.arange(400000, dtype=torch.float64) + 0.5) / 400000
    tau = middle * h
    passage = tau**-1.5 * torch.exp(-(near**2) / (2 * variance_rate * tau))
    rest = (h - tau) ** -0.5 * torch.exp(-(far**2) / (2 * variance_rate * (h - tau)))
    mass = (passage * rest).cumsum(0)
    table = mass / mass[-1]

    def cdf(x):
        return table[(x * len(table)).long().clamp(max=len(table) - 1)]

    assert distance_to_law(share, cdf, 1.0) < KS
    no_far = crossing_share(d0, 0.5 * d1 + 0.4, v, square, uniform)
    assert distance_to_law(no_far, cdf, 1.0) > KS  # the other end of the bridge matters


def test_the_share_is_a_number_at_every_corner():
    some, none = full(1, 0.3)[0], full(1, 0.0)[0]
    tiny = torch.full_like(some, torch.finfo(torch.float64).tiny)
    for near in (some, tiny):
        for far in (none, -some, some, -tiny):
            for variance in (none, some, tiny):
                for square in (none, some, 40 * some):
                    for uniform in (1e-11 * some, some, 1 + none):
                        share = crossing_share(near, far, variance, square, uniform)
                        assert bool(((share >= 0) & (share <= 1)).all())


@pytest.mark.parametrize("n_steps", [1, 2, 4])
@pytest.mark.parametrize(("mu", "sigma"), [(-0.5, 0.8), (0.4, 1.3)])
def test_the_exit_time_from_a_half_line_is_exact_at_any_step(n_steps, mu, sigma, monkeypatch):
    n, T, d = 20000, 2.0, 0.7
    law = first_passage(mu, sigma, d)

    def exits():
        with torch.no_grad():
            return nsde.solve(
                Drifted(mu, sigma), full(n, d), [0.0, T], dt=T / n_steps, noise=steps(n), absorbing=half_line
            ).exit_time

    tau = exits()
    assert distance_to_law(tau, law, T) < KS
    h = T / n_steps
    assert distance_to_law((tau / h).ceil() * h, law, T) > KS
    no_bridge(monkeypatch)
    assert distance_to_law(exits(), law, T) > KS


def test_a_barrier_that_moves_linearly_is_a_drift():
    n, T = 20000, 2.0
    moving = AbsorbingSet(lambda t, y: (y + 0.5 * t)[..., 0])  # falls away at rate 0.5
    with torch.no_grad():
        tau = nsde.solve(
            Drifted(), full(n, 0.7), [0.0, T], dt=1.0, noise=steps(n), absorbing=moving
        ).exit_time
    assert distance_to_law(tau, first_passage(0.5, 1.0, 0.7), T) < KS
    assert distance_to_law(tau, first_passage(0.0, 1.0, 0.7), T) > KS


def mean_exit(x, T, n_terms=40):
    """``E min(tau, T)`` of Brownian motion in (-1, 1) from x, by the sine series; 1 - x^2 for T = inf."""
    odd = 2 * torch.arange(n_terms, dtype=torch.float64) + 1
    rate = (odd * math.pi) ** 2 / 8
    sign = torch.cos(math.pi * (odd - 1) / 2)
    weight = 4 / math.pi * sign / odd * torch.cos(odd * math.pi * x / 2)
    return float((weight * (1 - torch.exp(-rate * T)) / rate).sum())


def interval_exits(x, dt, n, T, seed=0):
    with torch.no_grad():
        return nsde.solve(
            Drifted(), full(n, x), [0.0, T], dt=dt, noise=steps(n, seed=seed), absorbing=interval
        )


def test_exits_from_an_interval(monkeypatch):
    n, T, dt = 15000, 2.0, 0.04
    assert abs(mean_exit(0.3, 50.0) - (1 - 0.3**2)) < 1e-4
    for x in (0.0, 0.4):
        solution = interval_exits(x, dt, n, T)
        truth = mean_exit(x, T)
        assert abs(float(solution.exit_time.clamp(max=T).mean()) / truth - 1) < 0.03
    left = solution.exit_barrier >= 0
    assert torch.equal(left, torch.isfinite(solution.exit_time))
    sides = torch.where(solution.exit_barrier == 0, 1.0, -1.0).double()
    assert torch.allclose(solution.ys[left, -1, 0], sides[left], atol=1e-12)
    # P(up first) = (x + 1) / 2 with the others, who are still inside, a martingale too
    assert abs(float(solution.ys[:, -1, 0].mean()) - 0.4) < Z / math.sqrt(n)
    assert solution.succeeded
    no_bridge(monkeypatch)
    assert float(interval_exits(0.0, dt, 4000, T).exit_time.clamp(max=T).mean()) / mean_exit(0.0, T) > 1.06


@pytest.mark.slow
@pytest.mark.parametrize(("dt", "published"), [(0.04, 1.248), (0.01, 1.095)])
def test_the_mean_exit_time_of_an_interval_is_one_minus_x_squared(dt, published, monkeypatch):
    n, T = 25000, 8.0
    for x in (0.0, 0.5):
        solution = interval_exits(x, dt, n, T)
        assert abs(float(solution.exit_time.clamp(max=T).mean()) / (1 - x * x) - 1) < 0.03
        up = float((solution.exit_barrier == 0).double().mean())
        assert abs(up - (x + 1) / 2) < Z * 0.5 / math.sqrt(n)
    no_bridge(monkeypatch)
    twin = float(interval_exits(0.0, dt, n, T).exit_time.clamp(max=T).mean())
    assert abs(twin - published) < 0.03
    assert twin > 1.05


def test_exits_from_a_disc():
    n, T = 4000, 2.0
    disc = AbsorbingSet(lambda t, y: 1 - y.square().sum(-1).sqrt())
    with torch.no_grad():
        solution = nsde.solve(
            Drifted(), full(n, 0.3, 0.4), [0.0, T], dt=0.02, noise=steps(n, 2), absorbing=disc
        )
    tau = solution.exit_time.clamp(max=T)
    assert abs(float(tau.mean()) - (1 - 0.25) / 2) < Z * float(tau.std()) / math.sqrt(n) + 0.03 * 0.375
    left = solution.exit_barrier == 0
    assert torch.allclose(solution.ys[left, -1].norm(dim=-1), full(1, 1.0)[0], atol=1e-6)
    # harmonic: the exit point's mean is the start
    assert bool(((solution.ys[:, -1].mean(0) - full(1, 0.3, 0.4)[0]).abs() < Z / math.sqrt(n)).all())


def test_at_the_centre_of_a_disc_the_norm_has_no_gradient_and_none_is_nan():
    disc = AbsorbingSet(lambda t, y: 1 - y.square().sum(-1).sqrt())
    sde, start = Drifted(), full(20, 0.0, 0.0).requires_grad_()
    nsde.solve(sde, start, [0.0, 1.0], dt=0.1, seed=0, absorbing=disc).ys.sum().backward()
    assert bool(torch.isfinite(start.grad).all() & torch.isfinite(sde.sigma.grad))


def test_running_costs_stop_at_the_exit():
    n, T = 4000, 2.0
    costs = (
        RunningCost(lambda t, y: torch.ones_like(y[..., 0]), name="time"),
        RunningCost(h=lambda t, y: torch.ones_like(y), name="motion"),
        RunningCost(lambda t, y: 0.8 * torch.exp(-0.8 * t).squeeze(-1) * torch.ones(len(y)), name="reward"),
    )
    with torch.no_grad():
        solution = nsde.solve(
            Drifted(),
            full(n, 0.7),
            [0.0, 1.0, T],
            dt=0.05,
            noise=steps(n),
            running=costs,
            absorbing=half_line,
        )
    tau = solution.exit_time
    assert torch.allclose(solution.running["time"][:, -1], tau.clamp(max=T), atol=1e-12)
    assert torch.allclose(solution.running["time"][:, 1], tau.clamp(max=1.0), atol=1e-12)
    assert torch.allclose(solution.running["motion"], solution.ys[..., 0] - 0.7, atol=1e-9)
    reward = 1 - torch.exp(-0.8 * tau.clamp(max=T))
    assert float((solution.running["reward"][:, -1] - reward).abs().max()) < 0.8 * 0.64 * T * 0.05**2 / 12


def test_the_discounted_exit_time_has_its_closed_form_in_four_steps():
    n, d, mu, sigma, r = 40000, 1.2, -1.0, 0.9, 0.7
    with torch.no_grad():
        tau = nsde.solve(
            Drifted(mu, sigma), full(n, d), [0.0, 40.0], dt=10.0, noise=steps(n), absorbing=half_line
        ).exit_time
    value = torch.exp(-r * tau)
    truth = math.exp(-d * (math.sqrt(mu**2 + 2 * r * sigma**2) + mu) / sigma**2)
    assert abs(float(value.mean()) - truth) < Z * float(value.std()) / math.sqrt(n)


def test_a_down_and_out_call_has_its_price(monkeypatch):
    """Merton's formula for a barrier below the strike, from two steps of the logarithm of the price."""
    n, S, K, B, r, sigma, T = 50000, 100.0, 100.0, 90.0, 0.05, 0.3, 1.0
    out = AbsorbingSet(lambda t, y: y[..., 0] - math.log(B))

    def call(spot):
        a = (math.log(spot / K) + (r + sigma**2 / 2) * T) / (sigma * math.sqrt(T))
        a, b = full(1, a, a - sigma * math.sqrt(T)).squeeze(0).unbind()
        return float(spot * Phi(a) - K * math.exp(-r * T) * Phi(b))

    def price():
        with torch.no_grad():
            solution = nsde.solve(
                Drifted(r - sigma**2 / 2, sigma), full(n, math.log(S)), [0.0, T], dt=0.5, noise=steps(n),
                absorbing=out,
            )  # fmt: skip
        payoff = (solution.ys[:, -1, 0].exp() - K).clamp(min=0) * (solution.exit_barrier < 0)
        value = math.exp(-r * T) * payoff
        return float(value.mean()), Z * float(value.std()) / math.sqrt(n)

    truth = call(S) - (B / S) ** (2 * r / sigma**2 - 1) * call(B * B / S)
    value, band = price()
    assert abs(value - truth) < band
    no_bridge(monkeypatch)
    value, band = price()
    assert abs(value - truth) > band


def test_correlated_noise_takes_the_state_along():
    """``y = y0 + L W`` holds at the exit too, and W's part beside the barrier keeps its mean."""
    n, L = 20000, torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)
    sde = nsde.LinearSDE(torch.zeros(2, 2), L=L)
    costs = [
        RunningCost(h=lambda t, y, i=i: torch.eye(2, dtype=y.dtype)[i].expand_as(y), name=f"W{i}")
        for i in (0, 1)
    ]
    with torch.no_grad():
        solution = nsde.solve(
            sde, full(n, 0.5, 0.0), [0.0, 1.0], dt=0.5, noise=steps(n, 2), running=costs, absorbing=half_line,
            stepper=EulerMaruyama(),
        )  # fmt: skip
    W = torch.stack([solution.running[f"W{i}"][:, -1] for i in (0, 1)], dim=-1)
    assert torch.allclose(solution.ys[:, -1], full(n, 0.5, 0.0) + W @ L.T, atol=1e-9)
    assert bool((W.mean(0).abs() < Z / math.sqrt(n)).all())


def test_who_has_left_stays_and_has_succeeded():
    ts = torch.linspace(0, 3, 31, dtype=torch.float64)
    with torch.no_grad():
        solution = nsde.solve(Drifted(), full(200, 0.0), ts, dt=0.03, seed=0, absorbing=interval)
    assert bool((solution.status == Status.SUCCESS).all())
    gone = ts >= solution.exit_time.unsqueeze(-1)
    assert bool((solution.ys[..., 0].abs()[gone] == 1).all())
    assert bool((solution.ys[..., 0].abs()[~gone] < 1).all())
    assert solution.exit_time.dtype == torch.float64
    assert solution.exit_barrier.dtype == torch.int64
    without = nsde.solve(Drifted(), full(2, 0.0), ts, seed=0)
    assert without.exit_time is None
    assert without.exit_barrier is None


def test_who_starts_outside_has_left_at_once():
    start = full(1, 0.2, 1.0, -1.5).view(3, 1)
    ts = torch.tensor([[0.0, 1.0], [0.5, 1.0], [0.25, 2.0]], dtype=torch.float64)
    for start_of in (start, start[1:]):
        own = ts[-len(start_of) :]
        solution = nsde.solve(Drifted(), start_of, own, dt=0.1, seed=0, absorbing=interval)
        assert solution.exit_time[-2:].tolist() == [0.5, 0.25]
        assert solution.exit_barrier[-2:].tolist() == [0, 1]
        assert torch.equal(solution.ys[-2:, 1], start[1:])
        assert solution.succeeded


@pytest.mark.parametrize("clock", ["shared", "own"])
def test_a_batch_of_one_is_a_slice_bit_for_bit(clock):
    keys, n = torch.arange(100, 140), 40
    ts = torch.tensor([0.0, 0.4, 1.5], dtype=torch.float64)
    if clock == "own":
        ts = ts.expand(n, -1) * torch.linspace(0.5, 1.5, n, dtype=torch.float64).unsqueeze(-1)
        ts = torch.where(torch.arange(n)[:, None] % 3 + torch.arange(3) == 4, math.nan, ts)

    def run(rows):
        own = ts[rows] if clock == "own" else ts
        with torch.no_grad():
            return nsde.solve(
                Drifted(), full(len(keys[rows]), 0.1), own, dt=0.07, seed=3, series=keys[rows],
                absorbing=interval,
            )  # fmt: skip

    whole = run(slice(None))
    assert 5 < int((whole.exit_barrier >= 0).sum()) < n
    for i in range(0, n, 7):
        one = run(slice(i, i + 1))
        assert torch.equal(one.ys[0].nan_to_num(9.0), whole.ys[i].nan_to_num(9.0))
        assert torch.equal(one.exit_time[0], whole.exit_time[i])
        assert torch.equal(one.exit_barrier[0], whole.exit_barrier[i])
    again, other = run(slice(None)), None
    assert torch.equal(again.exit_time, whole.exit_time)
    with torch.no_grad():
        noise = StepNoise((n, 1), seed=3, series=keys, dtype=torch.float64)
        a, b, other = (
            nsde.solve(Drifted(), full(n, 0.1), ts, dt=0.07, noise=noise, absorbing=seeded).exit_time
            for seeded in (interval, interval, AbsorbingSet(interval.distance, seed=8))
        )
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


@pytest.mark.parametrize("whole_batch", [False, True])
@pytest.mark.parametrize("field", [Drifted, RootDrift])
def test_the_adaptive_search_and_its_replay_have_the_same_exits(whole_batch, field):
    sde, n = field(), 60
    inside = interval if field is Drifted else AbsorbingSet(lambda t, y: torch.cat((0.9 - y, 1 + y), dim=-1))
    controller = PIController(rtol=1e-2, atol=1e-2, whole_batch=whole_batch)
    start, ts = torch.linspace(-0.8, 1.1, n, dtype=torch.float64).unsqueeze(-1), [0.0, 0.05, 0.4, 1.0]

    def run():
        return nsde.solve(sde, start, ts, controller=controller, seed=1, absorbing=inside)

    with torch.no_grad():
        search = run()
    replay = run()
    assert torch.equal(search.ys, replay.ys.detach())
    assert torch.equal(search.exit_time, replay.exit_time)
    assert torch.equal(search.exit_barrier, replay.exit_barrier)
    assert search.succeeded
    late = torch.tensor(ts) >= search.exit_time.unsqueeze(-1)
    assert 0 < int(late.sum()) < late.numel()
    frozen = torch.where(search.exit_barrier == 0, 1.0 if field is Drifted else 0.9, -1.0).double()
    moved = late & (search.exit_time > 0).unsqueeze(-1)
    assert torch.allclose(search.ys[..., 0][moved], frozen.unsqueeze(-1).expand_as(late)[moved], atol=1e-12)
    replay.ys.sum().backward()
    gradients = [p.grad for p in sde.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


def test_adaptive_exits_have_the_law():
    n, T, d = 4000, 1.0, 0.5
    with torch.no_grad():
        tau = nsde.solve(
            Drifted(-0.3), full(n, d), [0.0, T], seed=2, absorbing=half_line,
            controller=PIController(rtol=1e-1, atol=1e-1, first=0.25),
        ).exit_time  # fmt: skip
    assert distance_to_law(tau, first_passage(-0.3, 1.0, d), T) < KS


def test_all_outside_and_adaptive():
    solution = nsde.solve(
        Drifted(), full(3, 2.0), [0.0, 1.0], seed=0, absorbing=interval, controller=PIController(1e-2, 1e-2)
    )
    assert solution.exit_time.tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(solution.ys, full(3, 2.0).unsqueeze(1).expand(-1, 2, -1))


def test_fields_undefined_outside_fail_no_series_that_has_left():
    sde = RootDrift()
    start = torch.linspace(-1, 1.5, 100, dtype=torch.float64).unsqueeze(-1).requires_grad_()
    log_distance = RunningCost(lambda t, y: 0.1 - 0.05 * torch.log(1.0001 - y[..., 0]), name="log")
    solution = nsde.solve(
        sde, start, [0.0, 1.0, 3.0], dt=0.05, seed=0, absorbing=below_one, stepper=EulerMaruyama(),
        running=[log_distance],
    )  # fmt: skip
    assert solution.succeeded
    assert 20 < int((solution.exit_time > 0).sum() - torch.isinf(solution.exit_time).sum()) < 100
    (solution.ys.sum() + solution.running["log"].sum()).backward()
    assert bool(torch.isfinite(start.grad).all() & torch.isfinite(sde.rate.grad))
    with pytest.warns(RuntimeWarning, match="left the finite numbers"):
        twin = nsde.solve(sde, start.detach(), [0.0, 1.0, 3.0], dt=0.05, seed=0, stepper=EulerMaruyama())
    assert int((twin.status == Status.NOT_FINITE).sum()) > 20


def test_a_failure_and_an_exit_side_by_side():
    """A series that fails has no exit; one that has left does not fail; a NaN distance is one."""

    class Fragile(Drifted):
        def drift(self, t, y):
            return torch.where(y < -2, -50 * y.abs() ** 3, 0.0 * y)

    start = full(1, 0.9, -2.5, 0.0).view(3, 1)
    with pytest.warns(RuntimeWarning, match="series 1 left the finite numbers"):
        solution = nsde.solve(Fragile(), start, [0.0, 1.0], dt=0.01, seed=0, absorbing=below_one)
    assert solution.status.tolist() == [0, Status.NOT_FINITE, 0]
    assert solution.exit_time[1] == math.inf
    assert solution.exit_barrier[1] == -1
    logarithm = AbsorbingSet(lambda t, y: torch.log(y[..., 0]) + 5)
    with pytest.warns(RuntimeWarning, match="left the finite numbers"):
        nsde.solve(Drifted(), full(50, 0.5), [0.0, 2.0], dt=0.2, seed=0, absorbing=logarithm)


def test_no_noise_leaves_at_the_crossing_of_the_line():
    still, ts = Drifted(1.0, 0.0), [0.0, 0.6, 2.0]
    start = full(1, 0.25, 0.5, 1.0 - 2**-40, -5.0).view(4, 1).requires_grad_()
    solution = nsde.solve(still, start, ts, dt=0.25, seed=0, absorbing=below_one)
    assert torch.allclose(solution.exit_time[:3], 1 - start.detach()[:3, 0], atol=1e-12)
    assert solution.exit_time[3] == math.inf
    solution.ys.sum().backward()
    assert bool(torch.isfinite(start.grad).all() & torch.isfinite(still.sigma.grad))
    exactly = nsde.solve(still, full(1, 0.5), [0.0, 1.0], dt=0.5, seed=0, absorbing=below_one)
    assert exactly.exit_time.tolist() == [0.5]


def test_noise_along_the_boundary_alone_is_no_crossing():
    sde = nsde.LinearSDE([[0.0, 1.0], [0.0, 0.0]], L=[[0.0], [1.0]])  # position and velocity
    wall = AbsorbingSet(lambda t, y: 1 - y[..., 0])
    y0, more = torch.tensor([[0.0, 0.5]], dtype=torch.float64).expand(50, -1), {"stepper": EulerMaruyama()}
    with torch.no_grad():
        solution = nsde.solve(sde, y0, [0.0, 3.0], dt=0.05, seed=0, absorbing=wall, **more)
        free = nsde.solve(sde, y0, torch.linspace(0, 3, 61), dt=0.05, seed=0, **more)
    assert torch.equal((free.ys[..., 0] >= 1).any(-1), solution.exit_barrier == 0)
    assert 0 < int((solution.exit_barrier == 0).sum()) < 50


def test_checkpoints_have_the_gradient_of_backpropagation():
    results = []
    cost = RunningCost(lambda t, y: y.square().sum(-1), lambda t, y: y, name="both")
    for gradient in ("backprop", "checkpoint"):
        sde, start = RootDrift(), torch.linspace(-1, 0.9, 30, dtype=torch.float64).unsqueeze(-1)
        start.requires_grad_()
        solution = nsde.solve(
            sde, start, [0.0, 0.5, 2.0], dt=0.02, seed=0, absorbing=below_one, gradient=gradient,
            stepper=EulerMaruyama(), running=[cost],
        )  # fmt: skip
        (solution.ys.square().sum() + solution.running["both"].sum()).backward()
        results.append((solution.ys.detach(), solution.exit_time, start.grad, sde.rate.grad))
    assert 5 < int(torch.isfinite(results[0][1]).sum()) < 30
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_the_gradient_reaches_the_state_until_the_exit():
    sde, start = Drifted(0.2, 0.8), full(200, 0.3).requires_grad_()
    more = {"dt": 0.05, "seed": 0}
    solution = nsde.solve(sde, start, [0.0, 1.0], absorbing=interval, **more)
    (gradient,) = torch.autograd.grad(solution.ys[:, -1].sum(), start)
    left = solution.exit_barrier >= 0
    assert bool((gradient[left].abs() < 1e-12).all())  # it is on the boundary, wherever it started
    assert bool((gradient[~left] == 1).all())
    assert not solution.exit_time.requires_grad


# fields that are differentiated do not compile under a checkpoint: eager steps stand in
IN_A_CHECKPOINT = pytest.mark.filterwarnings("ignore:compile. this SDE did not compile:RuntimeWarning")


@pytest.mark.parametrize("gradient", ["backprop", pytest.param("checkpoint", marks=IN_A_CHECKPOINT)])
@pytest.mark.slow
def test_compiled_steps_have_the_same_exits(gradient):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of its own future
        import torch._dynamo
        import torch._inductor.compile_fx
    path, results = BrownianPath(0.0, 1.0, (12, 1), seed=0, dtype=torch.float64), []
    for mode in ("off", "chunk"):
        sde, start = Drifted(0.3, 0.9), torch.linspace(-0.9, 1.2, 12, dtype=torch.float64).unsqueeze(-1)
        start.requires_grad_()
        solution = nsde.solve(
            sde, start, [0.0, 0.37, 1.0], dt=0.03, noise=path, compile=mode, gradient=gradient,
            absorbing=interval, running=[RunningCost(lambda t, y: y.square().sum(-1), name="square")],
        )  # fmt: skip
        (solution.ys.sum() + solution.running["square"].sum()).backward()
        with torch.no_grad():
            plain = nsde.solve(sde, start, [0.0, 1.0], dt=0.03, noise=path, compile=mode, absorbing=interval)
        tensors = solution.ys.detach(), solution.exit_time, start.grad, sde.sigma.grad, plain.ys
        results.append((*tensors, plain.exit_time, solution.exit_barrier))
    assert 2 < int(torch.isfinite(results[0][1]).sum()) < 12
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("distance", "error", "words"),
    [
        (lambda t, y: y, None, None),
        (
            lambda t, y: y[:, 0] - torch.exp(-t),
            ShapeError,
            r"series 0 depends on others, shape \(3, 3\); t is",
        ),
        (lambda t, y: y + t[:, 0], ShapeError, "series 0 depends on others"),
        (
            lambda t, y: torch.stack((y[:, 0], t[:, 0])),
            ShapeError,
            r"expected \(series,\) = \(3,\) or .* got \(2, 3\)",
        ),
        (lambda t, y: y.sum(), ShapeError, r"got \(\)"),
        (lambda t, y: 1.0, ShapeError, "got 1.0; t is"),
        (lambda t, y: y[:, 0].log(), DataError, "distance of series 1 is not a number"),
    ],
)
def test_a_distance_that_cannot_be_used_is_refused(distance, error, words):
    start = full(1, 0.5, -0.5, 1.0).view(3, 1)
    if error is None:
        assert nsde.solve(
            Drifted(), start, [0.0, 1.0], seed=0, absorbing=AbsorbingSet(distance)
        ).exit_time.shape == (3,)
    else:
        with pytest.raises(error, match=words):
            nsde.solve(Drifted(), start, [0.0, 1.0], seed=0, absorbing=AbsorbingSet(distance))


def test_what_does_not_go_together_is_refused():
    def run(**more):
        nsde.solve(Drifted(), full(3, 0.0), [0.0, 1.0], seed=0, **({"absorbing": interval} | more))

    with pytest.raises(DataError, match="absorbing: an exit cannot be undone"):
        run(gradient="adjoint")
    with pytest.raises(DataError, match="absorbing: an exit cannot be undone"):
        run(gradient="reversible")
    with pytest.raises(DataError, match="absorbing: a penalty is not measured"):
        run(penalty=StepPenalty(), stepper=Heun())
    with pytest.raises(DataError, match="absorbing: expected an AbsorbingSet"):
        run(absorbing=lambda t, y: y)
    with pytest.raises(DataError, match="distance: expected a function"):
        AbsorbingSet(1.0)
    with pytest.raises(ShapeError, match=r"'cost': expected a rate \(series,\) = \(3,\), got \(3, 3\)"):
        run(running=[RunningCost(lambda t, y: torch.exp(-t) * y[:, 0])])
