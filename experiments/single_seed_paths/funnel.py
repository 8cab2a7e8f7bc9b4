"""Neal's funnel under underdamped Langevin dynamics: what an effective sample costs in gradients."""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

import neurosde as nsde
from neurosde.forms import UnderdampedLangevin
from neurosde.noise import BrownianPath
from neurosde.solve import QUICSORT, EulerMaruyama, PIController, ShOULD
from neurosde.solve.stepper import AbstractStepper

SPREAD = 3.0  # standard deviation of the first coordinate, which sets the scale exp(x1 / 2) of the others


def frozen(x: torch.Tensor) -> torch.Tensor:
    """Gradient with the scale held, as in the published run: nothing pulls the first coordinate."""
    return torch.cat((x[:, :1] / SPREAD**2, x[:, 1:] * torch.exp(-x[:, :1])), dim=-1)


def whole(x: torch.Tensor) -> torch.Tensor:
    """Gradient of ``x1^2 / 18 + sum_i x_i^2 exp(-x1) / 2 + (d - 1) x1 / 2``: the funnel itself."""
    precision = torch.exp(-x[:, :1])
    energy = 0.5 * x[:, 1:].square().sum(-1, keepdim=True) * precision
    first = x[:, :1] / SPREAD**2 + 0.5 * (x.shape[-1] - 1) - energy
    return torch.cat((first, x[:, 1:] * precision), dim=-1)


POTENTIALS = {"frozen": ("Neal's funnel, scale frozen", frozen), "whole": ("Neal's funnel", whole)}
FAR = 1e4  # no draw of the funnel comes near it: exp(x1 / 2) would have to be that large at nine deviations


def effective_fraction(x: torch.Tensor) -> float:
    """Effective samples a sample of chains ``(chain, draw)``, from their autocorrelations.

    ``rho_t = 1 - (w - mean of the chains' autocovariances at lag t) / v``, w the variance within and v that
    of all chains; sums of neighbouring pairs are added up while they are positive, and kept from growing
    (Geyer 1992; Vehtari, Gelman, Simpson, Carpenter & Buerkner 2021, equation 10).
    """
    n = x.shape[1]
    centred = x - x.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centred, n=2 * n).abs().square()
    covariance = torch.fft.irfft(spectrum, n=2 * n)[:, :n] / n
    within = float(covariance[:, 0].mean()) * n / (n - 1)
    total = within * (n - 1) / n + float(x.mean(1).var())
    rho = 1 - (within - covariance.mean(0) * n / (n - 1)) / total
    rho[0] = 1.0
    pairs = rho[: n - n % 2].unflatten(0, (-1, 2)).sum(1)
    stop = int((pairs <= 0).to(torch.uint8).argmax()) if bool((pairs <= 0).any()) else len(pairs)
    return 1 / (2 * float(pairs[:stop].cummin(0).values.sum()) - 1)


def methods(
    some: dict[str, dict[str, list[Any]]], shortest: float
) -> Iterator[tuple[str, AbstractStepper, dict[str, Any]]]:
    """Name, stepper and step rule of every row."""
    for stepper in (QUICSORT(), ShOULD(), EulerMaruyama()):
        name = type(stepper).__name__
        for tolerance in some["tolerances"].get(name, ()):
            rule = PIController(rtol=0.0, atol=tolerance, shortest=shortest, first=shortest)
            yield f"{name} adaptive, atol {tolerance:g}", stepper, {"controller": rule}
        for k in some["exponents"].get(name, ()):
            yield f"{name} constant, h = 1/{2**k}", stepper, {"dt": 2.0**-k}


def rows(config: dict[str, Any], *, seed: int, fast: bool) -> Iterator[dict[str, Any]]:
    """Costs and errors of every method on both potentials, all on the same Brownian paths."""
    n, draws = (8, 16) if fast else (config["chains"], config["draws"])
    burn_in, gap = config["burn_in"], config["gap"]
    ts = torch.cat((torch.zeros(1), burn_in + gap * torch.arange(draws))).to(torch.float64)
    path = BrownianPath(
        0.0, config["span"], (n, config["dimension"]), seed=seed, levy="space-time-time",
        tol=config["shortest"] / 4, dtype=torch.float64,
    )  # fmt: skip
    start = torch.zeros(n, 2 * config["dimension"], dtype=torch.float64)
    tasks = [
        (dataset, UnderdampedLangevin(gradient), *what)
        for name, (dataset, gradient) in POTENTIALS.items()
        for what in methods(config[name], config["shortest"])
    ]
    with tqdm(total=len(tasks), unit="solve", leave=False, position=1, file=sys.stderr) as bar:
        for dataset, sde, method, stepper, rule in tasks:
            bar.set_description(f"{dataset}: {method}")
            began = time.process_time()
            solution = nsde.solve(
                sde, start, ts, stepper=stepper, noise=path, max_steps=10**6, compile="off", **rule
            )
            seconds = time.process_time() - began
            bar.update()
            for metric, value in measures(solution, draws, config["dimension"]).items():
                found = {"dataset": dataset, "method": method, "metric": metric, "value": value}
                yield found | {"seconds": seconds}


def measures(solution: nsde.Solution, draws: int, dimension: int) -> dict[str, float]:
    """What the draws cost, and how far they are from the funnel; nothing but a count where chains diverge."""
    x = solution.ys[:, 1:, :dimension]
    lost = (solution.status != 0) | ~(x.abs() < FAR).flatten(1).all(-1)
    cost = float(solution.stats["nfe"].double().mean()) / draws
    found = {"gradients a sample": cost, "diverged chains": float(lost.sum())}
    if bool(lost.any()):
        return found
    fractions = [effective_fraction(x[..., i]) for i in range(dimension)]
    first, rest = fractions[0], sum(fractions[1:]) / (dimension - 1)
    scaled = x[..., 1:] * torch.exp(-0.5 * x[..., :1])
    return found | {
        "effective samples a sample": 0.5 * (first + rest),
        "gradients an effective sample": cost / (0.5 * (first + rest)),
        "mean of x1": float(x[..., 0].mean()),
        "deviation of x1": float(x[..., 0].std()),
        "deviation of x_i exp(-x1/2)": float(scaled.square().mean().sqrt()),
    }
