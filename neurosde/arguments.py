"""Arguments as users bring them, made tensors and counts or refused in a sentence."""

import numbers
import reprlib

import numpy as np
import torch

from neurosde.errors import DataError
from neurosde.typing import Any, Tensor


def as_numbers(
    name: str,
    value: Any,
    expected: str,
    *,
    dtype: torch.dtype | None = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """Tensor of what was given; gradients pass through.

    Parameters
    ----------
    name, expected
        The argument, and what it should be: words of the error.
    value
        A number, nested lists, an array or a tensor.
    dtype
        Of the result; None keeps that of the value.
    device
        Of the result; None keeps that of the value.

    Returns
    -------
    Tensor

    Raises
    ------
    DataError
        If it holds no numbers, or complex ones where real ones are needed.

    Examples
    --------
    >>> from neurosde.arguments import as_numbers
    >>> as_numbers("ts", [0, 1], "times (time,)")
    tensor([0., 1.], dtype=torch.float64)
    """
    try:
        given = torch.as_tensor(value) if isinstance(value, np.ndarray) else value
        lost = isinstance(given, Tensor) and given.is_complex() and dtype is not None  # the imaginary part
        if not lost and not isinstance(value, bool):
            return torch.as_tensor(given, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"{name}: expected {expected}, got {reprlib.repr(value)}.") from error
    raise DataError(f"{name}: expected {expected}, got {reprlib.repr(value)}.")


def as_count(name: str, value: Any) -> int:
    """An integer of at least 1.

    Raises
    ------
    DataError
        If it is not.

    Examples
    --------
    >>> from neurosde.arguments import as_count
    >>> as_count("max_steps", 100)
    100
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise DataError(f"{name}: expected a positive integer, got {reprlib.repr(value)}.")
    return int(value)
