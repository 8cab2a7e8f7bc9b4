"""How all benchmarks here take time: the calls taken in turn, medians.

On a processor it is the processor's time of one thread, which neighbours disturb least; on a GPU it is the
time until the GPU is done.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

Calls = dict[str, Callable[[], object]]


def clock(device: str) -> Callable[[], float]:
    """What tells the time on a device, in seconds."""

    def when_done() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return time.process_time if device == "cpu" else when_done


def as_rows(title: str, results: dict[str, float], seconds: float, metric: str) -> Iterator[dict[str, Any]]:
    """Rows of an experiment: each value, and how the first one compares with it."""
    peer = next(iter(results.values()))
    for method, value in results.items():
        shared = {"dataset": title, "method": method, "seconds": seconds}
        yield shared | {"metric": metric, "value": value}
        yield shared | {"metric": "first row / this row", "value": peer / value}


def medians(calls: Calls, repetitions: int, device: str = "cpu") -> dict[str, float]:
    """Milliseconds of each call; two rounds that are not counted come first, for they may compile."""
    now = clock(device)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for _ in range(repetitions):
        for name, call in calls.items():
            begin = now()
            call()
            times[name].append(1e3 * (now() - begin))
    return {name: statistics.median(values) for name, values in times.items()}
