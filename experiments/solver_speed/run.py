"""The backend beside torchsde: time and memory on one model, and time at equal strong error."""

import importlib
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ADAPTIVE, FIXED = "torchsde heun, adaptive", "torchsde srk"


def benchmark(name: str) -> ModuleType:
    """One of the scripts under benchmarks/, as a module."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module(name)


def tables(config: dict[str, Any], fast: bool) -> Iterator[tuple[Any, str]]:
    """Benches and the names of their tables."""
    solver = benchmark("bench_solver")
    repetitions = 1 if fast else config["repetitions"]
    for batch in config["batches"]:
        bench = solver.Bench(batch, config["steps"], repetitions, not fast)
        first = batch == config["batches"][0]
        names = (
            ("forward", "clocks", "adaptive", "noise", "train", "reversible")
            if first
            else ("forward", "train")
        )
        yield from ((bench, name) for name in names)
    yield solver.Bench(config["batches"][0], config["long_steps"], repetitions, not fast), "forward"
    yield solver.Bench(config["memory_batch"], config["steps"], repetitions, False), "memory"


def rows(config: dict[str, Any], *, seed: int, device: str, fast: bool) -> Iterator[dict[str, Any]]:
    if device != "cpu":
        raise ValueError(f"device: processor time is measured; expected 'cpu', got {device!r}")
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bench, name in tables(config, fast):
            began = time.perf_counter()
            title, results = bench.run(name)
            metric = "MiB" if name == "memory" else "milliseconds"
            yield from benchmark("timing").as_rows(title, results, time.perf_counter() - began, metric)
        yield from precision(config, fast)
        yield from beside_diffrax(config, fast)


def precision(config: dict[str, Any], fast: bool) -> Iterator[dict[str, Any]]:
    """Time of torchsde over ours at the same strong error: worst, median and best over its own errors."""
    work = benchmark("bench_work_precision")
    n, repetitions = config["precision_batch"], 1 if fast else 5
    problems = (work.Sinh,) if fast else (work.Sinh, work.BlackScholes, work.Fading)
    for kind in problems:
        for measure, peer in ((work.fixed_steps, FIXED), (work.adaptive_steps, ADAPTIVE)):
            began = time.perf_counter()
            points = measure(kind, n, repetitions)
            seconds = time.perf_counter() - began
            for method in dict.fromkeys(point["method"] for point in points):
                found = sorted(ratio for _, ratio in work.ratios(points, peer, method))
                if not found:
                    continue
                shared = {"dataset": f"equal strong error, {kind.title}, beside {peer}", "method": method}
                for metric, value in (
                    ("least", found[0]),
                    ("median", found[len(found) // 2]),
                    ("most", found[-1]),
                ):
                    yield shared | {"metric": f"{metric} ratio", "value": value, "seconds": seconds}


def beside_diffrax(config: dict[str, Any], fast: bool) -> Iterator[dict[str, Any]]:
    """The tables beside diffrax, where it and jax are installed."""
    diffrax, timing = benchmark("bench_diffrax"), benchmark("timing")
    for _, table in diffrax.tables(2 if fast else config["repetitions"], fast):
        began = time.perf_counter()
        results = timing.medians(table.calls, table.repetitions)
        yield from timing.as_rows(table.title, results, time.perf_counter() - began, "milliseconds")
