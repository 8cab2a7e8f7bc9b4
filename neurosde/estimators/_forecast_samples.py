"""What the forecaster's network sees: summaries of histories, and entries on their own clocks."""

import dataclasses
from typing import NamedTuple, Self

import numpy as np
import torch

from neurosde.data import ChannelScaler, Series
from neurosde.typing import Any, Array, Sequence, Tensor

__all__ = [
    "SUMMARIES",
    "TICKS",
    "Batch",
    "Samples",
    "covariate_scales",
    "covariates",
    "residual_scales",
    "summarize",
]

SUMMARIES = (
    "last", "previous", "first", "mean", "fading_short", "fading_long", "max", "min", "sd", "slope", "seen",
    "recency", "count", "count_quarter", "count_twelfth",
)  # fmt: skip
_FADING = {
    "fading_short": 1 / 16,
    "fading_long": 1 / 5,
}  # lengths of memory, in windows: 1.5 h and 5 h of 24 h
# Instants of the latent path, per horizon: 21 s of 24 h. What lies closer together is one instant.
TICKS = 4096
_TAIL = 0.005  # residuals beyond these quantiles are taken as these when their scale is measured
_FEW = 20  # targets below which a channel's residuals do not tell their scale
# Inputs are rounded to so many decimals: a change of unit or of time's origin, which moves the last bits of a
# double, then gives the network the very same numbers.
_DECIMALS = 5


def summarize(history: Series, window: float, scaler: ChannelScaler) -> Array:
    """Summaries of each channel of each history.

    Values are taken as ``asinh((value - location) / scale)``, which keeps the order of extreme readings and
    their size within reason. Ages are relative to the window.

    Parameters
    ----------
    history
        Times are relative to the forecast, hence negative, and reach back to ``-window``.
    window
        Length of the history.
    scaler
        Location and scale of each channel.

    Returns
    -------
    (series, channel, summary) float32
        In the order of ``SUMMARIES``; zero where nothing was observed.
    """
    shape = (len(history), len(history.channel_names))
    table = np.zeros((shape[0] * shape[1], len(SUMMARIES)))
    if len(history.time):
        cell = history.rows_of_series() * shape[1] + history.channel
        order = np.argsort(cell, kind="stable")
        u = np.arcsinh(scaler.transform(history.value, history.channel))[order]
        age = -history.time[order] / window
        cells, first, count = np.unique(cell[order], return_index=True, return_counts=True)
        columns = _columns(u, age, first, count)
        table[cells] = np.stack([columns[name] for name in SUMMARIES], axis=1)
    return np.round(table, _DECIMALS).astype(np.float32).reshape(*shape, len(SUMMARIES))


def _columns(u: Array, age: Array, first: Array, count: Array) -> dict[str, Array]:
    """Summaries of consecutive groups of observations, in order of time, that start at ``first``."""

    def total(values: Array) -> Array:
        return np.add.reduceat(values, first)

    last = first + count - 1
    mean, mean_age = total(u) / count, total(age) / count
    by_group = np.repeat(np.arange(len(first)), count)
    du, da = u - mean[by_group], age - mean_age[by_group]
    columns = {
        "last": u[last],
        "previous": u[np.maximum(last - 1, first)],
        "first": u[first],
        "mean": mean,
        "max": np.maximum.reduceat(u, first),
        "min": np.minimum.reduceat(u, first),
        "sd": np.sqrt(total(du**2) / count),
        "slope": -total(da * du) / (total(da**2) + 0.02 * count),  # shrunk where times are few or close
        "seen": np.ones(len(first)),
        "recency": 1.0 - age[last],
        "count": np.log1p(count),
        "count_quarter": np.log1p(total(age < 1 / 4)),
        "count_twelfth": np.log1p(total(age < 1 / 12)),
    }
    for name, memory in _FADING.items():
        weight = np.exp((age[last][by_group] - age) / memory)  # relative to the last one: never all zero
        columns[name] = total(weight * u) / total(weight)
    return columns


def covariate_scales(series: Series) -> tuple[Array, Array]:
    """Mean and standard deviation of each covariate, ``(covariate,)``; 1 for a constant one."""
    static = _static(series)
    known = np.isfinite(static)
    size = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, static, 0.0).sum(axis=0) / size
    spread = np.sqrt((np.where(known, static - mean, 0.0) ** 2).sum(axis=0) / size)
    return mean, np.where(spread > 0, spread, 1.0)


def covariates(series: Series, mean: Array, scale: Array) -> Array:
    """Covariates in standard units, clipped at 4, and whether they are missing, ``(series, 2 covariate)``."""
    unit = np.clip((_static(series) - mean) / scale, -4.0, 4.0)
    return np.concatenate([np.nan_to_num(unit), np.isnan(unit)], axis=1)


def _static(series: Series) -> Array:
    return np.zeros((len(series), 0)) if series.static is None else np.asarray(series.static)


def residual_scales(whole: Series, residual: Array, channel: Array, scale: Array) -> Array:
    """Scale of a baseline's residuals in each channel, ``(channel,)``.

    Parameters
    ----------
    whole
        All training values: a channel that is constant there has the scale 0.
    residual, channel
        (row,) of the training targets.
    scale
        (channel,) scale of the values, for channels with few targets or none.
    """
    result = np.zeros(len(scale))
    for k in range(len(scale)):
        values, mine = whole.value[whole.channel == k], residual[channel == k]
        if len(values) and np.ptp(values) > 0:
            result[k] = scale[k]
            if len(mine) >= _FEW:
                result[k] = np.clip(mine, *np.quantile(mine, [_TAIL, 1.0 - _TAIL])).std() or scale[k]
    return result


class Batch(NamedTuple):
    """Some series and the entries asked of them, as the network takes them.

    Attributes
    ----------
    summaries : (series, channel, summary)
    static : (series, covariate)
    keys : (series,) int64
        Keys of the noise.
    times : (series, time) float64
        Instants of the latent path in horizons, from 0; NaN pads.
    series, channel, step : (row,) int64
        Series of the row within the batch, its channel, its instant among those of its series.
    ahead : (row,)
        Time ahead in horizons.
    baseline : (row,)
        Baseline forecast as the summaries have values.
    target : (row,)
        What was observed, minus the baseline, in units of the channel's residuals; NaN if not known.
    """

    summaries: Tensor
    static: Tensor
    keys: Tensor
    times: Tensor
    series: Tensor
    channel: Tensor
    step: Tensor
    ahead: Tensor
    baseline: Tensor
    target: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor."""
        return Batch(*(tensor.to(device) for tensor in self))


@dataclasses.dataclass(frozen=True)
class Samples:
    """Histories with the entries asked of each, ragged: sample i has rows ``offsets[i]:offsets[i + 1]``.

    Its instants are ``grid[grid_offsets[i]:grid_offsets[i + 1]]``, all positive; instant 0 is the forecast's.
    """

    summaries: Array
    static: Array
    keys: Array
    offsets: Array
    channel: Array
    step: Array
    ahead: Array
    baseline: Array
    target: Array
    grid_offsets: Array
    grid: Array

    @classmethod
    def of(
        cls,
        history: Series,
        query: Series,
        static: Array,
        baseline: Array,
        target: Array,
        window: float,
        horizon: float,
        scaler: ChannelScaler,
    ) -> Self:
        """Lay out histories and the entries asked for, both with times relative to the forecast.

        Parameters
        ----------
        history, query
            The same series in the same order.
        static
            (series, covariate), standardised, without NaN.
        baseline, target
            (row,) for the rows of the query: forecast in the channel's unit, and see `Batch`.
        window, horizon
            Lengths of history and forecast.
        scaler
            Location and scale of each channel.
        """
        series = query.rows_of_series()
        tick = np.rint(query.time / horizon * TICKS)
        repeated = (np.diff(tick, prepend=-1.0) == 0) & (np.diff(series, prepend=-1) == 0)
        new = (tick > 0) & ~repeated
        reached = np.concatenate([[0], np.cumsum(new)])
        grid_offsets = reached[query.offsets]
        compact = np.arcsinh(scaler.transform(baseline, query.channel))
        return cls(
            summarize(history, window, scaler),
            np.round(static, _DECIMALS).astype(np.float32),
            np.asarray(query.keys),
            np.asarray(query.offsets),
            query.channel.astype(np.int64),
            reached[1:] - grid_offsets[series],
            np.round(query.time / horizon, _DECIMALS).astype(np.float32),
            np.round(compact, _DECIMALS).astype(np.float32),
            np.round(target, _DECIMALS).astype(np.float32),
            grid_offsets,
            tick[new] / TICKS,
        )

    @classmethod
    def concatenate(cls, parts: "Sequence[Samples]") -> "Samples":
        """Put samples one after the other."""
        fields: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            arrays = [getattr(part, field.name) for part in parts]
            if field.name.endswith("offsets"):
                starts = np.cumsum([0] + [array[-1] for array in arrays])
                arrays = [array[1:] + start for array, start in zip(arrays, starts, strict=False)]
                arrays.insert(0, np.zeros(1, dtype=np.int64))
            fields[field.name] = np.concatenate(arrays)
        return cls(**fields)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, index: Array) -> "Samples":
        """Some of the samples."""
        rows, _ = _ragged(self.offsets, index)
        instants, _ = _ragged(self.grid_offsets, index)
        fields: dict[str, Any] = {"grid": self.grid[instants]}
        for name in ("channel", "step", "ahead", "baseline", "target"):
            fields[name] = getattr(self, name)[rows]
        for name in ("summaries", "static", "keys"):
            fields[name] = getattr(self, name)[index]
        for name in ("offsets", "grid_offsets"):
            fields[name] = np.concatenate([[0], np.cumsum(np.diff(getattr(self, name))[index])])
        return Samples(**fields)

    def keep(self, mask: Array) -> "Samples":
        """The same samples with some of their rows; no instant is lost."""
        rows = {
            name: getattr(self, name)[mask] for name in ("channel", "step", "ahead", "baseline", "target")
        }
        return dataclasses.replace(self, offsets=np.concatenate([[0], np.cumsum(mask)])[self.offsets], **rows)

    def chunks(self, n_rows: int) -> list[Array]:
        """Consecutive samples of about ``n_rows`` rows together."""
        chunk = self.offsets[:-1] // max(n_rows, 1)
        return np.split(np.arange(len(self)), np.flatnonzero(np.diff(chunk)) + 1)

    def batch(self, index: Array) -> Batch:
        """Gather some samples."""
        rows, series = _ragged(self.offsets, index)
        instants, owner = _ragged(self.grid_offsets, index)
        counts = np.diff(self.grid_offsets)[index]
        times = np.full((len(index), 1 + int(counts.max(initial=0))), np.nan)
        times[:, 0] = 0.0
        times[owner, 1 + np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner]] = self.grid[instants]
        by_row = (self.channel, self.step, self.ahead, self.baseline, self.target)
        arrays = (
            self.summaries[index],
            self.static[index],
            self.keys[index],
            times,
            series,
            *(array[rows] for array in by_row),
        )
        return Batch(*(torch.from_numpy(array) for array in arrays))


def _ragged(offsets: Array, index: Array) -> tuple[Array, Array]:
    """Rows of some samples, and for each the position of its sample in ``index``."""
    counts = np.diff(offsets)[index]
    owner = np.repeat(np.arange(len(index)), counts)
    start = offsets[:-1][index] - (np.cumsum(counts) - counts)
    return np.arange(len(owner)) + start[owner], owner
