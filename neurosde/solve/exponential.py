"""Exponential steps: the declared linear part of the drift exactly, with the exact law of its noise."""

import torch

from neurosde.errors import SolveError
from neurosde.sde import SDE, diffuse
from neurosde.solve.phi import phi1, phi2
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import NoiseType, Tensor


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
    needs_decay = True
    levy = "space-time"
    strong_order = (0.5, 0.5, 1.0)
    evaluations = (1, 1)

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Rates and the weights of y, of the rest of the drift, of ``g W`` and of ``g H``."""
        a, x = _rates(sde, t, h)
        return _narrow(h, (a, torch.exp(-x), h * phi1(x), phi1(x), _swing(x)))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ExponentialEuler`."""
        rates, keep, push, along, across = step.weights
        f, g = sde.drift_and_diffusion(step.t, y)
        return Stepped(keep * y + push * (f + rates * y) + _filtered(sde.noise_type, g, step, along, across))


class ExponentialHeun(AbstractStepper):
    """Exact in the linear part ``-a y`` that the SDE declares by ``decay``, Heun in the rest; Stratonovich.

    ``z = e^{-ah} y + phi N + g I`` as :class:`ExponentialEuler` steps with ``N = f + a y``, and ``y+ = z + h
    phi2 (N(z) - N) + 1/2 (g(z) - g) W``, ``phi2 = (e^{-ah} - 1 + ah) / (ah)^2`` (Cox & Matthews 2002, ETD2RK,
    with Heun's correction in the noise). Second order where there is no noise, strong order 1 for commutative
    noise; exact in law whenever the rest and g are constant. The correction is the error estimate.

    Examples
    --------
    >>> from neurosde.solve import ExponentialHeun
    >>> ExponentialHeun().needs_decay
    True
    """

    sde_types = ("stratonovich",)
    needs_decay = True
    levy = "space-time"
    strong_order = (0.5, 1.0, 1.0)
    evaluations = (2, 2)
    embedded = True

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Those of :class:`ExponentialEuler`, and the weight of the change of the rest."""
        a, x = _rates(sde, t, h)
        return _narrow(h, (a, torch.exp(-x), h * phi1(x), phi1(x), _swing(x), h * phi2(x)))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ExponentialHeun`."""
        rates, keep, push, along, across, turn = step.weights
        f, g = sde.drift_and_diffusion(step.t, y)
        rest = f + rates * y
        ahead = keep * y + push * rest + _filtered(sde.noise_type, g, step, along, across)
        f_ahead, g_ahead = sde.drift_and_diffusion(step.t + step.h, ahead)
        change = f_ahead + rates * ahead - rest
        error = turn * change + 0.5 * diffuse(sde.noise_type, g_ahead - g, step.noise.W)
        return Stepped(ahead + error, (), error)


class ExponentialShARK(AbstractStepper):
    """:class:`ShARK` with the linear part ``-a y`` that the SDE declares by ``decay`` integrated exactly.

    With ``N = f + a y`` and ``c = 5/6``: ``z1 = y + phi1(ah) g H``, ``z2 = e^{-cah} y + phi1(cah) (c h N(z1)
    + g (c W + H))``, ``y+ = e^{-ah} y + h (phi1 - phi2/c) N(z1) + h phi2/c N(z2) + g I + (g(t + h) - g)
    (phi2 W - phi1 H)``, ``phi1, phi2`` at ah, I as in :class:`ExponentialEuler`. The weights are those of
    Cox & Matthews (2002) on the stages of Foster, dos Reis & Strange 2023 (arXiv 2210.17543, eq. 6.1), and
    tend to ShARK's as ``ah -> 0``. Strong order 3/2 and weak order 2 for additive noise in either calculus;
    exact in law whenever the rest and g are constant. The error estimate is that of the drift.

    Examples
    --------
    >>> from neurosde.solve import ExponentialShARK
    >>> ExponentialShARK().strong_order
    (None, None, 1.5)
    """

    sde_types = ("ito", "stratonovich")
    needs_additive = True
    needs_decay = True
    levy = "space-time"
    strong_order = (None, None, 1.5)
    weak_order = 2.0
    evaluations = (2, 1)
    embedded = True

    def start(self, sde: SDE, t: Tensor, y: Tensor) -> Carry:
        """Diffusion at the start."""
        return (sde.diffusion(t, y),)

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Rates; weights of y, of noise and drift at the second stage; of y, drift and noise at the end."""
        a, x = _rates(sde, t, h)
        stage = (torch.exp(-5 / 6 * x), phi1(5 / 6 * x), 5 / 6 * h * phi1(5 / 6 * x))
        return _narrow(
            h, (a, *stage, torch.exp(-x), h * phi1(x), 1.2 * h * phi2(x), phi1(x), _swing(x), phi2(x))
        )

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ExponentialShARK`."""
        rates, keep_stage, along_stage, push_stage, keep, push, turn, along, across, ramp = step.weights
        (g,) = carry
        noise, W, H = sde.noise_type, step.noise.W, step.noise.H
        assert H is not None  # the door has checked that the noise carries it
        shift = diffuse(noise, g, H)
        z = y + along * shift
        rest = sde.drift(step.t, z) + rates * z
        z = keep_stage * y + push_stage * rest + along_stage * (5 / 6 * diffuse(noise, g, W) + shift)
        error = turn * (sde.drift(step.t + 5 / 6 * step.h, z) + rates * z - rest)
        g_ahead = sde.diffusion(step.t + step.h, y)
        moved = _filtered(noise, g, step, along, across) + _filtered(noise, g_ahead - g, step, ramp, along)
        return Stepped(keep * y + push * rest + error + moved, (g_ahead,), error)


def _rates(sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Rates of the linear part and rates times step, float64."""
    rates = sde.decay(t)
    if rates is None:
        raise SolveError(
            "sde: decay(t) gave None in the middle of a solve; declare the linear part at all times."
        )
    x = rates.to(torch.float64) * h.to(torch.float64)
    return rates.to(torch.float64).expand_as(x), x


def _narrow(h: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(weight.to(h.dtype) for weight in weights)


def _filtered(noise: NoiseType, g: Tensor, step: Step, along: Tensor, across: Tensor) -> Tensor:
    """``g (along W - across H)``, the weights one a state."""
    W, H = step.noise.W, step.noise.H
    assert H is not None  # the door has checked that the noise carries it
    if noise == "diagonal":
        return g * (along * W - across * H)
    return along * diffuse(noise, g, W) - across * diffuse(noise, g, H)


def _swing(x: Tensor) -> Tensor:
    """``sqrt(12 (v - p^2))``, ``v = (1 - e^{-2x}) / 2x``, ``p = (1 - e^{-x}) / x``; a series near 0."""
    small = x.abs() < 0.03
    safe = torch.where(small, 1.0, x)
    exact = torch.sqrt((12 * (phi1(2 * safe) - phi1(safe) ** 2)).clamp(min=0.0))
    series = 1 - x + 17 / 30 * x**2 - 7 / 30 * x**3 + 43 / 560 * x**4
    return torch.where(small, x * torch.sqrt(torch.where(small, series, 1.0)), exact)
