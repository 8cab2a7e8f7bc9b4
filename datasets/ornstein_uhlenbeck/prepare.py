"""Stationary Ornstein-Uhlenbeck series at irregular times."""

import numpy as np

from neurosde.data import Series
from neurosde.datasets.simulators import ornstein_uhlenbeck
from neurosde.errors import DataError


def simulate(
    *,
    seed: int = 0,
    n_series: int = 200,
    n_times: int = 40,
    horizon: float = 10.0,
    theta: float = 1.0,
    mu: float = 0.0,
    sigma: float = 0.7,
    observation_sd: float = 0.1,
) -> Series:
    r"""Draw :math:`dX = \theta(\mu - X)dt + \sigma dW` from its stationary law, at uniform random times.

    Parameters
    ----------
    seed, n_series, n_times : int
    horizon : float
    theta, mu, sigma : float
        The stationary variance is ``sigma**2 / (2 * theta)``.
    observation_sd : float
        Standard deviation of the independent noise on each observation.

    Examples
    --------
    >>> simulate(n_series=2, n_times=3).counts.tolist()
    [3, 3]
    """
    if n_series < 1 or n_times < 1 or not min(horizon, theta, sigma) > 0 or observation_sd < 0:
        raise DataError(
            "n_series, n_times, horizon, theta, sigma must be positive, observation_sd not negative"
        )
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(0.0, horizon, (n_series, n_times)), axis=1)
    stationary_sd = sigma / np.sqrt(2 * theta)
    state = mu + stationary_sd * np.stack([ornstein_uhlenbeck(t, theta, rng)[0] for t in time])
    value = state + observation_sd * rng.standard_normal(state.shape)
    return Series(
        ids=np.arange(n_series),
        offsets=np.arange(0, n_series * n_times + 1, n_times),
        time=time.ravel(),
        channel=np.zeros(time.size, dtype=int),
        value=value.ravel(),
        channel_names=("x",),
        time_unit="1/theta",
    )
