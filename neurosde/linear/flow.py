"""Matrix functions of a linear flow, and what it makes of noise: series over short times, then doublings.

With ``Z = A tau`` everything is written for time 1. An integral ``I = int_0^1 e^{Z s} g dW`` is, given the
increment W of its noise, normal around ``phi1 g W`` with covariance ``Z S Z'``, ``S = int F g g' F' ds`` and
``F(s) = (e^{Z s} - phi1) / Z``. S is carried as a root, doubled by QR: a stiff Z would magnify the rounding
of S itself.
"""

import math

import torch

from neurosde.errors import DataError
from neurosde.typing import Any, NamedTuple, Tensor

_REACH, _TERMS, _NODES = 0.5, 18, 8  # |Z| of the series, its terms, and the nodes of its quadrature in s
_BITS = 44  # of a duration that count: differences of times are equal but for their rounding


class Flow(NamedTuple):
    """Functions of ``Z = A tau``, ``(*duration, state, state)``, float64.

    Parameters
    ----------
    Z
        The matrix.
    Phi
        ``e^Z``.
    phi1, phi2
        ``int_0^1 e^{Z s} ds`` and ``int_0^1 (1 - s) e^{Z s} ds``.
    """

    Z: Tensor
    Phi: Tensor
    phi1: Tensor
    phi2: Tensor


class FilteredNoise(NamedTuple):
    """What the flow makes of noise ``g dW`` over unit time, beside ``phi1 g W``.

    Parameters
    ----------
    slopes
        Regression of the integral on the space-time integrals H and K, divided by Z: two matrices
        ``(*duration, state, noise)``.
    root
        A root of S, ``(*duration, state, state)``: the integral has the covariance ``Z S Z'`` given W.
    """

    slopes: tuple[Tensor, Tensor]
    root: Tensor


def distinct(duration: Tensor) -> tuple[Tensor, Tensor]:
    """Durations that differ by more than rounding, and the place of each in them."""
    mantissa, exponent = torch.frexp(duration.to(torch.float64))
    rounded = torch.ldexp((mantissa * 2**_BITS).round(), exponent - _BITS)
    values, place = rounded.unique(return_inverse=True)
    return values, place


def linear_flow(Z: Tensor) -> Flow:
    """Exponential of a matrix and the weights of exponential steps.

    ``phi1(2Z) = (1 + e^Z) phi1 / 2`` and ``phi2(2Z) = (phi1^2 + 2 phi2) / 4`` add what is positive for stable
    Z, so stiffness costs no digits. See :func:`~neurosde.linear.linear_transition` for the exponential.

    Parameters
    ----------
    Z
        ``(*duration, state, state)``.

    Raises
    ------
    DataError
        If an entry is not finite.

    Examples
    --------
    >>> import torch
    >>> from neurosde.linear.flow import linear_flow
    >>> linear_flow(torch.tensor([[-1.0]])).phi1  # 1 - 1/e
    tensor([[0.6321]], dtype=torch.float64)
    """
    return _flow(Z, None)[0]


def filtered_noise(Z: Tensor, g: Tensor) -> tuple[Flow, FilteredNoise]:
    """The flow, and what it makes of noise with the constant amplitude g.

    Parameters
    ----------
    Z
        ``(*duration, state, state)``.
    g
        ``(state, noise)``.

    Raises
    ------
    DataError
        If an entry of Z is not finite.
    """
    flow, noise = _flow(Z, g)
    assert noise is not None  # g was given
    return flow, noise


def matched(noise: FilteredNoise, richness: int) -> Tensor:
    """Weights of ``sqrt(12) H`` and, if asked, ``sqrt(720) K``, divided by Z, that give S its exact value.

    ``root U`` with the partial isometry U that brings it closest to the regression: the coupling of a step
    to the path with the exact law.

    Parameters
    ----------
    noise
        From :func:`filtered_noise`.
    richness
        1 for H, 2 for H and K.

    Returns
    -------
    Tensor
        ``(*duration, state, richness * noise)``.
    """
    scaled = [slope / n**0.5 for slope, n in zip(noise.slopes, (12, 720), strict=True)]
    regression = torch.cat(scaled[:richness], -1)
    return noise.root @ isometry(noise.root.mT @ regression)


def isometry(M: Tensor) -> Tensor:
    """Partial isometry ``U V'`` of the polar decomposition of ``M = U diag(s) V'``, no taller than wide."""
    return _Isometry.apply(M)  # pyright: ignore[reportReturnType]


class _Isometry(torch.autograd.Function):
    """With a derivative that is finite where singular values meet, unlike that of their vectors."""

    @staticmethod
    def forward(ctx: Any, M: Tensor) -> Tensor:
        U, s, Vh = torch.linalg.svd(M, full_matrices=False)
        ctx.save_for_backward(U, s, Vh)
        return U @ Vh

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        U, s, Vh = ctx.saved_tensors
        seen = U.mT @ grads[0]
        inner = seen @ Vh.mT
        least = torch.finfo(s.dtype).tiny
        turn = (inner - inner.mT) / (s.unsqueeze(-1) + s.unsqueeze(-2)).clamp(min=least)
        outside = (seen - inner @ Vh) / s.unsqueeze(-1).clamp(min=least)
        return U @ (turn @ Vh + outside)


def _flow(Z: Tensor, g: Tensor | None) -> tuple[Flow, FilteredNoise | None]:
    Z = Z.to(torch.float64)
    size = max(float(torch.linalg.matrix_norm(Z.detach(), p).max()) for p in (1, math.inf))
    if not math.isfinite(size):
        raise DataError("Z: expected finite entries; the linear part or the step is too large.")
    n_doublings = max(0, math.ceil(math.log2(size / _REACH))) if size > 0 else 0
    z = Z * 2.0**-n_doublings
    eye = torch.eye(Z.shape[-1]).to(Z)
    E, phi1, phi2, on_H, on_K, *F = _series(z, g is not None)
    Phi = eye + E
    root = Z.new_zeros(()) if g is None else _root(torch.cat(F, -1) @ torch.block_diag(*[g.to(Z)] * _NODES))
    for _ in range(n_doublings):
        square = phi1 @ phi1
        phi2 = 0.25 * square + 0.5 * phi2
        if g is not None:
            both = torch.cat((Phi @ root, root, (square @ g.to(Z)) * 0.5**0.5), -1)
            root = _root(both * 8**-0.5)
            on_K = (on_K + Phi @ on_K) / 16 + 1.875 * phi1 @ z @ on_H
            on_H = (on_H + Phi @ on_H) / 8 + 0.75 * square
        phi1 = 0.5 * (phi1 + Phi @ phi1)
        E, z = 2 * E + E @ E, 2 * z
        decayed = Phi.abs().sum(-2, keepdim=True).amax(-1, keepdim=True) < 0.5
        Phi = torch.where(decayed, Phi @ Phi, eye + E)
    noise = None if g is None else FilteredNoise((on_H @ g.to(Z), on_K @ g.to(Z)), root)
    return Flow(Z, Phi, phi1, phi2), noise


def _root(rows: Tensor) -> Tensor:
    """Square root of ``rows rows'`` without forming it; rows are at least as wide as they are tall."""
    return torch.linalg.qr(rows.mT).R.mT


def _series(z: Tensor, with_noise: bool) -> Tensor:
    """``e^z - 1``, phi1, phi2, the regressions on H and K, and ``F(s) sqrt(w)`` at the nodes, stacked."""
    powers = [torch.eye(z.shape[-1]).to(z).expand_as(z)]
    for _ in range(_TERMS - 1):
        powers.append(powers[-1] @ z)
    table = _TABLE if with_noise else _TABLE[:5]
    return torch.tensordot(table.to(z), torch.stack(powers), 1)


def _coefficients() -> Tensor:
    """Power series of what is needed, ``(function, order)``.

    ``psi_H = int 6 s (1 - s) e^{z s} ds``, ``psi_K = int 60 s (1 - s) (2 s - 1) e^{z s} ds``, and ``F(s)``.
    """
    k = torch.arange(_TERMS, dtype=torch.float64)
    factorial = torch.tensor([math.factorial(n) for n in range(_TERMS + 1)], dtype=torch.float64)
    ones, now = factorial[1:], factorial[:-1]
    exponential = torch.where(k > 0, 1 / now, 0.0)
    psi_H = 6 / (now * (k + 2) * (k + 3))
    psi_K = 60 * k / (now * (k + 2) * (k + 3) * (k + 4))
    rows = [exponential, 1 / ones, 1 / (ones * (k + 2)), psi_H, psi_K]
    nodes, weights = _gauss(_NODES)
    at_nodes = (nodes[:, None] ** (k + 1) - 1 / (k + 2)) / ones * weights[:, None].sqrt()
    return torch.cat((torch.stack(rows), at_nodes))


def _gauss(n: int) -> tuple[Tensor, Tensor]:
    """Gauss and Legendre's nodes and weights on [0, 1], from Jacobi's matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, n, dtype=torch.float64)
    beside = k / (4 * k * k - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(beside, 1) + torch.diag(beside, -1))
    return 0.5 * (values + 1), vectors[0] ** 2


_TABLE = _coefficients()
