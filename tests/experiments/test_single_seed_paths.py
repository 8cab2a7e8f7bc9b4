"""The measures and the steppers of the claim about single-seed paths, against closed forms."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import neurosde as nsde
from neurosde.noise import BrownianPath
from neurosde.solve import PIController

ALPHA = 1e-5


@pytest.fixture(scope="module")
def claim():
    file = Path(__file__).resolve().parents[2] / "experiments" / "single_seed_paths" / "run.py"
    spec = importlib.util.spec_from_file_location("single_seed_run", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("memory", [0.0, 0.8])
def test_effective_samples_of_an_autoregression(claim, memory):
    """``(1 - r) / (1 + r)``; chains that stand apart have next to none."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(64, 1000, generator=generator, dtype=torch.float64)
    x = [z[:, 0]]
    for k in range(1, 1000):
        x.append(memory * x[-1] + math.sqrt(1 - memory**2) * z[:, k])
    chains = torch.stack(x, dim=1)
    fraction = claim.funnel.effective_fraction(chains)
    assert fraction == pytest.approx((1 - memory) / (1 + memory), rel=0.1)
    apart = chains + 5 * torch.arange(64, dtype=torch.float64).unsqueeze(-1)
    assert claim.funnel.effective_fraction(apart) < 0.01


def test_the_fitted_order_is_that_of_a_power_law(claim):
    steps = np.repeat(2.0 ** np.arange(3, 9)[:, None], 500, axis=1)
    squares = np.random.default_rng(0).chisquare(1, 500) * steps ** (-2 * 1.3)  # the same paths at every size
    found = claim.fit(squares, steps, 200, 0)
    assert found["order"] == pytest.approx(1.3, rel=1e-9)
    assert found["order, 95 % from"] <= found["order"] * (1 + 1e-9)
    assert claim.extrapolated(squares, steps, 1024.0) == pytest.approx(
        math.sqrt(squares[-1].mean()) * (1024 / 256) ** -1.3, rel=1e-9
    )


def test_the_published_measure_is_against_the_methods_own_finer_steps(claim):
    """The largest error and the steps taken; ours is the error at the end, over all steps tried."""
    noise, found = np.random.default_rng(0).standard_normal((400, 2)), {}
    limit, truth = 1.0 * np.ones((400, 2)), 1.5 * np.ones((400, 2))  # the method converges, to something else
    for k in range(3, 8):
        taken = np.full(400, 2.0**k)
        states = limit + noise * np.array([4.0, 1.0]) * taken[:, None] ** -2
        found[f"{2**k} steps"] = claim.Solved(states, taken, taken**2, 0.0)
    best = claim.Solved(truth[:, 1:], taken, taken, 0.0)
    finer = claim.Solved(limit, taken, taken, 0.0)
    rows = list(claim.measured("CIR", "a method", found, best, finer, 50, 0))
    values = {row["metric"]: row["value"] for row in rows if row["method"] == "a method"}
    assert values["order, as published"] == pytest.approx(2.0, rel=1e-9)
    assert abs(values["order"]) < 0.1
    sizes = {row["metric"]: row["value"] for row in rows if row["method"] == "a method, 8 steps"}
    largest = (noise * np.array([4.0, 1.0]) / 64) ** 2
    assert sizes["RMS error, as published"] == pytest.approx(math.sqrt(largest.max(1).mean()), rel=1e-9)
    assert (sizes["steps"], sizes["steps taken"]) == (64.0, 8.0)


def test_a_root_below_zero_is_carried_with_its_sign(claim):
    """Where sigma^2 > 4ab the implicit scheme may end below zero: two steps by hand."""
    sde, stepper = claim.cir.CIR(1.0, 1.0, 2.2), claim.METHODS["DriftImplicitEuler"]()
    y, h, w = torch.tensor([[0.01]], dtype=torch.float64), 0.01, (-0.3, 0.05)
    noise = torch.tensor(w, dtype=torch.float64).view(2, 1, 1)
    solution = nsde.solve(sde, y, [0.0, h, 2 * h], stepper=stepper, noise=noise, dt=h, compile="off")
    ys = solution.ys[0, :, 0]
    z, pull = 0.1, (4 - 2.2**2) / 8
    for k in range(2):
        s = z + 1.1 * w[k]
        z = (s + math.sqrt(max(s * s + 2 * pull * h * (2 + h), 0.0))) / (2 + h)
        assert float(ys[k + 1]) == pytest.approx(z * z, rel=1e-9)
        assert (z < 0) == (k == 0)


@pytest.mark.parametrize("name", ["HighOrderSplitting", "DriftImplicitEuler"])
def test_a_users_stepper_of_the_cir_process_has_its_mean(claim, name):
    """``b + (y - b) e^{-a t}``, and the wrong calculus is another."""
    n, sde = 4000, claim.cir.CIR(1.0, 1.0, 0.8)
    start, ts = torch.full((n, 1), 2.0, dtype=torch.float64), [0.0, 1.0]
    path = BrownianPath(0.0, 1.0, (n, 1), seed=0, levy="space-time", dtype=torch.float64)
    end = nsde.solve(sde, start, ts, stepper=claim.METHODS[name](), noise=path, dt=2.0**-6, compile="off").ys
    end, mean = end[:, -1, 0], 1 + math.exp(-1.0)
    assert bool((end >= 0).all())
    bound = stats.norm.isf(ALPHA / 2) * float(end.std()) / math.sqrt(n) + 0.005  # and the bias of the steps
    assert abs(float(end.mean()) - mean) < bound
    twin = claim.cir.CIR(1.0, 1.0 + 0.8**2 / 4, 0.8)  # the Stratonovich correction forgotten
    wrong = nsde.solve(
        twin, start, ts, stepper=claim.METHODS[name](), noise=path, dt=2.0**-6, compile="off"
    ).ys
    assert abs(float(wrong[:, -1].mean()) - mean) > bound


def test_the_rule_takes_the_steps_that_it_allows(claim):
    """Through the public interface: an error of the rule beside ``atol=1``, and the shortest step forced."""
    seen, rule = [], claim.cir.Rule(0.25, 2.0**-8, 1.0)

    class Watched(claim.cir.HighOrderSplitting):
        def step(self, sde, step, y, carry):
            stepped = super().step(sde, step, y, carry)
            allowed = (0.25 * torch.minimum(y, stepped.y)).pow(2 / 3).clamp(2.0**-8, 1.0)
            seen.append(
                (step.h.flatten(), (step.h <= allowed * (1 + 1e-9)).flatten(), stepped.error.flatten())
            )
            return stepped

    start = torch.ones(20, 1, dtype=torch.float64)
    controller = PIController(rtol=0.0, atol=1.0, safety=1.0, shortest=2.0**-8, first=0.25)
    solution = nsde.solve(
        claim.cir.CIR(1.0, 1.0, 1.5), start, [0.0, 4.0], seed=0, stepper=Watched(rule), controller=controller
    )
    assert solution.succeeded
    assert bool((solution.stats["accepted"] < 4 * 2**8).all())
    lengths, allowed, errors = (torch.cat(part) for part in zip(*seen, strict=True))
    assert torch.equal(errors <= 1 + 1e-6, allowed)
    assert float(lengths.min()) >= 2.0**-8
    assert float(lengths.max()) > 2.0**-4
