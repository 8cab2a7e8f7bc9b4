"""Problems with known paths, and noise that every step size shares."""

import functools
from typing import NamedTuple

import numpy as np
import pytest
import torch

import neurosde as nsde
from neurosde.forms import GeometricSDE, LinearNoiseSDE, UnderdampedLangevin
from neurosde.noise import AbstractNoise, BrownianIncrement, BrownianPath
from neurosde.noise.records import Scaled, each, join
from neurosde.solve import QUICSORT, SRK, STEPPERS, Milstein, ShARK, ShOULD, SlowRK, SPaRK

KINDS = ("general", "commutative", "additive")
# where a docstring promises more than the class's data, which have one number for all
STRONGER = {
    ("LogEuler", "stratonovich", "commutative"): 1.0,
    ("LieSplitting", "stratonovich", "commutative"): 1.0,
}
SECOND_IF_ADDITIVE = ("GeneralShARK", "SPaRK", "SlowRK")


class Claim(NamedTuple):
    """Orders that a stepper claims for one kind of noise in one calculus."""

    stepper: object
    calculus: str
    kind: str
    strong: float
    weak: float

    @property
    def name(self):
        free = "-derivative_free" if getattr(self.stepper, "derivative_free", False) else ""
        return f"{type(self.stepper).__name__}{free}-{self.calculus}-{self.kind}"


def claims():
    """All claims of all steppers: a new stepper stands in every test of a ``claim`` without being asked."""
    for stepper in (*STEPPERS, Milstein(derivative_free=True)):
        for calculus in stepper.sde_types:
            for kind, order in zip(KINDS, stepper.strong_order, strict=True):
                proportional = issubclass(stepper.form, LinearNoiseSDE)  # additive for the logarithm only
                agree = kind == "additive" and not proportional and calculus != stepper.sde_types[0]
                if order is None or agree:
                    continue
                name = type(stepper).__name__
                second = kind == "additive" and name in SECOND_IF_ADDITIVE
                strong = STRONGER.get((name, calculus, kind), order)
                yield Claim(stepper, calculus, kind, strong, 2.0 if second else stepper.weak_order)


CLAIMS = tuple(claims())


def pytest_generate_tests(metafunc):
    if "claim" in metafunc.fixturenames:
        metafunc.parametrize("claim", CLAIMS, ids=[claim.name for claim in CLAIMS])


class Recorded(AbstractNoise):
    """A Brownian path on [0, 1] asked once for its finest steps; the coarser ones are joined from them."""

    def __init__(self, levy, shape, finest, seed=1):
        self.levy, self.shape = levy, shape
        path = BrownianPath(0.0, 1.0, shape, seed=seed, levy=levy, dtype=torch.float64)
        fine = path.increments(torch.linspace(0, 1, 2**finest + 1, dtype=torch.float64))
        h = 2.0**-finest
        record = Scaled(fine.W, h * fine.H, None if fine.K is None else h**2 * fine.K)
        self.grids = {2**finest: fine}
        for k in range(finest - 1, -1, -1):
            left, right = (each(lambda x, side=side: x[side::2], record) for side in (0, 1))
            record, h = join(left, h, right, h), 2 * h
            K = None if record.K is None else record.K / h**2
            self.grids[2**k] = BrownianIncrement(torch.full((2**k,), h), record.W, record.H / h, K)

    def increments(self, times, first=0):
        steps = torch.diff(times)
        increment = self.grids[round(1 / float(steps[0]))] if len(steps) else self.grids[1]
        rows = slice(first, first + len(steps))
        return BrownianIncrement(*(None if part is None else part[rows] for part in increment))

    @property
    def total(self):
        """W over [0, 1]."""
        return self.grids[1].W[0]


class Stretched(nsde.SDE):
    """``dy = sqrt(1 + y^2) (a(t) dt + b(t) o dW)``: ``sinh(a t + b W)`` where nothing moves."""

    def __init__(self, sde_type, noise_type="diagonal", moving=0.0):
        super().__init__()
        self.sde_type, self.noise_type, self.moving = sde_type, noise_type, moving

    def rates(self, t):
        return 0.5 + self.moving * torch.cos(5 * t), 0.8 + 0.5 * self.moving * torch.sin(4 * t)

    def drift(self, t, y):
        a, b = self.rates(t)
        return a * torch.sqrt(1 + y * y) + (0.5 * b**2 * y if self.sde_type == "ito" else 0.0)

    def diffusion(self, t, y):
        g = self.rates(t)[1] * torch.sqrt(1 + y * y)
        return g if self.noise_type == "diagonal" else g.unsqueeze(-1)

    def exact(self, W):
        return torch.sinh(0.5 + 0.8 * W)


class BlackScholes(GeometricSDE):
    """``dy = y (mu dt + sigma dW)``, of any noise type; two states."""

    mu = 0.7

    def __init__(self, sde_type, noise_type="diagonal"):
        super().__init__()
        self.sde_type, self.noise_type = sde_type, noise_type

    def relative_drift(self, t, y):
        return torch.full_like(y, self.mu)

    def relative_diffusion(self, t, y):
        if self.noise_type == "general":  # two correlated states: columns commute
            return torch.tensor([[0.5, 0.2], [-0.3, 0.6]], dtype=y.dtype).expand(len(y), 2, 2)
        sigma = torch.tensor([0.5, 0.9], dtype=y.dtype)[: y.shape[-1]].expand_as(y)
        return sigma if self.noise_type == "diagonal" else sigma.unsqueeze(-1)

    def exact(self, W):
        sigma = self.relative_diffusion(None, W if self.noise_type != "scalar" else W.expand(-1, 2))
        growth = sigma * W if self.noise_type == "diagonal" else (sigma @ W.unsqueeze(-1)).squeeze(-1)
        square = sigma**2 if self.noise_type == "diagonal" else (sigma**2).sum(-1)
        ito = 0.5 * square if self.sde_type == "ito" else 0.0
        return torch.exp(self.mu - ito + growth)


class Wavy(nsde.SDE):
    """``dy = (-sin 2y - y) dt + (1 + .7 sin 3t) dW``: additive noise that moves in time."""

    additive = True

    def __init__(self, sde_type="ito", noise_type="diagonal"):
        super().__init__()
        self.sde_type, self.noise_type = sde_type, noise_type

    def drift(self, t, y):
        return -torch.sin(2 * y) - y

    def diffusion(self, t, y):
        g = (1 + 0.7 * torch.sin(3 * t)) * torch.ones_like(y)
        if self.noise_type == "diagonal":
            return g
        return torch.stack((0.6 * g, 0.8 * torch.cos(2 * t) * torch.ones_like(y)), dim=-1)

    def decay(self, t):
        return torch.ones(1, dtype=torch.float64)


class Turning(nsde.SDE):
    """Noise that does not commute: ``dy1 = -y1 dt + dW1``, ``dy2 = -sin y2 dt + (1 + y1) dW2``.

    Both calculi agree. As "diagonal" it is the diagonal noise that mixes states.
    """

    def __init__(self, sde_type, noise_type="general"):
        super().__init__()
        self.sde_type, self.noise_type = sde_type, noise_type

    def drift(self, t, y):
        return torch.stack((-y[:, 0], -torch.sin(y[:, 1])), dim=-1)

    def diffusion(self, t, y):
        g = torch.stack((torch.ones_like(y[:, 0]), 1 + y[:, 0]), dim=-1)
        return g if self.noise_type == "diagonal" else torch.diag_embed(g)

    def decay(self, t):
        return torch.tensor([1.0, 0.0], dtype=torch.float64)


class Proportional(LinearNoiseSDE):
    """``dy = (-1.3 y + .5 + .4 sin 2y) dt + .6 (1 + .5 sin 3t) y dW``, with its linear part declared."""

    def __init__(self, sde_type="ito", declared=True):
        super().__init__()
        self.sde_type, self.declared = sde_type, declared

    def drift(self, t, y):
        return -1.3 * y + 0.5 + 0.4 * torch.sin(2 * y)

    def relative_diffusion(self, t, y):
        return 0.6 * (1 + 0.5 * torch.sin(3 * t)) * torch.ones_like(y)

    def decay(self, t):
        return torch.tensor([1.3], dtype=torch.float64) if self.declared else None


class Logistic(GeometricSDE):
    """``dy / y = (1 - y) dt + .6 (1 + .5 sin 3t) dW``."""

    def __init__(self, sde_type="ito"):
        super().__init__()
        self.sde_type = sde_type

    def relative_drift(self, t, y):
        return 1 - y

    def relative_diffusion(self, t, y):
        return 0.6 * (1 + 0.5 * torch.sin(3 * t)) * torch.ones_like(y)


class Growth(GeometricSDE):
    """``dy_i / y_i = (1 - y_i) dt + sigma_i dW_i``: sigma of the time, of the own state, or of the other's.

    The fields are those of ``process``, a calculus; under another ``sde_type`` the drift is rewritten.
    """

    def __init__(self, kind, sde_type, process=None):
        super().__init__()
        self.kind, self.sde_type, self.process = kind, sde_type, process or sde_type
        self.noise_type = "general" if kind == "general" else "diagonal"

    def amplitudes(self, t, y):
        """Sigma, and y times its slope in the own state."""
        if self.kind == "additive":
            return 0.6 * (1 + 0.5 * torch.sin(3 * t)) * torch.ones_like(y), torch.zeros_like(y)
        if self.kind == "commutative":
            return 0.4 + 0.3 * torch.sin(2 * y), 0.6 * y * torch.cos(2 * y)
        return 0.7 + 0.5 * torch.sin(3 * y.flip(-1)), torch.zeros_like(y)

    def relative_drift(self, t, y):
        sigma, slope = self.amplitudes(t, y)
        sign = (self.sde_type == "ito") - (self.process == "ito")
        return 1 - y + sign * 0.5 * sigma * (sigma + slope)

    def relative_diffusion(self, t, y):
        sigma = self.amplitudes(t, y)[0]
        return torch.diag_embed(sigma) if self.kind == "general" else sigma

    def decay(self, t):
        return torch.tensor([0.5], dtype=torch.float64)


def wavy_well():
    """Underdamped Langevin dynamics with ``grad U = x + sin 2x``."""
    return UnderdampedLangevin(lambda x: x + torch.sin(2 * x), friction=1.2, u=0.8)


def linear_well():
    """The same with ``grad U = x``."""
    return UnderdampedLangevin(lambda x: x, friction=1.2, u=0.8)


class Laboratory:
    """The problems, the noise that their solves share, and the errors of a stepper on them."""

    Stretched, BlackScholes, Wavy, Turning = Stretched, BlackScholes, Wavy, Turning
    Proportional, Logistic, Growth, well = Proportional, Logistic, Growth, staticmethod(wavy_well)
    CLAIMS, KINDS, SECOND_IF_ADDITIVE = CLAIMS, KINDS, SECOND_IF_ADDITIVE

    def __init__(self):
        self.noise = functools.cache(lambda levy, n, channels, finest: Recorded(levy, (n, channels), finest))
        self.references = {}

    def problem(self, claim, n, finest):
        """SDE, noise, start and end of the problem that a claim is held against."""
        stepper, calculus, kind = claim[:3]
        if stepper.form is UnderdampedLangevin:
            noise, start = self.noise("space-time-time", n, 1, finest), [0.5, 0.0]
            other = QUICSORT() if isinstance(stepper, ShOULD) else ShOULD()
            sde = best = self.well()
            return sde, noise, start, self.reference(f"well, {n}", best, other, noise, finest, start)
        if stepper.form is nsde.LinearSDE:  # the same dynamics with a linear force, as a matrix
            noise, start = self.noise("space-time-time", n, 1, finest), [0.5, 0.0]
            sde, best = nsde.LinearSDE([[0.0, 1.0], [-0.8, -1.2]], L=[[0.0], [1.92**0.5]]), linear_well()
            return sde, noise, start, self.reference(f"linear, {n}", best, QUICSORT(), noise, finest, start)
        channels = 2 if kind == "general" else 1
        noise = self.noise("space-time", n, channels, finest)
        if issubclass(stepper.form, LinearNoiseSDE):
            sde, best = (Growth(kind, c, process=calculus) for c in (calculus, "stratonovich"))
            start, other = [0.5, 0.8][:channels], SPaRK() if kind == "general" else SlowRK()
        elif kind == "general":
            sde, best, start, other = Turning(calculus), Turning("stratonovich"), [0.1, 0.2], SPaRK()
        elif kind == "additive":
            sde, best, start, other = Wavy(calculus), Wavy(), [0.5], ShARK()
        elif stepper.needs_decay:
            sde, best = Proportional(calculus), Proportional(calculus)
            start, other = [0.5], SRK() if calculus == "ito" else SlowRK()
        else:
            sde, start = Stretched(calculus, "scalar"), [0.0]
            return sde, self.carrying(noise, stepper), start, sde.exact(noise.total)
        name = f"{type(best).__name__} {kind} {calculus}, {n}"
        return (
            sde,
            self.carrying(noise, stepper),
            start,
            self.reference(name, best, other, noise, finest, start),
        )

    @staticmethod
    def carrying(noise, stepper):
        """The same path, with areas where the stepper needs them."""
        if stepper.levy != "area":
            return noise
        return BrownianPath(0.0, 1.0, noise.shape, seed=1, levy="area", dtype=torch.float64)

    @torch.no_grad()
    def end(self, sde, stepper, noise, k, start):
        """States at time 1, in steps of 2^-k."""
        y0 = torch.tensor(start, dtype=torch.float64).expand(noise.shape[0], -1)
        solution = nsde.solve(sde, y0, [0.0, 1.0], dt=2.0**-k, noise=noise, stepper=stepper, compile="off")
        return solution.ys[:, -1]

    def reference(self, name, sde, stepper, noise, k, start):
        """The same, computed once in the session."""
        if name not in self.references:
            self.references[name] = self.end(sde, stepper, noise, k, start)
        return self.references[name]

    def strong_errors(self, sde, stepper, noise, exponents, start, exact):
        """Mean distance of the states at time 1 from the exact ones, for each step 2^-k."""
        ends = (self.end(sde, stepper, noise, k, start) for k in exponents)
        return [float((end - exact).abs().mean()) for end in ends]

    def weak_errors(self, sde, stepper, noise, exponents, start, exact, function):
        """Distance of the mean of a function, on the same paths so that little noise is left."""
        ends = (self.end(sde, stepper, noise, k, start) for k in exponents)
        return [float((function(end) - function(exact)).mean().abs()) for end in ends]

    @staticmethod
    def slope(errors, exponents):
        """Fitted order."""
        return -np.polyfit(list(exponents), np.log2(errors), 1)[0]


@pytest.fixture(scope="session")
def lab():
    return Laboratory()
