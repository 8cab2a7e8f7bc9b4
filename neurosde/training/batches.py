"""Which samples an update sees and the key of its noise: functions of the seed and the iteration."""

import math

import numpy as np

from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array, Literal

__all__ = ["draw_batches", "hold_back"]

_BATCHES, _SPLIT = range(2)


def hold_back(
    n_samples: int, fraction: float, *, seed: int, groups: Array | None = None
) -> tuple[Array, Array]:
    """Split samples into a training part and a held-back part that share no group.

    Parameters
    ----------
    n_samples
        Number of samples.
    fraction
        Part to hold back, rounded up to whole groups; each side gets one group at least.
    seed
        Fixes the split.
    groups
        (sample,) labels; None makes every sample a group of its own.

    Returns
    -------
    training, held_back
        Sorted sample numbers.

    Raises
    ------
    ShapeError
        If there is not one label a sample.
    DataError
        With fewer than two groups.

    Examples
    --------
    >>> hold_back(6, 0.3, seed=0, groups=np.array([0, 0, 1, 1, 2, 2]))
    (array([0, 1, 2, 3]), array([4, 5]))
    """
    labels = np.arange(n_samples) if groups is None else np.asarray(groups)
    if labels.shape != (n_samples,):
        raise ShapeError(f"groups must have shape ({n_samples},), one label a sample, got {labels.shape}")
    _, member, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError(
            f"early_stopping holds back whole groups and found {len(sizes)}; give 2 or switch it off"
        )
    order = np.random.default_rng((seed, _SPLIT)).permutation(len(sizes))
    target = math.ceil(fraction * n_samples - 1e-9)
    n_held = min(int(np.searchsorted(sizes[order].cumsum(), target)) + 1, len(sizes) - 1)
    held = np.isin(member, order[:n_held])
    return np.flatnonzero(~held), np.flatnonzero(held)


def draw_batches(
    samples: Array, size: int, *, unit: Literal["epoch", "step"], seed: int, iteration: int
) -> list[tuple[Array, int]]:
    """Batches of one iteration, each with a 63-bit key for its noise.

    An epoch is a shuffled pass in nearly equal parts of at most `size`; a step is one random batch.

    Examples
    --------
    >>> batches = draw_batches(np.arange(5), 2, unit="epoch", seed=0, iteration=3)
    >>> [batch.tolist() for batch, key in batches]
    [[0, 1], [4, 3], [2]]
    """
    rng = np.random.default_rng((seed, _BATCHES, iteration))
    if size >= len(samples):
        parts = [samples]
    elif unit == "step":
        parts = [samples[rng.choice(len(samples), size, replace=False)]]
    else:
        parts = np.array_split(samples[rng.permutation(len(samples))], math.ceil(len(samples) / size))
    return [(part, int(rng.integers(2**63))) for part in parts]
