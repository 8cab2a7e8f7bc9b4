"""The second road to everything here: one dense Gaussian over all times, from SciPy's matrix functions."""

import numpy as np
import pytest
from scipy import linalg


@pytest.fixture
def dense_law():
    """Mean (time * state,) and covariance of a stationary linear SDE at given times, in any order."""

    def law(A, b, L, times):
        A, b, L, times = (np.asarray(x, dtype=np.float64) for x in (A, b, L, times))
        P = linalg.solve_continuous_lyapunov(A, -L @ L.T)

        def covariance(s, t):  # Cov(X_s, X_t)
            return linalg.expm(A * (s - t)) @ P if s >= t else P @ linalg.expm(A.T * (t - s))

        blocks = [[covariance(s, t) for t in times] for s in times]
        return np.tile(-np.linalg.solve(A, b), len(times)), np.block(blocks)

    return law


@pytest.fixture
def observe():
    """Law of the values (time * channel,) given that of the states, and the covariance of the two."""

    def law(mean, covariance, C, R, n_times):
        C, R = np.atleast_2d(np.asarray(C, dtype=np.float64)), np.asarray(R, dtype=np.float64)
        R = np.diag(np.broadcast_to(R, len(C))) if R.ndim < 2 else R
        H = np.kron(np.eye(n_times), C)
        return H @ mean, H @ covariance @ H.T + np.kron(np.eye(n_times), R), covariance @ H.T

    return law


@pytest.fixture
def log_density():
    """Log-density of a Gaussian by its textbook formula."""

    def score(x, mean, covariance):
        r = np.asarray(x) - mean
        _, log_det = np.linalg.slogdet(covariance)
        return -0.5 * (r @ np.linalg.solve(covariance, r) + log_det + len(r) * np.log(2 * np.pi))

    return score
