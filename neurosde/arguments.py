"""Arguments as users bring them, made tensors and counts or refused in a sentence."""

import math
import numbers
import reprlib

import numpy as np
import torch

from neurosde.errors import DataError
from neurosde.typing import Any, Callable, Tensor


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


def as_number(name: str, value: Any, expected: str, usable: Callable[[float], bool] = math.isfinite) -> float:
    """One real number.

    Parameters
    ----------
    name, expected
        The argument, and what it should be: words of the error.
    value
        A number, or an array or tensor of one without axes.
    usable
        Whether a number will do; NaN should not.

    Raises
    ------
    DataError
        If it is none, or will not do.

    Examples
    --------
    >>> from neurosde.arguments import as_number
    >>> as_number("safety", 1, "a number")
    1.0
    """
    if not isinstance(value, float):
        given = as_numbers(name, value, expected)
        number = given.item() if given.dim() == 0 else math.nan
    else:
        number = float(value)
    if not usable(number):
        raise DataError(f"{name}: expected {expected}, got {reprlib.repr(value)}.")
    return number


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
