"""Euler-Maruyama."""

from neurosde.sde import SDE, move
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor


class EulerMaruyama(AbstractStepper):
    """``y+ = y + h f + g W`` (Maruyama 1955), for Ito SDEs of any noise type.

    Examples
    --------
    >>> from neurosde.solve import EulerMaruyama
    >>> EulerMaruyama().evaluations
    (1, 1)
    """

    sde_types = ("ito",)
    strong_order = (0.5, 0.5, 1.0)
    evaluations = (1, 1)

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`EulerMaruyama`."""
        f, g = sde.drift_and_diffusion(step.t, y)
        return Stepped(move(sde.noise_type, y, step.h, f, g, step.noise.W))
