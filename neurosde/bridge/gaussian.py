"""The Schrödinger bridge between two Gaussians, in closed form."""

import torch

from neurosde.bridge.bridge import Bridge, LightInterval
from neurosde.bridge.light import LightMixture
from neurosde.bridge.reference import Reference, apply
from neurosde.errors import DataError, ShapeError
from neurosde.linear import Gaussian
from neurosde.linear.checks import check_covariance
from neurosde.typing import Any, Tensor


class GaussianBridge(Bridge):
    """Bridge from ``N(m0, S0)`` to ``N(m1, S1)`` under a linear reference, without training.

    In the reference's coordinates it is the light bridge of one component. Its covariance solves
    ``S_Y = S + S S_Z S``, so ``S = 2 S_Y^(1/2) (I + (I + 4 S_Y^(1/2) S_Z S_Y^(1/2))^(1/2))^-1 S_Y^(1/2)``,
    which is free of cancellation and takes a singular ``S0``. For a Brownian reference it is the bridge of
    Bunne, Hsieh, Cuturi & Krause (AISTATS 2023).

    Parameters
    ----------
    start, end
        Moments ``(mean (state,), covariance (state, state))`` at the two times; the end covariance is
        positive definite.
    reference
        The reference process; its interval is the bridge's.

    Raises
    ------
    ShapeError, DataError
        If the moments do not fit or a covariance is not symmetric and positive.

    Examples
    --------
    >>> import torch
    >>> from neurosde.bridge import BrownianReference
    >>> one = torch.ones(1).double()
    >>> reference = BrownianReference(0.0, 1.0, sigma=one, centre=0 * one)
    >>> bridge = GaussianBridge((0 * one, one[None]), (0 * one, one[None]), reference)
    >>> round(float(bridge.cross_covariance()), 6)  # (sqrt(4 + 1) - 1) / 2
    0.618034
    """

    def __init__(self, start: tuple[Any, Any], end: tuple[Any, Any], reference: Reference):
        self.reference, d = reference, len(reference.centre)
        self.start, self.end = (
            _law(name, value, reference.centre) for name, value in (("start", start), ("end", end))
        )
        eye = torch.eye(d).to(reference.centre)
        forward, white = (apply(f.matrix, eye).T for f in (reference.predict_from_start, reference.whiten))
        self.forward = forward
        S_z = forward @ self.start.covariance @ forward.T
        root = _root(white @ self.end.covariance @ white.T)
        self.S = 2 * root @ torch.linalg.solve(eye + _root(eye + 4 * root @ S_z @ root), root)
        scale, basis = torch.linalg.eigh(0.5 * (self.S + self.S.T))
        if not bool((scale > 0).all()):
            raise DataError(
                "end: expected a positive definite covariance, its smallest eigenvalue is not above 0"
            )
        z_mean, y_mean = (
            f(part.mean[None])
            for f, part in ((reference.predict_from_start, self.start), (reference.whiten, self.end))
        )
        r = y_mean - z_mean @ self.S.T
        super().__init__(
            [LightInterval(reference, LightMixture(r.new_zeros(1), r, scale[None], basis[None]))]
        )

    def cross_covariance(self) -> Tensor:
        """``Cov(X_start, X_end)``, ``(state, state)``."""
        eye = torch.eye(self.state_size).to(self.times)
        colour = self.reference.colour(eye) - self.reference.colour(torch.zeros_like(eye[:1]))
        return self.start.covariance @ self.forward.T @ self.S @ colour

    def law(self, t: float) -> Gaussian:
        """Normal law at ``t``."""
        t = self._time("t", t)
        pinned = self.reference.pinned(self.reference.start, t)
        eye = torch.eye(self.state_size).to(self.times)
        G, H, noise = (apply(part, eye).T for part in (pinned.G, pinned.H, pinned.root))
        cross = G @ self.cross_covariance() @ H.T
        mean = pinned.mean(self.start.mean[None], self.end.mean[None])[0]
        covariance = G @ self.start.covariance @ G.T + H @ self.end.covariance @ H.T + noise @ noise.T
        return Gaussian(mean, covariance + cross + cross.T)

    def marginal(self, t: float, n: int | None = None, *, seed: int = 0) -> Tensor:
        """Draws from the law at ``t``, ``(n, state)``; 1000 by default."""
        return self.law(t).sample(1000 if n is None else n, seed=seed)


def _root(matrix: Tensor) -> Tensor:
    """Symmetric root of a positive semi-definite matrix; rounding below zero is cut off."""
    values, axes = torch.linalg.eigh(0.5 * (matrix + matrix.T))
    return (axes * values.clamp(min=0).sqrt()) @ axes.T


def _law(name: str, value: tuple[Any, Any], like: Tensor) -> Gaussian:
    mean, covariance = (torch.as_tensor(part).to(like) for part in value)
    d = len(like)
    if mean.shape != (d,) or covariance.shape != (d, d):
        raise ShapeError(
            f"{name}: expected a mean ({d},) and a covariance ({d}, {d}), got {tuple(mean.shape)} and "
            f"{tuple(covariance.shape)}"
        )
    if not bool(torch.isfinite(mean).all()):
        raise DataError(f"{name}: expected a finite mean, got {mean.tolist()}")
    return Gaussian(mean, check_covariance(f"{name} covariance", covariance))
