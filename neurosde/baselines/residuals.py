"""Empirical quantiles of residuals, by channel and time ahead."""

import dataclasses
from typing import Self

import numpy as np

from neurosde.typing import Array

_LEVELS = np.linspace(0.0, 1.0, 201)
_N_BINS = 4  # quarters of the time ahead; one more for channels that the history has never seen
_ENOUGH = 40  # residuals of a group with quantiles of its own: the 5 % quantile then rests on two


@dataclasses.dataclass(frozen=True)
class ResidualQuantiles:
    """Quantile function of the residuals of each channel and group of entries, linear between 201 levels.

    The groups are the quarters of the time ahead, and the channels that a history has not seen. A group with
    few residuals takes those of its whole channel; a channel without any has none, and its forecast is a
    point.

    Attributes
    ----------
    table : (channel, group, level) float64
    edges : (quarter - 1,) float64
        Where the quarters of the time ahead meet.

    Examples
    --------
    >>> zeros = np.zeros(101, dtype=int)
    >>> residuals = ResidualQuantiles.fit(np.arange(101.0), zeros, zeros * 1.0, zeros == 0, n_channels=1)
    >>> residuals.evaluate(np.array([[0.25, 0.5]]), zeros[:1], zeros[:1] * 1.0, zeros[:1] == 0)
    array([[25., 50.]])
    """

    table: Array
    edges: Array

    @classmethod
    def fit(cls, residual: Array, channel: Array, ahead: Array, seen: Array, n_channels: int) -> Self:
        """Take the quantiles of ``residual`` (row,); ``seen`` tells whether the history has the channel."""
        edges = np.quantile(ahead, np.arange(1, _N_BINS) / _N_BINS)
        group = np.where(seen, np.searchsorted(edges, ahead, side="right"), _N_BINS)
        table = np.zeros((n_channels, _N_BINS + 1, len(_LEVELS)))
        for k in np.unique(channel).tolist():
            mine = channel == k
            table[k] = np.quantile(residual[mine], _LEVELS)
            for g in range(_N_BINS + 1):
                members = mine & (group == g)
                if members.sum() >= _ENOUGH:
                    table[k, g] = np.quantile(residual[members], _LEVELS)
        return cls(table, edges)

    def evaluate(self, levels: Array, channel: Array, ahead: Array, seen: Array) -> Array:
        """Quantiles of ``levels`` (row or 1, level) for each row, ``(row, level)``."""
        group = np.where(seen, np.searchsorted(self.edges, ahead, side="right"), _N_BINS)
        place = np.asarray(levels) * (len(_LEVELS) - 1)
        below = np.minimum(place.astype(np.int64), len(_LEVELS) - 2)
        channel, group = channel[:, None], group[:, None]
        left, right = self.table[channel, group, below], self.table[channel, group, below + 1]
        return left + (place - below) * (right - left)
