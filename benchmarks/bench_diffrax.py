"""The backend beside diffrax in one process: `python benchmarks/bench_diffrax.py [--only forward] [--quick]`.

The model of `bench_solver.py` with the same weights in both, float32, one thread each on one core. Processor
time, medians of interleaved repetitions; compiling is left out and reported beside it. Ratios are diffrax's
time over the row's: above 1 the row is quicker. Wants jax and diffrax, which the package itself does not.
"""

import argparse
import importlib.util
import os
import time
import types
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from bench_solver import DT, STATES, Networks, training
from timing import Calls, medians

import neurosde as nsde
from neurosde.noise import BrownianPath, StepNoise
from neurosde.solve import PIController
from neurosde.solve.compiling import Compile

GRID, TOLERANCE, SHORTEST = 1024, 1e-2, 2.0**-12


class Diffrax:
    """The same solves written for jax; nothing of it is imported before it is built."""

    def __init__(self, model: Networks):
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        os.environ["JAX_PLATFORMS"] = "cpu"
        import diffrax
        import jax
        import lineax

        self.diffrax, self.jax, self.np = diffrax, jax, jax.numpy
        self.operator = lineax.DiagonalLinearOperator
        self.key = jax.random.PRNGKey(0)
        nets = (model.drift_in, model.drift_out), (model.noise_in, model.noise_out)
        self.weights = jax.tree.map(
            lambda x: jax.numpy.asarray(x.detach().numpy()),
            [[(layer.weight, layer.bias) for layer in net] for net in nets],
        )

    def field(self, layers, t, y):
        """One network at a time and a state of any batch."""
        np = self.np
        (a, b), (c, d) = layers
        x = np.concatenate((y, np.broadcast_to(t, (*y.shape[:-1], 1))), -1)
        return np.tanh(x @ a.T + b) @ c.T + d

    def drift(self, t, y, weights):
        """Drift."""
        return self.field(weights[0], t, y)

    def amplitude(self, t, y, weights):
        """Diffusion."""
        return 0.5 * self.jax.nn.sigmoid(self.field(weights[1], t, y))

    def solve(self, weights, y, path, t1, solver, **options):
        """Solve by diffrax, to the end."""
        diffrax = self.diffrax
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(self.drift),
            diffrax.ControlTerm(lambda t, y, w: self.operator(self.amplitude(t, y, w)), path),
        )
        return diffrax.diffeqsolve(terms, solver, 0.0, t1, y0=y, args=weights, **options)

    def euler(self, weights, y, key, n_steps, *, tree=True, limit=4096):
        """Fixed steps on a virtual Brownian tree, or on increments that are drawn afresh."""
        t1 = n_steps * DT
        if tree:
            path = self.diffrax.VirtualBrownianTree(0.0, t1, DT / 2, y.shape, key)
            adjoint = self.diffrax.RecursiveCheckpointAdjoint()
        else:
            path, adjoint = self.diffrax.UnsafeBrownianPath(y.shape, key), self.diffrax.DirectAdjoint()
        solver = self.diffrax.Euler()
        options = {"dt0": DT, "max_steps": limit, "adjoint": adjoint}
        return self.solve(weights, y, path, t1, solver, **options).ys[0]

    def scan(self, weights, y, key, n_steps):
        """Euler's steps by hand, the noise drawn beforehand: what jax can do without diffrax."""
        noise = DT**0.5 * self.jax.random.normal(key, (n_steps, *y.shape))

        def step(y, at):
            t, W = at
            return y + DT * self.drift(t, y, weights) + self.amplitude(t, y, weights) * W, None

        return self.jax.lax.scan(step, y, (DT * self.np.arange(n_steps), noise))[0]

    def adaptive(self, weights, y, key, *, each):
        """Heun's steps at a tolerance, each series on its own clock or all on one; states and steps taken."""
        diffrax = self.diffrax
        rule = diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE, dtmin=SHORTEST)
        options = {"dt0": 0.01, "stepsize_controller": rule, "adjoint": diffrax.DirectAdjoint()}

        def one(y, key):
            path = diffrax.VirtualBrownianTree(0.0, 1.0, SHORTEST / 2, y.shape, key)
            solution = self.solve(weights, y, path, 1.0, diffrax.Heun(), **options)
            return solution.ys[0], solution.stats["num_steps"]

        return self.jax.vmap(one)(y, self.jax.random.split(key, len(y))) if each else one(y, key)

    def increments(self, key, shape, *, tree):
        """All increments of a grid, from a path asked interval by interval."""
        diffrax, h = self.diffrax, 1 / GRID
        path = (
            diffrax.VirtualBrownianTree(0.0, 1.0, h / 2, shape, key)
            if tree
            else diffrax.UnsafeBrownianPath(shape, key)
        )
        return self.jax.lax.map(lambda k: path.evaluate(k * h, (k + 1) * h), self.np.arange(GRID))

    def timed(self, function, *arguments, **options):
        """A compiled call that waits for its result."""
        compiled = self.jax.jit(lambda *given: function(*given, **options))
        return lambda: self.jax.block_until_ready(compiled(*arguments))

    def gradient(self, function, y, n_steps, **options):
        """Value and gradient of the mean square at the end, in the weights."""

        def loss(weights, y, key):
            return self.np.square(function(weights, y, key, n_steps, **options)).mean()

        return self.timed(self.jax.value_and_grad(loss), self.weights, y, self.key)


class Table(NamedTuple):
    """What is timed together: a title, the calls, the first of which is diffrax's default, and how often."""

    title: str
    calls: Calls
    repetitions: int
    note: Callable[[], str] = lambda: ""


def show(table: Table) -> None:
    """Time calls in turn and print a table."""
    first = {}
    for name, call in table.calls.items():
        begin = time.process_time()
        call()
        first[name] = 1e3 * (time.process_time() - begin)
    results = medians(table.calls, table.repetitions)
    peer = next(iter(results.values()))
    print(f"\n{table.title}\n  {'':42s} {'median':>10s} {'diffrax / it':>13s} {'first call':>11s}")
    for name, value in results.items():
        print(f"  {name:42s} {value:7.2f} ms {peer / value:11.2f} x {1e-3 * first[name]:9.2f} s", flush=True)
    print(table.note())


def forward(peer: Diffrax, model: Networks, n_series: int, n_steps: int, repetitions: int) -> Table:
    """Euler's steps without gradients."""
    y = start(n_series)
    given = (peer.weights, peer.np.asarray(y.numpy()), peer.key)
    calls: Calls = {
        "diffrax, virtual Brownian tree": peer.timed(peer.euler, *given, n_steps=n_steps),
        "diffrax, UnsafeBrownianPath": peer.timed(peer.euler, *given, n_steps=n_steps, tree=False),
        "jax, lax.scan by hand": peer.timed(peer.scan, *given, n_steps=n_steps),
    }
    for mode in ("off", "chunk"):
        calls[f"ours, compile={mode!r}"] = ours(model, y, n_steps, compile=mode)
    calls["ours, one path at every dt, compile='chunk'"] = ours(model, y, n_steps, compile="chunk", seed=0)
    return Table(f"beside diffrax: forward Euler, batch {n_series}, {n_steps} steps", calls, repetitions)


def train(peer: Diffrax, model: Networks, n_series: int, n_steps: int, repetitions: int) -> Table:
    """Euler's steps and the gradient of their weights."""
    y = start(n_series)
    x = peer.np.asarray(y.numpy())
    calls: Calls = {
        "diffrax, RecursiveCheckpointAdjoint": peer.gradient(peer.euler, x, n_steps),
        "diffrax, max_steps as needed": peer.gradient(peer.euler, x, n_steps, limit=n_steps),
        "jax, lax.scan by hand": peer.gradient(peer.scan, x, n_steps),
    }
    for mode in ("off", "chunk"):
        calls[f"ours, compile={mode!r}"] = training(ours(model, y, n_steps, compile=mode, grad=True), model)
    title = f"beside diffrax: forward and backward, batch {n_series}, {n_steps} steps"
    return Table(title, calls, repetitions)


def adaptive(peer: Diffrax, model: Networks, n_series: int, repetitions: int, *, each: bool) -> Table:
    """Heun's steps at a tolerance, and how many each side took."""
    y = start(n_series)
    x = peer.np.asarray(y.numpy())
    theirs = peer.timed(peer.adaptive, peer.weights, x, peer.key, each=each)
    rule = PIController(rtol=TOLERANCE, atol=TOLERANCE, whole_batch=not each)
    mine = {mode: adaptive_solve(model, y, rule, mode) for mode in ("off", "chunk")}
    calls: Calls = {"diffrax, virtual Brownian tree": theirs}
    calls |= {f"ours, compile={mode!r}": call for mode, call in mine.items()}

    def note() -> str:
        stats = mine["off"]().stats
        attempts = (stats["accepted"] + stats["rejected"]).double().mean()
        return f"  attempts a series: diffrax {float(theirs()[1].mean()):.1f}, ours {float(attempts):.1f}"

    clocks = "each series" if each else "whole batch"
    title = f"beside diffrax: adaptive Heun, batch {n_series}, tolerance {TOLERANCE}, {clocks}"
    return Table(title, calls, repetitions, note)


def brownian(peer: Diffrax, n_series: int, repetitions: int) -> Table:
    """A path alone, asked for the increments of a grid."""
    shape = (n_series, STATES)
    grid = torch.linspace(0, 1, GRID + 1, dtype=torch.float64)
    normal = types.SimpleNamespace(draw=lambda key: peer.jax.random.normal(key, (GRID, *shape)))
    calls: Calls = {
        "diffrax, virtual Brownian tree": peer.timed(peer.increments, peer.key, shape=shape, tree=True),
        "diffrax, UnsafeBrownianPath": peer.timed(peer.increments, peer.key, shape=shape, tree=False),
        "jax.random.normal": peer.timed(normal.draw, peer.key),
        "torch.randn": lambda: torch.randn(GRID, *shape),
        "ours, step noise": lambda: StepNoise(shape, seed=0).increments(grid),
        "ours, path on its lattice": lambda: BrownianPath(0.0, 1.0, shape, seed=0).increments(grid),
    }
    return Table(f"beside diffrax: increments alone, batch {n_series}, {GRID} steps", calls, repetitions)


def tables(repetitions: int, quick: bool) -> Iterator[tuple[str, Table]]:
    """Part and table, one after the other; nothing without jax and diffrax."""
    if any(importlib.util.find_spec(name) is None for name in ("jax", "diffrax")):
        return
    if hasattr(
        os, "sched_setaffinity"
    ):  # or jax would take every core, and processor time would count them all
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    ito, stratonovich, few = Networks("ito"), Networks("stratonovich"), max(3, repetitions // 3)
    stratonovich.load_state_dict(ito.state_dict())
    peer = Diffrax(ito)
    gap = agreement(peer, ito)
    assert gap < 1e-5, f"the fields of both sides differ by {gap:.1g}"
    sizes = [(256, 100, repetitions), (256, 1000, few), *([] if quick else [(4096, 100, few)])]
    for n_series, n_steps, times in sizes:
        yield "forward", forward(peer, ito, n_series, n_steps, times)
    for n_series, n_steps, times in (size for size in sizes if size[1] == 100):
        yield "train", train(peer, ito, n_series, n_steps, times)
    for n_series, times in [(256, repetitions), *([] if quick else [(2048, few)])]:
        for each in (True, False):
            yield "adaptive", adaptive(peer, stratonovich, n_series, times, each=each)
    yield "brownian", brownian(peer, 256, few)


def start(n_series: int) -> torch.Tensor:
    """Initial states."""
    return torch.randn(n_series, STATES, generator=torch.Generator().manual_seed(0))


def ours(
    model: Networks, y: torch.Tensor, n_steps: int, *, grad: bool = False, **options
) -> Callable[[], torch.Tensor]:
    """A solve of this package with fixed steps."""

    def run() -> torch.Tensor:
        with torch.set_grad_enabled(grad):
            return nsde.solve(model, y, [0.0, n_steps * DT], dt=DT, **options).ys

    return run


def adaptive_solve(
    model: Networks, y: torch.Tensor, rule: PIController, mode: Compile
) -> Callable[[], nsde.Solution]:
    """A solve of this package with adaptive steps; no gradient, so the steps are not taken again."""

    def run() -> nsde.Solution:
        with torch.no_grad():
            return nsde.solve(model, y, [0.0, 1.0], controller=rule, compile=mode)

    return run


def agreement(peer: Diffrax, model: Networks) -> float:
    """Largest difference of both sides' fields at one state: the weights are the same."""
    y = start(8)
    t, x = torch.tensor(0.3), peer.np.asarray(y.numpy())
    gaps = (
        (model.f(t, y), peer.drift(0.3, x, peer.weights)),
        (model.g(t, y), peer.amplitude(0.3, x, peer.weights)),
    )
    return max(float(abs(mine.detach().numpy() - theirs).max()) for mine, theirs in gaps)


def main() -> None:
    """Time it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("forward", "train", "adaptive", "brownian"))
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="small batches only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = False
    for part, table in tables(options.repetitions, options.quick):
        found = True
        if options.only in (None, part):
            show(table)
    if not found:
        print("skipped: install jax and diffrax")


if __name__ == "__main__":
    main()
