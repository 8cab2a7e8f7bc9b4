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
from neurosde.nets import TwinMLP, lipswish
from neurosde.noise import BrownianPath, StepNoise
from neurosde.solve import PIController, ReversibleHeun

STATES, WIDTH, DT = 16, 64, 2.0**-7


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


def medians(calls: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Milliseconds of processor time of each call, the calls taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
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
        print(f"  {name:38s} {value:9.2f} ms  {peer / value:6.2f} x")


def training(solve: Callable[[], torch.Tensor], model: torch.nn.Module) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        model.zero_grad()
        solve().square().mean().backward()

    return run


class Bench:
    """All that the tables share."""

    def __init__(self, options: argparse.Namespace):
        self.batch, self.steps, self.repetitions = options.batch, options.steps, options.repetitions
        self.modes = ("off", "chunk") if options.compile else ("off",)
        self.ito, self.stratonovich = Networks("ito"), Networks("stratonovich")
        self.models = {"user's f and g": self.ito, "lipswish": Networks("ito", lipswish)}
        self.models["fused"] = Fused("ito")
        self.y = torch.randn(self.batch, STATES, generator=torch.Generator().manual_seed(0))
        self.ts = torch.tensor([0.0, self.steps * DT])

    def ours(self, model: torch.nn.Module, **more: object) -> torch.Tensor:
        """Our solution."""
        return nsde.solve(model, self.y, self.ts, **{"dt": DT, **more}).ys  # pyright: ignore[reportArgumentType]

    def theirs(self, model: torch.nn.Module, method: str, **more: object) -> torch.Tensor:
        """Torchsde's."""
        return torchsde.sdeint(model, self.y, self.ts, method=method, dt=DT, **more)  # pyright: ignore

    def show(
        self, title: str, calls: dict[str, Callable[[], object]], repetitions: int | None = None
    ) -> None:
        """Time and print."""
        show(title, medians(calls, repetitions or self.repetitions))

    def forward(self) -> None:
        """Fixed steps."""
        calls: dict[str, Callable[[], object]] = {"torchsde euler": lambda: self.theirs(self.ito, "euler")}
        for name, model in self.models.items():
            for mode in self.modes:
                calls[f"{name}, compile={mode!r}"] = lambda m=model, c=mode: self.ours(m, compile=c)
        for mode in self.modes:
            calls[f"one path at every dt, compile={mode!r}"] = lambda c=mode: self.ours(
                self.ito, seed=0, compile=c
            )
        self.show(f"forward, batch {self.batch}, {self.steps} steps", calls)

    def clocks(self) -> None:
        """As many time grids as series."""
        own = self.ts * torch.linspace(0.9, 1.0, self.batch, dtype=torch.float64).unsqueeze(-1)
        shared = self.ts

        def solve(ts: torch.Tensor) -> torch.Tensor:
            dt = (ts[..., 1] - ts[..., 0]) / self.steps
            return nsde.solve(self.ito, self.y, ts, dt=dt, compile="off").ys

        calls = {"one time grid": lambda: solve(shared), "a grid for each series": lambda: solve(own)}
        self.show("time grids", calls)

    def adaptive(self) -> None:
        """Equal tolerance; the work-precision benchmark compares at equal error."""
        tolerance = {"rtol": 1e-2, "atol": 1e-2}
        calls: dict[str, Callable[[], object]] = {
            "torchsde heun, adaptive": lambda: self.theirs(
                self.stratonovich, "heun", adaptive=True, **tolerance
            )
        }
        for whole in (False, True):
            controller = PIController(**tolerance, whole_batch=whole)
            name = "ours, whole batch" if whole else "ours, each series"
            calls[name] = lambda c=controller: self.ours(
                self.stratonovich, dt=None, controller=c, compile="off"
            )
        self.show("adaptive Heun, equal tolerance", calls)

    def noise(self) -> None:
        """Increments alone, dyadic grid."""
        grid, shape = torch.linspace(0, 1, 1025, dtype=torch.float64), (self.batch, STATES)
        path, keyed = BrownianPath(0.0, 1.0, shape, seed=0), StepNoise(shape, seed=0)
        calls = {
            "torch.randn": lambda: torch.randn(1024, *shape),
            "step noise": lambda: keyed.increments(grid),
            "path on its lattice": lambda: path.increments(grid),
        }
        if "chunk" in self.modes:
            calls["step noise, compiled"] = lambda: keyed.compiled().increments(grid)
            calls["path on its lattice, compiled"] = lambda: path.compiled().increments(grid)
        self.show("increments, 1024 steps", calls, 3)

    def train(self) -> None:
        """Forward and backward."""
        calls = {"torchsde euler": training(lambda: self.theirs(self.ito, "euler"), self.ito)}
        for name, model in self.models.items():
            for mode in self.modes:
                call = lambda m=model, c=mode: self.ours(m, compile=c)  # noqa: E731
                calls[f"{name}, compile={mode!r}"] = training(call, model)
            for mode in self.modes:
                call = lambda m=model, c=mode: self.ours(m, gradient="checkpoint", compile=c)  # noqa: E731
                calls[f"{name}, checkpoint, compile={mode!r}"] = training(call, model)
        self.show("forward and backward", calls)

    def reversible(self) -> None:
        """Gradients without memory."""
        method = {"method": "reversible_heun", "adjoint_method": "adjoint_reversible_heun"}

        def adjoint() -> torch.Tensor:
            return torchsde.sdeint_adjoint(self.stratonovich, self.y, self.ts, dt=DT, **method)  # pyright: ignore

        calls = {"torchsde sdeint_adjoint reversible": training(adjoint, self.stratonovich)}
        models = {"user's f and g": self.stratonovich, "fused": Fused("stratonovich")}
        for name, model in models.items():
            for mode in self.modes:
                call = lambda m=model, c=mode: self.ours(  # noqa: E731
                    m, gradient="reversible", stepper=ReversibleHeun(), compile=c
                )
                calls[f"{name}, reversible, compile={mode!r}"] = training(call, model)
        self.show("memory-free gradient", calls)


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="also time compiled steps (takes minutes)")
    tables = ("forward", "clocks", "adaptive", "noise", "train", "reversible")
    parser.add_argument("--tables", nargs="+", default=tables, choices=tables)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    bench = Bench(options)
    for table in options.tables:
        with torch.set_grad_enabled(table in ("train", "reversible")):
            getattr(bench, table)()


if __name__ == "__main__":
    main()
