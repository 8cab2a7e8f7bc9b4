"""The midpoint rule, and the log-ODE method: the midpoint rule with the Levy area of the noise."""

import torch

from neurosde.calculus import derivative
from neurosde.sde import SDE, diffuse, is_additive
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor


class Midpoint(AbstractStepper):
    """``z = y + 1/2 (h f + g W)``, ``y+ = y + h f(t + h/2, z) + g(t + h/2, z) W``, for Stratonovich SDEs.

    The midpoint rule on the path (Kloeden & Platen 1992, section 15.4, with one predictor). Its error
    estimate is the difference from Euler's step.

    Examples
    --------
    >>> from neurosde.solve import Midpoint
    >>> Midpoint().strong_order
    (0.5, 1.0, 1.0)
    """

    sde_types = ("stratonovich",)
    strong_order = (0.5, 1.0, 1.0)
    evaluations = (2, 2)
    embedded = True

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`Midpoint`."""
        noise, W, h = sde.noise_type, step.noise.W, step.h
        f, g = sde.drift_and_diffusion(step.t, y)
        euler = h * f + diffuse(noise, g, W)
        f_mid, g_mid = sde.drift_and_diffusion(step.t + 0.5 * h, y + 0.5 * euler)
        change = h * f_mid + diffuse(noise, g_mid, W)
        return Stepped(y + change, (), change - euler)


class LogODE(AbstractStepper):
    """The midpoint rule plus ``sum_jk (dg_k/dy) g_j A_jk`` at the midpoint, for Stratonovich SDEs.

    ``A_jk = 1/2 int (W_j dW_k - W_k dW_j)`` is the Levy area of the step, in the approximation of Foster (see
    :func:`neurosde.noise.records.levy_area`), whose mean and variance given the increments are exact. Castell
    & Gaines 1995 (the log-ODE method); Foster 2020. Worth its price for general noise only, where the area
    gives the step the right law up to second moments; the strong order stays 1/2, for no function of
    increments and space-time integrals can do better (Clark & Cameron 1980). Where the noise commutes the
    area has no effect and :class:`Midpoint` is the same at less cost.

    Examples
    --------
    >>> from neurosde.solve import LogODE
    >>> LogODE().levy
    'area'
    """

    sde_types = ("stratonovich",)
    levy = "area"
    strong_order = (0.5, 1.0, 1.0)
    evaluations = (2, 2)

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`LogODE`."""
        noise, W, A, h = sde.noise_type, step.noise.W, step.noise.A, step.h
        assert A is not None  # the door has checked that the noise carries it
        middle = step.t + 0.5 * h
        f, g = sde.drift_and_diffusion(step.t, y)
        z = y + 0.5 * (h * f + diffuse(noise, g, W))
        f = sde.drift(middle, z)
        if is_additive(sde) or noise == "scalar":
            return Stepped(y + h * f + diffuse(noise, sde.diffusion(middle, z), W))

        def columns(state: Tensor) -> Tensor:
            g = sde.diffusion(middle, state)
            return torch.diag_embed(g) if noise == "diagonal" else g

        g, _, slope = derivative(columns, z)
        directions = (g @ A).unbind(-1)  # for each channel k the sum over j of g_j A_jk
        brackets = [slope(direction)[..., k] for k, direction in enumerate(directions)]
        return Stepped(y + h * f + (g @ W.unsqueeze(-1)).squeeze(-1) + sum(brackets[1:], brackets[0]))
