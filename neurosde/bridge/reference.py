"""Reference processes on one interval between snapshots, and the coordinates in which they all look alike."""

import abc
import math

import torch

from neurosde.errors import DataError
from neurosde.linear import LinearSDE, Transition
from neurosde.typing import NamedTuple, Tensor


class Affine(NamedTuple):
    """``x -> matrix x + shift`` on ``(cell, state)``; a diagonal matrix is kept as a vector."""

    matrix: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """The image of ``x``."""
        return apply(self.matrix, x) + self.shift


class Pinned(NamedTuple):
    """Law of the reference at a time between two known points, ``N(G x + H y + shift, root root')``.

    Matrices that are multiples of the identity or diagonal are kept as scalars or vectors.
    """

    G: Tensor
    H: Tensor
    shift: Tensor
    root: Tensor

    def mean(self, x: Tensor, y: Tensor) -> Tensor:
        """``G x + H y + shift``, ``(cell, state)``."""
        return apply(self.G, x) + apply(self.H, y) + self.shift


class Reference(abc.ABC):
    """A linear reference SDE on ``[start, end]``.

    Given the position ``x`` at time t, the end point is ``N(Phi_t x + m_t, Q_t)``. In the coordinates
    ``z = R^-1 (Phi_t x + m_t - centre)`` and ``R^-1 (y - centre)``, with ``R R' = Q`` of the whole interval,
    every such process is a martingale whose end point is ``N(z, R^-1 Q_t R^-T)``, with variance I at the
    start: one static problem with epsilon 1. The common shift ``centre`` leaves the bridge unchanged and
    keeps exponents small.

    Attributes
    ----------
    start, end
        Times of the two snapshots.
    centre
        ``(state,)``.
    predict_from_start, whiten
        Maps of start cells to ``z`` and of end cells to whitened ones.
    """

    start: float
    end: float
    centre: Tensor
    predict_from_start: Affine
    whiten: Affine

    def _set_interval(self, start: float, end: float, centre: Tensor) -> None:
        if not (math.isfinite(start) and math.isfinite(end) and start < end):
            raise DataError(f"interval: expected finite times start < end, got [{start}, {end}]")
        self.start, self.end, self.centre = start, end, centre

    @abc.abstractmethod
    def predict(self, t: Tensor, x: Tensor) -> Tensor:
        """``z`` of cells ``x (cell, state)`` at time ``t``."""

    @abc.abstractmethod
    def colour(self, z: Tensor) -> Tensor:
        """Inverse of `whiten`."""

    @abc.abstractmethod
    def remaining(self, t: Tensor) -> Tensor:
        """Variance of the end point given the state at ``t``: a share of I, or ``(state, state)``."""

    @abc.abstractmethod
    def drift(self, t: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """Drift of the bridge whose ``grad log h`` at ``z`` is known."""

    @abc.abstractmethod
    def diffusion(self) -> Tensor:
        """``L``, ``(state, noise)``."""

    @abc.abstractmethod
    def variance(self) -> Tensor:
        """Variance that each coordinate gains over the interval, ``(state,)``."""

    @abc.abstractmethod
    def pinned(self, t: float, s: float) -> Pinned:
        """Law at ``s`` given the points at ``t <= s`` and at the end of the interval."""


class BrownianReference(Reference):
    """``dX = sigma dW``: the reference of the classical bridge.

    Parameters
    ----------
    start, end
        Times of the two snapshots.
    sigma
        Noise amplitude of each coordinate, ``(state,)``, positive: ``epsilon = sigma^2 (end - start)``.
    centre
        Common shift of the coordinates, ``(state,)``.
    """

    def __init__(self, start: float, end: float, sigma: Tensor, centre: Tensor):
        self._set_interval(start, end, centre)
        self.sigma = sigma
        self.root = sigma * math.sqrt(end - start)
        self.whiten = self.predict_from_start = Affine(1 / self.root, -centre / self.root)

    def predict(self, t: Tensor, x: Tensor) -> Tensor:
        """``(x - centre) / (sigma sqrt(Delta))``, at every time."""
        return self.whiten(x)

    def colour(self, z: Tensor) -> Tensor:
        """Inverse of `whiten`."""
        return z * self.root + self.centre

    def remaining(self, t: Tensor) -> Tensor:
        """``(end - t) / Delta``, of the shape of ``t``."""
        return ((self.end - t) / (self.end - self.start)).clamp(0.0, 1.0)

    def drift(self, t: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """``sigma / sqrt(Delta) grad log h``."""
        return gradient * (self.sigma / math.sqrt(self.end - self.start))

    def diffusion(self) -> Tensor:
        """``diag(sigma)``."""
        return torch.diag(self.sigma)

    def variance(self) -> Tensor:
        """``epsilon = sigma^2 Delta``."""
        return self.root**2

    def pinned(self, t: float, s: float) -> Pinned:
        """The Brownian bridge: variance ``sigma^2 (s - t)(end - s)/(end - t)``."""
        share = self.sigma.new_tensor((s - t) / (self.end - t))
        root = self.sigma * math.sqrt((s - t) * (self.end - s) / (self.end - t))
        return Pinned(1 - share, share, torch.zeros_like(self.centre), root)


class LinearReference(Reference):
    """``dX = (A X + b) dt + L dW`` with (A, L) controllable: Ornstein-Uhlenbeck, linear noise, kinetic.

    Parameters
    ----------
    start, end
        Times of the two snapshots.
    sde
        The linear SDE.
    centre
        Common shift of the coordinates, ``(state,)``.

    Raises
    ------
    DataError
        If the noise does not reach every direction of the state within the interval.
    """

    def __init__(self, start: float, end: float, sde: LinearSDE, centre: Tensor):
        self._set_interval(start, end, centre)
        self.sde = sde
        self.transition = Transition(*(part.to(centre) for part in sde.transition(end - start)))
        Phi, m, self.Q = self.transition
        root, failed = torch.linalg.cholesky_ex(self.Q)
        if bool(failed):
            raise DataError(
                f"reference: its noise does not reach all {len(self.Q)} directions of the state between "
                f"t={start} and t={end} (the transition covariance is singular); give L a wider range"
            )
        self.root = root
        self.inverse_root = torch.linalg.solve_triangular(root, torch.eye(len(root)).to(root), upper=False)
        self.predict_from_start = Affine(self.inverse_root @ Phi, self.inverse_root @ (m - centre))
        self.whiten = Affine(self.inverse_root, -self.inverse_root @ centre)

    def predict(self, t: Tensor, x: Tensor) -> Tensor:
        """``R^-1 (Phi x + m - centre)`` over the time left."""
        Phi, m, _ = self._left(t)
        return (x @ Phi.T + (m - self.centre)) @ self.inverse_root.T

    def colour(self, z: Tensor) -> Tensor:
        """Inverse of `whiten`."""
        return z @ self.root.T + self.centre

    def remaining(self, t: Tensor) -> Tensor:
        """``R^-1 Q_t R^-T``."""
        return self.inverse_root @ self._left(t)[2] @ self.inverse_root.T

    def drift(self, t: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """``A x + b + L L' Phi_t' R^-T grad log h``."""
        L = self.sde.L.to(x)
        gain = L @ L.T @ self._left(t)[0].T @ self.inverse_root.T
        return x @ self.sde.A.to(x).T + self.sde.b.to(x) + gradient @ gain.T

    def diffusion(self) -> Tensor:
        """``L``."""
        return self.sde.L.to(self.centre)

    def variance(self) -> Tensor:
        """Diagonal of ``Q``."""
        return self.Q.diagonal()

    def pinned(self, t: float, s: float) -> Pinned:
        """Gaussian conditioning: gain ``G = Q_0 Phi_1' Q^-1``, covariance ``Q_0 - G Phi_1 Q_0``."""
        Phi0, m0, Q0 = (part.to(self.centre) for part in self.sde.transition(s - t))
        Phi1, m1, Q1 = self._left(self.centre.new_tensor(s))
        G = torch.linalg.solve(Phi1 @ Q0 @ Phi1.T + Q1, Phi1 @ Q0).T
        kept = torch.eye(len(G)).to(G) - G @ Phi1
        C = kept @ Q0 @ kept.T + G @ Q1 @ G.T  # Joseph's form stays positive
        variance, axes = torch.linalg.eigh(0.5 * (C + C.T))
        return Pinned(kept @ Phi0, G, kept @ m0 - G @ m1, axes * variance.clamp(min=0).sqrt())

    def _left(self, t: Tensor) -> Transition:
        """Transition over the time left at ``t``."""
        left = max(self.end - float(t), 0.0)
        return Transition(*(part.to(self.centre) for part in self.sde.transition(left)))


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """Product with a matrix that may be kept as a scalar or as its diagonal, ``(cell, state)``."""
    return x @ matrix.T if matrix.dim() == 2 else x * matrix
