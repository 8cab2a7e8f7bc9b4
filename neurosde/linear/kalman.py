"""Kalman's filter and the Rauch-Tung-Striebel smoother, for many series that each have their own times.

Written for transitions that are given, so that nothing here knows about SDEs. An axis of length 1 in the
place of ``series`` means that all series share the value: with common times and nothing missing, covariances
are computed once for all of them.
"""

import torch

from neurosde.errors import DataError
from neurosde.linear.gaussian import Gaussian, restrict, square_root, standardise, symmetric
from neurosde.linear.transition import Transition
from neurosde.typing import NamedTuple, Tensor

# Of a channel's largest predictive variance in a series: below it an observation says nothing new. Rounding
# after an exact observation leaves about 1e-32, two different times near 1 in float64 at least 1e-16.
_NOTHING_NEW = 1e-24


class Observations(NamedTuple):
    """What was seen of a state ``x``: ``y = C x + e`` with ``e ~ N(0, R)``.

    Parameters
    ----------
    values
        ``(series, time, channel)``; entries that do not count may hold anything.
    seen
        Which entries count, ``(1 or series, time, channel)``.
    C
        ``(channel, state)``.
    R
        ``(channel, channel)``.
    """

    values: Tensor
    seen: Tensor
    C: Tensor
    R: Tensor


class Filtered(NamedTuple):
    """Laws of the state as the observations come in.

    Parameters
    ----------
    predicted
        Law at each time given what was seen before it: mean ``(*batch, time, state)``, covariance
        ``(*batch, time, state, state)``. NaN where a time is padding.
    filtered
        The same, given what was seen until and at that time.
    log_density
        Log-density in nats of what was seen at each time given what was seen before, ``(*batch, time)``; zero
        where nothing was seen.
    """

    predicted: Gaussian
    filtered: Gaussian
    log_density: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """Log-density in nats of all that was seen of each series, ``(*batch)``."""
        return self.log_density.sum(-1)


def kalman_filter(initial: Gaussian, transition: Transition, observations: Observations) -> Filtered:
    """Predict, score and update, one observation time after the other.

    Kalman (1960); the update in Joseph's form ``P <- (I - K C) P (I - K C)' + K R K'``, which stays positive
    whatever the gain's rounding.

    Parameters
    ----------
    initial
        Law before the first step: mean ``(series, state)``, covariance ``(1 or series, state, state)``.
    transition
        Step that leads to each time, ``(1 or series, time, ...)``.
    observations
        What was seen at each time.

    Returns
    -------
    Filtered

    Raises
    ------
    DataError
        If an observation has no density given the ones before it.
    """
    values, seen, C, R = observations
    eye = torch.eye(C.shape[1]).to(C)
    law, predicted, filtered, scores = initial, [], [], []
    for Phi, m, Q, y, at in zip(*(x.unbind(1) for x in (*transition, values, seen)), strict=True):
        law = law.push(Phi, m, Q)
        predicted.append(law)
        score = standardise(law.push(C, noise=R), y, at)
        gain = torch.cholesky_solve(at.unsqueeze(-1) * (C @ law.covariance), score.root).mT
        kept = eye - gain @ C
        mean = law.mean + (gain @ score.residual.unsqueeze(-1)).squeeze(-1)
        law = Gaussian(mean, symmetric(kept @ law.covariance @ kept.mT + gain @ R @ gain.mT))
        filtered.append(law)
        scores.append((score.singular, score.variance, score.log_density))
    singular, variance, log_density = (torch.stack(parts, 1) for parts in zip(*scores, strict=True))
    _check_scores(singular, variance, seen)
    return Filtered(_stack(predicted), _stack(filtered), log_density)


def backward_transitions(filtered: Filtered, transition: Transition) -> Transition:
    """Law of each state given the next one and all that was seen until then: the chain that runs backwards.

    ``x_k | x_{k+1} ~ N(x_k|k + G (x_{k+1} - x_{k+1|k}), (I - G Phi) P_k|k (I - G Phi)' + G Q G')`` with gain
    ``G = P_k|k Phi' P_{k+1|k}^-`` (Rauch, Tung & Striebel 1965). Any generalised inverse will do, so states
    that are known exactly are left out of it.

    Returns
    -------
    Transition
        From each time but the first to the one before it, ``(1 or series, time - 1, ...)``.
    """
    Phi, _, Q = (x[:, 1:] for x in transition)
    mean, covariance = (x[:, :-1] for x in filtered.filtered)
    next_mean, next_covariance = (x[:, 1:] for x in filtered.predicted)
    root = square_root(next_covariance)
    alive = root.diagonal(dim1=-2, dim2=-1) > 0
    gain = torch.cholesky_solve(alive.unsqueeze(-1) * (Phi @ covariance), restrict(root, alive)).mT
    kept = torch.eye(Q.shape[-1]).to(Q) - gain @ Phi
    shift = mean - (gain @ next_mean.unsqueeze(-1)).squeeze(-1)
    return Transition(gain, shift, kept @ covariance @ kept.mT + gain @ Q @ gain.mT)


def smooth(filtered: Filtered, transition: Transition) -> Gaussian:
    """Law of the state at each time given all that was seen, ``(series, time, ...)``.

    The last filtered law, pushed through the chain that runs backwards. Both terms of a covariance are
    positive, so none is lost to cancellation.
    """
    law = Gaussian(filtered.filtered.mean[:, -1], filtered.filtered.covariance[:, -1])
    laws, backward = [law], backward_transitions(filtered, transition)
    for step in reversed(list(zip(*(x.unbind(1) for x in backward), strict=True))):
        law = law.push(*step)
        laws.append(law)
    return _stack(laws[::-1])


def _stack(laws: list[Gaussian]) -> Gaussian:
    mean, covariance = (torch.stack(parts, 1) for parts in zip(*laws, strict=True))
    return Gaussian(mean, covariance)


def _check_scores(singular: Tensor, variance: Tensor, seen: Tensor) -> None:
    largest = torch.where(seen, variance, 0.0).amax(1, keepdim=True)
    singular = singular | (seen & ~(variance > _NOTHING_NEW * largest)).any(-1)
    if bool(singular.any()):
        series, time = singular.nonzero()[0].tolist()
        raise DataError(
            f"values[{series}, {time}] has no density given the observations before it: a combination of its "
            "channels is known exactly already (the same time twice, or dependent rows of C, without noise). "
            "Give the observation a positive R, or drop the repeats."
        )
