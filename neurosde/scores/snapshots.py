"""Distances between weighted point clouds, and the trivial predictions that every validation table prints.

The Wasserstein distances W1 and W2 are different numbers, and published tables mix them: results here carry
their name. Clouds are ``(cell, feature)`` arrays; POT is called after validation only, for it answers NaN
with an all-zero plan.
"""

import math

import numpy as np

from neurosde.errors import DataError, NotConvergedError, ShapeError
from neurosde.typing import Any, Array, Literal, NamedTuple

MAX_PAIRS = 400_000_000  # dense costs and plan of one exact problem: 2 x 8 bytes a pair


class Coupling(NamedTuple):
    """Joint law of two weighted clouds by its atoms.

    Attributes
    ----------
    source, target
        Row of each cloud, ``(pair,)``.
    mass
        Positive, with sum one, ``(pair,)``.
    """

    source: Array
    target: Array
    mass: Array


def wasserstein(
    x: Any, y: Any, p: Literal[1, 2] = 1, *, x_weights: Any = None, y_weights: Any = None
) -> float:
    """Exact Wasserstein distance with Euclidean ground distance, ``(min_pi E |x - y|^p)^(1/p)``.

    Parameters
    ----------
    x, y
        Clouds ``(cell, feature)``.
    p
        1 gives W1, the mean distance moved; 2 gives W2, the root of the mean squared distance. The
        ``earth_mover_distance`` of TrajectoryNet is a W2, the tables of conditional flow matching are W1.
    x_weights, y_weights
        Positive weights ``(cell,)``; None weighs all cells alike.

    Returns
    -------
    float

    Raises
    ------
    DataError, ShapeError
        If a cloud is empty or not finite, a weight is not positive, or features differ in number.

    Examples
    --------
    >>> x, y = [[0.0], [0.0]], [[0.0], [2.0]]
    >>> wasserstein(x, y, p=1), round(wasserstein(x, y, p=2), 4)
    (1.0, 1.4142)
    """
    from scipy.spatial.distance import cdist

    if p not in (1, 2):
        raise DataError(f"p must be 1 (W1) or 2 (W2), got {p!r}")
    x, y, a, b = check_clouds(x, y, x_weights, y_weights)
    total, _ = _transport(a, b, cdist(x, y, "euclidean" if p == 1 else "sqeuclidean"), plan=False)
    return total if p == 1 else math.sqrt(max(total, 0.0))


def optimal_coupling(x: Any, y: Any, *, x_weights: Any = None, y_weights: Any = None) -> Coupling:
    """Exact optimal transport plan for the squared Euclidean cost, by its at most ``n + m - 1`` atoms.

    Parameters
    ----------
    x, y, x_weights, y_weights
        As in :func:`wasserstein`.

    Examples
    --------
    >>> optimal_coupling([[0.0], [5.0]], [[6.0], [1.0]]).target
    array([1, 0])
    """
    from scipy.spatial.distance import cdist

    x, y, a, b = check_clouds(x, y, x_weights, y_weights)
    _, plan = _transport(a, b, cdist(x, y, "sqeuclidean"), plan=True)
    source, target = np.nonzero(plan)
    mass = plan[source, target]
    return Coupling(source, target, mass / mass.sum())


def energy_distance(x: Any, y: Any, *, kind: Literal["full", "half"] = "full") -> float:
    """Energy distance ``2 E|x - y| - E|x - x'| - E|y - y'|`` by U-statistics (Székely & Rizzo 2013).

    Parameters
    ----------
    x, y
        Clouds ``(cell, feature)`` of two cells or more.
    kind
        "half" is half of it, as the tables of the CITE benchmark print.

    Examples
    --------
    >>> x, y = [[0.0], [0.0]], [[1.0], [1.0]]
    >>> energy_distance(x, y), energy_distance(x, y, kind="half")
    (2.0, 1.0)
    """
    if kind not in ("full", "half"):
        raise DataError(f"kind must be 'full' or 'half', got {kind!r}")
    x, y, _, _ = check_clouds(x, y)
    for name, cloud in (("x", x), ("y", y)):
        if len(cloud) < 2:
            raise DataError(f"{name} has 1 cell; distances within a cloud need two")
    within = [_mean_distance(c, c) * len(c) / (len(c) - 1) for c in (x, y)]
    half = _mean_distance(x, y) - 0.5 * sum(within)
    return float(half if kind == "half" else 2 * half)


def sliced_wasserstein(
    x: Any, y: Any, p: Literal[1, 2] = 2, *, n_projections: int = 200, seed: int = 0
) -> float:
    """Wasserstein distance averaged over random lines, ``(E_u W_p^p(u.x, u.y))^(1/p)``; fast for many cells.

    Parameters
    ----------
    x, y
        Clouds ``(cell, feature)``.
    p
        1 or 2, as in :func:`wasserstein`.
    n_projections
        Number of lines; the error falls with its root.
    seed
        Fixes the lines.

    Examples
    --------
    >>> round(sliced_wasserstein([[0.0]], [[3.0]], p=1), 6)
    3.0
    """
    if p not in (1, 2):
        raise DataError(f"p must be 1 or 2, got {p!r}")
    if n_projections < 1:
        raise DataError(f"n_projections must be at least 1, got {n_projections}")
    x, y, _, _ = check_clouds(x, y)
    lines = np.random.default_rng(seed).standard_normal((x.shape[1], n_projections))
    lines /= np.linalg.norm(lines, axis=0)
    grid = np.union1d(np.arange(1, len(x) + 1) / len(x), np.arange(1, len(y) + 1) / len(y))
    step = np.diff(grid, prepend=0.0)
    middle = grid - 0.5 * step
    quantiles = [np.sort(c @ lines, axis=0)[(middle * len(c)).astype(int)] for c in (x, y)]
    return float(np.mean(step @ np.abs(quantiles[0] - quantiles[1]) ** p) ** (1 / p))


def split_halves(x: Any, *, p: Literal[1, 2] = 1, seed: int = 0) -> float:
    """Distance between two random halves of one cloud: the scale of its sampling noise.

    It is no floor: the halves are half as large as the cloud, so a good prediction of full size can score
    below.

    Examples
    --------
    >>> split_halves([[0.0], [1.0]])
    1.0
    """
    x, _, _, _ = check_clouds(x, x)
    if len(x) < 2:
        raise DataError("x has 1 cell; two halves need two")
    order = np.random.default_rng(seed).permutation(len(x))
    return wasserstein(x[order[::2]], x[order[1::2]], p)


def trivial_predictions(
    previous: Any,
    following: Any,
    share: float,
    *,
    previous_weights: Any = None,
    following_weights: Any = None,
) -> dict[str, tuple[Array, Array]]:
    """What anybody would predict for a snapshot between two others: the bars of a validation table.

    Parameters
    ----------
    previous, following
        Clouds at the neighbouring times.
    share
        Where the snapshot lies between them, in (0, 1).
    previous_weights, following_weights
        Positive weights; None weighs all cells alike.

    Returns
    -------
    dict
        Weighted clouds ``(points, weights)`` by name: "copy previous", "copy next", "pool" (their mixture,
        with weights 1 - share and share), "exact OT" (displacement interpolation along the optimal plan).

    Examples
    --------
    >>> bars = trivial_predictions([[0.0], [1.0]], [[4.0], [5.0]], 0.5)
    >>> bars["exact OT"][0].ravel()
    array([2., 3.])
    """
    if not 0 < share < 1:
        raise DataError(f"share must lie strictly between 0 and 1, got {share!r}")
    x, y, a, b = check_clouds(previous, following, previous_weights, following_weights)
    plan = optimal_coupling(x, y, x_weights=a, y_weights=b)
    moved = (1 - share) * x[plan.source] + share * y[plan.target]
    return {
        "copy previous": (x, a),
        "copy next": (y, b),
        "pool": (np.concatenate([x, y]), np.concatenate([(1 - share) * a, share * b])),
        "exact OT": (moved, plan.mass),
    }


def check_clouds(
    x: Any, y: Any, x_weights: Any = None, y_weights: Any = None
) -> tuple[Array, Array, Array, Array]:
    """Two clouds as finite float64 arrays with normalised weights.

    Raises
    ------
    DataError, ShapeError
        Naming the argument and the first offending entry.
    """
    clouds, weights = [], []
    for name, cloud, weight in (("x", x, x_weights), ("y", y, y_weights)):
        points = np.ascontiguousarray(cloud, dtype=np.float64)
        if points.ndim != 2:
            raise ShapeError(f"{name} must be (cell, feature), got shape {points.shape}")
        if not len(points) or not points.shape[1]:
            raise DataError(f"{name} is empty, shape {points.shape}: 0 sample(s) or 0 feature(s)")
        _check_entries(name, points, np.isfinite(points), "finite")
        mass = np.ones(len(points)) if weight is None else np.asarray(weight, dtype=np.float64)
        if mass.shape != (len(points),):
            raise ShapeError(f"{name}_weights must have shape ({len(points)},), one a cell, got {mass.shape}")
        _check_entries(f"{name}_weights", mass, np.isfinite(mass) & (mass > 0), "positive and finite")
        clouds.append(points)
        weights.append(mass / mass.sum())
    if clouds[0].shape[1] != clouds[1].shape[1]:
        raise ShapeError(f"x has {clouds[0].shape[1]} features, y has {clouds[1].shape[1]}")
    return clouds[0], clouds[1], weights[0], weights[1]


def _check_entries(name: str, array: Array, good: Array, expected: str) -> None:
    if not good.all():
        at = tuple(np.argwhere(~good)[0].tolist())
        raise DataError(f"{name} must be {expected}, entry {at} is {array[at]}")


def _transport(a: Array, b: Array, cost: Array, *, plan: bool) -> tuple[float, Array]:
    """Exact optimal transport by POT's network simplex: total cost, and the plan where it is wanted."""
    import ot

    if cost.size > MAX_PAIRS:
        raise DataError(
            f"x and y: exact transport between {len(a)} and {len(b)} cells needs "
            f"{16 * cost.size / 1e9:.0f} GB; use sliced_wasserstein or energy_distance, or compare subsets "
            "of your own choice"
        )
    scale = float(cost.max())
    cost = cost / (scale or 1.0)  # the simplex stops at absolute tolerances
    result, log = (ot.emd if plan else ot.emd2)(a, b, cost, numItermax=100_000_000, log=True)
    if log["warning"] is not None:
        raise NotConvergedError(f"exact transport between {len(a)} and {len(b)} cells: {log['warning']}")
    total = float((result * cost).sum()) if plan else float(result)
    return total * scale, result


def _mean_distance(x: Array, y: Array) -> float:
    from scipy.spatial.distance import cdist

    rows = max(1, 2**24 // len(y))
    return sum(cdist(x[i : i + rows], y).sum() for i in range(0, len(x), rows)) / (len(x) * len(y))
