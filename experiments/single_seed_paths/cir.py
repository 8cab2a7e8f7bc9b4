"""The Cox-Ingersoll-Ross process, and two steppers for it that a user of the package could have brought."""

import abc
import math
from typing import NamedTuple

import torch

import neurosde as nsde
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped


class CIR(nsde.SDE):
    """``dy = a (b - y) dt + sigma sqrt(y) dW``; a state below zero counts as zero (full truncation)."""

    sde_type, noise_type = "ito", "diagonal"

    def __init__(self, a: float, b: float, sigma: float):
        super().__init__()
        self.a, self.b, self.sigma = a, b, sigma

    @property
    def shifted_mean(self) -> float:
        """What Stratonovich's drift tends to, ``b - sigma^2 / 4a``: below zero where sigma is large."""
        return self.b - self.sigma**2 / (4 * self.a)

    def drift(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """``a (b - y)``."""
        return self.a * (self.b - y.clamp(min=0))

    def diffusion(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """``sigma sqrt(y)``."""
        return self.sigma * y.clamp(min=0).sqrt()


class Rule(NamedTuple):
    """Longest step that a state allows, ``(ctol y)^{2/3}`` between ``shortest`` and ``longest``.

    The state is the smaller of the two ends of the step, so that a step which comes close to zero is taken
    again in shorter ones.
    """

    ctol: float
    shortest: float
    longest: float

    def error(self, h: torch.Tensor, y: torch.Tensor, ahead: torch.Tensor, order: float) -> torch.Tensor:
        """Error that makes a controller with ``atol=1`` take the steps that are allowed."""
        lowest = torch.minimum(y, ahead).clamp(min=0)
        allowed = (self.ctol * lowest).pow(2 / 3).clamp(self.shortest, self.longest)
        return (h / allowed) ** (order + 0.5)


class AbstractCIRStepper(AbstractStepper):
    """A stepper of the CIR process whose error estimate is a rule on the state."""

    sde_types = ("ito",)
    noise_types = ("diagonal",)
    form = CIR
    evaluations = (1, 1)
    embedded = True
    strong_order = (None, 1.0, 1.0)

    def __init__(self, rule: Rule | None = None):
        self.rule = rule or Rule(1.0, 2.0**-15, 1.0)

    def step(self, sde: nsde.SDE, step: Step, y: torch.Tensor, carry: Carry) -> Stepped:
        """One step, not below zero, with the error of the rule."""
        assert isinstance(sde, CIR)
        ahead, carry = self.ahead(sde, step, y, carry)
        return Stepped(ahead, carry, self.rule.error(step.h, y, ahead, self.strong_order[2]))

    @abc.abstractmethod
    def ahead(self, sde: CIR, step: Step, y: torch.Tensor, carry: Carry) -> tuple[torch.Tensor, Carry]:
        """State at the end of the step, and what is carried on."""


class HighOrderSplitting(AbstractCIRStepper):
    """Exact flows of the Stratonovich drift and of the noise in turn, along a path with the step's W and H.

    The drift's flow ``y -> m + (y - m) e^{-a r h}``, ``m = b - sigma^2 / 4a``, over the fractions ``r = (3 -
    sqrt 3)/6``, ``sqrt(3)/3``, ``(3 - sqrt 3)/6``, and between them the noise's ``sqrt(y) -> sqrt(y) +
    sigma/2 w`` with ``w = W/2 + sqrt(3) H`` and ``w = W/2 - sqrt(3) H``. Foster, dos Reis & Strange 2023
    (arXiv 2210.17543), equation 5.3. Where m < 0 the drift's flow reaches zero in finite time: it stays there
    until the noise takes it away. A root below zero is squared as it is, which reflects it.
    """

    levy = "space-time"

    def ahead(self, sde: CIR, step: Step, y: torch.Tensor, carry: Carry) -> tuple[torch.Tensor, Carry]:
        """State at the end of the step; nothing is carried."""
        W, H = step.noise.W, step.noise.H
        assert H is not None
        outer, inner = (3 - math.sqrt(3)) / 6, math.sqrt(3) / 3

        def drift(y: torch.Tensor, fraction: float) -> torch.Tensor:
            kept = torch.exp(-sde.a * fraction * step.h)
            return (sde.shifted_mean + kept * (y - sde.shifted_mean)).clamp(min=0)

        def noise(y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return (y.sqrt() + 0.5 * sde.sigma * w).square()

        y = noise(drift(y, outer), 0.5 * W + math.sqrt(3) * H)
        y = noise(drift(y, inner), 0.5 * W - math.sqrt(3) * H)
        return drift(y, outer), ()


class DriftImplicitEuler(AbstractCIRStepper):
    """Implicit Euler for ``z = sqrt(y)``: ``dz = (c/z - a z/2) dt + sigma/2 dW``, ``c = (4ab - sigma^2)/8``.

    ``z+ = (s + sqrt(s^2 + 2 c h (2 + a h))) / (2 + a h)``, ``s = z + sigma/2 W``. Alfonsi 2005; Dereich,
    Neuenkirch & Szpruch 2012, for c > 0. Where c < 0 the quadratic may have no real root: its
    real part is taken. A root below zero is carried on with its sign.
    """

    def start(self, sde: nsde.SDE, t: torch.Tensor, y: torch.Tensor) -> Carry:
        """The root of the state."""
        return (y.clamp(min=0).sqrt(),)

    def ahead(self, sde: CIR, step: Step, y: torch.Tensor, carry: Carry) -> tuple[torch.Tensor, Carry]:
        """State at the end of the step, and its root."""
        pull = (4 * sde.a * sde.b - sde.sigma**2) / 8
        s, width = carry[0] + 0.5 * sde.sigma * step.noise.W, 2 + sde.a * step.h
        root = (s + (s.square() + 2 * pull * step.h * width).clamp(min=0).sqrt()) / width
        return root.square(), (root,)
