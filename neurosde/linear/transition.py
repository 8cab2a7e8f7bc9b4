"""Exact transitions of linear SDEs: one Taylor series for all durations, then doublings."""

import math

import torch

from neurosde.arguments import as_numbers
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Any, NamedTuple, Tensor

# Terms of the series. With |A| times the step at most 1/2 what is left out is below 1/19! of the first term.
_TERMS = 18


class Transition(NamedTuple):
    """Law of a linear SDE after some time, ``X | x ~ N(Phi x + m, Q)``, all in float64.

    Parameters
    ----------
    Phi
        ``(*duration, state, state)``.
    m
        ``(*duration, state)``.
    Q
        ``(*duration, state, state)``.
    """

    Phi: Tensor
    m: Tensor
    Q: Tensor


def linear_transition(A: Any, b: Any, L: Any, duration: Any) -> Transition:
    """Exact transition of ``dX = (A X + b) dt + L dW`` over one or many durations.

    ``Phi = e^{A tau}``, ``m = int_0^tau e^{A s} b ds``, ``Q = int_0^tau e^{A s} L L' e^{A' s} ds``: their
    Taylor series over ``h = tau / 2^n`` with ``|A| h <= 1/2`` (the derivatives of Q follow from Lyapunov's
    equation ``Q' = A Q + Q A' + L L'``), then n doublings ``(m, Q) <- (m + Phi m, Q + Phi Q Phi')``.

    Van Loan's (1978) block exponential over the whole duration contains ``e^{-A tau}`` and fails for stiff
    stable A. Squaring Phi itself would multiply the rounding of slow modes by ``2^n``; so ``E = Phi - I`` is
    doubled, ``E <- 2 E + E^2``, until Phi has decayed to less than a half.

    Parameters
    ----------
    A, b, L
        Drift matrix ``(state, state)``, constant drift ``(state,)`` and noise matrix ``(state, noise)``.
    duration
        Lengths of time, at least 0: a number, or a tensor of any shape. Gradients pass through all four.

    Returns
    -------
    Transition
        With the axes of ``duration`` in front.

    Raises
    ------
    DataError
        If an entry is not finite, a duration is negative, or the transition leaves the finite numbers.
    ShapeError
        If A, b and L do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from neurosde.linear import linear_transition
    >>> A, b, L = torch.tensor([[-1.0]]), torch.zeros(1), torch.ones(1, 1)
    >>> linear_transition(A, b, L, torch.tensor([0.0, 1.0, 50.0])).Q.flatten()
    tensor([0.0000, 0.4323, 0.5000], dtype=torch.float64)
    """
    A, b, L = _fitting(A, b, L)
    tau = as_numbers("duration", duration, "lengths of time", device=A.device)
    bad = ~(torch.isfinite(tau) & (tau >= 0))
    if bool(bad.any()):
        index = bad.nonzero()[0].tolist()
        where = f"entry {index}" if index else "it"
        raise DataError(
            f"duration: expected finite lengths of time >= 0, {where} is {tau[tuple(index)].item()}."
        )
    norm = max(float(torch.linalg.matrix_norm(A.detach(), order)) for order in (1, math.inf))
    growth = norm * (float(tau.detach().max()) if tau.numel() else 0.0)
    if math.isinf(growth):
        raise DataError(f"duration: |A| duration overflows; |A| is {norm:.3g}.")
    n_doublings = max(0, 1 + math.ceil(math.log2(growth))) if growth > 0 else 0
    E, m, Q = _series(A, b, L, norm, tau * 2.0**-n_doublings)
    eye = torch.eye(len(A)).to(A)
    Phi = eye + E
    for _ in range(n_doublings):
        m = m + apply(Phi, m)
        Q = Q + Phi @ Q @ Phi.mT
        E = 2 * E + E @ E
        decayed = Phi.abs().sum(-2, keepdim=True).amax(-1, keepdim=True) < 0.5
        Phi = torch.where(decayed, Phi @ Phi, eye + E)
    for name, x in (("Phi", Phi), ("m", m), ("Q", Q)):
        if not bool(torch.isfinite(x).all()):
            raise DataError(
                f"duration: {name} overflows within {float(tau.detach().max()):.6g}; A is unstable, "
                "take less time."
            )
    return Transition(Phi, m, 0.5 * (Q + Q.mT))


def _fitting(A: Any, b: Any, L: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients in float64, whose shapes fit."""
    A = as_numbers("A", A, "a matrix (state, state)")
    n = A.shape[0] if A.dim() else 0
    b, L = as_numbers("b", b, f"a vector ({n},)"), as_numbers("L", L, f"a matrix ({n}, noise)")
    for name, x, fits, wanted in (
        ("A", A, n > 0 and A.shape == (n, n), "(state, state) of at least one state"),
        ("b", b, b.shape == (n,), f"({n},)"),
        ("L", L, L.dim() == 2 and L.shape[0] == n, f"({n}, noise)"),
    ):
        if not fits:
            raise ShapeError(f"{name}: expected {wanted}, got {tuple(x.shape)}.")
        bad = ~torch.isfinite(x.detach())
        if bool(bad.any()):
            index = bad.nonzero()[0].tolist()
            raise DataError(f"{name}: expected finite entries, entry {index} is {x[tuple(index)].item()}.")
    return A, b, L


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix x`` over leading axes that broadcast: ``(..., out, state)`` and ``(..., state)``."""
    return (matrix @ x.unsqueeze(-1)).squeeze(-1)


def follow(start: Tensor, Phi: Tensor, shift: Tensor) -> Tensor:
    """The path ``x_k = Phi_k x_{k-1} + shift_k`` from its start on.

    Parameters
    ----------
    start
        ``(series, state)``.
    Phi, shift
        ``(1 or series, step, state, state)`` and ``(1 or series, step, state)``.

    Returns
    -------
    Tensor
        ``(series, step + 1, state)``.
    """
    x = start.unsqueeze(-1)
    path = [x]
    for Phi_k, shift_k in zip(Phi.unbind(1), shift.unsqueeze(-1).unbind(1), strict=True):
        x = Phi_k @ x + shift_k
        path.append(x)
    return torch.stack(path, 1).squeeze(-1)


def _series(A: Tensor, b: Tensor, L: Tensor, norm: float, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(Phi - I, m, Q)`` over short times ``h (*duration)``; powers of ``A / |A|`` cannot overflow."""
    unit = norm or 1.0
    B = A / unit
    powers, derivatives = [torch.eye(len(A)).to(A)], [L @ L.T]
    for _ in range(_TERMS):
        powers.append(B @ powers[-1])
        half = B @ derivatives[-1]
        derivatives.append(half + half.T)
    orders = torch.arange(_TERMS).to(A)
    factorials = torch.tensor([math.factorial(k + 1) for k in range(_TERMS)], dtype=torch.float64).to(A)
    u = unit * h.unsqueeze(-1)
    terms = u**orders / factorials
    P = torch.stack(powers)
    E = torch.einsum("...k,kij->...ij", u * terms, P[1:])
    m = torch.einsum("...k,ki->...i", terms, P[:-1] @ b)
    Q = torch.einsum("...k,kij->...ij", terms, torch.stack(derivatives[:-1]))
    return E, h.unsqueeze(-1) * m, h[..., None, None] * Q
