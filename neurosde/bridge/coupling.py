"""Couplings between observed cells, and interpolation along them.

A mixture blurs where cells are few for its components and dimension; a coupling of the cells themselves does
not. Exact plans come from :func:`neurosde.scores.optimal_coupling`, the only door to POT.
"""

import math

import torch

from neurosde.bridge.bridge import LightInterval, systematic
from neurosde.bridge.light import CHUNK_BYTES
from neurosde.bridge.reference import Reference
from neurosde.errors import DataError, NotConvergedError
from neurosde.scores import optimal_coupling
from neurosde.scores.snapshots import Coupling
from neurosde.typing import Tensor


def entropic_coupling(
    interval: LightInterval,
    start: Tensor,
    end: Tensor,
    start_weight: Tensor,
    end_weight: Tensor,
    *,
    top_k: int = 50,
    tol: float = 2e-2,
    max_iter: int = 100,
) -> Coupling:
    """Schrödinger bridge restricted to observed cells, as a sparse plan; memory is that of a few rows.

    ``T_ij = b_j a_i e^{z_i.y_j} / c(z_i) / sum_l (a_l e^{z_l.y_j} / c(z_l))`` is one half-step of Sinkhorn's
    iteration from the light potential, with exact column sums; log-domain iterations go on from there until
    the rows fit too. Then each row keeps its largest entries, scaled to the row's weight.

    Parameters
    ----------
    interval
        Reference and fitted potential.
    start, end
        Cells ``(cell, state)`` in data units at the interval's ends.
    start_weight, end_weight
        Positive weights ``(cell,)``.
    top_k
        Entries kept in a row.
    tol
        Largest total misfit of the row sums, as a share of the mass.
    max_iter
        Most iterations.

    Returns
    -------
    Coupling

    Raises
    ------
    NotConvergedError
        If the rows do not fit after `max_iter` iterations.
    """
    if top_k < 1:
        raise DataError(f"top_k: expected at least 1 entry a row, got {top_k}")
    reference = interval.reference
    z, y = reference.predict_from_start(start), reference.whiten(end)
    log_a, log_b = (w.log() - w.sum().log() for w in (start_weight, end_weight))
    f, misfit = log_a - interval.mixture.log_normaliser(z), math.inf
    for _ in range(max_iter):
        g = log_b - _log_sums(y, z, f)
        log_row = f + _log_sums(z, y, g)
        misfit = float((log_row.exp() - log_a.exp()).abs().sum())
        if misfit <= tol:
            break
        f = f + log_a - log_row
    else:
        raise NotConvergedError(
            f"entropic_coupling: row sums are off by {misfit:.2g} of the mass after {max_iter} iterations, "
            f"expected {tol:g}; raise epsilon, max_iter or tol"
        )
    k = min(top_k, len(y))
    best = [torch.topk(g + part @ y.T, k, dim=1) for part in z.split(_rows(y))]
    target = torch.cat([part.indices for part in best])
    mass = torch.softmax(torch.cat([part.values for part in best]), 1) * log_a.exp().unsqueeze(1)
    source = torch.arange(len(z)).unsqueeze(1).expand(-1, k)
    return Coupling(*(part.reshape(-1).cpu().numpy() for part in (source, target, mass)))


def exact_coupling(
    reference: Reference, start: Tensor, end: Tensor, start_weight: Tensor, end_weight: Tensor
) -> Coupling:
    """Exact optimal transport plan between observed cells, for the reference's own distance ``|z - y|^2``.

    Parameters
    ----------
    reference
        The reference process on the interval.
    start, end, start_weight, end_weight
        As in :func:`entropic_coupling`.

    Raises
    ------
    DataError
        If the problem does not fit into memory; see `neurosde.scores.snapshots.MAX_PAIRS`.
    """
    z, y = reference.predict_from_start(start).cpu().numpy(), reference.whiten(end).cpu().numpy()
    a, b = start_weight.cpu().numpy(), end_weight.cpu().numpy()
    return optimal_coupling(z, y, x_weights=a, y_weights=b)


def displace(
    reference: Reference,
    coupling: Coupling,
    start: Tensor,
    end: Tensor,
    t: float,
    n: int | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """Draws at ``t`` on the reference's mean path between coupled cells, ``(n, state)``.

    Under a Brownian reference that is displacement interpolation, ``(1 - s) x_i + s y_j``.

    Parameters
    ----------
    reference
        The reference process on the interval; its mean path is taken.
    coupling
        Pairs of cells; drawn by systematic sampling of their mass, so that no pair is drawn twice needlessly.
    start, end
        Cells ``(cell, state)`` in data units.
    t
        Time within the interval.
    n
        Number of draws; None gives as many as there are start cells.
    seed
        Fixes the draws.
    """
    rows = systematic(torch.from_numpy(coupling.mass), len(start) if n is None else n, seed=seed).numpy()
    pinned = reference.pinned(reference.start, t)
    return pinned.mean(start[coupling.source[rows]], end[coupling.target[rows]])


def _rows(columns: Tensor) -> int:
    return max(1, CHUNK_BYTES // (8 * len(columns)))


def _log_sums(points: Tensor, others: Tensor, log_weight: Tensor) -> Tensor:
    """``log sum_j exp(log_weight_j + points_i . others_j)``, in chunks of rows."""
    parts = points.split(_rows(others))
    return torch.cat([torch.logsumexp(log_weight + part @ others.T, 1) for part in parts])
