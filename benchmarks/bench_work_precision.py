"""Work against precision, beside torchsde: `python benchmarks/bench_work_precision.py [--quick]`.

Strong errors at time 1 on problems with closed forms, each method on its own Brownian path, against
processor time: one thread, float64, medians of interleaved repetitions. At equal error the time is read off
between a method's own points on logarithmic axes, and never beyond them.
"""

import argparse
import dataclasses
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torchsde

import neurosde as nsde
from neurosde.noise import BrownianPath, StepNoise
from neurosde.solve import SRA1, SRK, Heun, PIController, ShARK, SlowRK, SPaRK
from neurosde.solve.compiling import Compile
from neurosde.solve.stepper import AbstractStepper

SEED = 5
Ends = tuple[
    torch.Tensor, Callable[[], torch.Tensor]
]  # states at time 1, and W there, asked for off the clock


class Sinh(nsde.SDE):
    """``dy = sqrt(1 + y^2) (a dt + b o dW)`` from 0: ``y = sinh(a t + b W)``."""

    title, start, a, b = "sinh", 0.0, 0.5, 0.8

    def __init__(self, sde_type: str):
        super().__init__()
        self.sde_type = sde_type  # pyright: ignore[reportAttributeAccessIssue]

    def drift(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """In either calculus."""
        f = self.a * torch.sqrt(1 + y * y)
        return f + 0.5 * self.b**2 * y if self.sde_type == "ito" else f

    def diffusion(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Diagonal."""
        return self.b * torch.sqrt(1 + y * y)

    def exact(self, W: torch.Tensor) -> torch.Tensor:
        """State at time 1."""
        return torch.sinh(self.a + self.b * W)


class BlackScholes(Sinh):
    """``dy = mu y dt + sigma y dW`` from 1, in Ito's sense."""

    title, start, mu, sigma = "geometric", 1.0, 0.5, 0.8

    def drift(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """In either calculus."""
        return (self.mu - (0.0 if self.sde_type == "ito" else 0.5 * self.sigma**2)) * y

    def diffusion(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Diagonal."""
        return self.sigma * y

    def exact(self, W: torch.Tensor) -> torch.Tensor:
        """State at time 1."""
        return torch.exp(self.mu - 0.5 * self.sigma**2 + self.sigma * W)


class Fading(Sinh):
    """``dy = (b / sqrt(1 + t) - y / (2 (1 + t))) dt + a b / sqrt(1 + t) dW`` from 1: additive noise.

    ``y = (1 + b (t + a W)) / sqrt(1 + t)`` (Kloeden & Platen 1992, equation 4.4.3).
    """

    title, start, additive, a, b = "additive", 1.0, True, 1.0, 2.0

    def drift(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """In either calculus."""
        return self.b / torch.sqrt(1 + t) - y / (2 * (1 + t))

    def diffusion(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Diagonal."""
        return self.a * self.b / torch.sqrt(1 + t) * torch.ones_like(y)

    def exact(self, W: torch.Tensor) -> torch.Tensor:
        """State at time 1."""
        return (1 + self.b * (1 + self.a * W)) / math.sqrt(2)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A method and its settings, from rough to fine.

    Parameters
    ----------
    name
        What the rows say.
    settings
        Numbers of steps, or tolerances.
    run
        One solve at a setting.
    """

    name: str
    settings: Sequence[float]
    run: Callable[[float], Ends]


def _start(problem: Sinh, n: int) -> torch.Tensor:
    return torch.full((n, 1), problem.start, dtype=torch.float64)


def theirs(problem: Sinh, n: int, method: str, settings: Sequence[float], *, adaptive: bool) -> Contender:
    """A method of torchsde on its own kind of path."""
    levy = "space-time" if method == "srk" else "none"
    y, ts = _start(problem, n), torch.tensor([0.0, 1.0], dtype=torch.float64)

    def run(setting: float) -> Ends:
        path = torchsde.BrownianInterval(
            0.0, 1.0, size=(n, 1), dtype=torch.float64, entropy=SEED, levy_area_approximation=levy
        )
        steps: dict[str, Any] = (
            {"adaptive": True, "rtol": setting, "atol": setting, "dt": 0.01, "dt_min": 2.0**-16}
            if adaptive
            else {"dt": 1 / setting}
        )
        ys = torchsde.sdeint(problem, y, ts, bm=path, method=method, **steps)
        return ys[-1], lambda: path(0.0, 1.0)

    return Contender(f"torchsde {method}" + (", adaptive" if adaptive else ""), settings, run)


def fixed(
    problem: Sinh, n: int, stepper: AbstractStepper, settings: Sequence[float], mode: Compile, *, path: bool
) -> Contender:
    """A stepper of ours with fixed steps, on fresh noise or on a path that is the same at every step."""
    y = _start(problem, n)

    def run(setting: float) -> Ends:
        source = {"seed": SEED, "levy": stepper.levy, "dtype": torch.float64}
        grid = torch.linspace(0, 1, round(setting) + 1, dtype=torch.float64)
        noise = BrownianPath(0.0, 1.0, (n, 1), **source) if path else StepNoise((n, 1), **source)
        solution = nsde.solve(
            problem, y, [0.0, 1.0], dt=1 / setting, noise=noise, stepper=stepper, compile=mode
        )
        return solution.ys[:, -1], lambda: noise.increments(grid).W.sum(0)

    kind = "one path" if path else "step noise"
    return Contender(f"ours {type(stepper).__name__}, {kind}, compile={mode!r}", settings, run)


def adaptive(
    problem: Sinh, n: int, stepper: AbstractStepper, settings: Sequence[float], mode: Compile, *, whole: bool
) -> Contender:
    """A stepper of ours with adaptive steps."""
    y = _start(problem, n)

    def run(setting: float) -> Ends:
        noise = BrownianPath(0.0, 1.0, (n, 1), seed=SEED, levy=stepper.levy, dtype=torch.float64)
        rule = PIController(rtol=setting, atol=setting, whole_batch=whole)
        solution = nsde.solve(
            problem,
            y,
            [0.0, 1.0],
            controller=rule,
            noise=noise,
            stepper=stepper,
            max_steps=2**17,
            compile=mode,
        )
        return solution.ys[:, -1], lambda: noise.increment(0.0, 1.0).W

    clocks = "whole batch" if whole else "each series"
    return Contender(f"ours {type(stepper).__name__}, adaptive, {clocks}, compile={mode!r}", settings, run)


def work_precision(
    problem: Sinh, contenders: Sequence[Contender], repetitions: int = 5
) -> list[dict[str, Any]]:
    """Rows of error and time: problem, method, setting, strong error, seconds.

    Parameters
    ----------
    problem
        The SDE that gives the exact state.
    contenders
        Methods with their settings.
    repetitions
        Of every solve; all are taken in turn.

    Returns
    -------
    list of dict
    """
    calls = [(c, setting) for c in contenders for setting in c.settings]
    rows, times = [], [[] for _ in calls]
    with torch.no_grad():
        for contender, setting in calls:
            ends, W = contender.run(setting)  # not timed: it may compile
            error = float((ends - problem.exact(W())).abs().mean())
            rows.append(
                {"problem": problem.title, "method": contender.name, "setting": setting, "error": error}
            )
        for _ in range(repetitions):
            for (contender, setting), row in zip(calls, times, strict=True):
                begin = time.process_time()
                contender.run(setting)
                row.append(time.process_time() - begin)
    return [row | {"seconds": statistics.median(taken)} for row, taken in zip(rows, times, strict=True)]


def time_at(rows: Sequence[dict[str, Any]], method: str, error: float) -> float:
    """Seconds that a method takes to an error, between its own points; NaN beyond them."""
    points = sorted((row["error"], row["seconds"]) for row in rows if row["method"] == method)
    errors, seconds = (np.log(column) for column in np.array(points).T)
    # the fewest seconds that reach the error: a finer setting that costs less stands in for a rougher one
    best = np.minimum.accumulate(seconds)
    return float(np.exp(np.interp(np.log(error), errors, best, left=np.nan, right=np.nan)))


def ratios(rows: Sequence[dict[str, Any]], peer: str, method: str) -> list[tuple[float, float]]:
    """Pairs of an error and the peer's time over the method's, at the errors of the peer's own points."""
    own = [row for row in rows if row["method"] == peer]
    pairs = [(row["error"], row["seconds"] / time_at(rows, method, row["error"])) for row in own]
    return [(error, ratio) for error, ratio in pairs if not math.isnan(ratio)]


def show(rows: Sequence[dict[str, Any]], peer: str) -> None:
    """Print the points, and the ratios at equal error."""
    print(f"\n{rows[0]['problem']}: strong error at milliseconds, a setting a column")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for method in methods:
        points = [row for row in rows if row["method"] == method]
        cells = "  ".join(f"{row['error']:.1e} {1e3 * row['seconds']:6.1f}" for row in points)
        print(f"  {method:46s} {cells}")
    print(f"  time of {peer} over the method's, at the peer's own errors")
    for method in methods:
        if method != peer:
            pairs = ratios(rows, peer, method)
            cells = "  ".join(f"{error:.1e} {ratio:5.2f} x" for error, ratio in pairs)
            print(f"  {method:46s} {cells or 'no error in common'}", flush=True)


def fixed_steps(kind: type[Sinh], n: int, repetitions: int) -> list[dict[str, Any]]:
    """Methods of strong order 3/2 and 1 at several step lengths."""
    ito, stratonovich = kind("ito"), kind("stratonovich")
    fine, middle = [2.0**k for k in range(2, 11)], [2.0**k for k in range(3, 9)]
    contenders = [theirs(ito, n, "srk", [2.0**k for k in range(2, 8)], adaptive=False)]
    for mode in ("off", "chunk"):
        contenders += [
            fixed(ito, n, SRK(), middle, mode, path=False),
            fixed(stratonovich, n, SlowRK(), middle, mode, path=False),
            fixed(stratonovich, n, SPaRK(), fine, mode, path=False),
        ]
    contenders.append(fixed(ito, n, SRK(), middle, "off", path=True))
    if ito.additive:
        contenders += [fixed(ito, n, s, middle, "off", path=False) for s in (ShARK(), SRA1())]
    return work_precision(ito, contenders, repetitions)


def adaptive_steps(kind: type[Sinh], n: int, repetitions: int) -> list[dict[str, Any]]:
    """Heun's method with step control, and the method of ours for such noise, at several tolerances."""
    ito, stratonovich = kind("ito"), kind("stratonovich")
    rough = [10.0**-k for k in (0.5, 1, 1.5, 2, 2.5, 3)]
    best = ShARK() if ito.additive else SlowRK()
    contenders = [theirs(stratonovich, n, "heun", [*rough, 10.0**-3.5, 1e-4], adaptive=True)]
    contenders.append(theirs(ito, n, "srk", rough, adaptive=True))
    for mode in ("off", "chunk"):
        contenders.append(adaptive(stratonovich, n, Heun(), rough, mode, whole=True))
        contenders += [adaptive(stratonovich, n, best, rough, mode, whole=whole) for whole in (True, False)]
    return work_precision(ito, contenders, repetitions)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one problem of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("always", message="compile:")  # or eager steps would pass for compiled ones
    fixed_problems = (Sinh,) if options.quick else (Sinh, BlackScholes, Fading)
    adaptive_problems = fixed_problems
    for kind in fixed_problems:
        torch._dynamo.reset()  # it keeps a few programs only, and gives up on the next
        show(fixed_steps(kind, options.batch, options.repetitions), "torchsde srk")
    for kind in adaptive_problems:
        show(adaptive_steps(kind, options.batch, options.repetitions), "torchsde heun, adaptive")


if __name__ == "__main__":
    main()
