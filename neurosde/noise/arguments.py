"""Arguments of sources of noise: checked once where one is made, and in a few small passes at a query."""

import numbers
import reprlib

import numpy as np
import torch

from neurosde.arguments import as_numbers
from neurosde.errors import DataError, ShapeError
from neurosde.noise.records import RICHNESS, Levy
from neurosde.typing import Any, Tensor

_LARGEST = 2**63  # what a signed word does not hold
_KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_KEYS = "integer keys; neurosde.noise.series_keys makes keys of any ids"


def as_shape(shape: Any) -> tuple[int, int]:
    """Check the shape of a source."""
    try:
        given = tuple(shape)
        sizes = [int(n) for n in given]
        usable = all(not isinstance(n, bool) and n == size for n, size in zip(given, sizes, strict=True))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        sizes, usable = [], False
    if not usable or len(sizes) != 2 or not all(1 <= n < _LARGEST for n in sizes):
        raise ShapeError(
            f"shape: expected (series, noise), two positive integers, got {reprlib.repr(shape)}."
        )
    return sizes[0], sizes[1]


def as_levy(levy: Any) -> Levy:
    """Check the richness of a source."""
    if not isinstance(levy, str) or levy not in RICHNESS:
        raise DataError(f"levy: expected one of {', '.join(map(repr, RICHNESS))}, got {reprlib.repr(levy)}.")
    return levy  # pyright: ignore[reportReturnType]


def as_dtype(dtype: Any) -> torch.dtype:
    """Check a floating point type; torch's default where none is given."""
    kind = torch.get_default_dtype() if dtype is None else torch.float64 if dtype is float else dtype
    if not isinstance(kind, torch.dtype) or kind not in _KINDS:
        raise DataError(
            f"dtype: expected a floating point type such as torch.float32, got {reprlib.repr(dtype)}."
        )
    return kind


def as_device(device: Any) -> torch.device | None:
    """Check that tensors can be made on a device; None is torch's default."""
    if device is None:
        return None
    try:
        if isinstance(device, bool):
            raise TypeError("a truth value")
        place = torch.device(device)
        if place.type != "cpu":
            torch.empty(0, device=place)
        if place.type != "meta":  # which holds no numbers
            return place
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise DataError(_no_device(device)) from error
    raise DataError(_no_device(device))


def _no_device(device: Any) -> str:
    return f'device: expected one that this machine has, such as "cpu", got {reprlib.repr(device)}.'


def as_series(series: Any, n_series: int, device: torch.device | str | None) -> Tensor:
    """Check the keys of the series; row numbers by default."""
    if series is None:
        return torch.arange(n_series, device=device)
    keys = as_numbers("series", series, f"{n_series} {_KEYS}", dtype=None, device=device)
    real = not (keys.is_floating_point() or keys.is_complex() or keys.dtype == torch.bool)
    if keys.shape != (n_series,) or not real:
        raise ShapeError(
            f"series: expected {n_series} integer keys, got shape {tuple(keys.shape)} of {keys.dtype}; "
            "neurosde.noise.series_keys makes keys of any ids."
        )
    return keys.to(torch.int64)


def as_word(name: str, value: Any) -> int | Tensor:
    """A field of a key: an integer or an int64 tensor."""
    if isinstance(value, int) or (isinstance(value, Tensor) and value.dtype == torch.int64):
        return value
    if isinstance(value, np.integer):
        return int(value)
    raise DataError(f"{name}: expected an integer or an int64 tensor, got {reprlib.repr(value)}.")


def as_ends(name: str, value: Any, n_series: int, device: torch.device) -> Tensor:
    """A time, or one a series, float64 ``()`` or ``(series,)``."""
    expected = f"a number or one a series ({n_series},)"
    end = as_numbers(name, value, expected, device=device)
    if end.dim() > 1 or (end.dim() == 1 and len(end) != n_series):
        raise ShapeError(f"{name}: expected {expected}, got {tuple(end.shape)}.")
    return end


def as_first(first: Any) -> int:
    """The number of a step: 0 or more."""
    whole = isinstance(first, numbers.Integral) and not isinstance(first, bool)
    if not whole or not 0 <= int(first) < _LARGEST // 2:
        raise DataError(f"first: expected the number of a step, 0 or more, got {reprlib.repr(first)}.")
    return int(first)


def as_times(times: Any, n_series: int, device: torch.device) -> Tensor:
    """Times of consecutive steps, float64 ``(step + 1,)`` or ``(series, step + 1)``, of any values."""
    expected = f"increasing times (step + 1,) or (series, step + 1) = ({n_series}, step + 1)"
    times = as_numbers("times", times, expected, device=device)
    if times.dim() not in (1, 2) or (times.dim() == 2 and len(times) != n_series):
        raise ShapeError(f"times: expected {expected}, got {tuple(times.shape)}.")
    return times


def is_within(x: Tensor, low: float) -> bool:
    """Whether all numbers are finite and none is below a bound, in one pass."""
    least, most = torch.aminmax(x.detach())
    return float(least) >= low and float(most) < torch.inf


def as_lengths(times: Any, n_series: int, device: torch.device) -> Tensor:
    """Lengths of consecutive steps, ``(step,)`` or ``(series, step)``: finite, and none below 0."""
    times = as_times(times, n_series, device)
    dt = torch.diff(times)
    if torch.compiler.is_compiling() or not dt.numel() or is_within(dt, 0.0):
        return dt
    odd = (~times.isfinite()).nonzero()
    if len(odd):
        place = odd[0].tolist()
        raise DataError(f"times{place} is {float(times[tuple(place)])}; expected finite times.")
    place = (~(dt >= 0)).nonzero()[0].tolist()
    ahead = [*place[:-1], place[-1] + 1]
    raise DataError(
        f"times{ahead} = {float(times[tuple(ahead)])!r} is before times{place} = "
        f"{float(times[tuple(place)])!r}; expected times that do not decrease: sort them."
    )
