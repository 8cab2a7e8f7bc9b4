"""Predict a left-out snapshot of the embryoid bodies from the others: default bridge and trivial bars."""

import functools
import time
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch

import neurosde as nsde
from neurosde.bridge import systematic
from neurosde.data import Snapshots
from neurosde.scores import split_halves, trivial_predictions, wasserstein

Cloud = tuple[np.ndarray, np.ndarray | None]


@functools.cache
def cells(n_components: int, fast: bool) -> Snapshots:
    """Leading components, standardised over all cells (the protocol's StandardScaler); fast: every tenth."""
    raw = nsde.datasets.load("embryoid_body", n_components=n_components)
    X = (raw.X - raw.X.mean(0)) / raw.X.std(0)
    step = 10 if fast else 1
    return Snapshots(X[::step], raw.time[::step])


def rows(config: dict[str, Any], *, seed: int, device: str, fast: bool) -> Iterator[dict[str, Any]]:
    """W1 and W2 of every method at every left-out time, and their means."""
    data = cells(config["n_components"], fast)
    table: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for t in config["left_out"]:
        for method, p, value, seconds in scores(data, t, config, seed, device):
            table.setdefault((method, f"W{p}"), []).append((value, seconds))
            yield row(method, f"W{p} t={t:g}", value, seconds)
    for (method, metric), entries in table.items():
        values, seconds = zip(*entries, strict=True)
        yield row(method, f"{metric} mean", float(np.mean(values)), sum(seconds))


def row(method: str, metric: str, value: float, seconds: float) -> dict[str, Any]:
    return {
        "dataset": "embryoid_body",
        "method": method,
        "metric": metric,
        "value": value,
        "seconds": seconds,
    }


def scores(
    data: Snapshots, t: float, config: dict[str, Any], seed: int, device: str
) -> Iterator[tuple[str, int, float, float]]:
    """Method, order of the distance, distance to all cells at ``t``, CPU seconds to predict."""
    truth = data.at(t)
    for p in (1, 2):
        for method, value in fixed_bars(data, t, p).items():
            yield method, p, value, 0.0
        yield "split halves", p, split_halves(truth, p=p, seed=seed), 0.0
    for method, predict in {
        "exact OT (1 draw a cell)": functools.partial(drawn_plan, data, t, seed),
        "light bridge": functools.partial(bridge, data, t, seed, device),
        f"light bridge ({config['draws']} draws a cell)": functools.partial(
            bridge, data, t, seed, device, draws=config["draws"]
        ),
        "light bridge (epsilon chosen)": functools.partial(chosen_bridge, data, t, seed, device, config),
    }.items():
        began = time.process_time()
        cloud = predict()
        seconds = time.process_time() - began
        for p in (1, 2):
            yield method, p, wasserstein(cloud, truth, p), seconds


@functools.cache
def fixed_bars(data: Snapshots, t: float, p: Literal[1, 2]) -> dict[str, float]:
    """Distances that depend on no seed."""
    return {
        method: wasserstein(cloud, data.at(t), p, x_weights=weights)
        for method, (cloud, weights) in neighbours(data, t).items()
    }


@functools.cache
def neighbours(data: Snapshots, t: float) -> dict[str, Cloud]:
    return dict(trivial_predictions(data.at(t - 1), data.at(t + 1), 0.5))


def drawn_plan(data: Snapshots, t: float, seed: int) -> np.ndarray:
    """The same number of points as the bridge has, drawn from the exact plan."""
    points, weights = neighbours(data, t)["exact OT"]
    return points[systematic(torch.from_numpy(weights), len(data.at(t - 1)), seed=seed).numpy()]


@functools.cache
def fit(data: Snapshots, out: tuple[float, ...], seed: int, device: str, epsilon: float | None) -> Any:
    """The bridge through all snapshots but some; None is the default epsilon."""
    kept = ~np.isin(data.time, out)
    settings = {} if epsilon is None else {"epsilon": epsilon}
    model = nsde.LightSchrodingerBridge(random_state=seed, device=device, **settings)
    return model.fit(data.X[kept], data.time[kept])


def bridge(data: Snapshots, t: float, seed: int, device: str, *, draws: int = 1) -> np.ndarray:
    """Draws at ``t`` from the true cells at t - 1."""
    return fit(data, (t,), seed, device, None).interpolate(t, draws * len(data.at(t - 1)))


def chosen_bridge(data: Snapshots, t: float, seed: int, device: str, config: dict[str, Any]) -> np.ndarray:
    """Epsilon with the least W1 at training times, each left out in its turn, the others fitted."""
    inner = [s for s in config["left_out"] if s != t]

    def error(epsilon: float) -> float:
        return sum(inner_error(data, (t, s), seed, device, epsilon, config["inner_cells"]) for s in inner)

    model = fit(data, (t,), seed, device, min(config["epsilons"], key=error))
    return model.interpolate(t, len(data.at(t - 1)))


@functools.cache
def inner_error(
    data: Snapshots, out: tuple[float, float], seed: int, device: str, epsilon: float, n_cells: int
) -> float:
    """W1 at the second of two left-out times, between random cells of each side."""
    rng, s = np.random.default_rng(seed), out[1]
    predicted, truth = fit(data, tuple(sorted(out)), seed, device, epsilon).interpolate(s), data.at(s)
    return wasserstein(rng.permutation(predicted)[:n_cells], rng.permutation(truth)[:n_cells], 1)
