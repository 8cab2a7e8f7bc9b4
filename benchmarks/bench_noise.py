"""Brownian paths beside torch.randn and torchsde in one run: `python benchmarks/bench_noise.py [--compile]`.

One thread, processor time, medians of interleaved repetitions. The last column is the price of the same
number of increments beside `torch.randn`: below 1 we are quicker.
"""

import argparse
import itertools
import warnings

import torch
import torchsde
from timing import Calls, medians

from neurosde.noise import BrownianPath, Levy, StepNoise
from neurosde.noise.single import SingleStack
from neurosde.noise.stack import DyadicStack, choose
from neurosde.solve.compiling import Compile, Compiler

CHANNELS, STEP = 16, 2.0**-7


def show(title: str, calls: Calls, repetitions: int) -> None:
    """Time and print; the first row is what the others are measured against."""
    results = medians(calls, repetitions)
    base = next(iter(results.values()))
    print(f"\n{title}")
    for name, value in results.items():
        print(f"  {name:44s} {value:9.2f} ms  {value / base:7.2f} x randn")


class Bench:
    """All that the tables share."""

    def __init__(self, options: argparse.Namespace):
        self.shape, self.steps = (options.batch, CHANNELS), options.steps
        self.repetitions, self.compiled = options.repetitions, options.compile

    def path(self, end: float | torch.Tensor, levy: Levy = "none") -> BrownianPath:
        """Path over [0, end]."""
        start = torch.zeros_like(end) if isinstance(end, torch.Tensor) else 0.0
        return BrownianPath(start, end, self.shape, seed=0, levy=levy)

    def grid(self, levy: Levy, steps: int, own: bool = False) -> Calls:
        """Bulk increments, eager and compiled, and the peer's."""
        end = steps * STEP
        ends = end * torch.linspace(0.9, 1.0, self.shape[0], dtype=torch.float64)
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        times = ends.unsqueeze(-1) * times if own else end * times
        path = self.path(ends if own else end, levy)
        calls: Calls = {
            "torch.randn, W alone": lambda: torch.randn(steps, *self.shape),
            "StepNoise": lambda: StepNoise(self.shape, seed=0, levy=levy).increments(times),
            "BrownianPath": lambda: path.increments(times),
        }
        if self.compiled:
            calls["StepNoise, compiled"] = lambda: (
                StepNoise(self.shape, seed=0, levy=levy).compiled().increments(times)
            )
            calls["BrownianPath, compiled"] = lambda: path.compiled().increments(times)
        if levy != "space-time-time" and not own:
            calls["torchsde.BrownianInterval"] = lambda: self.peer(levy, times)
        return calls

    def peer(self, levy: Levy, times: torch.Tensor) -> None:
        """A torchsde motion asked for the same steps, which it is told in advance."""
        interval = torchsde.BrownianInterval(
            t0=float(times[0]), t1=float(times[-1]), size=self.shape, dt=float(times[1] - times[0]),
            levy_area_approximation=levy,
        )  # fmt: skip
        for a, b in itertools.pairwise(times):
            interval(a, b)

    def bulk(self) -> None:
        """Shared and own grids."""
        dyadic = 2 ** (self.steps - 1).bit_length()
        for levy in ("none", "space-time", "space-time-time"):
            repetitions = self.repetitions if levy == "none" else max(3, self.repetitions // 2)
            show(f"{levy}, {dyadic} dyadic steps", self.grid(levy, dyadic), repetitions)
            show(f"{levy}, {self.steps} equal steps", self.grid(levy, self.steps), repetitions)
            show(f"{levy}, {self.steps} own steps", self.grid(levy, self.steps, own=True), repetitions)

    def stack(self) -> None:
        """Steps of an adaptive solve, all of them taken."""
        n = 64
        for levy in ("none", "space-time"):
            calls: Calls = {"torch.randn, step by step": lambda: [torch.randn(self.shape) for _ in range(n)]}
            calls["stack, whole batch"] = lambda v=levy: walk(self.path(1.0, v), n)
            if self.compiled:
                calls["stack, whole batch, compiled"] = lambda v=levy: walk(self.path(1.0, v), n, "chunk")
            calls["stack, each series"] = lambda v=levy: walk_each(self.path(1.0, v), n)
            show(f"{levy}, adaptive stack, {n} steps", calls, self.repetitions)


def walk(path: BrownianPath, n: int, mode: Compile = "off") -> None:
    """Take steps of one length from end to end, on one clock."""
    stack = SingleStack(path)
    pending = stack.first
    with Compiler(("walk", path.levy, (), None, path.dtype, "cpu", False), mode).open() as call:
        for _ in range(n):
            pending = stack.propose(pending, 1 / n, 1.0, call if mode == "chunk" else None).taken


def walk_each(path: BrownianPath, n: int) -> None:
    """The same on a clock a series."""
    stack = DyadicStack(path, path.shape[0])
    pending = stack.first
    longest = torch.full((path.shape[0],), 1 / n, dtype=torch.float64)
    target = torch.ones_like(longest)
    while bool((pending.start < 1.0).any()):
        proposal = stack.descend(pending, longest, target, 1)
        pending = choose(proposal.ready, proposal)


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--compile", action="store_true", help="also time compiled normals (takes a minute)")
    parser.add_argument("--tables", nargs="+", default=("bulk", "stack"), choices=("bulk", "stack"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    bench = Bench(options)
    with torch.no_grad():
        for table in options.tables:
            getattr(bench, table)()


if __name__ == "__main__":
    main()
