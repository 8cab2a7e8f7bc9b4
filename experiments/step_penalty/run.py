"""A penalty on the solver's steps: what it saves at what loss, and what it does to the drift.

Three tasks: a spiral SDE by moment matching, a classifier of images through a neural SDE, and the caveat: an
oscillator whose rates are known.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import neurosde as nsde
from neurosde.nets import MLP, affine
from neurosde.solve import SRK, AbstractStepper, PIController, ShARK, Solution, StepPenalty
from neurosde.training import Objective, Penalised, TrainingOptions, train

Row = dict[str, Any]
Tensor = torch.Tensor


@dataclasses.dataclass(frozen=True)
class Method:
    """How a task is solved and penalised: a line of the configuration."""

    name: str
    settings: dict[str, Any]

    def how(self, stepper: AbstractStepper, *, together: bool = True) -> dict[str, Any]:
        """Arguments of `solve`: equal steps, or adaptive ones on one clock or each series' own."""
        if "steps" in self.settings:
            return {"stepper": stepper, "dt": 1.0 / self.settings["steps"]}
        tolerance, first = self.settings["tolerance"], self.settings["first"]
        controller = PIController(tolerance, tolerance, first=first, whole_batch=together)
        return {"stepper": stepper, "controller": controller}

    def penalty(self, seed: int) -> StepPenalty | None:
        """Its penalty, measured against the task's tolerance; the seed draws the step of a local one."""
        if "kind" not in self.settings:
            return None
        tolerance = self.settings["tolerance"]
        return StepPenalty(self.settings["kind"], self.settings["sample"], tolerance, tolerance, seed)


def methods(task: dict[str, Any]) -> list[Method]:
    """Methods of a task; what a line does not say is the task's."""
    common = {name: task[name] for name in ("tolerance", "first")}
    return [Method(name, common | own) for name, own in task["methods"].items()]


class Fit(Objective):
    """A task's loss under one method, with the penalty of the same solve.

    Parameters
    ----------
    loss
        Takes the module, sample numbers, a seed, and the penalty; gives the loss and the solution behind it.
    method
        The method.
    n_samples
        Number of training samples.
    """

    def __init__(self, loss: Callable[..., tuple[Tensor, Solution]], method: Method, n_samples: int):
        self.of, self.method, self.n_samples = loss, method, n_samples

    def loss(self, module: nn.Module, index: Tensor, seed: int) -> Tensor | Penalised:
        """Loss of the task, and the penalty of its solve."""
        penalty = self.method.penalty(seed)
        loss, solution = self.of(module, index, seed, penalty)
        return loss if solution.penalty is None else Penalised(loss, solution.penalty)


def fit(module: nn.Module, objective: Fit, task: dict[str, Any], seed: int) -> float:
    """Train with Adam; CPU seconds."""
    options = TrainingOptions(
        max_iter=task["iterations"],
        unit="step",
        learning_rate=task["learning_rate"],
        batch_size=task.get("batch_size"),
        clip_norm=None,
        penalty_weight=objective.method.settings.get("weight", 0.0),
    )
    began = time.process_time()
    train(module, objective, options, seed=seed)
    return time.process_time() - began


def evaluations(solution: Solution) -> float:
    """Evaluations of the drift, mean over series."""
    return float(solution.stats["nfe"].double().mean())


# --- a spiral -----------------------------------------------------------------------------------------------


class Spiral(nsde.SDE):
    """``du1 = -a u1^3 + b u2^3``, ``du2 = -b u1^3 - a u2^3``, noise ``gamma u``, diagonal, Ito."""

    def __init__(self, a: float, b: float, gamma: float):
        super().__init__()
        self.a, self.b, self.gamma = a, b, gamma

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Mean rate of change."""
        u, v = y.pow(3).unbind(-1)
        return torch.stack([self.b * v - self.a * u, -self.b * u - self.a * v], dim=-1)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Noise amplitude."""
        return self.gamma * y


class NeuralSpiral(nsde.SDE):
    """Drift: cubes, 50 tanh, 2; diffusion: linear, 2 to 2, small at the start."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.net = MLP(2, 2, 50, 1, activation="tanh", generator=generator)
        self.amplitude = affine(2, 2, generator, 0.2)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Mean rate of change."""
        return self.net(y.pow(3))

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Noise amplitude."""
        return self.amplitude(y)


@functools.cache
def spiral_moments(n_times: int, n_paths: int, seed: int) -> tuple[Tensor, Tensor]:
    """Means and variances of the truth's paths, ``(time, state)``."""
    start = torch.tensor([2.0, 0.0], dtype=torch.float64).expand(n_paths, 2).clone()
    ts = torch.linspace(0, 1, n_times, dtype=torch.float64)
    with torch.no_grad():
        ys = nsde.solve(Spiral(0.1, 2.0, 0.2), start, ts, stepper=SRK(), dt=1 / 512, seed=seed).ys
    return ys.mean(0), ys.var(0)


def moment_loss(ys: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Mean over times and states of the squared errors of mean and variance, added."""
    return (ys.mean(0) - mean).square().mean() + (ys.var(0) - variance).square().mean()


def spiral(task: dict[str, Any], *, seed: int, device: str) -> Iterator[Row]:
    n_paths, ts = task["paths"], torch.linspace(0, 1, task["times"], dtype=torch.float64)
    moments = [m.to(device, torch.float32) for m in spiral_moments(task["times"], task["truth"], 1_000_003)]
    y0 = torch.tensor([2.0, 0.0], device=device)

    def paths(
        module: nn.Module,
        method: Method,
        seed: int,
        penalty: StepPenalty | None = None,
        together: bool = True,
    ) -> Solution:
        start, how = y0.expand(n_paths, 2).clone(), method.how(SRK(), together=together)
        return nsde.solve(module, start, ts, seed=seed, penalty=penalty, **how)

    for method in methods(task):

        def loss(module, index, seed, penalty, method=method):
            solution = paths(module, method, seed, penalty)
            return moment_loss(solution.ys, *moments), solution

        model = NeuralSpiral(torch.Generator().manual_seed(seed)).to(device)
        seconds = fit(model, Fit(loss, method, 1), task, seed)
        began = time.process_time()
        with torch.no_grad():
            tests = [paths(model, method, 2_000_000 + k) for k in range(task["tests"])]
            predict = (time.process_time() - began) / len(tests)
            alone = paths(model, method, 2_000_000, together=False)
        single = [float(moment_loss(test.ys, *moments)) for test in tests]
        together = float(moment_loss(torch.cat([test.ys for test in tests]), *moments))
        yield from results(
            "spiral SDE",
            method,
            seconds,
            {
                "NFE": sum(map(evaluations, tests)) / len(tests),
                "NFE, own clocks": evaluations(alone),
                "test loss": sum(single) / len(single),
                "test loss, all paths": together,
                "train s": seconds,
                "predict s": predict,
            },
        )


# --- images -------------------------------------------------------------------------------------------------


def smooth_fields(generator: torch.Generator, n: int, knots: int) -> Tensor:
    """Normal draws on a coarse grid, made smooth by cubic interpolation, ``(n, 28, 28)``."""
    coarse = torch.randn(n, 1, knots, knots, generator=generator)
    return nn.functional.interpolate(coarse, (28, 28), mode="bicubic", align_corners=True)[:, 0]


@functools.cache
def images(n: int, seed: int, styles: int, bend: float, noise: float) -> tuple[Tensor, Tensor]:
    """Images of 28 x 28 with their class of 10: a bent prototype with noise on top.

    Every class has several prototypes, smooth random fields of unit variance that depend on no seed. Each
    image bends one of them along a smooth random flow.
    """
    prototypes = smooth_fields(torch.Generator().manual_seed(0), 10 * styles, 6)
    prototypes = prototypes / prototypes.std((1, 2), keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 10, (n,), generator=generator)
    style = torch.randint(0, styles, (n,), generator=generator)
    line = torch.linspace(-1, 1, 28)
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    flow = torch.stack([smooth_fields(generator, n, 4) for _ in range(2)], dim=-1)
    x = nn.functional.grid_sample(
        prototypes[label * styles + style].unsqueeze(1),
        places + bend * flow,
        padding_mode="reflection",
        align_corners=True,
    )
    return (x + noise * torch.randn(x.shape, generator=generator)).flatten(1), label


class NeuralFlow(nsde.SDE):
    """Drift: 32, 64 tanh, 32; diffusion: linear, 32 to 32, diagonal."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.net = MLP(32, 32, 64, 1, activation="tanh", generator=generator)
        self.amplitude = affine(32, 32, generator)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Mean rate of change."""
        return self.net(y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Noise amplitude."""
        return self.amplitude(y)


class Classifier(nn.Module):
    """784 pixels to 32 states, which flow for a unit of time, to 10 classes."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.enter = affine(784, 32, generator, math.sqrt(3.0))
        self.flow = NeuralFlow(generator)
        self.leave = affine(32, 10, generator)

    def follow(
        self,
        x: Tensor,
        method: Method,
        seed: int,
        penalty: StepPenalty | None = None,
        *,
        together: bool = True,
    ) -> tuple[Tensor, Solution]:
        """Logits after the flow, and its solution."""
        how = method.how(SRK(), together=together)
        solution = nsde.solve(self.flow, self.enter(x), [0.0, 1.0], seed=seed, penalty=penalty, **how)
        return self.leave(solution.ys[:, -1]), solution


def classify(task: dict[str, Any], *, seed: int, device: str) -> Iterator[Row]:
    data = {name: task[name] for name in ("styles", "bend", "noise")}
    x, label = (part.to(device) for part in images(task["train"], 1, **data))
    test_x, test_label = (part.to(device) for part in images(task["test"], task["part"], **data))
    for method in methods(task):

        def loss(module, index, seed, penalty, method=method):
            logits, solution = module.follow(x[index], method, seed, penalty)
            return nn.functional.cross_entropy(logits, label[index]), solution

        model = Classifier(torch.Generator().manual_seed(seed)).to(device)
        seconds = fit(model, Fit(loss, method, len(x)), task, seed)
        with torch.no_grad():
            began = time.process_time()
            tests = [model.follow(test_x, method, 2_000_000 + k) for k in range(task["paths"])]
            predict = (time.process_time() - began) / len(tests)
            p = torch.stack([logits.softmax(-1) for logits, _ in tests]).mean(0)
            seen = model.follow(x[: len(test_x)], method, 3_000_000)[0].argmax(-1)
            alone = model.follow(test_x, method, 2_000_000, together=False)[1]
        right, right_seen = p.argmax(-1) == test_label, seen == label[: len(test_x)]
        yield from results(
            "images",
            method,
            seconds,
            {
                "NFE": sum(evaluations(solution) for _, solution in tests) / len(tests),
                "NFE, own clocks": evaluations(alone),
                "test %": 100 * float(right.double().mean()),
                "train %": 100 * float(right_seen.double().mean()),
                "test cross-entropy": float(nn.functional.nll_loss(p.log(), test_label)),
                "train s": seconds,
                "predict s": predict,
            },
        )


# --- the caveat: rates that are known -----------------------------------------------------------------------


class Oscillator(nsde.SDE):
    """``dy = [[-gamma, omega], [-omega, -gamma]] y dt + sigma dW``, with both rates to be found."""

    additive = True

    def __init__(self, gamma: float, omega: float, sigma: float):
        super().__init__()
        self.gamma, self.omega = (nn.Parameter(torch.tensor(rate)) for rate in (gamma, omega))
        self.sigma = sigma

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Mean rate of change."""
        u, v = y.unbind(-1)
        return torch.stack([self.omega * v - self.gamma * u, -self.omega * u - self.gamma * v], dim=-1)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Noise amplitude."""
        return torch.full_like(y, self.sigma)


def oscillator(task: dict[str, Any], *, seed: int, device: str) -> Iterator[Row]:
    ts = torch.linspace(0, 1, task["times"], dtype=torch.float64)
    start = torch.tensor([1.0, 0.0], device=device).expand(task["paths"], 2).clone()
    truth = Oscillator(*task["truth"], task["sigma"]).to(device)
    with torch.no_grad():
        seen = nsde.solve(truth, start, ts, stepper=ShARK(), dt=1 / 2048, seed=1_000_003 + seed).ys.mean(0)
    yield from results("oscillator", Method("truth", {}), 0.0, dict(zip(RATES, task["truth"], strict=True)))
    for method in methods(task):

        def loss(module, index, seed, penalty, method=method):
            how = method.how(ShARK())
            solution = nsde.solve(module, start, ts, seed=seed, penalty=penalty, **how)
            return (solution.ys.mean(0) - seen).square().mean(), solution

        model = Oscillator(*task["start"], task["sigma"]).to(device)
        seconds = fit(model, Fit(loss, method, 1), task, seed)
        with torch.no_grad():
            value, solution = loss(model, None, 2_000_000, None)
            how = method.how(ShARK(), together=False)
            alone = nsde.solve(model, start, ts, seed=2_000_000, **how)
        found = {"rate gamma": model.gamma.item(), "rate omega": model.omega.item()}
        effort = {"NFE": evaluations(solution), "NFE, own clocks": evaluations(alone), "loss": float(value)}
        yield from results("oscillator", method, seconds, found | effort)


RATES = ("rate gamma", "rate omega")
TASKS = {"spiral": spiral, "images": classify, "oscillator": oscillator}


def results(dataset: str, method: Method, seconds: float, metrics: dict[str, float]) -> Iterator[Row]:
    for metric, value in metrics.items():
        yield {
            "dataset": dataset,
            "method": method.name,
            "metric": metric,
            "value": value,
            "seconds": seconds,
        }


def rows(config: dict[str, Any], *, seed: int, device: str, fast: bool) -> Iterator[Row]:
    """All measures of every method on every task, and the change of NFE against the same seed without."""
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    for name, task in TASKS.items():
        settings = config[name] | (config["fast"][name] if fast else {})
        plain: dict[str, float] = {}
        for row in task(settings, seed=seed, device=device):
            yield row
            if row["metric"].startswith("NFE"):
                before = plain.setdefault(
                    row["metric"], row["value"]
                )  # the first method is without a penalty
                change = 100 * (row["value"] / before - 1)
                yield row | {"metric": f"{row['metric']}, change %", "value": change}
