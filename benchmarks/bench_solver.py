"""The backend beside torchsde in one run: `python benchmarks/bench_solver.py [--batch 256] [--compile]`.

One thread, processor time (or `--device cuda`, the time until the GPU is done), medians of interleaved
repetitions; the model is 16 states, two networks of width 64 and diagonal noise. Ratios are torchsde's time
over ours: above 1 we are quicker.
"""

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torchsde
from timing import Calls, medians

import neurosde as nsde
from neurosde.nets import TwinMLP, lipswish
from neurosde.noise import BrownianPath, StepNoise
from neurosde.solve import PIController, ReversibleHeun

STATES, WIDTH, DT = 16, 64, 2.0**-7
TABLES = ("forward", "clocks", "adaptive", "noise", "train", "reversible", "memory")
Table = tuple[str, dict[str, float]]


class Networks(torch.nn.Module):
    """A user's own torchsde SDE, untouched."""

    noise_type = "diagonal"

    def __init__(self, sde_type: str, activation: Callable[[torch.Tensor], torch.Tensor] = torch.tanh):
        super().__init__()
        self.sde_type, self.activation = sde_type, activation
        self.drift_in, self.drift_out = torch.nn.Linear(STATES + 1, WIDTH), torch.nn.Linear(WIDTH, STATES)
        self.noise_in, self.noise_out = torch.nn.Linear(STATES + 1, WIDTH), torch.nn.Linear(WIDTH, STATES)

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Drift."""
        return self.drift_out(self.activation(self.drift_in(torch.cat((y, t.expand(len(y), 1)), -1))))

    def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Diffusion."""
        z = self.noise_out(self.activation(self.noise_in(torch.cat((y, t.expand(len(y), 1)), -1))))
        return 0.5 * torch.sigmoid(z)


class Fused(nsde.SDE):
    """The same with both fields in one pass."""

    def __init__(self, sde_type: str):
        super().__init__()
        self.sde_type = sde_type
        self.net = TwinMLP(STATES, (STATES, STATES), WIDTH, activation="tanh")

    def drift_and_diffusion(self, t: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Both fields."""
        f, g = self.net(t, y)
        return f, 0.5 * torch.sigmoid(g)

    def drift(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Drift alone."""
        return self.drift_and_diffusion(t, y)[0]

    def diffusion(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Diffusion alone."""
        return self.drift_and_diffusion(t, y)[1]


def least_work(batch: int, steps: int, device: str) -> Callable[[], None]:
    """What no solve of the fused model can do without: products, activations, normals and sums, in place."""
    state, hidden, first, second = (
        torch.randn(shape, device=device)
        for shape in ((batch, STATES), (batch, 2 * WIDTH), (STATES, 2 * WIDTH), (WIDTH, STATES))
    )
    out, noise, bias = torch.empty_like(state), torch.empty_like(state), torch.zeros_like(hidden[0])
    halves = hidden.split(WIDTH, dim=1)

    def run() -> None:
        for _ in range(steps):
            torch.addmm(bias, state, first, out=hidden)
            torch.sigmoid(hidden, out=hidden)
            for half in halves:
                torch.mm(half, second, out=out)
            torch.sigmoid(out, out=out)
            noise.normal_()
            torch.addcmul(state, out, noise, out=out)
            torch.add(out, state, alpha=DT, out=out)

    return run


def show(title: str, results: dict[str, float]) -> None:
    """Print a table; the first row is the peer that the others are measured against."""
    peer = next(iter(results.values()))
    print(f"\n{title}")
    for name, value in results.items():
        print(f"  {name:46s} {value:9.2f}  {peer / value:6.2f} x", flush=True)


def training(solve: Callable[[], torch.Tensor], model: torch.nn.Module) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        model.zero_grad()
        solve().square().mean().backward()

    return run


def peak() -> int:
    """Most KiB that this process has held; getrusage would hand on its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


class Bench:
    """All that the tables share."""

    def __init__(self, batch: int, steps: int, repetitions: int, compiled: bool, device: str = "cpu"):
        self.batch, self.steps, self.repetitions, self.device = batch, steps, repetitions, device
        self.modes = ("off", "chunk") if compiled else ("off",)
        if device != "cpu":
            self.modes = ("auto", *self.modes)  # records its steps, which others do as well when they compile
        self.ito, self.stratonovich = Networks("ito").to(device), Networks("stratonovich").to(device)
        self.models = {"user's f and g": self.ito, "lipswish": Networks("ito", lipswish).to(device)}
        self.models["fused"] = Fused("ito").to(device)
        self.y = torch.randn(self.batch, STATES, generator=torch.Generator().manual_seed(0)).to(device)
        self.ts = torch.tensor([0.0, self.steps * DT], device=device)

    def ours(self, model: torch.nn.Module, **more: object) -> torch.Tensor:
        """Our solution."""
        return nsde.solve(model, self.y, self.ts, **{"dt": DT, **more}).ys  # pyright: ignore[reportArgumentType]

    def theirs(self, model: torch.nn.Module, method: str, **more: object) -> torch.Tensor:
        """Torchsde's."""
        return torchsde.sdeint(model, self.y, self.ts, method=method, dt=DT, **more)  # pyright: ignore

    def run(self, table: str) -> Table:
        """One of the tables."""
        with torch.set_grad_enabled(table in ("train", "reversible")):
            return getattr(self, table)()

    def timed(self, title: str, calls: Calls) -> Table:
        """Title and medians; the first call is the peer of the others."""
        return f"{title}, batch {self.batch}, {self.steps} steps", medians(
            calls, self.repetitions, self.device
        )

    def forward(self) -> Table:
        """Fixed steps."""
        calls: Calls = {"torchsde euler": lambda: self.theirs(self.ito, "euler")}
        for name, model in self.models.items():
            for mode in self.modes:
                calls[f"{name}, compile={mode!r}"] = lambda m=model, c=mode: self.ours(m, compile=c)
        for mode in self.modes:
            calls[f"one path at every dt, compile={mode!r}"] = lambda c=mode: self.ours(
                self.ito, seed=0, compile=c
            )
        calls["least work: products, sigmoids, normals, sums"] = least_work(
            self.batch, self.steps, self.device
        )
        return self.timed("forward", calls)

    def clocks(self) -> Table:
        """As many time grids as series."""
        own = self.ts.double() * torch.linspace(0.9, 1.0, self.batch, device=self.device).unsqueeze(-1)
        shared = self.ts

        def solve(ts: torch.Tensor) -> torch.Tensor:
            dt = (ts[..., 1] - ts[..., 0]) / self.steps
            return nsde.solve(self.ito, self.y, ts, dt=dt, compile="off").ys

        calls = {"one time grid": lambda: solve(shared), "a grid for each series": lambda: solve(own)}
        calls["torchsde euler, one time grid"] = lambda: self.theirs(self.ito, "euler")
        return self.timed("time grids", calls)

    def adaptive(self) -> Table:
        """Equal tolerance; the work-precision benchmark compares at equal error."""
        tolerance = {"rtol": 1e-2, "atol": 1e-2}
        calls: Calls = {
            "torchsde heun, adaptive": lambda: self.theirs(
                self.stratonovich, "heun", adaptive=True, **tolerance
            )
        }
        for whole in (False, True):
            controller = PIController(**tolerance, whole_batch=whole)
            name = "ours, whole batch" if whole else "ours, each series"
            for mode in ("off",) if self.device == "cpu" else self.modes:
                calls[f"{name}, compile={mode!r}"] = lambda c=controller, m=mode: self.ours(
                    self.stratonovich, dt=None, controller=c, compile=m
                )
        return self.timed("adaptive Heun, equal tolerance", calls)

    def noise(self) -> Table:
        """Increments alone, dyadic grid."""
        shape, there = (self.batch, STATES), {"device": self.device}
        grid = torch.linspace(0, 1, 1025, dtype=torch.float64, **there)
        path, keyed = BrownianPath(0.0, 1.0, shape, seed=0, **there), StepNoise(shape, seed=0, **there)
        calls = {
            "torch.randn": lambda: torch.randn(1024, *shape, **there),
            "step noise": lambda: keyed.increments(grid),
            "path on its lattice": lambda: path.increments(grid),
        }
        if "chunk" in self.modes:
            calls["step noise, compiled"] = lambda: keyed.compiled().increments(grid)
            calls["path on its lattice, compiled"] = lambda: path.compiled().increments(grid)
        return f"increments, 1024 steps, batch {self.batch}", medians(calls, 3, self.device)

    def train(self) -> Table:
        """Forward and backward."""
        calls = {"torchsde euler": training(lambda: self.theirs(self.ito, "euler"), self.ito)}
        modes = [mode for mode in self.modes if mode != "auto"]  # which trains as it is
        for name, model in self.models.items():
            for mode in modes:
                call = lambda m=model, c=mode: self.ours(m, compile=c)  # noqa: E731
                calls[f"{name}, compile={mode!r}"] = training(call, model)
            for mode in modes if self.device == "cpu" else ():
                call = lambda m=model, c=mode: self.ours(m, gradient="checkpoint", compile=c)  # noqa: E731
                calls[f"{name}, checkpoint, compile={mode!r}"] = training(call, model)
        return self.timed("forward and backward", calls)

    def reversible(self) -> Table:
        """Gradients without memory."""
        method = {"method": "reversible_heun", "adjoint_method": "adjoint_reversible_heun"}

        def adjoint() -> torch.Tensor:
            return torchsde.sdeint_adjoint(self.stratonovich, self.y, self.ts, dt=DT, **method)  # pyright: ignore

        calls = {"torchsde sdeint_adjoint reversible": training(adjoint, self.stratonovich)}
        models = {"user's f and g": self.stratonovich, "fused": Fused("stratonovich").to(self.device)}
        for name, model in models.items():
            for mode in self.modes if name in self.models else ():
                call = lambda m=model, c=mode: self.ours(  # noqa: E731
                    m, gradient="reversible", stepper=ReversibleHeun(), compile=c
                )
                calls[f"{name}, reversible, compile={mode!r}"] = training(call, model)
        return self.timed("gradient without memory", calls)

    def memory(self) -> Table:
        """Growth of a fresh process's peak over one gradient."""
        results = {}
        for name in ("torchsde backprop", "torchsde adjoint", "backprop", "checkpoint", "reversible"):
            for steps in (self.steps, 4 * self.steps):
                child = [sys.executable, __file__, "--child", name, "--batch", str(self.batch)]
                printed = subprocess.run([*child, "--steps", str(steps)], check=True, capture_output=True)
                results[f"{name}, {steps} steps"] = float(printed.stdout)
        return f"MiB of one gradient, batch {self.batch}", results

    def child(self, name: str) -> float:
        """MiB by which one gradient raises the peak of this process, after a short one."""
        method = {"method": "reversible_heun", "adjoint_method": "adjoint_reversible_heun"}
        model, horizon = self.stratonovich, self.steps

        def gradient(steps: int) -> None:
            self.ts = torch.tensor([0.0, steps * DT])
            if name == "torchsde backprop":
                ys = self.theirs(model, "reversible_heun")
            elif name == "torchsde adjoint":
                ys = torchsde.sdeint_adjoint(model, self.y, self.ts, dt=DT, **method)  # pyright: ignore
            else:
                ys = self.ours(model, gradient=name, stepper=ReversibleHeun(), compile="off")
            ys.square().mean().backward()  # pyright: ignore

        gradient(20)
        before = peak()
        gradient(horizon)
        return max(peak() - before, 1) / 1024


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="also time compiled steps (takes minutes)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    bench = Bench(options.batch, options.steps, options.repetitions, options.compile, options.device)
    if options.child:
        print(bench.child(options.child))
        return
    if options.device != "cpu":
        options.tables = [table for table in options.tables if table != "memory"]  # that is a process's
    for table in options.tables:
        show(*bench.run(table))


if __name__ == "__main__":
    main()
