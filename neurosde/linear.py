"""Linear SDEs and their exact Gaussian transitions, in the one place that all of the package shares."""

import math

import torch

from neurosde.errors import DataError, ShapeError
from neurosde.sde import SDE
from neurosde.typing import Any, NamedTuple, Tensor


class Transition(NamedTuple):
    """Law of a linear SDE after some time: ``X | x ~ N(Phi x + m, Q)``, all in float64."""

    Phi: Tensor
    m: Tensor
    Q: Tensor


class LinearSDE(SDE):
    """``dX = (A X + b) dt + L dW``, whose transitions are known exactly.

    Parameters
    ----------
    A
        ``(state, state)``.
    b
        ``(state,)``; zero by default.
    L
        ``(state, noise)``; the identity by default.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DataError
        If an entry is not finite.

    Examples
    --------
    >>> from neurosde import LinearSDE
    >>> Phi, m, Q = LinearSDE([[-1.0]], [1.0], [[1.0]]).transition(2.0)
    >>> round(float(Q), 6)  # (1 - exp(-4)) / 2
    0.490842
    """

    sde_type = "ito"
    noise_type = "additive"
    additive = True
    A: Tensor
    b: Tensor
    L: Tensor

    def __init__(self, A: Any, b: Any = None, L: Any = None):
        super().__init__()
        A = torch.as_tensor(A, dtype=torch.float64)
        if A.dim() != 2 or A.shape[0] != A.shape[1]:
            raise ShapeError(f"A: expected (state, state), got {tuple(A.shape)}.")
        d = A.shape[0]
        b = torch.zeros(d, dtype=torch.float64) if b is None else torch.as_tensor(b, dtype=torch.float64)
        L = torch.eye(d, dtype=torch.float64) if L is None else torch.as_tensor(L, dtype=torch.float64)
        if b.shape != (d,):
            raise ShapeError(f"b: expected ({d},), got {tuple(b.shape)}.")
        if L.dim() != 2 or L.shape[0] != d:
            raise ShapeError(f"L: expected ({d}, noise), got {tuple(L.shape)}.")
        for name, value in (("A", A), ("b", b), ("L", L)):
            if not value.is_meta and not bool(torch.isfinite(value).all()):
                index = (~torch.isfinite(value)).nonzero()[0].tolist()
                raise DataError(
                    f"{name}: expected finite entries, entry {index} is {value[tuple(index)].item()}."
                )
            self.register_buffer(name, value)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """``A y + b``."""
        return y @ self.A.to(y).T + self.b.to(y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """``L``, the same for every series."""
        return self.L.to(y).expand(*y.shape[:-1], *self.L.shape)

    def transition(self, duration: float) -> Transition:
        """Exact law after a duration; see :func:`linear_transition`."""
        return linear_transition(self.A, self.b, self.L, duration)


def linear_transition(A: Tensor, b: Tensor, L: Tensor, duration: float) -> Transition:
    """Exact transition of ``dX = (A X + b) dt + L dW`` over a duration.

    ``Phi = e^{A tau}``, ``m = int_0^tau e^{A s} b ds``, ``Q = int_0^tau e^{A s} L L' e^{A' s} ds``: Van
    Loan's (1978) block exponential over ``tau / 2^n`` with ``|A|_1 tau / 2^n <= 1/2``, then n doublings
    ``(Phi, m, Q) <- (Phi^2, m + Phi m, Q + Phi Q Phi')``. The block exponential over the whole duration
    contains ``e^{-A tau}`` and fails for stiff stable A.

    Parameters
    ----------
    A, b, L
        Drift matrix ``(state, state)``, constant drift ``(state,)`` and noise matrix ``(state, noise)``.
    duration
        Length of time, at least 0.

    Returns
    -------
    Transition

    Raises
    ------
    DataError
        If the duration is negative or not finite.
    """
    if not (math.isfinite(duration) and duration >= 0):
        raise DataError(f"duration: expected a finite length of time >= 0, got {duration!r}.")
    A, b, L = (x.to(torch.float64) for x in (A, b, L))
    d = A.shape[0]
    norm = float(torch.linalg.matrix_norm(A, 1)) * duration
    n_doublings = max(0, math.ceil(math.log2(2 * norm))) if norm > 0 else 0
    step = duration / 2**n_doublings
    block = A.new_zeros(2 * d, 2 * d)
    block[:d, :d], block[:d, d:], block[d:, d:] = -A, L @ L.T, A.T
    exponential = torch.linalg.matrix_exp(block * step)
    Phi = exponential[d:, d:].T
    Q = Phi @ exponential[:d, d:]
    affine = A.new_zeros(d + 1, d + 1)
    affine[:d, :d], affine[:d, d] = A, b
    m = torch.linalg.matrix_exp(affine * step)[:d, d]
    for _ in range(n_doublings):
        Phi, m, Q = Phi @ Phi, m + Phi @ m, Q + Phi @ Q @ Phi.T
    return Transition(Phi, m, 0.5 * (Q + Q.T))
