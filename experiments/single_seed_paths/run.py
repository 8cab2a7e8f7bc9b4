"""Strong order on the CIR process, gradients on Neal's funnel, and the price of a single-seed path."""

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

import neurosde as nsde
from neurosde.noise import BrownianPath
from neurosde.solve import EulerMaruyama, PIController


def neighbour(name: str) -> ModuleType:
    """A file of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(
        f"single_seed_{name}", Path(__file__).with_name(f"{name}.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cir, funnel, paths = (neighbour(name) for name in ("cir", "funnel", "paths"))
METHODS = {"HighOrderSplitting": cir.HighOrderSplitting, "DriftImplicitEuler": cir.DriftImplicitEuler}
CHUNK = 1000  # series of an adaptive solve, which keeps every attempted step until it ends


class Solved(NamedTuple):
    """States at the end and steps tried, ``(series,)``, and the seconds it took."""

    end: np.ndarray
    steps: np.ndarray
    seconds: float


def rows(config: dict[str, Any], *, seed: int, device: str, fast: bool) -> Iterator[dict[str, Any]]:
    """All three parts; on the processor, in float64 where an order is fitted."""
    del device
    yield from paths.rows(config["paths"], seed=seed, fast=fast)
    for problem in config["cir"]["problems"].values():
        yield from strong_orders(config["cir"], problem, seed, fast)
    yield from funnel.rows(config["funnel"], seed=seed, fast=fast)


class Problem:
    """The CIR process, and Brownian paths that all of its solves share.

    Parameters
    ----------
    config, problem
        What is common to all, and volatility, number of series and finest steps.
    seed
        Of the paths.
    fast
        A few series only.
    """

    def __init__(self, config: dict[str, Any], problem: dict[str, Any], seed: int, fast: bool):
        self.sde = cir.CIR(config["a"], config["b"], problem["sigma"])
        self.n, self.seed, self.horizon = 20 if fast else problem["series"], seed, config["horizon"]
        self.start, self.tol = config["start"], 2.0 ** -(problem["reference"]["shortest"] + 1)

    def path(self, first: int, last: int) -> BrownianPath:
        """The paths of some of the series; each is what it is in any company."""
        return BrownianPath(
            0.0, self.horizon, (last - first, 1), seed=self.seed, levy="space-time", tol=self.tol,
            series=torch.arange(first, last), dtype=torch.float64,
        )  # fmt: skip

    def solve(self, stepper: Any, chunk: int, **rule: Any) -> Solved:
        """Solve all series, so many at a time."""
        began, ends, steps = time.process_time(), [], []
        for first in range(0, self.n, chunk):
            last = min(first + chunk, self.n)
            solution = nsde.solve(
                self.sde, torch.full((last - first, 1), self.start, dtype=torch.float64), [0.0, self.horizon],
                stepper=stepper, noise=self.path(first, last), max_steps=10**6, compile="off", **rule,
            ).raise_if_failed()  # fmt: skip
            ends.append(solution.ys[:, -1, 0].clamp(min=0).numpy())
            steps.append((solution.stats["accepted"] + solution.stats["rejected"]).double().numpy())
        return Solved(np.concatenate(ends), np.concatenate(steps), time.process_time() - began)

    def constant(self, stepper: Any, k: int) -> Solved:
        """In ``2^k`` equal steps."""
        return self.solve(stepper, self.n, dt=self.horizon * 2.0**-k)

    def adaptive(self, method: str, k: int, shortest: int) -> Solved:
        """In steps that follow the state with ``ctol = 2^-k``, of at least ``2^-shortest``."""
        rule = cir.Rule(2.0**-k, 2.0**-shortest, 1.0)
        controller = PIController(rtol=0.0, atol=1.0, safety=1.0, shortest=rule.shortest, first=rule.ctol)
        return self.solve(METHODS[method](rule), CHUNK, controller=controller)


def strong_orders(
    config: dict[str, Any], problem: dict[str, Any], seed: int, fast: bool
) -> Iterator[dict[str, Any]]:
    """Errors of every method at every step size against one reference, and the slopes fitted to them."""
    own, dataset = Problem(config, problem, seed, fast), f"CIR, sigma {problem['sigma']}"
    finest = {"ctol": 4, "shortest": 12} if fast else problem["reference"]
    best = own.adaptive("HighOrderSplitting", finest["ctol"], finest["shortest"])
    sizes = (config["constant"], problem["fixed"], problem["scaled"])
    for method, line in solved(own, *(some[:3] if fast else some for some in sizes)).items():
        squares = np.array([(one.end - best.end) ** 2 for one in line.values()])
        steps = np.array([one.steps for one in line.values()])
        for (label, one), square in zip(line.items(), squares, strict=True):
            found = {"steps": one.steps.mean(), "RMS error": np.sqrt(square.mean())}
            for metric, value in found.items():
                yield row(f"{dataset}, every step", f"{method}, {label}", metric, value, one.seconds)
        seconds = sum(one.seconds for one in line.values())
        for metric, value in fit(squares, steps, config["bootstrap"], seed).items():
            yield row(dataset, method, metric, value, seconds)
        if method == "HighOrderSplitting, adaptive, floor ctol^2":
            value = extrapolated(squares, steps, best.steps.mean())
            yield row(dataset, "reference", "steps", best.steps.mean(), best.seconds)
            yield row(dataset, "reference", "RMS error by the line", value, best.seconds)


def solved(
    own: Problem, constant: list[int], fixed: list[int], scaled: list[int]
) -> dict[str, dict[str, Solved]]:
    """Solves of every method and rule, by step size."""
    lines = {
        "EulerMaruyama, full truncation": {
            f"{2**k} steps": own.constant(EulerMaruyama(), k) for k in constant
        }
    }
    for name, stepper in METHODS.items():
        lines |= {
            f"{name}, constant": {f"{2**k} steps": own.constant(stepper(), k) for k in constant},
            f"{name}, adaptive": {f"ctol 2^-{k}": own.adaptive(name, k, 15) for k in fixed},
            f"{name}, adaptive, floor ctol^2": {f"ctol 2^-{k}": own.adaptive(name, k, 2 * k) for k in scaled},
        }
    return lines


def fit(squares: np.ndarray, steps: np.ndarray, n_bootstrap: int, seed: int) -> dict[str, float]:
    """Order, minus the slope of log RMS error over log mean steps, and an interval from resampled series."""
    n = squares.shape[1]

    def slope(weights: np.ndarray) -> np.ndarray:
        x, y = np.log(weights @ steps.T / n), 0.5 * np.log(weights @ squares.T / n)
        x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
        return -(x * y).sum(-1) / (x * x).sum(-1)

    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap)
    low, high = np.quantile(slope(draws.astype(float)), [0.025, 0.975])
    half = steps.shape[0] // 2
    whole = slope(np.ones((1, n)))[0]
    means, errors = np.log(steps.mean(1)), 0.5 * np.log(squares.mean(1))
    local = [
        -(np.polyfit(means[part], errors[part], 1)[0]) for part in (slice(0, half + 1), slice(half, None))
    ]
    return {
        "order": whole, "order, 95 % from": low, "order, 95 % to": high,
        "order of the coarse half": local[0], "order of the fine half": local[1],
    }  # fmt: skip


def extrapolated(squares: np.ndarray, steps: np.ndarray, at: float) -> float:
    """RMS error that the fitted line of a method gives at so many steps."""
    return float(
        np.exp(np.polyval(np.polyfit(np.log(steps.mean(1)), 0.5 * np.log(squares.mean(1)), 1), np.log(at)))
    )


def row(dataset: str, method: str, metric: str, value: float, seconds: float) -> dict[str, Any]:
    return {"dataset": dataset, "method": method, "metric": metric, "value": value, "seconds": seconds}
