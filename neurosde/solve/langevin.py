"""Methods of strong order 3 for underdamped Langevin dynamics, on (W, H, K)."""

import math

import torch

from neurosde.forms import UnderdampedLangevin
from neurosde.sde import SDE
from neurosde.solve.phi import entire, phi1, phi2
from neurosde.solve.stepper import AbstractStepper, Carry, Step, Stepped
from neurosde.typing import Tensor

_LEFT, _RIGHT = 0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6  # nodes of Gauss's quadrature


def _as_langevin(sde: SDE) -> UnderdampedLangevin:
    assert isinstance(sde, UnderdampedLangevin)  # the door has checked the form
    return sde


def _flow(x: Tensor, h: Tensor, r: float) -> tuple[Tensor, Tensor, Tensor]:
    """Free motion over ``tau = r h`` at ``x = friction h``.

    What is left of a velocity, ``e^{-friction tau}``; how far it leads, ``int_0^tau e^{-friction s} ds``; and
    how far a velocity that comes in evenly over h leads, ``1/h int_0^tau int_0^s e^{-friction q} dq ds``.
    """
    return torch.exp(-r * x), r * h * phi1(r * x), r * r * h * phi2(r * x)


class QUICSORT(AbstractStepper):
    """Splitting along a quadratic path with a third-order rule, for underdamped Langevin dynamics.

    With ``beta, a, b`` the free motion over the fractions ``l, r = 1/2 -+ sqrt(3)/6``, a third and all of the
    step, ``w = v + rho (H + 6K)``, ``q = rho (W - 12K)`` and ``rho = sqrt(2 friction u)``: ``x1 = x + a_l w +
    b_l q``, ``F1 = u h grad U(x1)``, ``x2 = x + a_r w + b_r q - a_{1/3} F1``, ``F2 = u h grad U(x2)``, ``x+ =
    x + a w + b q - 1/2 (a_r F1 + a_l F2)``, ``v+ = beta w - 1/2 (beta_r F1 + beta_l F2) + (a/h) q - rho (H -
    6K)``. Jelincic, Foster & Kidger 2024 (arXiv 2405.06464), after Foster, dos Reis & Strange 2023 (arXiv
    2210.17543). Strong order 3 with two gradients a step. The error is the difference from the step that
    takes F1 for both gradients, ``1/2 a_l (F1 - F2)`` and ``1/2 beta_l (F1 - F2)``: of order h^3 in the
    position and h^2 in the velocity, so that a tolerance bounds far more than the error of the step itself.

    Examples
    --------
    >>> from neurosde.solve import QUICSORT
    >>> QUICSORT().levy
    'space-time-time'
    """

    sde_types = ("ito", "stratonovich")
    noise_types = ("additive",)
    form = UnderdampedLangevin
    levy = "space-time-time"
    strong_order = (None, None, 3.0)
    weak_order = 3.0
    evaluations = (2, 0)
    embedded = True

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Free motion over the three fractions and over a third, ``u h`` and rho."""
        sde, h64 = _as_langevin(sde), h.to(torch.float64)
        x = sde.friction * h64
        left, right, whole = (_flow(x, h64, r) for r in (_LEFT, _RIGHT, 1.0))
        third = h64 / 3 * phi1(x / 3)
        rho = (2 * sde.friction * sde.u).sqrt() + 0 * x
        return tuple(w.to(h.dtype) for w in (*left, *right, *whole, third, sde.u * h64, phi1(x), rho))

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`QUICSORT`."""
        keep_l, a_l, b_l, keep_r, a_r, b_r, keep, a, b, third, uh, mean, rho = step.weights
        _, W, H, K, *_ = step.noise
        assert H is not None  # the door has checked that the noise carries them
        assert K is not None
        gradient = _as_langevin(sde).gradient
        x, v = y.chunk(2, dim=-1)
        q, w = rho * (W - 12 * K), v + rho * (H + 6 * K)
        F1 = uh * gradient(x + a_l * w + b_l * q)
        F2 = uh * gradient(x + a_r * w + b_r * q - third * F1)
        x = x + a * w + b * q - 0.5 * (a_r * F1 + a_l * F2)
        v = keep * w - 0.5 * (keep_r * F1 + keep_l * F2) + mean * q - rho * (H - 6 * K)
        change = 0.5 * (F1 - F2)
        return Stepped(torch.cat((x, v), dim=-1), (), torch.cat((a_l * change, keep_l * change), dim=-1))


class ShOULD(AbstractStepper):
    """The shifted-ODE method with a third-order rule, for underdamped Langevin dynamics.

    With ``beta, a, b`` the free motion over the step and over its half, ``rho = sqrt(2 friction u)`` and ``F
    = grad U``: ``x1 = x + a_{1/2} (v + rho (H + 6K)) + b_{1/2} (rho (W - 12K) - u h F(x))``, ``x+ = x + a v -
    u h b (F(x) + 2 F(x1))/3 + rho (b W + C)``, ``v+ = beta v - u h (beta F(x) + 4 beta_{1/2} F(x1) + F(x+))/6
    + rho ((a/h) W - friction C)``, where ``C = c_H H + c_K K`` is what H and K add to the free position.
    Foster, Lyons & Oberhauser 2021 (arXiv 2101.03446), definition 7.1. Strong order 3; the gradient at the
    end of a step is that at the start of the next, so that two are new. The error is the difference from the
    step that takes F(x) alone for the position and the trapezium rule for the velocity, ``2/3 u h b (F(x) -
    F(x1))`` and ``u h (beta F(x) - 2 beta_{1/2} F(x1) + F(x+))/3``: of order h^3 and h^2.5.

    Examples
    --------
    >>> from neurosde.solve import ShOULD
    >>> ShOULD().evaluations
    (2, 0)
    """

    sde_types = ("ito", "stratonovich")
    noise_types = ("additive",)
    form = UnderdampedLangevin
    levy = "space-time-time"
    strong_order = (None, None, 3.0)
    weak_order = 3.0
    evaluations = (2, 0)
    embedded = True

    def start(self, sde: SDE, t: Tensor, y: Tensor) -> Carry:
        """Gradient at the start."""
        return (_as_langevin(sde).gradient(y.chunk(2, dim=-1)[0]),)

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Free motion over the half and the whole, weights of H and K, ``u h``, rho, and friction."""
        sde, h64 = _as_langevin(sde), h.to(torch.float64)
        x = sde.friction * h64
        half, whole = _flow(x, h64, 0.5), _flow(x, h64, 1.0)
        rho = (2 * sde.friction * sde.u).sqrt() + 0 * x
        rows = (
            *half,
            *whole,
            h64 * _psi_H(x),
            h64 * _psi_K(x),
            sde.u * h64,
            phi1(x),
            rho,
            sde.friction + 0 * x,
        )
        return tuple(w.to(h.dtype) for w in rows)

    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """One step; see :class:`ShOULD`."""
        keep_half, a_half, b_half, keep, a, b, c_H, c_K, uh, mean, rho, friction = step.weights
        _, W, H, K, *_ = step.noise
        assert H is not None  # the door has checked that the noise carries them
        assert K is not None
        gradient = _as_langevin(sde).gradient
        (F0,) = carry
        x, v = y.chunk(2, dim=-1)
        F1 = gradient(x + a_half * (v + rho * (H + 6 * K)) + b_half * (rho * (W - 12 * K) - uh * F0))
        C = c_H * H + c_K * K
        x = x + a * v - uh * b * (F0 + 2 * F1) / 3 + rho * (b * W + C)
        F2 = gradient(x)
        v = keep * v - uh * (keep * F0 + 4 * keep_half * F1 + F2) / 6 + rho * (mean * W - friction * C)
        error = (2 * b * (F0 - F1) / 3, (keep * F0 - 2 * keep_half * F1 + F2) / 3)
        return Stepped(torch.cat((x, v), dim=-1), (F2,), uh * torch.cat(error, dim=-1))


def _psi_H(x: Tensor) -> Tensor:
    """``6 ((x + 2) e^{-x} + x - 2) / x^3``."""
    return entire(
        x,
        lambda z: 6 * (torch.exp(-z) * (z + 2) + z - 2) / z**3,
        lambda n: 6 * (-1) ** n * (n + 1) / math.factorial(n + 3),
    )


def _psi_K(x: Tensor) -> Tensor:
    """``60 ((x^2 + 6x + 12) e^{-x} - x^2 + 6x - 12) / x^4``."""
    return entire(
        x,
        lambda z: 60 * (torch.exp(-z) * (z * z + 6 * z + 12) - z * z + 6 * z - 12) / z**4,
        lambda n: 60 * (-1) ** n * (n + 1) * n / math.factorial(n + 4),
    )
