"""Adaptive solves: each series on its own clock, on one path, with the gradient of the steps they took."""

import math
import warnings

import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError, SolveError
from neurosde.noise import BrownianPath, StepNoise
from neurosde.solve import EulerMaruyama, Heun, PIController, ReversibleHeun, ShARK, Status, entry
from neurosde.solve.adaptive import StepSearch

TOLERANCE = PIController(rtol=1e-2, atol=1e-2)


def start(n):
    return torch.zeros(n, 1, dtype=torch.float64)


@pytest.mark.parametrize("whole_batch", [False, True])
def test_the_error_falls_with_the_tolerance(sinh_sde, whole_batch):
    sde, n = sinh_sde("stratonovich"), 300
    exact = sde.exact(1.0, BrownianPath(0.0, 1.0, (n, 1), seed=3, dtype=torch.float64).increment(0.0, 1.0).W)
    errors, steps = [], []
    for tolerance in (1e-1, 1e-2, 1e-3):
        controller = PIController(tolerance, tolerance, whole_batch=whole_batch)
        solution = nsde.solve(sde, start(n), [0.0, 0.3, 1.0], seed=3, controller=controller).raise_if_failed()
        errors.append(float((solution.ys[:, -1] - exact).abs().mean()))
        steps.append(float(solution.stats["accepted"].float().mean()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert steps[0] < steps[1] < steps[2]
    assert errors[2] < 2e-3


def test_at_equal_work_own_clocks_are_no_worse_than_equal_steps(sinh_sde):
    sde, n = sinh_sde("stratonovich"), 500
    exact = sde.exact(1.0, BrownianPath(0.0, 1.0, (n, 1), seed=3, dtype=torch.float64).increment(0.0, 1.0).W)
    own = nsde.solve(sde, start(n), [0.0, 1.0], seed=3, controller=TOLERANCE)
    budget = float(own.stats["nfe"].float().mean())
    equal = nsde.solve(sde, start(n), [0.0, 1.0], seed=3, dt=2 / budget)
    assert float((own.ys[:, -1] - exact).abs().mean()) < float((equal.ys[:, -1] - exact).abs().mean())


def test_one_stiff_series_does_not_slow_the_others():
    class Rates(nsde.SDE):
        sde_type = "stratonovich"

        def drift(self, t, y):
            return -y[:, 1:] * torch.cat((y[:, :1] - 1, 0 * y[:, :1]), -1)

        def diffusion(self, t, y):
            return torch.cat((0.1 * torch.ones_like(y[:, :1]), 0 * y[:, :1]), -1)

    y = torch.tensor([[0.0, 1.0], [0.0, 300.0], [0.0, 1.0]], dtype=torch.float64)
    mixed = nsde.solve(Rates(), y, [0.0, 1.0], seed=0, controller=TOLERANCE)
    calm = nsde.solve(Rates(), y[[0, 2]], [0.0, 1.0], seed=0, series=[0, 2], controller=TOLERANCE)
    assert torch.equal(mixed.stats["accepted"][[0, 2]], calm.stats["accepted"])
    assert mixed.stats["accepted"][1] > 3 * mixed.stats["accepted"][0]
    assert torch.equal(mixed.ys[[0, 2]], calm.ys)


def test_replaying_is_the_forward_pass_and_its_gradient_that_of_fixed_steps(relaxation):
    sde = relaxation(e=0.5)
    sde.sde_type = "stratonovich"
    ts = [0.0, 0.3, 1.0]
    with torch.no_grad():
        forward = nsde.solve(sde, start(4), ts, seed=0, controller=TOLERANCE)
    replay = nsde.solve(sde, start(4), ts, seed=0, controller=TOLERANCE)
    assert torch.allclose(forward.ys, replay.ys, atol=1e-12)
    replay.ys.sum().backward()
    gradient = sde.gain.grad.clone()
    for mode in ("backprop", "checkpoint"):
        sde.zero_grad()
        nsde.solve(sde, start(4), ts, seed=0, controller=TOLERANCE, gradient=mode).ys.sum().backward()
        assert torch.allclose(sde.gain.grad, gradient, rtol=1e-12)
    eps = 1e-6  # the steps stay where they are under so small a change
    ends = []
    for shift in (eps, -eps):
        with torch.no_grad():
            sde.gain.add_(shift)
            ends.append(float(nsde.solve(sde, start(4), ts, seed=0, controller=TOLERANCE).ys.sum()))
            sde.gain.sub_(shift)
    assert float(gradient) == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-5)


def test_own_times_with_padding_and_a_series_without_any_step(sinh_sde):
    ts = torch.tensor([[0.0, 0.5, math.nan], [0.1, 0.3, 2.0], [0.0, math.nan, math.nan]], dtype=torch.float64)
    sde = sinh_sde("stratonovich")
    batch = nsde.solve(sde, start(3), ts, seed=3, controller=TOLERANCE).raise_if_failed()
    assert batch.ys.isnan().squeeze(-1).equal(ts.isnan())
    assert batch.stats["accepted"][2] == 0
    alone = nsde.solve(sde, start(1), ts[1], seed=3, series=[1], controller=TOLERANCE)
    assert torch.equal(alone.ys[0], batch.ys[1])


def test_tolerances_share_one_path_with_fixed_steps(sinh_sde):
    sde = sinh_sde("stratonovich")
    fine = nsde.solve(sde, start(200), [0.0, 1.0], seed=1, dt=2.0**-11).ys[:, -1]
    adaptive = nsde.solve(sde, start(200), [0.0, 1.0], seed=1, controller=PIController(1e-3, 1e-3)).ys[:, -1]
    other = nsde.solve(sde, start(200), [0.0, 1.0], seed=2, dt=2.0**-11).ys[:, -1]
    assert float((fine - adaptive).abs().mean()) < 0.01 * float((fine - other).abs().mean())


@pytest.mark.parametrize("stepper", [None, ReversibleHeun()])
def test_steps_end_on_jumps(stepper):
    class Switched(nsde.SDE):
        sde_type = "stratonovich"

        def drift(self, t, y):
            return torch.where(t >= 0.37, 5.0, 0.0) * torch.ones_like(y)

        def diffusion(self, t, y):
            return 0.0 * y

    controller = PIController(1e-3, 1e-3, first=0.25, jump_times=(0.37, 5.0))
    solution = nsde.solve(Switched(), start(2), [0.0, 1.0], seed=0, controller=controller, stepper=stepper)
    assert float(solution.ys[0, -1]) == pytest.approx(5 * 0.63, abs=0.05)


def test_running_costs_follow_the_accepted_steps(sinh_sde):
    cost = nsde.RunningCost(lambda t, y: t.expand_as(y)[:, 0], name="time")
    solution = nsde.solve(
        sinh_sde("stratonovich"), start(3), [0.0, 0.3, 1.0], seed=0, controller=TOLERANCE, running=[cost]
    )
    expected = torch.tensor([0.0, 0.045, 0.5], dtype=torch.float64).expand(3, 3)
    assert torch.allclose(solution.running["time"], expected, atol=1e-12)


def test_what_cannot_be_met_ends_with_a_status(sinh_sde):
    sde = sinh_sde("stratonovich")
    with pytest.warns(RuntimeWarning, match="more steps than max_steps"):
        few = nsde.solve(sde, start(2), [0.0, 0.5, 1.0], seed=0, controller=TOLERANCE, max_steps=3)
    assert few.status.tolist() == [Status.MAX_STEPS] * 2
    assert few.ys[:, -1].isnan().all()
    with pytest.warns(RuntimeWarning, match="shorter than the leaves"):
        tiny = nsde.solve(sde, start(1), [0.0, 1.0], seed=0, controller=PIController(0.0, 1e-12))
    assert tiny.status.tolist() == [Status.STEP_TOO_SMALL]

    class Broken(sinh_sde):
        def drift(self, t, y):
            return super().drift(t, y) * torch.where(t > 0.5, math.nan, 1.0)

    with pytest.warns(RuntimeWarning, match="1 of 1 series failed"):
        nan = nsde.solve(Broken("stratonovich"), start(1), [0.0, 0.25, 1.0], seed=0, controller=TOLERANCE)
    assert nan.ys.isnan().flatten().tolist() == [False, False, True]


def test_bad_arguments_are_named(sinh_sde):
    for arguments, message in (
        ({"rtol": 0.0, "atol": 0.0}, "both are 0"),
        ({"rtol": -1.0, "atol": 1.0}, "rtol: expected a finite tolerance"),
        ({"rtol": 0.1, "atol": math.nan}, "atol: expected a finite tolerance"),
        ({"rtol": 0.1, "atol": 0.1, "safety": 2.0}, "safety, factor_min"),
        ({"rtol": 0.1, "atol": 0.1, "first": 0.0}, "first: expected a positive"),
    ):
        with pytest.raises(DataError, match=message):
            PIController(**arguments)
    sde, ts = sinh_sde("stratonovich"), [0.0, 1.0]
    for more, message in (
        ({"dt": 0.1}, "dt: an adaptive solve finds its steps"),
        ({"noise": StepNoise((2, 1), seed=0)}, "they need a BrownianPath"),
        ({"noise": BrownianPath(0.5, 1.0, (2, 1), seed=0)}, "expected it to start at the first time"),
    ):
        with pytest.raises(DataError, match=message):
            nsde.solve(sde, start(2), ts, controller=TOLERANCE, **more)
    with pytest.raises(DataError, match="whole_batch=True needs times that all series share"):
        nsde.solve(sde, start(1), torch.zeros(1, 1), controller=PIController(0.1, 0.1, whole_batch=True))
    with pytest.raises(SolveError, match=r"EulerMaruyama does not estimate its error.*take one of"):
        nsde.solve(sinh_sde("ito"), start(2), ts, controller=TOLERANCE, stepper=EulerMaruyama())


def test_attempts_without_a_look_are_the_same_attempts(monkeypatch, sinh_sde):
    """As where a look has to wait: clocks that end on a requested time sit out, and nothing else changes."""

    def solve():
        ts = torch.tensor([[0.0, 0.31, 1.0], [0.0, 0.5, 1.7], [0.0, 0.25, math.nan]], dtype=torch.float64)
        return nsde.solve(sinh_sde("stratonovich"), start(3), ts, seed=3, controller=TOLERANCE)

    one = solve()
    attempts, search = [], StepSearch
    monkeypatch.setattr(entry, "StepSearch", lambda *a: attempts.append(a) or search(*a, blind=6))
    many = solve()
    assert attempts
    assert torch.allclose(one.ys, many.ys, rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(one.stats[name], many.stats[name]) for name in one.stats)


@pytest.mark.parametrize("stepper", [Heun(), ReversibleHeun(), ShARK()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "rule",
    [{}, {"jump_times": (0.3, 0.5)}, {"first": 0.2, "pcoeff": 0.1, "icoeff": 0.3}, {"shortest": 0.1}],
    ids=str,
)
def test_the_clock_in_plain_python_is_the_one_in_tensors(monkeypatch, stepper, rule):
    """Both searches meet the same path: the same steps, states, counts and ends, give-ups included."""

    class Pendulum(nsde.SDE):
        sde_type, additive = "stratonovich", True

        def drift(self, t, y):
            return -torch.sin(3 * y) + torch.cos(5 * t)

        def diffusion(self, t, y):
            return 0.4 * torch.ones_like(y)

    def solve():
        controller = PIController(1e-2, 1e-2, whole_batch=True, **rule)
        y0 = torch.linspace(-1, 1, 5, dtype=torch.float64).unsqueeze(-1)
        call = {"stepper": stepper, "controller": controller, "seed": 1, "max_steps": 60}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of those that give up
            return nsde.solve(Pendulum(), y0, [0.0, 0.31, 0.32, 2.0], **call)

    plain = solve()
    monkeypatch.setattr(entry, "SharedSearch", lambda *a: StepSearch(*a[:3], a[3].unsqueeze(0), *a[4:]))
    tensors = solve()
    assert torch.allclose(plain.ys, tensors.ys, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert torch.equal(plain.status, tensors.status)
    assert all(torch.equal(plain.stats[name], tensors.stats[name]) for name in plain.stats)
