"""Milstein's method, with the derivative of the diffusion or without."""

import torch

from neurosde.calculus import derivative
from neurosde.sde import SDE, diffuse, is_additive
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor


class Milstein(AbstractStepper):
    """``y+ = y + h f + g W + 1/2 (dg/dy g) (W^2 - h)``, in Stratonovich's calculus without the last h.

    Milstein 1974; Kloeden & Platen 1992, sections 10.3 and 11.1. For diagonal and scalar noise; where the
    noise does not depend on y nothing is left of the correction and the step is Euler's. Diagonal noise
    counts as commutative only if each entry depends on its own state alone: entries that mix states are
    general noise in disguise, and the order falls to 1/2.

    Parameters
    ----------
    derivative_free
        Take a difference for the derivative, at one more evaluation of g. Ito: ``(g(y + h f + g sqrt(h)) - g)
        (W^2 - h) / sqrt(h)``. Stratonovich: ``(g(y + g W) - g) W``, for there the error of a difference over
        ``sqrt(h)`` does not average out and would leave order 1/2.

    Examples
    --------
    >>> from neurosde.solve import Milstein
    >>> Milstein().strong_order
    (None, 1.0, 1.0)
    """

    sde_types = ("ito", "stratonovich")
    noise_types = ("diagonal", "scalar", "additive")
    strong_order = (None, 1.0, 1.0)
    evaluations = (1, 1)

    def __init__(self, *, derivative_free: bool = False):
        self.derivative_free = derivative_free

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`Milstein`."""
        t, h, W, noise = step.t, step.h, step.noise.W, sde.noise_type
        ito = sde.sde_type == "ito"
        if is_additive(sde):
            f, g = sde.drift_and_diffusion(t, y)
            return Stepped(y + h * f + diffuse(noise, g, W))
        along, V = (torch.ones_like(W), W.square() - h) if ito else (W, W)
        if self.derivative_free:
            f, g = sde.drift_and_diffusion(t, y)
            safe = torch.where(h > 0, h, 1.0)  # padded steps have h = 0
            reach = safe.sqrt() if ito else torch.ones_like(h)
            ahead = y + reach * diffuse(noise, g, along) + (h * f if ito else 0.0)
            correction = diffuse(noise, sde.diffusion(t, ahead) - g, V / reach)
        else:
            f = sde.drift(t, y)
            g, _, slope = derivative(lambda state: sde.diffusion(t, state), y)
            correction = diffuse(noise, slope(diffuse(noise, g, along)), V)
        return Stepped(y + h * f + diffuse(noise, g, W) + 0.5 * correction)
