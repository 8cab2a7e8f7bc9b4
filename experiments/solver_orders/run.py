"""Fitted orders of every stepper on every kind of noise it claims, beside torchsde and a plain loop."""
# ruff: noqa: D102  the fields of an SDE are described by its class

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torchsde

import neurosde as nsde
from neurosde.forms import GeometricSDE, LinearNoiseSDE, UnderdampedLangevin
from neurosde.noise import AbstractNoise, BrownianIncrement, BrownianPath
from neurosde.sde import diffuse
from neurosde.solve import QUICSORT, STEPPERS, Milstein, ShARK, ShOULD, SlowRK, SPaRK

CLASSES = ("general", "commutative", "additive")
Tensor = torch.Tensor


class Sinh(nsde.SDE):
    """``sinh(at + bW)``: ``dy = sqrt(1 + y^2) (a dt + b o dW)``, of one channel."""

    noise_type, rates = "scalar", (0.5, 0.8)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        a, b = self.rates
        return a * torch.sqrt(1 + y * y) + (0.5 * b * b * y if self.sde_type == "ito" else 0.0)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return (self.rates[1] * torch.sqrt(1 + y * y)).unsqueeze(-1)


class Geometric(nsde.SDE):
    """``exp(at + bW)``, twice: geometric Brownian motion, of diagonal noise; its form is not told."""

    rates = torch.tensor([[0.3, 0.2], [0.5, 0.9]], dtype=torch.float64)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        a, b = self.rates
        return (a + 0.5 * b * b if self.sde_type == "ito" else a) * y

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return self.rates[1] * y


class Wavy(nsde.SDE):
    """``dy = (-sin 2y - y) dt + (1 + .7 sin 3t) dW``: additive noise that moves; its linear part is told."""

    additive = True

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        return -torch.sin(2 * y) - y

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return (1 + 0.7 * torch.sin(3 * t)) * torch.ones_like(y)

    def decay(self, t: Tensor) -> Tensor:
        return torch.ones(1, dtype=torch.float64)


class Turning(nsde.SDE):
    """``dy1 = -y1 dt + dW1``, ``dy2 = -sin y2 dt + (1 + y1) dW2``: noise that does not commute."""

    noise_type = "general"

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.stack((-y[:, 0], -torch.sin(y[:, 1])), dim=-1)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.diag_embed(torch.stack((torch.ones_like(y[:, 0]), 1 + y[:, 0]), dim=-1))

    def decay(self, t: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0], dtype=torch.float64)


class Proportional(LinearNoiseSDE):
    """``dy = (-1.3 y + .5 + .4 sin 2y) dt + sigma(t) y dW`` in Ito's calculus, its linear part told."""

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        sigma = 0.6 * (1 + 0.5 * torch.sin(3 * t))
        f = -1.3 * y + 0.5 + 0.4 * torch.sin(2 * y)
        return f if self.sde_type == "ito" else f - 0.5 * sigma * sigma * y

    def relative_diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        return 0.6 * (1 + 0.5 * torch.sin(3 * t)) * torch.ones_like(y)

    def decay(self, t: Tensor) -> Tensor:
        return torch.tensor([1.3], dtype=torch.float64)


class Growth(GeometricSDE):
    """``dy_i / y_i = (1 - tanh y_i) dt + sigma_i o dW_i``: sigma of t, of the own or the other state."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def amplitudes(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sigma, and y times its slope in the own state."""
        if self.kind == "time":
            sigma = 0.6 * (1 + 0.5 * torch.sin(3 * t)) * torch.ones_like(y)
            return sigma, torch.zeros_like(y)
        if self.kind == "own state":
            return 0.4 + 0.3 * torch.sin(2 * y), 0.6 * y * torch.cos(2 * y)
        return 0.6 + 0.4 * torch.sin(3 * y.flip(-1)), torch.zeros_like(y)

    def relative_drift(self, t: Tensor, y: Tensor) -> Tensor:
        sigma, slope = self.amplitudes(t, y)
        return 1 - torch.tanh(y) + (0.5 * sigma * (sigma + slope) if self.sde_type == "ito" else 0.0)

    def relative_diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        sigma = self.amplitudes(t, y)[0]
        return torch.diag_embed(sigma) if self.noise_type == "general" else sigma


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is solved, what kind of noise it has, how its end is known, and whose mean the weak error is of.

    Without a closed form of the end, given W, a finer solve on the same path is the reference: ``best`` steps
    the SDE in ``best_calculus``.
    """

    name: str
    kind: str
    sde: Callable[[], nsde.SDE]
    start: tuple[float, ...]
    n_noise: int
    observable: Callable[[Tensor], Tensor]
    exact: Callable[[Tensor], Tensor] | None = None
    best: Any = None
    best_calculus: str = "stratonovich"
    only: tuple[str, ...] = ()
    levy: str = "area"

    def in_calculus(self, calculus: str) -> nsde.SDE:
        sde = self.sde()
        sde.sde_type = calculus
        if self.kind == "general":
            sde.noise_type = "general"
        return sde


def last(y: Tensor) -> Tensor:
    return y[:, -1]


def last_square(y: Tensor) -> Tensor:
    return y[:, -1] ** 2


def cosine(y: Tensor) -> Tensor:
    return torch.cos(2 * y[:, -1])


def logarithm(y: Tensor) -> Tensor:
    return y[:, -1].abs().log()


def square_of_sum(y: Tensor) -> Tensor:
    return y.sum(-1) ** 2


def well() -> nsde.SDE:
    return UnderdampedLangevin(lambda x: x + torch.sin(2 * x), friction=1.2, u=0.8)


PROBLEMS = (
    Problem(
        "sinh, scalar noise", "commutative", Sinh, (0.0,), 1, cosine, lambda W: torch.sinh(0.5 + 0.8 * W)
    ),
    Problem(
        "geometric, diagonal noise", "commutative", Geometric, (1.0, 1.0), 2, last_square,
        lambda W: torch.exp(Geometric.rates[0] + Geometric.rates[1] * W),
    ),
    Problem("wavy, additive noise", "additive", Wavy, (0.5,), 1, last, best=ShARK()),
    Problem("turning, general noise", "general", Turning, (0.1, 0.2), 2, square_of_sum, best=SPaRK()),
    Problem(
        "proportional noise", "commutative", Proportional, (0.5,), 1, last_square, best=SlowRK(),
        only=("ExponentialEuler", "ExponentialHeun"),
    ),
    Problem(
        "growth, sigma(t)", "additive", lambda: Growth("time"), (0.5,), 1, logarithm, best=SlowRK(),
        only=("LogEuler", "LieSplitting"),
    ),
    Problem(
        "growth, sigma(y)", "commutative", lambda: Growth("own state"), (0.5,), 1, logarithm,
        best=SlowRK(), only=("LogEuler", "LieSplitting"),
    ),
    Problem(
        "growth, sigma of the other state", "general", lambda: Growth("other state"), (0.5, 0.8), 2,
        logarithm, best=SPaRK(), only=("LogEuler", "LieSplitting"),
    ),
    Problem(
        "Langevin, U' = x + sin 2x", "additive", well, (0.5, 0.0), 1, lambda y: y[:, 0] ** 2, best=None,
        best_calculus="ito", only=("ShOULD", "QUICSORT"), levy="space-time-time",
    ),
)  # fmt: skip


class Shared(AbstractNoise):
    """One Brownian path for all methods and steps; the grids compared are kept, the reference's is not."""

    def __init__(self, path: BrownianPath, longest: int):
        self.path, self.shape, self.levy, self.longest = path, path.shape, path.levy, longest
        self.known: dict[tuple[float, float, int], BrownianIncrement] = {}

    def increments(self, times: Tensor, first: int = 0) -> BrownianIncrement:
        key = (float(times[0]), float(times[-1]), len(times))
        if key not in self.known:
            increments = self.path.increments(times)
            if len(times) > self.longest + 1:
                return increments
            self.known[key] = increments
        return self.known[key]

    def grid(self, k: int) -> BrownianIncrement:
        """Increments over all steps of length 2^-k."""
        return self.increments(torch.linspace(0, 1, 2**k + 1, dtype=torch.float64))


class Motion:
    """The same increments under torchsde's protocol: W, and U, the integral of W over the step."""

    levy_area_approximation = "space-time"

    def __init__(self, noise: Shared, k: int):
        self.record, self.h, self.shape = noise.grid(k), 2.0**-k, noise.shape
        self.dtype, self.device = torch.float64, torch.device("cpu")

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Any:
        i = round(float(ta) / self.h)
        W = self.record.W[i]
        return (W, self.h * (0.5 * W + self.record.H[i])) if return_U else W


Method = Callable[[nsde.SDE, Tensor, Shared, int], Tensor]


def ours(stepper: Any) -> Method:
    def end(sde: nsde.SDE, y0: Tensor, noise: Shared, k: int) -> Tensor:
        return nsde.solve(sde, y0, [0.0, 1.0], stepper=stepper, noise=noise, dt=2.0**-k, compile="off").ys[
            :, -1
        ]

    return end


def theirs(method: str) -> Method:
    def end(sde: nsde.SDE, y0: Tensor, noise: Shared, k: int) -> Tensor:
        ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return torchsde.sdeint(sde, y0, ts, bm=Motion(noise, k), method=method, dt=2.0**-k)[-1]

    return end


def plain_loop(sde: nsde.SDE, y: Tensor, noise: Shared, k: int) -> Tensor:
    h, W = 2.0**-k, noise.grid(k).W
    for i in range(2**k):
        t = torch.tensor(i * h, dtype=torch.float64)
        y = y + h * sde.drift(t, y) + diffuse(sde.noise_type, sde.diffusion(t, y), W[i])
    return y


def contestants(problem: Problem, config: dict[str, Any]) -> Iterator[tuple[str, str, Method, float, float]]:
    """Name, calculus, method, strong and weak order by theory of all that claim the problem's noise."""
    place = CLASSES.index(problem.kind)
    for stepper in (*STEPPERS, Milstein(derivative_free=True)):
        kind = type(stepper).__name__
        if problem.only and kind not in problem.only:
            continue
        for calculus in stepper.sde_types[: 1 if problem.kind == "additive" else 2]:
            if stepper.strong_order[place] is None or stepper.why_not(problem.in_calculus(calculus)):
                continue
            second = problem.kind == "additive" and kind in config["second_if_additive"]
            free = " without derivative" if getattr(stepper, "derivative_free", False) else ""
            both = f" {calculus}" if len(stepper.sde_types) > 1 and problem.kind != "additive" else ""
            strong = config["strong"].get(f"{kind} {calculus} {problem.kind}", stepper.strong_order[place])
            weak = 2.0 if second else stepper.weak_order
            yield kind + free + both, calculus, ours(stepper), strong, weak
    for name, peer in config["peers"].items():
        if peer["strong"][place] > 0 and (not problem.only or name == "plain Euler loop"):
            method = plain_loop if name.startswith("plain") else theirs(name.split()[1])
            strong = config["strong"].get(f"{name}, {problem.name}", peer["strong"][place])
            yield name, peer["calculus"], method, strong, peer["weak"][place]


@torch.no_grad()
def rows(config: dict[str, Any], *, seed: int, device: str, fast: bool) -> Iterator[dict[str, Any]]:
    """Slopes, their standard errors, errors at the finest step and evaluations of every method."""
    if fast:
        config = {**config, "paths": 2_000, "batch": 1_000, "bootstrap": 50, "reference": 9}
    rng = np.random.default_rng(seed)
    n_blocks = config["paths"] // config["block"]
    draws = rng.multinomial(n_blocks, [1 / n_blocks] * n_blocks, size=config["bootstrap"]) / n_blocks
    for problem in PROBLEMS:
        entrants = list(contestants(problem, config))
        measured = [Errors(config, draws) for _ in entrants]
        for first in range(0, config["paths"], config["batch"]):
            solve_batch(problem, entrants, measured, config, seed, range(first, first + config["batch"]))
        for (name, calculus, method, strong, weak), errors in zip(entrants, measured, strict=True):
            counts = evaluations(problem.in_calculus(calculus), problem, method)
            metrics = {
                "strong order by theory": strong,
                "weak order by theory": weak,
                **errors.summary(),
                **counts,
            }
            for metric, value in metrics.items():
                yield {
                    "dataset": problem.name, "method": name, "metric": metric, "value": value,
                    "seconds": errors.seconds,
                }  # fmt: skip


def solve_batch(
    problem: Problem, entrants: list[Any], measured: list["Errors"], config: dict[str, Any], seed: int,
    series: range,
) -> None:  # fmt: skip
    """Solve one batch of paths with every method at every step."""
    keys = torch.tensor(series)
    shape = (len(series), problem.n_noise)
    path = BrownianPath(0.0, 1.0, shape, seed=seed, levy=problem.levy, series=keys, dtype=torch.float64)
    noise = Shared(path, 2 ** max(config["exponents"]))
    y0 = torch.tensor(problem.start, dtype=torch.float64).expand(len(series), -1)
    known: dict[str, Tensor] = {}
    for (name, calculus, method, _, _), errors in zip(entrants, measured, strict=True):
        if problem.exact is not None:
            exact = problem.exact(noise.grid(0).W[0])
        else:
            best = problem.best or (ShOULD() if name == "QUICSORT" else QUICSORT())
            label = type(best).__name__
            if label not in known:
                sde = problem.in_calculus(problem.best_calculus)
                known[label] = ours(best)(sde, y0, noise, config["reference"])
            exact = known[label]
        began = time.process_time()
        sde = problem.in_calculus(calculus)
        ends = [method(sde, y0, noise, k) for k in config["exponents"]]
        errors.seconds += time.process_time() - began
        errors.add(ends, exact, problem.observable)


class Errors:
    """Strong and weak errors of one method at every step, in means over blocks of paths."""

    def __init__(self, config: dict[str, Any], draws: np.ndarray):
        self.config, self.draws, self.seconds = config, draws, 0.0
        self.strong: list[np.ndarray] = []
        self.weak: list[np.ndarray] = []

    def add(self, ends: list[Tensor], exact: Tensor, observable: Callable[[Tensor], Tensor]) -> None:
        strong = torch.stack([(end - exact).abs().mean(-1) for end in ends], dim=-1)
        weak = torch.stack([observable(end) - observable(exact) for end in ends], dim=-1)
        for kept, new in ((self.strong, strong), (self.weak, weak)):
            kept.append(new.unflatten(0, (-1, self.config["block"])).mean(1).numpy())

    def fitted(self, name: str, values: np.ndarray, spread: np.ndarray) -> list[int]:
        """Steps that an order is fitted through: as configured, or finer where all errors stand clear."""
        ks, fit = self.config["exponents"], self.config[f"{name}_fit"]
        last = ks.index(fit[-1])
        for end in range(len(ks) - 1, last, -1):
            window = slice(end + 1 - len(fit), end + 1)
            if (values[window] > self.config["clear"] * spread[window]).all():
                return ks[window]
        return fit

    def summary(self) -> dict[str, float]:
        out, ks = {}, self.config["exponents"]
        for name, kept in (("strong", self.strong), ("weak", self.weak)):
            blocks = np.concatenate(kept)
            values, again = np.abs(blocks.mean(0)), np.abs(self.draws @ blocks)
            fit = self.fitted(name, values, again.std(0, ddof=1))
            columns = [ks.index(k) for k in fit]
            out[f"{name} fit, finest step 2^-"] = fit[-1]
            line = np.polyfit(fit, log2(values[columns]), 1)
            out[f"{name} slope"] = float(-line[0])
            out[f"{name} slope, s.e."] = float(np.polyfit(fit, log2(again[:, columns]).T, 1)[0].std(ddof=1))
            out[f"{name} bend"] = float(np.abs(log2(values[columns]) - np.polyval(line, fit)).max())
            out[f"{name} error at 2^-{ks[-1]}"] = float(values[-1])
            out[f"{name} error at 2^-{ks[-1]}, s.e."] = float(again[:, -1].std(ddof=1))
        return out


def log2(errors: np.ndarray) -> np.ndarray:
    return np.log2(np.maximum(errors, 1e-300))


def evaluations(sde: nsde.SDE, problem: Problem, method: Method) -> dict[str, float]:
    """Calls of the fields a step, counted: the difference of two solves, so that first looks cancel."""
    fields = {
        "drift": ("drift", "relative_drift", "gradient"),
        "diffusion": ("diffusion", "relative_diffusion"),
    }
    calls = {name: 0 for names in fields.values() for name in names}

    def counted(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Tensor) -> Tensor:
            calls[name] += 1
            return function(*arguments)

        return call

    for name in calls:
        if name in dir(sde):
            setattr(sde, name, counted(name, getattr(sde, name)))
    path = BrownianPath(0.0, 1.0, (2, problem.n_noise), seed=0, levy=problem.levy, dtype=torch.float64)
    y0 = torch.tensor(problem.start, dtype=torch.float64).expand(2, -1)
    totals = []
    for k in (2, 4):
        calls.update(dict.fromkeys(calls, 0))
        method(sde, y0, Shared(path, 16), k)
        totals.append({role: max(calls[name] for name in names) for role, names in fields.items()})
    return {f"{role} evaluations a step": (totals[1][role] - totals[0][role]) / 12 for role in fields}
