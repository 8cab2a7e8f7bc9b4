"""Solves on another device beside the same ones here, as JSON: `python tests/solve/device_cases.py`."""

import json
import math
import sys
import warnings
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parent)]

from another_device import (  # noqa: E402
    DEVICE,
    Elsewhere,
    MixedDevicesError,
    Pretence,
    Tape,
    pretending,
)

import neurosde as nsde  # noqa: E402
from neurosde.noise import BrownianPath, StepNoise  # noqa: E402
from neurosde.solve import (  # noqa: E402
    SRA1,
    AbsorbingSet,
    EulerHeun,
    GeneralShARK,
    Heun,
    LogODE,
    Midpoint,
    Milstein,
    PIController,
    ReversibleHeun,
    ShARK,
    SlowRK,
    SPaRK,
    StepPenalty,
    compiling,
    recording,
)

FINE, ROUGH = {"rtol": 1e-3, "atol": 1e-3}, {"rtol": 1e-2, "atol": 1e-2}
TIMES = [0.0, 0.37, 1.0]
STATES = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3)
OWN = torch.linspace(0.5, 1, 5, dtype=torch.float64)[:, None] * torch.tensor(TIMES, dtype=torch.float64)


class Network(nsde.SDE):
    """Fields with weights."""

    def __init__(self, sde_type="stratonovich", additive=False):
        super().__init__()
        self.sde_type, self.additive = sde_type, additive
        self.A = torch.nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3))

    def drift(self, t, y):
        return torch.tanh(y @ self.A) * torch.cos(t)

    def diffusion(self, t, y):
        return 0.2 * torch.ones_like(y) if self.additive else 0.2 * torch.sigmoid(y)


class Looking(Network):
    """Looks at the values."""

    def drift(self, t, y):
        return super().drift(t, y) if float(y.detach().sum()) > -1e9 else y


class Mixing(Network):
    """Has a tensor in the wrong place."""

    def drift(self, t, y):
        return super().drift(t, y) + torch.ones(3, dtype=torch.float64)


class Growing(nsde.SDE):
    """Leaves the finite numbers."""

    def drift(self, t, y):
        return 40 * y**3

    def diffusion(self, t, y):
        return 0.1 * torch.ones_like(y)


def ys(sde, ts=TIMES, **options):
    """A case: the states of a solve without a gradient."""

    def run(place):
        there = ts.to(place) if isinstance(ts, torch.Tensor) else ts
        with torch.no_grad():
            solution = nsde.solve(sde.to(place), STATES.clone().to(place), there, **{"seed": 3, **options})
        run.steps = int(solution.stats["accepted"].max())
        more = [solution.running[name].unsqueeze(-1) for name in solution.running]
        return torch.nan_to_num(torch.cat((solution.ys, *more), dim=-1), nan=-9.0)

    return run


def gradient(ts=TIMES, **options):
    """A case: gradients of the states and the weights."""

    def run(place):
        sde, y = Network().to(place), STATES.clone().to(place).requires_grad_()
        solution = nsde.solve(sde, y, ts, **{"seed": 3, **options})
        loss = solution.ys.square().sum()
        (loss if solution.penalty is None else loss + solution.penalty).backward()
        return torch.cat((y.grad, sde.A.grad))

    return run


def step_noise(place):
    noise = StepNoise((5, 3), seed=5, levy="space-time-time", dtype=torch.float64, device=place)
    return torch.cat(noise.increments(torch.linspace(0, 1, 9, dtype=torch.float64).to(place))[1:4])


def inside(distance=0.9):
    return AbsorbingSet(lambda t, y: torch.cat((distance - y, distance + y), dim=-1))


def cases():
    ito, strat, additive = Network("ito"), Network(), Network("ito", additive=True)
    plain = {"dt": 0.05, "compile": "off"}
    yield "step noise", step_noise
    yield "own times", ys(ito, OWN, **plain)
    yield "absorbing", ys(ito, dt=0.05, compile="off", absorbing=inside(1.5))
    yield (
        "linear",
        ys(nsde.LinearSDE([[-1.0, 0.3, 0], [0, -0.5, 0], [0.1, 0, -0.2]], L=torch.eye(3)), compile="off"),
    )
    for stepper in (Milstein(), ShARK(), SRA1()):
        yield type(stepper).__name__, ys(additive, stepper=stepper, **plain)
    for stepper in (EulerHeun(), Midpoint(), LogODE(), SPaRK(), GeneralShARK()):
        yield type(stepper).__name__, ys(strat, stepper=stepper, **plain)
    for kind in ("error", "squared_error", "stiffness"):
        for sample in ("all", "one_step", "one_time"):
            penalty = StepPenalty(kind=kind, sample=sample, seed=0)
            yield f"penalty {kind} {sample}", gradient(stepper=Heun(), penalty=penalty, **plain)
    for mode in ("off", "auto"):
        for steps in (205, 2005):
            yield f"{mode} {steps} steps", ys(ito, dt=1 / steps, compile=mode)
    yield "auto every step", ys(ito, torch.linspace(0, 1, 206, dtype=torch.float64), dt=1 / 205)
    yield "auto own times", ys(ito, OWN, dt=0.003)
    for stepper in (SlowRK(), ReversibleHeun()):
        yield f"auto {type(stepper).__name__}", ys(strat, dt=0.005, stepper=stepper)
    energy = nsde.RunningCost(lambda t, y: y.square().sum(-1), name="energy")
    yield "auto running", ys(ito, dt=0.005, running=[energy])
    yield "auto failing", ys(Growing(), dt=0.005)
    yield "auto looking", ys(Looking("ito"), dt=0.005)
    for whole in (False, True):
        name, controller = "whole batch" if whole else "each series", PIController(**FINE, whole_batch=whole)
        for mode in ("off", "auto"):
            yield f"{mode} {name}", ys(strat, [0.0, 1.0], controller=controller, compile=mode)
        yield f"auto {name}, longer", ys(strat, [0.0, 5.0], controller=controller)
        jumping = PIController(**ROUGH, whole_batch=whole, jump_times=(0.5,))
        yield f"auto {name}, jumps", ys(strat, stepper=SlowRK(), controller=jumping)
    yield "auto each series, own times", ys(strat, OWN, controller=PIController(**ROUGH))
    for way in ("backprop", "checkpoint", "reversible", "adjoint"):
        for mode in ("off", "auto", "chunk"):
            yield f"{mode} {way}", gradient(dt=0.01, gradient=way, compile=mode)
        yield (
            f"auto {way}, adaptive",
            gradient(controller=PIController(**ROUGH), gradient=way, compile="auto"),
        )
    yield "chunk backprop, every step", gradient(ts=torch.linspace(0, 1, 101), dt=0.01, compile="chunk")
    penalty = StepPenalty()
    yield "chunk backprop, penalty", gradient(dt=0.01, stepper=Heun(), penalty=penalty, compile="chunk")
    yield "mixing", ys(Mixing(), **plain)


def outcome(case):
    """What became of a case: how near, how often it waited, and what was recorded."""
    wanted, mistake, recorded = case("cpu"), "", Tape.made
    recording._unrecordable.clear()
    difference, waits = math.inf, 0
    with pretending():
        try:
            got = case(DEVICE)
            waits = Pretence.current.waits
            difference = float((got.inner - wanted).abs().max()) if isinstance(got, Elsewhere) else math.inf
        except MixedDevicesError as error:
            mistake = str(error)
    return {
        "difference": difference,
        "waits": waits,
        "mistake": mistake,
        "recordings": Tape.made - recorded,
        "unrecordable": len(recording._unrecordable),
        "steps": getattr(case, "steps", 0),
    }


def main():
    compiling.PATIENCE = math.inf
    compiling._program = lambda kind, function: function  # what is compiled elsewhere runs as it is here
    BrownianPath.compiled = lambda path: path
    recording.DEVICES, recording.Graphs = (DEVICE,), Tape
    warnings.simplefilter("ignore")
    print(json.dumps({name: outcome(case) for name, case in cases()}))


if __name__ == "__main__":
    main()
