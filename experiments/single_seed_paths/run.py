"""Strong order on the CIR process, gradients on Neal's funnel, and the price of a single-seed path."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

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
CHUNK = 2000  # series of an adaptive solve, which keeps every attempted step until it ends


class Solved(NamedTuple):
    """States ``(series, time)``, steps taken and steps tried ``(series,)``, and the seconds it took."""

    states: np.ndarray
    taken: np.ndarray
    tried: np.ndarray
    seconds: float


class Line(NamedTuple):
    """A method in all its step sizes, and in the finer ones that its published order was measured against."""

    sizes: dict[str, Callable[[], Solved]]
    finer: Callable[[], Solved] | None


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
        What is common to all, and volatility, number of series and step sizes.
    seed
        Of the paths.
    fast
        A few series only.
    """

    def __init__(self, config: dict[str, Any], problem: dict[str, Any], seed: int, fast: bool):
        self.sde = cir.CIR(config["a"], config["b"], problem["sigma"])
        self.n, self.seed, self.horizon = 20 if fast else problem["series"], seed, config["horizon"]
        self.start, self.floor = config["start"], 8 if fast else config["floor"]
        self.tol = 2.0 ** -(max(problem["reference"]["shortest"], self.floor) + 1)

    def path(self, first: int, last: int) -> BrownianPath:
        """The paths of some of the series; each is what it is in any company."""
        return BrownianPath(
            0.0, self.horizon, (last - first, 1), seed=self.seed, levy="space-time", tol=self.tol,
            series=torch.arange(first, last), dtype=torch.float64,
        )  # fmt: skip

    def solve(self, stepper: Any, times: int, chunk: int, **rule: Any) -> Solved:
        """Solve all series to so many equidistant times, so many series at once."""
        began, parts = time.process_time(), []
        for first in range(0, self.n, chunk):
            last = min(first + chunk, self.n)
            solution = nsde.solve(
                self.sde, torch.full((last - first, 1), self.start, dtype=torch.float64),
                torch.linspace(0, self.horizon, times + 1, dtype=torch.float64), stepper=stepper,
                noise=self.path(first, last), max_steps=10**6, compile="off", **rule,
            ).raise_if_failed()  # fmt: skip
            taken, turned_down = solution.stats["accepted"].double(), solution.stats["rejected"].double()
            parts.append((solution.ys[:, 1:, 0].clamp(min=0), taken, taken + turned_down))
        states, taken, tried = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
        return Solved(states, taken, tried, time.process_time() - began)

    def constant(self, stepper: Any, k: int) -> Solved:
        """In ``2^k`` equal steps, with the states at eight times."""
        return self.solve(stepper, 8, self.n, dt=self.horizon * 2.0**-k)

    def adaptive(self, method: str, k: int, shortest: int) -> Solved:
        """In steps that follow the state with ``ctol = 2^-k``, of at least ``2^-shortest``."""
        rule = cir.Rule(2.0**-k, 2.0**-shortest, 1.0)
        controller = PIController(rtol=0.0, atol=1.0, safety=1.0, shortest=rule.shortest, first=rule.ctol)
        return self.solve(METHODS[method](rule), 1, CHUNK, controller=controller)

    def lines(self, constant: list[int], fixed: list[int], scaled: list[int]) -> dict[str, Line]:
        """All solves, by method and rule and step size; none is done before it is called."""
        found = {}
        for name, stepper in {"EulerMaruyama, full truncation": EulerMaruyama, **METHODS}.items():
            sizes = {f"{2**k} steps": partial(self.constant, stepper(), k) for k in constant}
            finer = partial(self.constant, stepper(), constant[-1] + 2) if name in METHODS else None
            found[f"{name}, constant"] = Line(sizes, finer)
        for name in METHODS:
            sizes = {f"ctol 2^-{k}": partial(self.adaptive, name, k, self.floor) for k in fixed}
            finer = partial(self.adaptive, name, fixed[-1] + 2, self.floor)
            found[f"{name}, adaptive"] = Line(sizes, finer)
        name = "HighOrderSplitting"
        sizes = {f"ctol 2^-{k}": partial(self.adaptive, name, k, 2 * k) for k in scaled}
        return found | {f"{name}, adaptive, floor ctol^2": Line(sizes, None)}


def strong_orders(
    config: dict[str, Any], problem: dict[str, Any], seed: int, fast: bool
) -> Iterator[dict[str, Any]]:
    """Errors of every method at every step size, and the slopes fitted to them.

    Against one reference, and as they were published: against the method itself in finer steps.
    """
    own, dataset = Problem(config, problem, seed, fast), f"CIR, sigma {problem['sigma']}"
    finest = {"ctol": 4, "shortest": 12} if fast else problem["reference"]
    sizes = (config["constant"], problem["fixed"], problem["scaled"])
    lines = own.lines(*(some[:3] if fast else some for some in sizes))
    n_solves = 1 + sum(len(line.sizes) + (line.finer is not None) for line in lines.values())
    with tqdm(total=n_solves, unit="solve", leave=False, position=1, file=sys.stderr) as bar:

        def solved(name: str, solve: Callable[[], Solved]) -> Solved:
            bar.set_description(f"{dataset}: {name}")
            one = solve()
            bar.update()
            return one

        best = solved("reference", partial(own.adaptive, "HighOrderSplitting", *finest.values()))
        for method, line in lines.items():
            found = {label: solved(f"{method}, {label}", solve) for label, solve in line.sizes.items()}
            finer = line.finer and solved(f"{method}, finer", line.finer)
            yield from measured(dataset, method, found, best, finer, config["bootstrap"], seed)


def measured(
    dataset: str, method: str, found: dict[str, Solved], best: Solved, finer: Solved | None, n: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Errors of one method and its orders, from so many resamplings; and how far its line reaches."""
    seconds = sum(one.seconds for one in found.values())
    squares = np.array([(one.states[:, -1] - best.states[:, -1]) ** 2 for one in found.values()])
    tried = np.array([one.tried for one in found.values()])
    taken = np.array([one.taken for one in found.values()])
    table = {"steps": tried.mean(1), "steps taken": taken.mean(1), "RMS error": np.sqrt(squares.mean(1))}
    slopes = fit(squares, tried, n, seed)
    if finer is not None:
        largest = np.array([((one.states - finer.states) ** 2).max(1) for one in found.values()])
        table["RMS error, as published"] = np.sqrt(largest.mean(1))
        slopes |= {f"{metric}, as published": value for metric, value in fit(largest, taken, n, seed).items()}
    for metric, values in table.items():
        for (label, one), value in zip(found.items(), values, strict=True):
            yield row(f"{dataset}, every step", f"{method}, {label}", metric, value, one.seconds)
    for metric, value in slopes.items():
        yield row(dataset, method, metric, value, seconds)
    if method == "HighOrderSplitting, adaptive, floor ctol^2":
        yield row(dataset, "reference", "steps", best.tried.mean(), best.seconds)
        value = extrapolated(squares, tried, best.tried.mean())
        yield row(dataset, "reference", "RMS error by the line", value, best.seconds)


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
