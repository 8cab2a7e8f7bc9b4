"""What a Brownian path costs: time beside torch.randn and torchsde's interval, memory over many queries."""

import gc
import itertools
import os
import statistics
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchsde
from tqdm import tqdm

from neurosde.noise import BrownianPath, Levy, StepNoise
from neurosde.noise.stack import DyadicStack, choose

Call = Callable[[], object]
INTERVAL = {"none": "none", "space-time": "space-time"}


def grids(n_steps: int, seed: int) -> dict[str, torch.Tensor]:
    """Times on [0, 1]: a dyadic grid, and as many that no lattice knows, each in its own cell."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.arange(1, n_steps) + 0.8 * torch.rand(n_steps - 1, generator=generator, dtype=torch.float64)
    irregular = torch.cat((torch.zeros(1), inner / n_steps, torch.ones(1)))
    return {
        "dyadic grid": torch.linspace(0, 1, n_steps + 1, dtype=torch.float64),
        "irregular grid": irregular,
    }


def descend(shape: tuple[int, int], seed: int, levy: Levy, n_steps: int) -> None:
    """What an adaptive solve asks of the path: step after step on the tree, every series on its own clock."""
    stack = DyadicStack(BrownianPath(0.0, 1.0, shape, seed=seed, levy=levy), shape[0])
    pending, longest = stack.first, torch.full((shape[0],), 1 / n_steps, dtype=torch.float64)
    target = torch.full_like(longest, 2.0)
    while bool((pending.start < 1.0).any()):
        proposal = stack.descend(pending, longest, target, 1)
        pending = choose(proposal.ready, proposal)


def interval(shape: tuple[int, int], seed: int, levy: str) -> torchsde.BrownianInterval:
    return torchsde.BrownianInterval(0.0, 1.0, size=shape, entropy=seed, levy_area_approximation=levy)


def ask(motion: torchsde.BrownianInterval, times: list[float], levy: str) -> None:
    """Ask for the increments of consecutive steps, one after the other, as torchsde's solvers do."""
    more = {} if levy == "none" else {"return_U": True}
    for start, end in itertools.pairwise(times):
        motion(start, end, **more)


def calls(shape: tuple[int, int], n_steps: int, seed: int) -> Iterator[tuple[str, str, Call]]:
    """Source, what is asked of it, and the call."""
    generator, every = torch.Generator().manual_seed(seed), grids(n_steps, seed)
    for name, times in every.items():
        yield "torch.randn", name, lambda: torch.randn(n_steps, *shape, generator=generator)
        for levy in ("none", "space-time", "space-time-time"):
            yield (
                f"BrownianPath {levy}",
                name,
                lambda levy=levy, times=times: BrownianPath(0.0, 1.0, shape, seed=seed, levy=levy).increments(
                    times
                ),
            )
            yield (
                f"StepNoise {levy}",
                name,
                lambda levy=levy, times=times: StepNoise(shape, seed=seed, levy=levy).increments(times),
            )
        for levy in INTERVAL:
            yield (
                f"torchsde.BrownianInterval {levy}",
                name,
                lambda levy=levy, times=times: ask(interval(shape, seed, levy), times.tolist(), levy),
            )
    for levy in ("none", "space-time", "space-time-time"):
        yield f"BrownianPath {levy}", "adaptive stack", lambda levy=levy: descend(shape, seed, levy, n_steps)


def rows(config: dict[str, Any], *, seed: int, fast: bool) -> Iterator[dict[str, Any]]:
    """Medians of processor time, the calls taken in turn, over that of torch.randn; then memory."""
    shape, n_steps = (config["series"], config["noise"]), config["steps"]
    repetitions = 1 if fast else config["repetitions"]
    asked = list(calls(shape, n_steps, seed))
    times: list[list[float]] = [[] for _ in asked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchsde's interval, of float times at the ends
        rounds = tqdm(range(repetitions + 1), "path, rounds", leave=False, position=1, file=sys.stderr)
        for repetition in rounds:
            for taken, (_, _, call) in zip(times, asked, strict=True):
                began = time.process_time()
                call()
                if repetition:  # the first is a warm-up
                    taken.append(time.process_time() - began)
        seconds = {
            (source, what): statistics.median(t) for (source, what, _), t in zip(asked, times, strict=True)
        }
        unit = seconds["torch.randn", "dyadic grid"]
        dataset = f"path, {n_steps} steps of {shape[0]} series x {shape[1]}"
        for (source, what), value in seconds.items():
            yield row(dataset, source, f"times randn, {what}", value / unit, value)
        yield from memory(config, seed, 0.01 if fast else 1.0)


def row(dataset: str, method: str, metric: str, value: float, seconds: float) -> dict[str, Any]:
    return {"dataset": dataset, "method": method, "metric": metric, "value": value, "seconds": seconds}


def resident() -> float:
    """Memory of this process that is in use, MiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth(query: Callable[[float, float], object], n_queries: int, seed: int) -> tuple[float, float, float]:
    """Growth of resident and of Python's own memory, MiB per million queries, and seconds."""
    times = torch.rand(n_queries + 100, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = (0.999 * times.amin(-1)).tolist(), (0.999 * times.amax(-1) + 1e-3).tolist()
    pairs = list(zip(low, high, strict=True))

    def used(first: int, last: int, measure: Callable[[], float]) -> float:
        gc.collect()
        before = measure()
        for start, end in pairs[first:last]:
            query(start, end)
        gc.collect()
        return (measure() - before) * 1e6 / (last - first)

    used(0, 50, resident)
    began = time.process_time()
    grown = used(50, 50 + 9 * n_queries // 10, resident)
    seconds = (time.process_time() - began) / 0.9
    tracemalloc.start()
    try:
        used(50 + 9 * n_queries // 10, 100 + 9 * n_queries // 10, traced)
        own = used(100 + 9 * n_queries // 10, 100 + n_queries, traced)
    finally:
        tracemalloc.stop()
    return grown, own, seconds


def traced() -> float:
    """Memory that Python has handed out, MiB."""
    return tracemalloc.get_traced_memory()[0] / 2**20


def memory(config: dict[str, Any], seed: int, share: float) -> Iterator[dict[str, Any]]:
    """One series of one channel asked again and again; and a million increments of many series at once."""
    n, dataset = int(share * config["queries"]), "path, queries at random times"
    path = BrownianPath(0.0, 1.0, (1, 1), seed=seed, levy="space-time", tol=2.0**-16)
    motions = {
        "BrownianPath space-time": path.increment,
        "BrownianPath none": BrownianPath(0.0, 1.0, (1, 1), seed=seed, tol=2.0**-16).increment,
        "torchsde.BrownianInterval space-time": interval((1, 1), seed, "space-time"),
    }
    for method, query in motions.items():
        grown, traced, seconds = growth(query, n, seed)
        yield row(dataset, method, "MiB per million queries", grown, seconds)
        yield row(dataset, method, "MiB per million queries, Python's own", traced, seconds)
        yield row(dataset, method, "microseconds an increment", 1e6 * seconds / n, seconds)
    many = 5000
    wide = BrownianPath(0.0, 1.0, (many, 1), seed=seed, levy="space-time", tol=2.0**-16)
    grown, _, seconds = growth(wide.increment, max(10, int(share * 1e6) // many), seed)
    method = f"BrownianPath space-time, {many} series a query"
    yield row(dataset, method, "MiB per million queries", grown / many, seconds)
    yield row(dataset, method, "microseconds an increment", seconds / share, seconds)
