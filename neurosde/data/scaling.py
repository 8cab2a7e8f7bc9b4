"""Affine maps of times and of channels, fitted in float64 before anything is cast."""

import dataclasses
from typing import Any, Literal, Self

import numpy as np

from neurosde.data import columns
from neurosde.data.series import Series
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array


@dataclasses.dataclass(frozen=True)
class TimeMap:
    """Model time u = (t - origin) / scale, taken in float64.

    Times as they come, unix seconds above all, do not fit into float32: 1.7e9 and 1.7e9 + 30 are one number
    there. A model fits this map, stores the two numbers, and casts ``apply(t)``.

    Parameters
    ----------
    origin : float
    scale : float
        Positive; in the unit of the times.

    Examples
    --------
    >>> clock = TimeMap.fit([1.7e9, 1.7e9 + 30, 1.7e9 + 60])
    >>> clock.apply([1.7e9 + 30.0])
    array([0.5])
    >>> float(clock.invert(0.5) - 1.7e9)
    30.0
    """

    origin: float
    scale: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.origin) and np.isfinite(self.scale) and self.scale > 0):
            raise DataError(
                f"origin is {self.origin}, scale {self.scale}; expected finite ones, the scale positive"
            )

    @classmethod
    def fit(cls, times: Any) -> Self:
        """Map the span of ``times`` (any shape, all finite) to [0, 1]; a single instant goes to 0."""
        known = columns.finite(times, argument="times")
        if known.size == 0:
            raise DataError("times: 0 times, expected at least one")
        origin, last = float(known.min()), float(known.max())
        return cls(origin, last - origin if last > origin else 1.0)

    def apply(self, t: Any) -> Array:
        """Model time of ``t``, float64 of its shape."""
        return (np.asarray(t, dtype=np.float64) - self.origin) / self.scale

    def invert(self, u: Any) -> Any:
        """Return the time of model time ``u``, float64 of its shape."""
        return np.asarray(u, dtype=np.float64) * self.scale + self.origin


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelScaler:
    """Standard units of each channel: (value - location) / scale, after clipping to [lower, upper].

    A channel that is constant, or has no observations, gets scale 1.

    Parameters
    ----------
    location, scale : (channel,) float64
    lower, upper : (channel,) float64, optional
        Limits to which values are clipped before they are scaled; by default none.

    Examples
    --------
    >>> series = Series.from_padded([[[1.0], [3.0]]], [0.0, 1.0])
    >>> scaler = ChannelScaler.fit(series)
    >>> scaler.apply(series).value
    array([-1.,  1.])
    >>> scaler.invert([-1.0, 1.0], series.channel)
    array([1., 3.])
    """

    location: Array
    scale: Array
    lower: Any = None
    upper: Any = None

    def __post_init__(self) -> None:
        for name, default in (("location", 0.0), ("scale", 1.0), ("lower", -np.inf), ("upper", np.inf)):
            given = getattr(self, name)
            filled = np.full(len(self.location), default) if given is None else given
            object.__setattr__(self, name, columns.frozen(filled, np.float64))
            if getattr(self, name).shape != self.location.shape or self.location.ndim != 1:
                raise ShapeError(f"{name} has shape {np.shape(filled)}, expected (channel,) like location")
        if not (self.scale > 0).all() or not np.isfinite(self.scale).all():
            raise DataError(f"scale[{columns.first(~(self.scale > 0))}] is not positive and finite")

    @classmethod
    def fit(
        cls, series: Series, method: Literal["standard", "robust"] = "standard", *, winsorize: float = 0.0
    ) -> Self:
        """Take location and scale of each channel from the observations of a record.

        Parameters
        ----------
        series : Series
            Training series only.
        method : "standard" or "robust"
            Mean and standard deviation; or median and IQR / 1.349 (the standard deviation of a normal law),
            which one reading of 12,500 among blood counts of 12 does not move. Where more than half of the
            values are one number, and the IQR is 0, the standard deviation stands in.
        winsorize : float
            In [0, 0.5). Clip values to the quantiles ``winsorize`` and ``1 - winsorize`` of their channel,
            here and in `apply`; 0 clips nothing.
        """
        if method not in ("standard", "robust"):
            raise DataError(f"method is {method!r}, expected 'standard' or 'robust'")
        if not 0 <= winsorize < 0.5:
            raise DataError(f"winsorize is {winsorize}, expected a quantile in [0, 0.5)")
        order = np.argsort(series.channel, kind="stable")
        cuts = np.searchsorted(series.channel[order], np.arange(1, len(series.channel_names)))
        fitted = [_fit_channel(values, method, winsorize) for values in np.split(series.value[order], cuts)]
        return cls(*(np.array(column) for column in zip(*fitted, strict=True)))

    def apply(self, series: Series) -> Series:
        """Return the record with its values in standard units."""
        if len(series.channel_names) != len(self.location):
            names = ", ".join(series.channel_names)
            raise ShapeError(f"series has channels {names}, expected {len(self.location)} of them")
        return series.with_values(self.transform(series.value, series.channel))

    def transform(self, value: Any, channel: Any) -> Array:
        """Values in standard units, for values of the given channels (indices of the same shape)."""
        clipped = np.clip(np.asarray(value, dtype=np.float64), self.lower[channel], self.upper[channel])
        return (clipped - self.location[channel]) / self.scale[channel]

    def invert(self, value: Any, channel: Any) -> Array:
        """Values in units of the channel, for standard ones; what was clipped stays clipped."""
        return np.asarray(value, dtype=np.float64) * self.scale[channel] + self.location[channel]


def _fit_channel(values: Array, method: str, winsorize: float) -> tuple[float, float, float, float]:
    """Location, scale, lower and upper limit of one channel."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return 0.0, 1.0, -np.inf, np.inf
    lower, upper = -np.inf, np.inf
    if winsorize > 0:
        lower, upper = np.quantile(values, [winsorize, 1 - winsorize]).tolist()
        values = np.clip(values, lower, upper)
    size = float(np.abs(values).max()) or 1.0  # squares of 1e200 overflow, squares of 1e200 / 1e200 do not
    unit = values / size
    location, scale = float(unit.mean()), float(unit.std())
    if method == "robust":
        low, location, high = np.quantile(unit, [0.25, 0.5, 0.75]).tolist()
        scale = (high - low) / 1.3489795003921634 or scale
    constant = np.ptp(unit) <= 10 * np.finfo(np.float64).eps
    return location * size, 1.0 if constant else scale * size, lower, upper
