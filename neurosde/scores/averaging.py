"""From entries to a number: how every score of a forecast is validated, masked and averaged."""

from collections.abc import Callable

import numpy as np
import torch

from neurosde.errors import DataError, ShapeError
from neurosde.typing import Any, Array, Literal, Tensor

Average = Literal["micro", "macro", "channel", "none"]
ArrayLike = Array | Tensor | list[Any] | tuple[Any, ...] | float


def score(
    formula: Callable[..., Tensor],
    y: ArrayLike,
    forecast: dict[str, ArrayLike],
    channel: ArrayLike | None,
    average: str,
    weights: ArrayLike | None,
    *,
    first: str = "y",
    layout: str = "*entry",
    min_samples: int = 1,
) -> Any:
    """Apply ``formula`` to the entries and average: the one road of every score.

    ``layout`` names the axes of the forecast: those of the entries alone, a sample axis before them, a
    component axis behind them.
    """
    if average not in ("micro", "macro", "channel", "none"):
        raise DataError(f"average must be 'micro', 'macro', 'channel' or 'none', got {average!r}")
    as_tensor = any(isinstance(a, Tensor) for a in (y, *forecast.values()))
    entries = y if isinstance(y, Tensor) else _tensor(first, y)
    tensors = {name: a if isinstance(a, Tensor) else _tensor(name, a) for name, a in forecast.items()}
    _check_layout(entries, tensors, layout, first, min_samples)
    weight = _weights(weights, entries)
    if weights is not None:  # masked entries may hold NaN, which would poison sums and gradients
        entries = torch.where(weight > 0, entries, torch.ones_like(entries))
        kept = (weight > 0).unsqueeze(-1) if layout.endswith("component") else weight > 0
        tensors = {name: torch.where(kept, a, torch.ones_like(a)) for name, a in tensors.items()}
    if not as_tensor:
        _check_values({first: entries, **tensors})
    result = _averaged(formula(entries, *tensors.values()), weight, channel, average, first)
    if as_tensor:
        return result
    return result.numpy() if average in ("channel", "none") else float(result)


def _check_layout(y: Tensor, forecast: dict[str, Tensor], layout: str, first: str, min_samples: int) -> None:
    axes = layout.split()
    start = axes.index("*entry")
    for name, a in forecast.items():
        stop = a.ndim - (len(axes) - 1 - start)
        if tuple(a.shape[start:stop]) != tuple(y.shape):
            said = f"the axes ({layout}) with" if len(axes) > 1 else "the shape of"
            raise ShapeError(f"{name} must have {said} {first}, {tuple(y.shape)}, got {tuple(a.shape)}")
        if start and a.shape[0] < min_samples:
            raise ShapeError(f"{name} needs at least {min_samples} samples on axis 0, got {a.shape[0]}")
    shapes = {name: tuple(a.shape) for name, a in forecast.items()}
    if len(set(shapes.values())) > 1:
        raise ShapeError(f"expected one shape for all parts of the forecast, got {shapes}")


def _averaged(score: Tensor, weight: Tensor, channel: ArrayLike | None, average: str, first: str) -> Tensor:
    if average == "none":
        return torch.where(weight > 0, score, torch.nan)
    total = weight.sum()
    if not total > 0:
        raise DataError(f"{first} has no entry of positive weight: there is nothing to score")
    if average == "micro":
        return (weight * score).sum() / total
    if channel is None:
        raise DataError(
            f"channel is needed for average={average!r}: an integer array of the shape of {first}"
        )
    index = channel if isinstance(channel, Tensor) else torch.from_numpy(np.array(channel))
    index = index.to(score.device)
    if index.is_floating_point() or index.dtype == torch.bool:
        raise DataError(f"channel must hold integers, got dtype {index.dtype}")
    if index.shape != score.shape:
        raise ShapeError(
            f"channel must have the shape of {first}, {tuple(score.shape)}, got {tuple(index.shape)}"
        )
    index = index.reshape(-1).long()
    if index.min() < 0:
        at = int((index < 0).nonzero()[0])
        raise DataError(f"channel must not be negative, entry {at} is {int(index[at])}")
    zeros = torch.zeros(int(index.max()) + 1, dtype=score.dtype, device=score.device)
    mass = zeros.index_add(0, index, weight.reshape(-1))
    mean = zeros.index_add(0, index, (weight * score).reshape(-1)) / torch.where(mass > 0, mass, torch.nan)
    return mean if average == "channel" else mean_of_present(mean)


def mean_of_present(mean: Any) -> Any:
    """Plain mean over the channels that have entries: a tensor of a tensor, a float of an array."""
    if isinstance(mean, Tensor):
        present = ~mean.isnan()
        return mean[present].sum() / present.sum()
    return float(np.nanmean(mean))


def _tensor(name: str, a: ArrayLike) -> Tensor:
    try:
        return torch.from_numpy(np.array(a, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be an array of real numbers: {error}") from None


def _weights(weights: ArrayLike | None, y: Tensor) -> Tensor:
    if weights is None:
        return torch.ones_like(y)
    weight = weights if isinstance(weights, Tensor) else _tensor("weights", weights)
    weight = weight.to(dtype=y.dtype, device=y.device)
    if weight.shape != y.shape:
        raise ShapeError(
            f"weights must have the shape of the entries, {tuple(y.shape)}, got {tuple(weight.shape)}"
        )
    bad = ~(weight >= 0) | weight.isinf()
    if bad.any():
        at = tuple(bad.nonzero()[0].tolist())
        raise DataError(f"weights must be finite and not negative, entry {at} is {float(weight[at])}")
    return weight


def _check_values(tensors: dict[str, Tensor]) -> None:
    for name, a in tensors.items():
        bad = ~a.isfinite()
        expected = "finite where the weight is positive (mask missing entries with weights)"
        if name == "sd":
            bad, expected = bad | (a <= 0), "positive and finite"
        elif name == "u":
            bad, expected = bad | (a < 0) | (a > 1), "in [0, 1]"
        elif name == "upper":
            bad, expected = bad | (a < tensors["lower"]), "finite and not below lower"
        if bad.any():
            at = tuple(bad.nonzero()[0].tolist())
            raise DataError(f"{name} must be {expected}, entry {at} is {float(a[at])}")


def level_between(name: str, level: float) -> float:
    """``level`` as a float, or a DataError when it does not lie strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise DataError(f"{name} must lie strictly between 0 and 1, got {level}")
    return float(level)
