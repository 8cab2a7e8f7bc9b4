"""The backend beside torchsde on a GPU: recorded and compiled steps, training, adaptive steps and noise."""

import importlib
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def tables(config: dict[str, Any], fast: bool) -> Iterator[tuple[Any, str]]:
    """Benches and the names of their tables."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    solver = importlib.import_module("bench_solver")
    steps, repetitions = (20, 1) if fast else (config["steps"], config["repetitions"])
    for name in config["tables"]:
        for batch in config["batches"]:
            bench = solver.Bench(batch, steps, repetitions, not fast, "cuda")
            if name in ("train", "reversible"):
                bench.models = {model: bench.models[model] for model in config["trained"]}
            yield bench, name


def rows(config: dict[str, Any], *, seed: int, device: str, fast: bool) -> Iterator[dict[str, Any]]:
    if device != "cuda" or not torch.cuda.is_available():
        raise ValueError(
            f"device: a GPU is measured; expected 'cuda' on a machine that has one, got {device!r}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for bench, name in tables(config, fast):
            began = time.perf_counter()
            title, results = bench.run(name)
            title = f"{title}, {torch.cuda.get_device_name()}"
            timing = importlib.import_module("timing")
            yield from timing.as_rows(title, results, time.perf_counter() - began, "milliseconds")
