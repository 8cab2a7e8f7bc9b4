"""The exact step of a linear SDE."""

import math

import torch

from neurosde.linear import LinearSDE
from neurosde.linear.flow import distinct, filtered_noise, matched
from neurosde.sde import SDE
from neurosde.solve.linear_part import narrow, weigh
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor


class LinearTransition(AbstractStepper):
    """``y+ = Phi y + m + phi1 L W + Z k (H, K)``, ``Z = A h``: the transition of a linear SDE on its path.

    ``Phi = e^Z``, ``m = h phi1 b`` and ``phi1 = int_0^1 e^{Z s} ds``. Given W, the integral ``I = int
    e^{A(h-u)} L dW_u`` is normal around ``phi1 L W``; k is what brings its covariance from H and K, nearest
    to the regression on them (a partial isometry does it; see :mod:`neurosde.linear.flow`). So the joint law
    of W and the end of the step is exact whatever h and A, and solves with different steps follow one path
    with strong order 3. The noise of H and K must reach every state, ``rank [L, A L] = state``: any
    invertible L, and positions whose velocities are driven. Without ``dt``, ``solve`` takes one step for each
    interval between requested times.

    Raises
    ------
    SolveError
        If the noise does not reach every state, or a subclass has fields of its own.

    Examples
    --------
    >>> import torch, neurosde as nsde
    >>> from neurosde.solve import LinearTransition
    >>> oscillator = nsde.LinearSDE([[0.0, 1.0], [-4.0, -0.5]], L=[[0.0], [1.0]])
    >>> solution = nsde.solve(oscillator, torch.zeros(5, 2), [0.0, 10.0], stepper=LinearTransition())
    >>> solution.ys.shape, solution.stats["accepted"]  # one step
    (torch.Size([5, 2, 2]), tensor([1, 1, 1, 1, 1]))
    """

    sde_types = ("ito", "stratonovich")
    noise_types = ("additive",)
    form = LinearSDE
    levy = "space-time-time"
    strong_order = (None, None, 3.0)
    weak_order = math.inf
    evaluations = (0, 0)

    def why_not(self, sde: SDE) -> str | None:
        """Refuse also what is linear in name only, and noise that H and K do not carry to all states."""
        reason = super().why_not(sde)
        if reason is not None or not isinstance(sde, LinearSDE):
            return reason
        for field in ("drift", "diffusion", "drift_and_diffusion"):
            if getattr(type(sde), field) is not getattr(LinearSDE, field):
                return f"{type(sde).__name__} has a {field} of its own, and LinearTransition steps A, b and L"
        A, L = (x.detach().to(torch.float64) for x in (sde.A, sde.L))
        A = A / A.abs().max().clamp(min=torch.finfo(A.dtype).tiny)
        if int(torch.linalg.matrix_rank(torch.cat((L, A @ L), -1))) < len(A):
            return "LinearTransition needs noise that reaches every state, rank [L, A L] = state"
        return None

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Matrix on ``(y, W, H, K)`` and the shift."""
        assert isinstance(sde, LinearSDE)  # the door has checked the form
        A, b, L = (x.to(torch.float64) for x in (sde.A, sde.b, sde.L))
        durations, place = distinct(h.squeeze(-1))
        Z = A * durations[:, None, None]
        flow, noise = filtered_noise(Z, L)
        on_H, on_K = (Z @ matched(noise, 2)).chunk(2, -1)
        move = torch.cat((flow.Phi, flow.phi1 @ L, math.sqrt(12) * on_H, math.sqrt(720) * on_K), -1)
        return narrow(h, (move[place], (durations[:, None] * (flow.phi1 @ b))[place]))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`LinearTransition`."""
        move, shift = step.weights
        _, W, H, K, *_ = step.noise
        assert H is not None  # the door has checked that the noise carries them
        assert K is not None
        return Stepped(weigh(move, torch.cat((y, W, H, K), -1)) + shift)
