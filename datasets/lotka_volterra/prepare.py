"""Prey and predators with additive noise."""

import numpy as np
import torch

from neurosde.data import Snapshots
from neurosde.datasets.simulators import snapshots
from neurosde.sde import SDE
from neurosde.typing import Sequence, Tensor


class LotkaVolterra(SDE):
    r""":math:`dx = (\alpha x - \beta xy)dt + s\,dW_1`, :math:`dy = (\delta xy - \gamma y)dt + s\,dW_2`."""

    sde_type, noise_type, additive = "ito", "diagonal", True

    def __init__(
        self, alpha: float = 1.0, beta: float = 0.4, gamma: float = 0.4, delta: float = 0.1, sd: float = 0.1
    ):
        super().__init__()
        self.alpha, self.beta, self.gamma, self.delta, self.sd = alpha, beta, gamma, delta, sd

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Growth of the prey, being eaten, growth by eating, death."""
        prey, predators = y.unbind(-1)
        met = prey * predators
        return torch.stack(
            [self.alpha * prey - self.beta * met, self.delta * met - self.gamma * predators], dim=-1
        )

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """The same for every species and state."""
        return torch.full_like(y, self.sd)


def simulate(
    *, seed: int = 0, n_cells: int = 50, times: Sequence[float] = tuple(range(9)), sd: float = 0.1
) -> Snapshots:
    """Snapshots of the truth of the published set: alpha = 1, beta = 0.4, gamma = 0.4, delta = 0.1.

    Examples
    --------
    >>> simulate(n_cells=5, times=(0.0, 0.5)).X.shape
    (10, 2)
    """
    rng = np.random.default_rng(seed)
    initial = np.array([5.0, 4.0]) + 0.1 * rng.uniform(size=(len(times), n_cells, 2))
    return snapshots(
        LotkaVolterra(sd=sd), initial, times, dt=0.02, seed=seed, feature_names=("prey", "predators")
    )
