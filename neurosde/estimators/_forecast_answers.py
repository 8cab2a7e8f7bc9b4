"""Answers of a fitted forecaster: what is asked of the network's mixtures, some rows at a time."""

import dataclasses

import numpy as np
import torch

from neurosde.estimators._forecast_network import CorrectionNetwork, Mixture
from neurosde.estimators._forecast_samples import TICKS, Batch, Samples
from neurosde.typing import Array, Callable, Sequence, Tensor

__all__ = ["Answers"]

_ROWS = 1 << 17  # paths times rows that are answered at a time: about 200 MB
_PATHS = 16  # paths of a sample that are followed at a time
_TRUST = 200  # held-back entries of a channel that count as much as all the others when its width is set
_WIDTHS = (0.5, 2.0)  # least and greatest correction of the spread


@dataclasses.dataclass(frozen=True)
class Answers:
    """Corrections of some samples, in units of the residuals, by row.

    Parameters
    ----------
    network
        The trained network, in evaluation mode.
    samples
        What is known, and the entries asked for.
    width
        (channel,) factor on the spread of the forecasts.
    n_paths
        Latent paths behind means and quantiles.
    seed
        Of the latent paths.
    """

    network: CorrectionNetwork
    samples: Samples
    width: Array
    n_paths: int
    seed: int

    def mean(self) -> Array:
        """Means, ``(row,)``."""
        return self._reduce(lambda mixture, batch: mixture.expectation())

    def quantiles(self, levels: Sequence[float]) -> Array:
        """Quantiles, ``(row, level)``."""
        return self._reduce(lambda mixture, batch: torch.stack([mixture.quantile(a) for a in levels], dim=1))

    def crps(self) -> Array:
        """Fair CRPS of what was observed, ``(row,)``."""
        return self._reduce(lambda mixture, batch: mixture.crps(batch.target))

    def draws(self, n: int, seed: int) -> Array:
        """Draws, ``(row, sample)``: sample k of a series follows its path k."""

        def draw(mixture: Mixture, batch: Batch) -> Tensor:
            tick = torch.round(batch.ahead.double() * TICKS).long()
            fields = (paths.to(tick.device).unsqueeze(1), batch.keys[batch.series], batch.channel, tick)
            return mixture.draw(seed, *fields).T

        blocks = []
        for paths in torch.arange(n).split(_PATHS):
            blocks.append(self._reduce(draw, paths, seed))
        return np.concatenate(blocks, axis=1)

    def widths(self, coverage: float = 0.9) -> Array:
        """Factors on the spread that give central intervals their coverage of the observed, ``(channel,)``.

        A channel with few entries leans on the others; with few entries at all the factors are 1.
        """
        levels = ((1.0 - coverage) / 2, (1.0 + coverage) / 2)

        def reach(mixture: Mixture, batch: Batch) -> Tensor:  # 1: the entry is at the end of its interval
            centre, off = mixture.expectation(), batch.target - mixture.expectation()
            end = torch.where(off < 0, mixture.quantile(levels[0]), mixture.quantile(levels[1]))
            return off / (end - centre)

        factors = np.ones(len(self.width))
        if len(self.samples.channel) < _TRUST:
            return factors
        reached = self._reduce(reach)
        overall = np.quantile(reached, coverage)
        for k in np.unique(self.samples.channel).tolist():
            mine = reached[self.samples.channel == k]
            trust = len(mine) / (len(mine) + _TRUST)
            factor = trust * np.quantile(mine, coverage) + (1.0 - trust) * overall
            factors[k] = np.clip(factor, *_WIDTHS)
        return factors

    def _reduce(
        self,
        reduce: Callable[[Mixture, Batch], Tensor],
        paths: Tensor | None = None,
        seed: int | None = None,
    ) -> Array:
        """What ``reduce`` makes of the mixtures, ``(row, ...)`` float64, in blocks of samples."""
        device = next(self.network.parameters()).device
        paths = torch.arange(self.n_paths) if paths is None else paths
        width = torch.from_numpy(self.width.astype(np.float32)).to(device)
        blocks = []
        with torch.no_grad():
            for index in self.samples.chunks(_ROWS // len(paths)):
                batch = self.samples.batch(index).to(device)
                mixture = self.network(batch, paths.to(device), self.seed if seed is None else seed)
                blocks.append(reduce(mixture.stretched(width[batch.channel]), batch).cpu().numpy())
        return np.concatenate(blocks).astype(np.float64)
