"""Kalman's filter and the Rauch-Tung-Striebel smoother, for many series that each have their own times.

Written for transitions that are given, so that nothing here knows about SDEs. An axis of length 1 in the
place of ``series`` means that all series share the value: with common times and nothing missing, covariances
are computed once for all of them.
"""

import torch

from neurosde.errors import DataError
from neurosde.linear.gaussian import Gaussian, Score, restrict, square_root, standardise, symmetric
from neurosde.linear.transition import Transition, apply, follow
from neurosde.typing import NamedTuple, Tensor

# Share of a noiseless channel's largest predictive variance in a series, below which an observation says
# nothing new: rounding after an exact observation leaves about 1e-32, the shortest time in float64 1e-16.
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
    whatever the gain's rounding. Only what depends on the time before runs along the times: covariances and
    gains, then the means ``x_{k+1|k} = Phi ((I - K C) x_{k|k-1} + K y_k) + m``.

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
    Phi, m, Q = transition
    blocks = seen.unsqueeze(-1) * C, restrict(R, seen)
    predicted, kept, gain, updated = _riccati(initial.covariance, Phi, Q, *blocks)
    news = apply(gain, torch.where(seen, values, 0.0))
    first = apply(Phi[:, 0], initial.mean) + m[:, 0]
    steps = Phi[:, 1:] @ kept[:, :-1], apply(Phi[:, 1:], news[:, :-1]) + m[:, 1:]
    law = Gaussian(follow(first, *steps), predicted)
    score = standardise(law.push(C, noise=R), values, seen)
    _check_score(score, seen & (R.diagonal() == 0))
    filtered = Gaussian(law.mean + apply(gain, score.residual), updated)
    return Filtered(law, filtered, score.log_density)


def _riccati(P: Tensor, Phi: Tensor, Q: Tensor, C: Tensor, R: Tensor) -> tuple[Tensor, ...]:
    """Predicted covariance, ``I - K C``, gain K and updated covariance at each time: they need no values.

    Where a channel was not seen, its row of C is zero and its part of R the identity; so is its gain zero.
    """
    eye, columns = torch.eye(P.shape[-1]).to(P), []
    for Phi_k, Q_k, C_k, R_k in zip(*(x.unbind(1) for x in (Phi, Q, C, R)), strict=True):
        P = Phi_k @ P @ Phi_k.mT + Q_k
        CP = C_k @ P
        root, _ = torch.linalg.cholesky_ex(CP @ C_k.mT + R_k)
        gain = torch.cholesky_solve(CP, root).mT
        kept = eye - gain @ C_k
        updated = kept @ P @ kept.mT + gain @ R_k @ gain.mT
        columns.append((P, kept, gain, updated))
        P = updated
    predicted, kept, gain, updated = (torch.stack(column, 1) for column in zip(*columns, strict=True))
    return symmetric(predicted), kept, gain, symmetric(updated)


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
    shift = mean - apply(gain, next_mean)
    return Transition(gain, shift, kept @ covariance @ kept.mT + gain @ Q @ gain.mT)


def smooth(filtered: Filtered, transition: Transition) -> Gaussian:
    """Law of the state at each time given all that was seen, ``(series, time, ...)``.

    The last filtered law, carried along the chain that runs backwards. Both terms of a covariance are
    positive, so none is lost to cancellation.
    """
    gain, shift, left = (part.flip(1) for part in backward_transitions(filtered, transition))
    mean, P = filtered.filtered.mean[:, -1], filtered.filtered.covariance[:, -1]
    covariances = [P]
    for gain_k, left_k in zip(gain.unbind(1), left.unbind(1), strict=True):
        P = gain_k @ P @ gain_k.mT + left_k
        covariances.append(P)
    return Gaussian(follow(mean, gain, shift).flip(1), symmetric(torch.stack(covariances[::-1], 1)))


def _check_score(score: Score, noiseless: Tensor) -> None:
    largest = torch.where(noiseless, score.variance, 0.0).amax(1, keepdim=True)
    nothing_new = (noiseless & ~(score.variance > _NOTHING_NEW * largest)).any(-1)
    void = score.singular | nothing_new
    if bool(void.any()):
        series, time = void.nonzero()[0].tolist()
        raise DataError(
            f"values[{series}, {time}] has no density given the observations before it: a combination of its "
            "channels is known exactly already (the same time twice, or dependent rows of C, without noise). "
            "Give the observation a positive R, or drop the repeats."
        )
