"""Scores of point and probabilistic forecasts, pooled over entries (micro) or averaged over channels (macro).

Every score takes the observed entries ``y`` first and has the same three keywords:

``channel``
    Integer array of the shape of ``y``: the channel of each entry. Needed by ``"macro"`` and ``"channel"``.
``average``
    ``"micro"``: one weighted mean over all entries. ``"macro"``: the mean of each channel over all its
    entries, then the plain mean over the channels that have entries. ``"channel"``: the means of the channels
    ``0 .. max(channel)``, NaN where a channel has no entry. ``"none"``: the score of each entry, NaN where
    its weight is zero.
``weights``
    Non-negative array of the shape of ``y``, or a boolean mask. Entries of weight zero are left out and may
    hold NaN.

Lower is better for every score but :func:`coverage`, whose aim is the nominal level. Arrays give NumPy
results in float64. Tensors give tensors, differentiable and unchecked for NaN, so that the same formulas
serve as training losses.
"""

import math

import torch

from neurosde.errors import DataError
from neurosde.scores.averaging import ArrayLike, Average, level_between, mean_of_present, score
from neurosde.typing import Any, Literal, Tensor

_SQRT2 = math.sqrt(2.0)
_LOG_2PI = math.log(2.0 * math.pi)


def mse(
    y: ArrayLike,
    prediction: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Mean squared error, ``(y - prediction)²``.

    Parameters
    ----------
    y, prediction
        Observed and predicted values, any common shape.
    channel, average, weights
        See the head of this module.

    Returns
    -------
    float, or an array for ``average`` "channel" and "none"

    Raises
    ------
    ShapeError
        When the shapes differ.
    DataError
        When an entry of positive weight is not finite, a weight is negative, or no entry has positive weight.

    Examples
    --------
    >>> y, prediction, channel = [0.0, 0.0, 0.0], [1.0, 1.0, 3.0], [0, 0, 1]
    >>> mse(y, prediction), mse(y, prediction, channel=channel, average="macro")
    (3.6666666666666665, 5.0)
    """
    return score(lambda y, p: (y - p).square(), y, {"prediction": prediction}, channel, average, weights)


def mae(
    y: ArrayLike,
    prediction: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Mean absolute error, ``|y - prediction|``; parameters, result and errors as in :func:`mse`.

    Examples
    --------
    >>> mae([0.0, 2.0], [1.0, 0.0])
    1.5
    """
    return score(lambda y, p: (y - p).abs(), y, {"prediction": prediction}, channel, average, weights)


def crps_ensemble(
    y: ArrayLike,
    samples: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Fair continuous ranked probability score of an ensemble (Ferro 2014, Q. J. R. Meteorol. Soc. 140).

    ``(1/m) Σ_i |x_i - y| - 1/(2 m (m-1)) Σ_ij |x_i - x_j|``: its mean does not depend on the number ``m`` of
    samples, while the plain form (``m²`` in the place of ``m (m-1)``) punishes small ensembles. In the units
    of ``y``.

    Parameters
    ----------
    y
        Observed values, any shape.
    samples
        ``(sample, *shape of y)`` draws from the forecast, at least two.
    channel, average, weights
        See the head of this module.

    Returns
    -------
    float, or an array for ``average`` "channel" and "none"

    Raises
    ------
    ShapeError
        When ``samples`` lacks the leading sample axis, has fewer than two samples, or does not fit ``y``.
    DataError
        As in :func:`mse`.

    Examples
    --------
    >>> crps_ensemble([0.0], [[-1.0], [1.0]])
    0.0
    """

    def formula(y: Tensor, x: Tensor) -> Tensor:
        m = x.shape[0]
        rank = torch.arange(1 - m, m, 2, dtype=x.dtype, device=x.device).reshape(-1, *(1,) * y.ndim)
        spread = (rank * x.sort(dim=0).values).sum(0) / (
            m * (m - 1)
        )  # Σ_ij |x_i - x_j| / 2, by order statistics
        return (x - y).abs().mean(0) - spread

    return score(
        formula, y, {"samples": samples}, channel, average, weights, layout="sample *entry", min_samples=2
    )


def crps_gaussian(
    y: ArrayLike,
    mean: ArrayLike,
    sd: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Continuous ranked probability score of ``N(mean, sd²)`` (Gneiting et al. 2005, Eq. 5).

    ``sd [ζ (2 Φ(ζ) - 1) + 2 φ(ζ) - 1/√π]`` with ``ζ = (y - mean) / sd``; in the units of ``y``.

    Parameters
    ----------
    y, mean, sd
        Observed values, forecast means and positive standard deviations, any common shape.
    channel, average, weights
        See the head of this module.

    Returns
    -------
    float, or an array for ``average`` "channel" and "none"

    Raises
    ------
    ShapeError
        When the shapes differ.
    DataError
        As in :func:`mse`, and when an ``sd`` is not positive.

    Examples
    --------
    >>> round(crps_gaussian(2.0, 2.0, 1.0), 6)  # (√2 - 1) / √π
    0.233695
    """

    def formula(y: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
        z = (y - mean) / sd
        density = torch.exp(-0.5 * (z.square() + _LOG_2PI))
        return sd * (z * torch.erf(z / _SQRT2) + 2.0 * density - 1.0 / math.sqrt(math.pi))

    return score(formula, y, {"mean": mean, "sd": sd}, channel, average, weights)


def crps_mixture(
    y: ArrayLike,
    mean: ArrayLike,
    sd: ArrayLike,
    weight: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Fair continuous ranked probability score of an ensemble whose members are Gaussian mixtures.

    ``(1/m) Σ_i E|X_i - y| - 1/(2 m (m-1)) Σ_{i≠j} E|X_i - X_j|`` with ``X_i ~ Σ_k w_ik N(mean_ik, sd_ik²)``,
    every expectation in closed form (Grimit et al. 2006, Q. J. R. Meteorol. Soc. 132, Eq. 5). For one member
    it is the exact CRPS of that mixture, for members without spread :func:`crps_ensemble`; its mean does not
    depend on the number of members.

    Parameters
    ----------
    y
        Observed values, any shape.
    mean, sd, weight
        ``(sample, *shape of y, component)``: the mixtures; weights sum to one over components.
    channel, average, weights
        See the head of this module.

    Returns
    -------
    float, or an array for ``average`` "channel" and "none"

    Raises
    ------
    ShapeError, DataError
        As in :func:`crps_gaussian`.

    Examples
    --------
    >>> round(crps_mixture([0.0], [[[0.0, 0.0]]], [[[1.0, 1.0]]], [[[0.3, 0.7]]]), 6)  # N(0, 1)
    0.233695
    """

    def distance(m: Tensor, variance: Tensor) -> Tensor:  # E|N(m, variance)|
        s = variance.sqrt()
        z = m / s
        return m * torch.erf(z / _SQRT2) + 2.0 * s * torch.exp(-0.5 * (z.square() + _LOG_2PI))

    def formula(y: Tensor, mean: Tensor, sd: Tensor, weight: Tensor) -> Tensor:
        m, variance = len(mean), sd.square()
        to_y = (weight * distance(y.unsqueeze(-1) - mean, variance)).sum(-1).mean(0)
        between = torch.zeros_like(to_y)
        for shift in range(1, m) if m > 1 else [0]:
            other = [part.roll(shift, 0).unsqueeze(-2) for part in (mean, variance, weight)]
            apart = distance(mean.unsqueeze(-1) - other[0], variance.unsqueeze(-1) + other[1])
            between = between + (weight.unsqueeze(-1) * other[2] * apart).sum((-2, -1)).mean(0)
        return to_y - 0.5 * between / max(m - 1, 1)

    forecast = {"mean": mean, "sd": sd, "weight": weight}
    return score(formula, y, forecast, channel, average, weights, layout="sample *entry component")


def nll_gaussian(
    y: ArrayLike,
    mean: ArrayLike,
    sd: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Negative log-likelihood of ``N(mean, sd²)`` in nats, ``½ log(2π sd²) + (y - mean)² / (2 sd²)``.

    Parameters, result and errors as in :func:`crps_gaussian`.

    Examples
    --------
    >>> round(nll_gaussian(1.0, 0.0, 1.0), 6)
    1.418939
    """

    def formula(y: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
        return 0.5 * (_LOG_2PI + ((y - mean) / sd).square()) + sd.log()

    return score(formula, y, {"mean": mean, "sd": sd}, channel, average, weights)


def pinball(
    y: ArrayLike,
    quantile: ArrayLike,
    alpha: float,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Pinball loss of a quantile forecast of level ``alpha``, ``max(alpha (y - q), (alpha - 1) (y - q))``.

    Twice its integral over ``alpha`` is the CRPS.

    Parameters
    ----------
    y, quantile
        Observed values and forecast quantiles, any common shape.
    alpha
        Level in (0, 1).
    channel, average, weights
        See the head of this module.

    Returns
    -------
    float, or an array for ``average`` "channel" and "none"

    Raises
    ------
    ShapeError, DataError
        As in :func:`mse`; DataError also for a level outside (0, 1).

    Examples
    --------
    >>> pinball([1.0], [0.0], 0.9), round(pinball([0.0], [1.0], 0.9), 3)
    (0.9, 0.1)
    """
    alpha = level_between("alpha", alpha)

    def formula(y: Tensor, q: Tensor) -> Tensor:
        return torch.maximum(alpha * (y - q), (alpha - 1.0) * (y - q))

    return score(formula, y, {"quantile": quantile}, channel, average, weights)


def coverage(
    y: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Share of the entries inside their closed interval, ``1{lower <= y <= upper}``.

    Parameters
    ----------
    y, lower, upper
        Observed values and the ends of the forecast intervals, any common shape.
    channel, average, weights
        See the head of this module.

    Returns
    -------
    float, or an array for ``average`` "channel" and "none"

    Raises
    ------
    ShapeError, DataError
        As in :func:`mse`; DataError also where ``lower > upper``.

    Examples
    --------
    >>> coverage([0.0, 2.0], [-1.0, -1.0], [1.0, 1.0])
    0.5
    """

    def formula(y: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return ((lower <= y) & (y <= upper)).to(y.dtype)

    return score(formula, y, {"lower": lower, "upper": upper}, channel, average, weights)


def width(
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Mean width of intervals, ``upper - lower``, to be read beside :func:`coverage`; errors as there.

    Examples
    --------
    >>> width([0.0, 0.0], [1.0, 2.0])
    1.5
    """
    return score(lambda lo, up: up - lo, lower, {"upper": upper}, channel, average, weights, first="lower")


def winkler(
    y: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    level: float,
    *,
    channel: ArrayLike | None = None,
    average: Average = "micro",
    weights: ArrayLike | None = None,
) -> Any:
    """Interval score of a central interval (Winkler 1972; Gneiting and Raftery 2007, Eq. 43).

    ``(u - l) + (2/α) (l - y)₊ + (2/α) (y - u)₊`` with ``α = 1 - level``: width plus a fine for what lies
    outside.

    Parameters
    ----------
    y, lower, upper
        Observed values and the ends of the forecast intervals, any common shape.
    level
        Nominal coverage in (0, 1).
    channel, average, weights
        See the head of this module.

    Returns
    -------
    float, or an array for ``average`` "channel" and "none"

    Raises
    ------
    ShapeError, DataError
        As in :func:`coverage`; DataError also for a level outside (0, 1).

    Examples
    --------
    >>> winkler([0.0, 2.0], [-1.0, -1.0], [1.0, 1.0], 0.5)
    4.0
    """
    fine = 2.0 / (1.0 - level_between("level", level))

    def formula(y: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        return (upper - lower) + fine * ((lower - y).clamp_min(0.0) + (y - upper).clamp_min(0.0))

    return score(formula, y, {"lower": lower, "upper": upper}, channel, average, weights)


def pit(y: ArrayLike, samples: ArrayLike) -> Any:
    """Probability integral transform of each entry under an ensemble, by its mid-rank among the samples.

    ``(#{x < y} + ½ #{x = y} + ½) / (m + 1)``: for a calibrated continuous forecast uniform on the ``m + 1``
    midpoints.

    Parameters
    ----------
    y
        Observed values, any shape.
    samples
        ``(sample, *shape of y)`` draws from the forecast.

    Returns
    -------
    array of the shape of ``y``, in (0, 1)

    Raises
    ------
    ShapeError, DataError
        As in :func:`crps_ensemble`.

    Examples
    --------
    >>> pit([0.5], [[0.0], [1.0], [2.0]])
    array([0.375])
    """

    def formula(y: Tensor, x: Tensor) -> Tensor:
        rank = (x < y).to(y.dtype).sum(0) + 0.5 * (x == y).to(y.dtype).sum(0)
        return (rank + 0.5) / (x.shape[0] + 1)

    return score(formula, y, {"samples": samples}, None, "none", None, layout="sample *entry")


def pit_calibration(
    u: ArrayLike,
    *,
    channel: ArrayLike | None = None,
    average: Literal["micro", "macro", "channel"] = "micro",
    weights: ArrayLike | None = None,
    n_levels: int = 99,
) -> Any:
    """Calibration error: mean over levels ``p`` of ``|#{u <= p} / n - p|``, zero for a calibrated forecast.

    A forecast that always puts all its mass on one side of the truth has about 0.5; one of uniform ``u`` has
    about ``0.31 / √n`` by chance.

    Parameters
    ----------
    u
        Probability integral transforms ``F(y)`` in [0, 1], any shape; see :func:`pit`.
    channel, average, weights
        See the head of this module; the error is not defined for one entry, so ``"none"`` is refused.
    n_levels
        The levels are ``k / (n_levels + 1)``; 99: the percentiles. For mid-ranks among ``m`` samples take
        ``m``, which puts the levels between the ranks.

    Returns
    -------
    float, or an array for ``average`` "channel"

    Raises
    ------
    ShapeError, DataError
        As in :func:`mse`; DataError also for ``u`` outside [0, 1].

    Examples
    --------
    >>> round(pit_calibration([0.25, 0.75], n_levels=1), 3)
    0.0
    """
    if average not in ("micro", "macro", "channel"):
        raise DataError(
            f"average must be 'micro', 'macro' or 'channel' for a calibration error, got {average!r}"
        )
    if n_levels < 1:
        raise DataError(f"n_levels must be at least 1, got {n_levels}")
    grouped = "micro" if average == "micro" else "channel"
    levels = [k / (n_levels + 1) for k in range(1, n_levels + 1)]

    def gap(p: float) -> Any:
        share = score(lambda u: (u <= p).to(u.dtype), u, {}, channel, grouped, weights, first="u")
        return abs(share - p)

    error = sum(gap(p) for p in levels) / n_levels
    return mean_of_present(error) if average == "macro" else error
