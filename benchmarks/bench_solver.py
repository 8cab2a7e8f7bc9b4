"""The backend beside torchsde in one run: `python benchmarks/bench_solver.py [--batch 256] [--compile]`.

One thread, processor time, medians of interleaved repetitions; the model is 16 states, two networks of
width 64 and diagonal noise. Ratios are torchsde's time over ours: above 1 we are quicker.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torchsde

import neurosde as nsde
from neurosde.noise import BrownianPath, StepNoise
from neurosde.solve import PIController, ReversibleHeun

STATES, WIDTH, DT = 16, 64, 2.0**-7


class Networks(torch.nn.Module):
    """A user's own torchsde SDE, untouched."""

    noise_type = "diagonal"

    def __init__(self, sde_type: str):
        super().__init__()
        self.sde_type = sde_type
        self.drift = torch.nn.Sequential(
            torch.nn.Linear(STATES + 1, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, STATES)
        )
        self.diffusion = torch.nn.Sequential(
            torch.nn.Linear(STATES + 1, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, STATES)
        )

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Drift."""
        return self.drift(torch.cat((y, t.expand(len(y), 1)), -1))

    def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Diffusion."""
        return 0.5 * torch.sigmoid(self.diffusion(torch.cat((y, t.expand(len(y), 1)), -1)))


def medians(calls: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Milliseconds of processor time of each call, the calls taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repetitions):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            times[name].append(1e3 * (time.process_time() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, results: dict[str, float]) -> None:
    """Print a table; the first row is the peer that the others are measured against."""
    peer = next(iter(results.values()))
    print(f"\n{title}")
    for name, value in results.items():
        print(f"  {name:34s} {value:9.2f} ms  {peer / value:6.2f} x")


def training(solve: Callable[[], torch.Tensor], model: torch.nn.Module) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        model.zero_grad()
        solve().square().mean().backward()

    return run


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="also time compiled blocks (takes a minute)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ito, stratonovich = Networks("ito"), Networks("stratonovich")
    y = torch.randn(options.batch, STATES, generator=torch.Generator().manual_seed(0))
    ts, shape = torch.tensor([0.0, options.steps * DT]), (options.batch, STATES)
    modes = ("off", "chunk") if options.compile else ("off",)

    def ours(model: torch.nn.Module, **more: object) -> torch.Tensor:
        return nsde.solve(model, y, ts, **{"dt": DT, **more}).ys  # pyright: ignore[reportArgumentType]

    def theirs(model: torch.nn.Module, method: str, **more: object) -> torch.Tensor:
        return torchsde.sdeint(model, y, ts, method=method, dt=DT, **more)  # pyright: ignore

    with torch.no_grad():
        calls: dict[str, Callable[[], object]] = {"torchsde euler": lambda: theirs(ito, "euler")}
        calls |= {f"ours, compile={mode!r}": lambda mode=mode: ours(ito, compile=mode) for mode in modes}
        calls["ours, one path at every dt (seed)"] = lambda: ours(ito, seed=0, compile="off")
        show(f"forward, batch {options.batch}, {options.steps} steps", medians(calls, options.repetitions))

        tolerance = {"rtol": 1e-2, "atol": 1e-2}
        calls = {"torchsde heun, adaptive": lambda: theirs(stratonovich, "heun", adaptive=True, **tolerance)}
        for whole in (False, True):
            controller = PIController(**tolerance, whole_batch=whole)
            name = "ours, whole batch" if whole else "ours, each series"
            calls[name] = lambda c=controller: ours(stratonovich, dt=None, controller=c)
        show("adaptive Heun, equal tolerance", medians(calls, options.repetitions))

        grid = torch.linspace(0, 1, 1025, dtype=torch.float64)
        calls = {
            "torch.randn": lambda: torch.randn(1024, *shape),
            "step noise": lambda: StepNoise(shape, seed=0).increments(grid),
            "path on its lattice": lambda: BrownianPath(0.0, 1.0, shape, seed=0).increments(grid),
        }
        show("increments, 1024 steps", medians(calls, 3))

    calls = {"torchsde euler": training(lambda: theirs(ito, "euler"), ito)}
    for mode in modes:
        calls[f"ours, compile={mode!r}"] = training(lambda mode=mode: ours(ito, compile=mode), ito)
    calls["ours, checkpoint"] = training(lambda: ours(ito, gradient="checkpoint", compile="off"), ito)
    show("forward and backward", medians(calls, options.repetitions))

    def adjoint() -> torch.Tensor:
        return torchsde.sdeint_adjoint(
            stratonovich, y, ts, method="reversible_heun", adjoint_method="adjoint_reversible_heun", dt=DT
        )

    calls = {
        "torchsde sdeint_adjoint reversible": training(adjoint, stratonovich),
        "ours, reversible": training(
            lambda: ours(stratonovich, gradient="reversible", stepper=ReversibleHeun()), stratonovich
        ),
    }
    show("memory-free gradient", medians(calls, options.repetitions))


if __name__ == "__main__":
    main()
