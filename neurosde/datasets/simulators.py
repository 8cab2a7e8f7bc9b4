"""What the simulated datasets share: exact Ornstein-Uhlenbeck paths, and snapshots cut out of an SDE."""

import numpy as np
import torch

from neurosde.data import Snapshots
from neurosde.errors import DataError
from neurosde.sde import SDE
from neurosde.solve import solve
from neurosde.typing import Array, Sequence


def ornstein_uhlenbeck(time: Array, rate: float, rng: np.random.Generator, n: int = 1) -> Array:
    r"""Exact stationary Ornstein-Uhlenbeck paths of unit variance at any times.

    .. math:: X_t = e^{-\theta t}\, W_{e^{2\theta t}}, \qquad \mathrm{Cov}(X_s, X_t) = e^{-\theta |t - s|}

    with :math:`W` a Brownian motion (Doob 1942, "The Brownian movement and stochastic equations", section 1):
    a cumulated sum of independent normals, no step size.

    Parameters
    ----------
    time : (time,) sorted
    rate : float
        :math:`\theta > 0` in one over the unit of ``time``; the correlation time is its inverse.
    rng : numpy.random.Generator
    n : int
        Number of independent paths.

    Returns
    -------
    (n, time) array

    Examples
    --------
    >>> ornstein_uhlenbeck(np.array([0.0, 0.0, 1.0]), 1.0, np.random.default_rng(0)).shape
    (1, 3)
    """
    elapsed = np.asarray(time, dtype=float) - time[0]
    if not 0 < rate * max(elapsed[-1], 1.0) <= 300:
        raise DataError(
            f"rate is {rate} over a duration of {elapsed[-1]}: expected rate * duration in (0, 300]"
        )
    growth = np.diff(np.exp(2 * rate * elapsed), prepend=0.0)
    return np.exp(-rate * elapsed) * np.cumsum(
        np.sqrt(growth) * rng.standard_normal((n, len(elapsed))), axis=1
    )


def snapshots(
    sde: SDE, initial: Array, times: Sequence[float], *, dt: float, seed: int, feature_names: Sequence[str]
) -> Snapshots:
    """Snapshots of an SDE in which every cell is seen once, as if measuring destroyed it.

    Parameters
    ----------
    sde : SDE
    initial : (snapshot, cell, state)
        Where each cell starts; a cell of the k-th snapshot is observed at ``times[k]`` only.
    times : (snapshot,)
    dt : float
        Step of the solver.
    seed : int
        Of the noise.
    feature_names : sequence of str

    Returns
    -------
    Snapshots
    """
    _, n_cells, n_states = initial.shape
    y0 = torch.from_numpy(np.ascontiguousarray(initial, dtype=np.float64).reshape(-1, n_states))
    time = np.repeat(np.asarray(times, dtype=np.float64), n_cells)
    start = np.min(times)
    # Every cell has a clock of its own, from the start to the one time at which it is seen.
    clocks = np.stack([np.full_like(time, start), np.where(time > start, time, np.nan)], axis=1)
    with torch.no_grad():
        solution = solve(sde, y0, torch.from_numpy(clocks), dt=dt, seed=seed)
    solution.raise_if_failed()
    seen = np.where(time > start, 1, 0)
    return Snapshots(solution.ys.numpy()[np.arange(len(time)), seen], time, feature_names=feature_names)
