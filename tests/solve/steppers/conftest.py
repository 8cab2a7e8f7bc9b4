"""Problems with known paths, and noise that every step size shares."""

import functools

import numpy as np
import pytest
import torch

import neurosde as nsde
from neurosde.forms import GeometricSDE, LinearNoiseSDE, UnderdampedLangevin
from neurosde.noise import AbstractNoise, BrownianIncrement, BrownianPath
from neurosde.noise.records import Scaled, each, join


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


def wavy_well():
    """Underdamped Langevin dynamics with ``grad U = x + sin 2x``."""
    return UnderdampedLangevin(lambda x: x + torch.sin(2 * x), friction=1.2, u=0.8)


class Laboratory:
    """The problems, the noise that their solves share, and the errors of a stepper on them."""

    Stretched, BlackScholes, Wavy, Turning = Stretched, BlackScholes, Wavy, Turning
    Proportional, Logistic, well = Proportional, Logistic, staticmethod(wavy_well)

    def __init__(self):
        self.noise = functools.cache(lambda levy, n, channels, finest: Recorded(levy, (n, channels), finest))
        self.references = {}

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
