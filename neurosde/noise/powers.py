"""Whole powers of two, exact on every device: what a GPU's exponential and logarithm give may round."""

import torch

from neurosde.typing import Tensor

_BIAS, _MANTISSA = 1023, 52  # of a float64


def power_of_two(exponent: Tensor) -> Tensor:
    """``2**exponent`` of integers, float64."""
    return ((exponent + _BIAS) << _MANTISSA).view(torch.float64)


def exponent_of(power: Tensor) -> Tensor:
    """The exponent of a whole power of two, int64."""
    return (power.to(torch.float64).view(torch.int64) >> _MANTISSA) - _BIAS


def powers_within(ratio: Tensor) -> Tensor:
    """Least whole power of two that a positive number does not exceed, int64."""
    mantissa, exponent = torch.frexp(ratio)
    return exponent.to(torch.int64) - (mantissa == 0.5).to(torch.int64)
