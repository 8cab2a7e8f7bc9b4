"""Exponential Euler: the linear part of the drift exactly, with the exact law of its noise."""

import torch

from neurosde.errors import SolveError
from neurosde.sde import SDE, diffuse
from neurosde.solve.phi import phi1
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor


class ExponentialEuler(AbstractStepper):
    """Exact in the linear part ``-a y`` that the SDE declares by ``decay``, Euler in the rest.

    ``y+ = e^{-ah} y + phi (f + a y) + g I`` with ``phi = (1 - e^{-ah}) / a`` and ``I = int e^{-a(h-u)} dW_u``
    (Oh, Lim & Kim 2024 leave this open; the classical exponential Euler scheme). The integral is taken from
    the increment and the space-time integral, ``I = (phi/h) W - b H`` with b such that the joint law of (W,
    I) is exact: ``Var I = (1 - e^{-2ah}) / (2a)``, ``Cov(W, I) = phi``. As ``ah -> 0``, b is the regression
    coefficient ``ah``, so solves at different steps follow the same path. Exact in law whenever the rest and
    g are constant.

    Raises
    ------
    SolveError
        If the SDE declares no linear part.

    Examples
    --------
    >>> from neurosde.solve import ExponentialEuler
    >>> ExponentialEuler().levy
    'space-time'
    """

    sde_types = ("ito",)
    levy = "space-time"
    strong_order = (0.5, 0.5, 1.0)
    evaluations = (1, 1)

    def why_not(self, sde: SDE) -> str | None:
        """Say why this stepper does not fit an SDE; None if it does."""
        if sde.decay(torch.zeros(())) is None:
            return "ExponentialEuler needs a linear part, declared by the method decay(t)"
        return super().why_not(sde)

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Rates and the weights of y, of the rest of the drift, of ``g W`` and of ``g H``."""
        rates = sde.decay(t)
        if rates is None:
            raise SolveError(
                "sde: decay(t) gave None in the middle of a solve; declare the linear part at all times."
            )
        a, h64 = rates.to(torch.float64), h.to(torch.float64)
        x = a * h64
        mean, swing = phi1(x), _swing(x)
        weights = (a.expand_as(x), torch.exp(-x), h64 * mean, mean, swing)
        return tuple(weight.to(h.dtype) for weight in weights)

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ExponentialEuler`."""
        rates, keep, push, along, across = step.weights
        f, g = sde.drift_and_diffusion(step.t, y)
        noise, W, H = sde.noise_type, step.noise.W, step.noise.H
        assert H is not None  # the door has checked that the noise carries it
        if noise == "diagonal":
            random = g * (along * W - across * H)
        else:
            random = along * diffuse(noise, g, W) - across * diffuse(noise, g, H)
        return Stepped(keep * y + push * (f + rates * y) + random)


def _swing(x: Tensor) -> Tensor:
    """``sqrt(12 (v - p^2))``, ``v = (1 - e^{-2x}) / 2x``, ``p = (1 - e^{-x}) / x``; a series near 0."""
    small = x.abs() < 0.03
    safe = torch.where(small, 1.0, x)
    exact = torch.sqrt((12 * (phi1(2 * safe) - phi1(safe) ** 2)).clamp(min=0.0))
    series = 1 - x + 17 / 30 * x**2 - 7 / 30 * x**3 + 43 / 560 * x**4
    return torch.where(small, x * torch.sqrt(torch.where(small, series, 1.0)), exact)
