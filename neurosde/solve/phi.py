"""Functions that weigh exponential steps: quotients that cancel near 0, where their series takes over."""

import math

import torch

from neurosde.typing import Callable, Tensor

_REACH, _TERMS = 0.5, 16  # the series has fallen below 1e-15 there


def phi1(x: Tensor) -> Tensor:
    """``(1 - e^{-x}) / x = int_0^1 e^{-xs} ds``."""
    return entire(x, lambda z: -torch.expm1(-z) / z, lambda n: (-1) ** n / math.factorial(n + 1))


def phi2(x: Tensor) -> Tensor:
    """``(e^{-x} - 1 + x) / x^2 = int_0^1 (1 - s) e^{-xs} ds``."""
    return entire(x, lambda z: (torch.expm1(-z) + z) / z**2, lambda n: (-1) ** n / math.factorial(n + 2))


def entire(x: Tensor, quotient: Callable[[Tensor], Tensor], coefficient: Callable[[int], float]) -> Tensor:
    """Evaluate an entire function by its quotient, and by its power series near 0.

    Parameters
    ----------
    x
        Arguments, float64.
    quotient
        The function where it does not cancel.
    coefficient
        Coefficient of ``x^n`` in its series.
    """
    near = x.abs() < _REACH
    small = torch.where(near, x, 0.0)
    series = torch.full_like(small, coefficient(_TERMS - 1))
    for n in reversed(range(_TERMS - 1)):  # Horner: general powers would take a third of a training run
        series = series * small + coefficient(n)
    return torch.where(near, series, quotient(torch.where(near, 1.0, x)))
