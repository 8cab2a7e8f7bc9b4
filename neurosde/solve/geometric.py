"""Steppers for noise in proportion to the state, with the exact stochastic exponential: signs are kept."""

import torch

from neurosde.forms import GeometricSDE, LinearNoiseSDE
from neurosde.sde import SDE, diffuse
from neurosde.solve.linear_part import linear_part, narrow, weigh
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor


def log_noise(sde: LinearNoiseSDE, step: Step, y: Tensor, sigma: Tensor) -> Tensor:
    """Growth of log y under ``dy = y sigma dW``, with ``sigma`` the amplitude at the start of the step.

    Ito: ``sigma W - h/2 |sigma|^2``. Stratonovich: ``1/2 (sigma + sigma(t + h, y e^{sigma W})) W``, for the
    amplitude at the start alone would be Ito's integral of it, and another limit wherever it depends on y.
    """
    noise, W = sde.noise_type, step.noise.W
    growth = diffuse(noise, sigma, W)
    if sde.sde_type == "stratonovich":
        ahead = sde.relative_diffusion(step.t + step.h, y * torch.exp(growth))
        return 0.5 * (growth + diffuse(noise, ahead, W))
    square = sigma.square() if noise == "diagonal" else sigma.square().sum(-1)
    return growth - 0.5 * step.h * square


class LogEuler(AbstractStepper):
    """``y+ = y exp((gamma - |sigma|^2 / 2) h + sigma W)`` for ``dy = y (gamma dt + sigma dW)``.

    Euler's step of ``log |y|`` (Oh, Lim & Kim 2024, arXiv 2402.14989, for the Neural GSDE). In Stratonovich's
    calculus the Euler-Heun step of it, ``y exp(gamma h + 1/2 (sigma + sigma(t + h, y e^{sigma W})) W)``, with
    one more evaluation of sigma. Exact where gamma and sigma are constant. The sign of y is kept. Strong
    order 1 where sigma does not depend on y, for then the noise of log y is additive; where it does 1/2, and
    in Stratonovich's calculus 1 for commutative noise.

    Examples
    --------
    >>> from neurosde.solve import LogEuler
    >>> LogEuler().form.__name__
    'GeometricSDE'
    """

    sde_types = ("ito", "stratonovich")
    form = GeometricSDE
    strong_order = (0.5, 0.5, 1.0)
    evaluations = (1, 1)

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`LogEuler`."""
        assert isinstance(sde, GeometricSDE)  # the door has checked the form
        gamma, sigma = sde.relative_drift(step.t, y), sde.relative_diffusion(step.t, y)
        return Stepped(y * torch.exp(step.h * gamma + log_noise(sde, step, y, sigma)))


class LieSplitting(AbstractStepper):
    """``y+ = (e^{-x} y + h phi1 (f + D y)) exp(sigma W - h/2 |sigma|^2)`` for ``dy = f dt + y sigma dW``.

    The drift first, then the noise, each by its own exact flow with its coefficients frozen (Lie's splitting;
    Oh, Lim & Kim 2024, arXiv 2402.14989, for the Neural LNSDE): a linear part ``-D y`` declared by ``decay``
    is integrated exactly, ``x = D h``, ``phi1 = (1 - e^{-x}) / x``, and nothing declared is D = 0. In
    Stratonovich's calculus the noise is that of :class:`LogEuler` there. Exact where the rest of the drift is
    zero and sigma constant; the noise keeps the sign of what it meets. Strong order 1 where sigma does not
    depend on y; where it does 1/2, and in Stratonovich's calculus 1 for commutative noise.

    Examples
    --------
    >>> from neurosde.solve import LieSplitting
    >>> LieSplitting().form.__name__
    'LinearNoiseSDE'
    """

    sde_types = ("ito", "stratonovich")
    form = LinearNoiseSDE
    strong_order = (0.5, 0.5, 1.0)
    evaluations = (1, 1)

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Rates, and the weights of y and of the rest of the drift; none where no linear part is declared."""
        if sde.decay(t) is None:
            return ()
        part = linear_part(sde, t, h)
        return narrow(h, (part.D, part.keep(), part.h * part.mean()))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`LieSplitting`."""
        assert isinstance(sde, LinearNoiseSDE)  # the door has checked the form
        f, sigma = sde.drift(step.t, y), sde.relative_diffusion(step.t, y)
        if step.weights:
            D, keep, push = step.weights
            drifted = weigh(keep, y) + weigh(push, f + weigh(D, y))
        else:
            drifted = y + step.h * f
        return Stepped(drifted * torch.exp(log_noise(sde, step, y, sigma)))
