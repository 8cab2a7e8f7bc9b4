"""Times, values and laws as users bring them, brought to the axes (series, time, ...) or refused."""

import math

import torch

from neurosde.arguments import as_numbers
from neurosde.errors import DataError, ShapeError
from neurosde.linear.gaussian import Gaussian
from neurosde.typing import Any, NamedTuple, Tensor


class Evidence(NamedTuple):
    """What is known of the paths of some series, checked.

    Parameters
    ----------
    times
        float64 ``(1 or series, time)``, never decreasing, NaN at the end; length 1 if all series share them.
    values
        float64 ``(series, time, channel)``, NaN where nothing was seen.
    C, R
        ``(channel, state)`` and ``(channel, channel)``.
    initial
        Law at the first time: mean ``(series, state)``, covariance ``(1 or series, state, state)``.
    batch
        The caller's axes in the place of ``series``.
    """

    times: Tensor
    values: Tensor
    C: Tensor
    R: Tensor
    initial: Gaussian
    batch: tuple[int, ...]


def read_evidence(times: Any, values: Any, observation: Any, initial: Gaussian, like: Tensor) -> Evidence:
    """Check the arguments of inference against each other; ``like`` is A."""
    C, R = check_observation(observation, len(like), like)
    values = as_numbers("values", values, "numbers (*batch, time, channel)", device=like.device)
    if values.dim() < 2 or values.shape[-1] != len(C) or 0 in values.shape:
        raise ShapeError(
            f"values: expected (*batch, time, {len(C)}) = (*batch, time, channel), got "
            f"{tuple(values.shape)}; a single channel has its axis too: values[..., None]."
        )
    if bool(values.isinf().any()):
        index = values.isinf().nonzero()[0].tolist()
        raise DataError(f"values{index} is {values[tuple(index)].item()}; expected numbers, NaN if not seen.")
    batch = tuple(values.shape[:-2])
    rows = check_clock(times, batch, like.device)
    if rows.shape[1] != values.shape[-2]:
        raise ShapeError(f"values: expected {rows.shape[1]} times as in times, got {values.shape[-2]}.")
    values = values.reshape(-1, *values.shape[-2:])
    stray = rows.isnan().unsqueeze(-1) & ~values.isnan()
    if bool(stray.any()):
        index = stray.nonzero()[0].tolist()
        raise DataError(f"values{index} is a number, but its time is NaN; give it a time, or make it NaN.")
    return Evidence(rows, values, C, R, check_law(initial, batch, like), batch)


def check_times(times: Any, batch: tuple[int, ...], device: torch.device, argument: str) -> Tensor:
    """Times ``(time,)`` or ``(*batch, time)`` as ``(1 or series, time)``; in any order, NaN anywhere."""
    times = as_numbers(argument, times, "times (time,) or (*batch, time)", device=device).detach()
    if times.dim() == 0 or times.shape[-1] == 0 or (times.dim() > 1 and tuple(times.shape[:-1]) != batch):
        raise ShapeError(
            f"{argument}: expected (time,) or {_axes(batch, 'time')} with at least one time, "
            f"got {tuple(times.shape)}."
        )
    if bool(times.isinf().any()):
        index = times.isinf().nonzero()[0].tolist()
        raise DataError(f"{argument}{index} is {times[tuple(index)].item()}, expected a finite time.")
    return times.reshape(-1, times.shape[-1])


def check_clock(times: Any, batch: tuple[int, ...], device: torch.device, argument: str = "times") -> Tensor:
    """Times in order, padded with NaN at the end, ``(1 or series, time)``."""
    rows = check_times(times, batch, device, argument)
    back = ~(torch.diff(rows, dim=1) >= 0) & ~rows[:, 1:].isnan()
    if bool(back.any()):
        i, k = back.nonzero()[0].tolist()
        raise DataError(
            f"{argument}[{i}, {k + 1}] is {rows[i, k + 1].item()} after {rows[i, k].item()}; expected times "
            "that never decrease, with NaN only at the end of a series. Sort them."
        )
    return rows


def check_observation(observation: Any, n_state: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """``(C, R)`` as matrices; None sees the state itself without noise."""
    if observation is None:
        return torch.eye(n_state).to(like), like.new_zeros(n_state, n_state)
    C, R = _pair(observation, "observation", "(C, R)", like)
    if C.dim() != 2 or C.shape[1] != n_state or len(C) == 0:
        raise ShapeError(f"observation: expected C (channel, {n_state}), got {tuple(C.shape)}.")
    if R.dim() < 2:
        R = torch.diag_embed(R.expand(len(C)) if R.dim() == 0 or R.shape == (len(C),) else R)
    if R.shape != (len(C), len(C)):
        raise ShapeError(
            f"observation: expected R a variance, variances ({len(C)},) or a covariance {(len(C),) * 2}, "
            f"got {tuple(torch.as_tensor(observation[1]).shape)}."
        )
    _check_finite("C", C)
    return C, check_covariance("R", R)


def check_law(initial: Any, batch: tuple[int, ...], like: Tensor) -> Gaussian:
    """A law for all series or one for each: mean ``(series, state)``, covariance ``(1 or series, ...)``."""
    n_state = len(like)
    mean, covariance = _pair(initial, "initial", "(mean, covariance)", like)
    for name, x, shape in (("mean", mean, (n_state,)), ("covariance", covariance, (n_state, n_state))):
        if tuple(x.shape) not in (shape, (*batch, *shape)):
            raise ShapeError(f"initial: expected {name} {shape} or {(*batch, *shape)}, got {tuple(x.shape)}.")
        _check_finite(f"initial {name}", x)
    mean = mean.expand(*batch, n_state).reshape(math.prod(batch), n_state)
    return Gaussian(mean, check_covariance("initial covariance", covariance).reshape(-1, n_state, n_state))


def check_covariance(name: str, covariance: Tensor) -> Tensor:
    """Refuse what is not symmetric and positive semidefinite, up to rounding."""
    _check_finite(name, covariance)
    known = covariance.detach()
    tolerance = 1e-10 * known.abs().amax((-2, -1))
    if bool(((known - known.mT).abs().amax((-2, -1)) > tolerance).any()):
        raise DataError(f"{name}: expected a symmetric matrix.")
    lowest = torch.linalg.eigvalsh(known)[..., 0]
    if bool((lowest < -tolerance).any()):
        raise DataError(f"{name}: expected no negative eigenvalue, got {float(lowest.min()):.3g}.")
    return covariance


def _pair(pair: Any, argument: str, names: str, like: Tensor) -> tuple[Tensor, Tensor]:
    try:
        first, second = pair
    except (TypeError, ValueError) as error:
        raise ShapeError(f"{argument}: expected a pair {names}, got {pair!r}.") from error
    what = f"a pair {names} of numbers"
    return as_numbers(argument, first, what, device=like.device), as_numbers(
        argument, second, what, device=like.device
    )


def _check_finite(name: str, x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        index = (~torch.isfinite(x)).nonzero()[0].tolist()
        raise DataError(f"{name}{index} is {x[tuple(index)].item()}, expected a finite number.")


def _axes(batch: tuple[int, ...], *names: str) -> str:
    return f"({', '.join([*map(str, batch), *names])})"
