"""Loops of compiled steps are the steps: of fixed ones and of a search; the compiler is acted."""

import warnings

import pytest
import torch

import neurosde as nsde
from neurosde.noise import StepNoise
from neurosde.solve import (
    AbsorbingSet,
    ExponentialEuler,
    Heun,
    PIController,
    ReversibleHeun,
    SlowRK,
    adaptive,
    blocks,
    compiling,
    kept,
)
from neurosde.solve.blocks import CHUNK

pytestmark = pytest.mark.usefixtures("acted_compiler")

TIMES = {"ends": [0.0, 1.0], "stops": [0.0, 0.33, 0.35, 1.0], "own": None}


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("table", [7, 2**12], ids=["many tables", "one table"])
@pytest.mark.parametrize("stepper", [None, ExponentialEuler(), Heun(), ReversibleHeun(), SlowRK()])
def test_a_loop_that_draws_its_noise_takes_the_same_steps(
    relaxation, sinh_sde, stepper, table, times, monkeypatch
):
    """Step noise is drawn by the loop, table after table, and as a section where requested times are near."""
    monkeypatch.setattr(blocks, "_TABLE", table + CHUNK)
    sde = relaxation() if isinstance(stepper, ExponentialEuler) else sinh_sde("stratonovich")
    y, levy = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2), "space-time"
    cost = nsde.RunningCost(lambda t, y: y.square().sum(-1), lambda t, y: y)
    ts = TIMES[times] or torch.linspace(0, 1, 3) * torch.tensor([[0.5], [0.7], [1.0]])
    with torch.no_grad():
        off, on = (
            nsde.solve(
                sde, y, ts, dt=1 / 61, stepper=stepper, running=(cost,), compile=mode,
                noise=StepNoise((3, 2), seed=5, levy=levy, dtype=y.dtype),
            )
            for mode in ("off", "chunk")
        )  # fmt: skip
    torch.testing.assert_close(on.ys, off.ys, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(on.running, off.running, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("unseen", [1, 2**24], ids=["many tables", "one table"])
def test_noise_is_drawn_by_the_loop_alone(sinh_sde, unseen, monkeypatch):
    """No table of increments is made for long runs, whatever their length and that of the batch."""
    monkeypatch.setattr(blocks, "_UNSEEN", unseen)
    asked = []
    drawn = StepNoise.increments
    monkeypatch.setattr(
        StepNoise, "increments", lambda self, times, first=0: asked.append(first) or drawn(self, times, first)
    )
    y = torch.zeros(3, 2, dtype=torch.float64)
    with torch.no_grad():
        nsde.solve(sinh_sde("ito"), y, [0.0, 0.5, 1.0], dt=1 / 100, compile="chunk")
        assert not asked
        nsde.solve(sinh_sde("ito"), y, [0.0, 0.5, 1.0], dt=1 / 10, compile="chunk")
        assert asked


SEARCHES = {
    "one clock": {"controller": PIController(1e-3, 1e-3, whole_batch=True)},
    "a clock each": {},
    "stops": {"ts": [0.0, 0.21, 0.7, 1.0]},
    "own times": {"ts": torch.linspace(0, 1, 3) * torch.tensor([0.5, 0.7, 1.0, 0.9, 1.3]).unsqueeze(-1)},
    "jumps": {"controller": PIController(1e-3, 1e-3, jump_times=(0.3, 0.5)), "stepper": ReversibleHeun()},
    "too few steps": {"max_steps": 6},
    "too long steps": {"controller": PIController(1e-6, 1e-6, shortest=0.05)},
    "exits": {"absorbing": AbsorbingSet(lambda t, y: (1.5 - y).amin(-1))},
}


PLAIN = {"ts": [0.0, 1.0], "controller": PIController(1e-3, 1e-3), "stepper": Heun(), "seed": 1}


@pytest.fixture
def looped(monkeypatch):
    """An entry for each loop that is begun."""
    calls, through = [], adaptive.attempt_on
    monkeypatch.setattr(adaptive, "attempt_on", lambda *parts: calls.append(1) or through(*parts))
    return calls


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_that_is_one_loop_takes_the_same_steps(sinh_sde, search, looped):
    options = {**PLAIN, **SEARCHES[search]}
    y = torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of series that give up
        off, on = (
            nsde.solve(sinh_sde("stratonovich"), y, compile=mode, **options) for mode in ("off", "chunk")
        )
    assert looped
    torch.testing.assert_close(on.ys, off.ys, rtol=1e-10, atol=1e-12, equal_nan=True)
    assert torch.equal(on.status, off.status)
    for name in ("accepted", "rejected"):
        assert torch.equal(on.stats[name], off.stats[name])
    if search == "exits":
        torch.testing.assert_close(on.exit_time, off.exit_time)
        assert torch.isfinite(on.exit_time).any()


@pytest.mark.parametrize("search", SEARCHES)
def test_steps_that_a_loop_keeps_are_taken_again(sinh_sde, search, looped, monkeypatch):
    """Room for the steps grows as it must; states, costs and gradients are those of steps kept one by one."""
    monkeypatch.setattr(kept, "_ROOM", 3)
    cost = nsde.RunningCost(lambda t, y: y.square().sum(-1))
    options = {**PLAIN, **SEARCHES[search], "running": (cost,)}
    results = []
    for mode in ("off", "chunk"):
        y = torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2).requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of series that give up
            solution = nsde.solve(sinh_sde("stratonovich"), y, compile=mode, **options)
        torch.nan_to_num(solution.ys).square().sum().backward()
        totals = solution.running["cost"].detach()
        results.append((solution.ys.detach(), totals, y.grad, *solution.stats.values()))
    for off, on in zip(*results, strict=True):
        torch.testing.assert_close(on, off, rtol=1e-10, atol=1e-12, equal_nan=True)
    assert looped


@pytest.mark.parametrize("ts", [[0.0, 1.0], [0.0, 0.21, 0.7, 1.0]])
def test_a_search_whose_loop_does_not_compile_goes_on_attempt_by_attempt(sinh_sde, ts, monkeypatch):
    def program(kind, function):
        def call(*parts):
            assert function.__name__ != "attempt_on"  # as the compiler's own assertions fail
            return function(*parts)

        return call

    monkeypatch.setattr(compiling, "_program", program)
    monkeypatch.setattr(compiling, "_failed", set())
    monkeypatch.setattr(kept, "_ROOM", 3)
    monkeypatch.setattr(adaptive, "_UNSEEN", 1)  # back after a few attempts
    results, rule = [], PIController(1e-3, 1e-3)
    for mode in ("off", "chunk", "chunk"):
        y = torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2).requires_grad_()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ys = nsde.solve(sinh_sde("stratonovich"), y, ts, controller=rule, seed=1, compile=mode).ys
        ys.square().sum().backward()
        results.append((ys.detach(), y.grad, len(caught)))
    assert [n for *_, n in results] == [0, 1, 0]  # said once
    for ys, slope, _ in results[1:]:
        torch.testing.assert_close(ys, results[0][0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(slope, results[0][1], rtol=1e-10, atol=1e-12)
