"""Rossler's stochastic Runge-Kutta method of strong order 3/2 for Ito SDEs."""

import torch

from neurosde.sde import SDE, diffuse
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor


class SRK(AbstractStepper):
    """Rossler's method for diagonal, scalar and additive noise: strong order 3/2 for Ito SDEs.

    Rossler 2010, SIAM J. Numer. Anal. 48(3), scheme SRI2 (torchsde's ``srk``): ``y+ = y + h sum_s alpha_s f_s
    + sum_s g_s (beta1_s W + beta2_s I11 / sqrt(h) + beta3_s I10 / h + beta4_s I111 / h)`` with ``I11 = (W^2 -
    h)/2``, ``I10 = h (W/2 + H)``, ``I111 = (W^3 - 3hW)/6``. Three stages of the drift suffice, for the fourth
    has no weight, beside four of the diffusion. The error estimate is the difference from the method of
    strong order 1 within: beta1 and beta2 alone, and the drift at the start (embedding in the manner of
    Rackauckas & Nie 2017). Diagonal noise counts as commutative only if each entry depends on its own state
    alone; entries that mix states are general noise in disguise.

    Examples
    --------
    >>> from neurosde.solve import SRK
    >>> SRK().evaluations
    (3, 4)
    """

    sde_types = ("ito",)
    noise_types = ("diagonal", "scalar", "additive")
    levy = "space-time"
    strong_order = (None, 1.5, 1.5)
    weak_order = 1.5
    evaluations = (3, 4)
    embedded = True

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`SRK`."""
        t, h, W, H = step.t, step.h, step.noise.W, step.noise.H
        assert H is not None  # the door has checked that the noise carries it
        safe = torch.where(h > 0, h, 1.0)  # a padded step has h = 0 and no noise
        I11 = 0.5 * (W.square() - h) / safe.sqrt()
        I10 = 0.5 * W + H
        I111 = (W.square() / safe - 3.0) * W / 6.0

        def times(g: Tensor, amount: Tensor) -> Tensor:
            return diffuse(sde.noise_type, g, amount)

        spread = h.sqrt().expand_as(W)  # one standard deviation of every channel
        f1, g1 = sde.drift_and_diffusion(t, y)
        drift, along = h * f1, times(g1, spread)
        g2 = sde.diffusion(t + 0.25 * h, y + 0.25 * drift - 0.5 * along)
        g3 = sde.diffusion(t + h, y + drift + along)
        f2 = sde.drift(t + h, y + drift)
        f3 = sde.drift(t + 0.5 * h, y + 0.25 * (drift + h * f2) + times(g1 + 0.5 * g2, I10))
        g4 = sde.diffusion(t + 0.25 * h, y + 0.25 * h * f3 + times(2.0 * g1 - g2 + 0.5 * g3, spread))

        first = times(g1, I11 - W) + times(g2, 4 / 3 * (W - I11)) + times(g3, (2.0 * W + I11) / 3)
        second = (
            times(g1, 2.0 * (I10 - I111))
            + times(g2, (5.0 * I111 - 4.0 * I10) / 3)
            - times(g3, 2 / 3 * (I10 + I111))
            + times(g4, I111)
        )
        rest = h * (f2 + 4.0 * f3 - 5.0 * f1) / 6
        return Stepped(y + drift + first + rest + second, (), rest + second)
