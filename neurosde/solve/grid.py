"""Fixed steps, counted in integers, that land on every requested time; each series may have its own times."""

import math
from typing import NamedTuple

import torch

from neurosde.arguments import as_numbers
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Any, Tensor

MOST_STEPS = 2**27  # of one series; more would take days, and more memory than there is


class TimeGrid(NamedTuple):
    """Ends of the steps of a solve, and where among them the requested times stand.

    Parameters
    ----------
    times
        float64, ``(step + 1,)`` or ``(series, step + 1)``; a series that is done repeats its last time.
    save
        Number of steps taken when a requested time is reached, ``(time,)`` or ``(series, time)``; -1 for
        padding.
    n_steps
        Steps of each series, ``()`` or ``(series,)``.
    """

    times: Tensor
    save: Tensor
    n_steps: Tensor

    @property
    def length(self) -> int:
        """Number of steps of the longest series."""
        return self.times.shape[-1] - 1


def as_times(ts: Any, device: torch.device | None = None) -> Tensor:
    """Times in float64; a list of them would be float32."""
    return as_numbers("ts", ts, "a tensor or a list of times, (time,) or (*batch, time)", device=device)


def check_times(ts: Any, n_series: int, device: torch.device) -> Tensor:
    """Requested times in float64, checked.

    Parameters
    ----------
    ts
        ``(time,)`` for all series, or ``(series, time)``, padded with NaN at the end.
    n_series
        Number of series.
    device
        Where the solve runs.

    Returns
    -------
    Tensor
        float64, on ``device``.

    Raises
    ------
    ShapeError
        If the shape fits neither form.
    DataError
        If a time is infinite, missing before the last one, or not after the one before.
    """
    ts = as_times(ts, device).detach()
    if ts.dim() not in (1, 2) or ts.shape[-1] == 0 or (ts.dim() == 2 and ts.shape[0] != n_series):
        raise ShapeError(
            f"ts: expected (time,) or ({n_series}, time) with at least one time, got {tuple(ts.shape)}."
        )
    if ts.dim() == 1 and len(ts) > 1:
        least, most = torch.aminmax(ts.diff())
        if float(least) > 0 and float(most) < math.inf:  # NaN is neither
            return ts
    rows = torch.atleast_2d(ts)
    known = ~torch.isnan(rows)
    checks = (
        (torch.isinf(rows), "is infinite"),
        (~known[:, :1], "is missing; a series starts at its first time"),
        (known & ~known.cummin(dim=-1).values, "follows a missing time; NaN may stand at the end only"),
        (rows.diff() <= 0, "is not followed by a later one; sort the times and drop repeated ones"),
    )
    for bad, why in checks:
        if bool(bad.any()):
            row, column = bad.nonzero()[0].tolist()
            place = f"[{column}]" if ts.dim() == 1 else f"[{row}, {column}]"
            raise DataError(f"ts{place} = {rows[row, column].item()!r} {why}.")
    if ts.dim() == 1 and not bool(known.all()):
        raise DataError(
            f"ts[{int((~known[0]).nonzero()[0])}] is missing; times that all series share are all known."
        )
    return ts


def check_dt(dt: Any, ts: Tensor, n_default: int = 100) -> Tensor:
    """Step length in float64; by default a part of the span of the requested times, series by series.

    Parameters
    ----------
    dt
        A number, one a series, or None.
    ts
        Checked times, ``(time,)`` or ``(series, time)``.
    n_default
        How many such steps the span has by default; 1 leaves one to each interval between times.

    Returns
    -------
    Tensor
        ``()`` or ``(series,)``.

    Raises
    ------
    DataError
        If it is not positive and finite, or longer than the whole solve.
    """
    last = ts[-1] if ts.dim() == 1 else torch.nan_to_num(ts, nan=-math.inf).amax(-1)
    span = last - ts[..., 0]
    if dt is None:
        return torch.where(span > 0, span / n_default, 1.0)
    dt = as_numbers("dt", dt, "a number or one a series", device=ts.device).detach()
    if dt.dim() > 0 and dt.shape != span.shape:
        raise ShapeError(
            f"dt: expected a number or one a series {tuple(span.shape)}, got shape {tuple(dt.shape)}."
        )
    shortest, longest = float(dt.min() if dt.dim() else dt), float(span.max() if span.dim() else span)
    if not (shortest > 0 and float(dt.max() if dt.dim() else dt) < math.inf):  # NaN is neither
        raise DataError(f"dt: expected a positive finite step length, got {dt.tolist()!r}.")
    if longest > 0 and shortest > longest * (1 + 1e-6):
        raise DataError(
            f"dt = {shortest:g} is longer than the whole solve, which spans {longest:g}; "
            "give a step in the unit of ts."
        )
    return dt


def make_grid(ts: Tensor, dt: Tensor) -> TimeGrid:
    """Divide each interval between requested times into ``ceil(length / dt)`` equal steps.

    Counts are integers and step ends are ``t_k + i h``, never accumulated: dt = 0.01 on [0, 1] is 100 steps,
    in float32 as well. A quotient that exceeds an integer by a rounding error counts as that integer.

    Parameters
    ----------
    ts
        Checked times, ``(time,)`` or ``(series, time)``.
    dt
        Longest step, ``()`` or ``(series,)``.

    Returns
    -------
    TimeGrid

    Raises
    ------
    DataError
        If there would be more than ``2**27`` steps.
    """
    if ts.shape == (2,) and not dt.dim():
        return _one_interval(ts, dt)
    filled = torch.atleast_2d(ts)
    known = None if ts.dim() == 1 else ~torch.isnan(filled)
    if known is not None:
        last = torch.nan_to_num(filled, nan=-math.inf).amax(-1, keepdim=True)
        filled = torch.where(known, filled, last)
    lengths = filled.diff()
    quotient = lengths / (dt.unsqueeze(-1) if dt.dim() else dt)
    most, longest = quotient.sum(-1).max(dim=0)
    _check_count(float(most), float(dt[longest] if dt.dim() else dt))
    counts = torch.ceil(quotient - torch.clamp(1e-6 * quotient, min=1e-4)).clamp(min=1).to(torch.int64)
    counts = torch.where(lengths > 0, counts, 0)
    reached = torch.cat((counts.new_zeros(len(counts), 1), counts.cumsum(-1)), dim=-1)
    total = reached[:, -1]
    times = _step_ends(filled, lengths, counts, reached, int(total.max()))
    if known is None:
        return TimeGrid(times[0], reached[0], total[0])
    return TimeGrid(times, torch.where(known, reached, -1), total)


def _check_count(n_steps: float, dt: float) -> None:
    if n_steps > MOST_STEPS:
        raise DataError(
            f"dt = {dt:g} asks for {n_steps:.3g} steps; expected at most {MOST_STEPS}; "
            "give a longer step, in the unit of ts."
        )


def _one_interval(ts: Tensor, dt: Tensor) -> TimeGrid:
    """The same between two times that all series share, where the way into a solve counts."""
    (start, end), step = ts.tolist(), float(dt)
    quotient = (end - start) / step
    _check_count(quotient, step)
    count = max(1, math.ceil(quotient - max(1e-6 * quotient, 1e-4)))
    number = torch.arange(count + 1, dtype=torch.float64, device=ts.device)
    times = number.div_(count).mul_(end - start).add_(start)
    times[-1] = end
    return TimeGrid(times, torch.tensor([0, count], device=ts.device), torch.tensor(count, device=ts.device))


def _step_ends(filled: Tensor, lengths: Tensor, counts: Tensor, reached: Tensor, n_steps: int) -> Tensor:
    step = torch.arange(n_steps + 1, device=filled.device).expand(len(filled), -1)
    if not lengths.shape[-1]:
        return filled.expand(-1, n_steps + 1)
    if lengths.shape[-1] == 1:
        times = filled[:, :1] + step.to(torch.float64) / counts.clamp(min=1) * lengths
        return torch.where(step < counts, times, filled[:, 1:])
    interval = torch.searchsorted(reached[:, 1:].contiguous(), step.contiguous(), right=True)
    inside = interval < lengths.shape[-1]
    k = interval.clamp(max=lengths.shape[-1] - 1)
    # a quotient of integers would be float32
    fraction = (step - reached.gather(1, k)).to(torch.float64) / counts.gather(1, k).clamp(min=1)
    times = filled.gather(1, k) + fraction * lengths.gather(1, k)
    return torch.where(inside, times, filled[:, -1:])
