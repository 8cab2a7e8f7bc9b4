"""Trapezium rules: Euler-Heun, Heun's method and its algebraically reversible form."""

from neurosde.sde import SDE, diffuse, move
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor


class EulerHeun(AbstractStepper):
    """``z = y + g W``, ``y+ = y + h f + 1/2 (g + g(t + h, z)) W``, for Stratonovich SDEs.

    Euler in the drift, Heun in the noise (Kloeden & Platen 1992, section 4.9): the cheapest method of strong
    order 1 for commutative noise, with one evaluation of the drift.

    Examples
    --------
    >>> from neurosde.solve import EulerHeun
    >>> EulerHeun().evaluations
    (1, 2)
    """

    sde_types = ("stratonovich",)
    strong_order = (0.5, 1.0, 1.0)
    evaluations = (1, 2)

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`EulerHeun`."""
        W = step.noise.W
        f, g = sde.drift_and_diffusion(step.t, y)
        g_ahead = sde.diffusion(step.t + step.h, y + diffuse(sde.noise_type, g, W))
        return Stepped(y + step.h * f + 0.5 * diffuse(sde.noise_type, g + g_ahead, W))


class Heun(AbstractStepper):
    """``z = y + h f + g W``, ``y+ = y + h/2 (f + f(z)) + 1/2 (g + g(z)) W``, for Stratonovich SDEs.

    The trapezium rule on the path (Rumelin 1982); strong order 1 for commutative noise.

    Examples
    --------
    >>> from neurosde.solve import Heun
    >>> Heun().strong_order
    (0.5, 1.0, 1.0)
    """

    sde_types = ("stratonovich",)
    strong_order = (0.5, 1.0, 1.0)
    evaluations = (2, 2)
    embedded = True

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`Heun`."""
        W, h = step.noise.W, step.h
        f, g = sde.drift_and_diffusion(step.t, y)
        ahead = move(sde.noise_type, y, h, f, g, W)
        f_ahead, g_ahead = sde.drift_and_diffusion(step.t + h, ahead)
        error = 0.5 * (h * (f_ahead - f) + diffuse(sde.noise_type, g_ahead - g, W))
        return Stepped(ahead + error, (), error)


class ReversibleHeun(AbstractStepper):
    """Heun's method with a second state, so that every step can be undone exactly; for Stratonovich SDEs.

    ``z+ = 2y - z + h f + g W``, ``y+ = y + h/2 (f + f+) + 1/2 (g + g+) W`` with ``f, g`` at z and ``f+, g+``
    at z+ (Kidger, Foster, Li & Lyons 2021, algorithm 1): one new evaluation of each field a step. Its second
    state grows without bound under strongly dissipative drifts, whatever the step.

    Examples
    --------
    >>> from neurosde.solve import ReversibleHeun
    >>> ReversibleHeun().evaluations
    (1, 1)
    """

    sde_types = ("stratonovich",)
    strong_order = (0.5, 1.0, 1.0)
    evaluations = (1, 1)
    embedded = True

    def start(self, sde: SDE, t: Tensor, y: Tensor) -> Carry:
        """Second state and the fields there."""
        return (y, *sde.drift_and_diffusion(t, y))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ReversibleHeun`."""
        z, f, g = carry
        W, h = step.noise.W, step.h
        z = 2 * y - z + h * f + diffuse(sde.noise_type, g, W)
        f_ahead, g_ahead = sde.drift_and_diffusion(step.t + h, z)
        error = 0.5 * (h * (f_ahead - f) + diffuse(sde.noise_type, g_ahead - g, W))
        y = y + 0.5 * (h * (f + f_ahead) + diffuse(sde.noise_type, g + g_ahead, W))
        return Stepped(y, (z, f_ahead, g_ahead), error)
