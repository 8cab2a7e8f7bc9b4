"""Three genes that repress one another in a ring, with additive noise."""

import numpy as np
import torch

from neurosde.data import Snapshots
from neurosde.datasets.simulators import snapshots
from neurosde.sde import SDE
from neurosde.typing import Sequence, Tensor


class Repressilator(SDE):
    r""":math:`dx_i = (\beta / (1 + (x_{i-1}/k)^n) - \gamma x_i)dt + s\,dW_i`, indices in a ring."""

    sde_type, noise_type, additive = "ito", "diagonal", True

    def __init__(
        self, beta: float = 10.0, n: float = 3.0, k: float = 1.0, gamma: float = 1.0, sd: float = 0.1
    ):
        super().__init__()
        self.beta, self.n, self.k, self.gamma, self.sd = beta, n, k, gamma, sd

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Production under repression by the gene before, and decay."""
        # A noisy level may dip below zero, where a fractional power has no meaning: nothing represses there.
        repressor = torch.roll(y, 1, dims=-1).clamp(min=0.0) / self.k
        return self.beta / (1 + repressor**self.n) - self.gamma * y

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """The same for every species and state."""
        return torch.full_like(y, self.sd)


def simulate(
    *,
    seed: int = 0,
    n_cells: int = 50,
    times: Sequence[float] = tuple(0.75 * k for k in range(11)),
    sd: float = 0.1,
) -> Snapshots:
    """Snapshots of the truth of the published set: beta = 10, n = 3, k = 1, gamma = 1.

    Examples
    --------
    >>> simulate(n_cells=5, times=(0.0, 0.5)).X.shape
    (10, 3)
    """
    rng = np.random.default_rng(seed)
    initial = np.array([1.0, 1.0, 2.0]) + 0.1 * rng.uniform(size=(len(times), n_cells, 3))
    return snapshots(
        Repressilator(sd=sd), initial, times, dt=0.01, seed=seed, feature_names=("x1", "x2", "x3")
    )
