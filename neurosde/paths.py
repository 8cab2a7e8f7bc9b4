"""Functions of time: what a control is, and the door to torchcde's splines."""

import abc

import torch

from neurosde.errors import DataError, ShapeError
from neurosde.typing import Any, Tensor


class AbstractPath(abc.ABC):
    """A function of time with one row a series.

    ``t`` is always a number ``()`` or one a series ``(series, 1)``.
    """

    @abc.abstractmethod
    def evaluate(self, t: Tensor) -> Tensor:
        """Value at t, ``(series, channel)``."""

    @abc.abstractmethod
    def derivative(self, t: Tensor) -> Tensor:
        """Slope at t, from the right at a knot, ``(series, channel)``."""

    def increment(self, t0: Tensor, t1: Tensor) -> Tensor:
        """Difference between two times, ``(series, channel)``."""
        return self.evaluate(t1) - self.evaluate(t0)


class ConstantPath(AbstractPath):
    """The same value at all times: static covariates, or the code of a history.

    Parameters
    ----------
    value
        ``(series, channel)``.

    Examples
    --------
    >>> import torch
    >>> from neurosde.paths import ConstantPath
    >>> ConstantPath(torch.ones(2, 3)).derivative(torch.tensor(0.0)).abs().sum()
    tensor(0.)
    """

    def __init__(self, value: Tensor):
        if value.dim() != 2:
            raise ShapeError(f"value: expected (series, channel), got {tuple(value.shape)}.")
        self.value = value

    def evaluate(self, t: Tensor) -> Tensor:
        """Value, whatever t is."""
        return self.value

    def derivative(self, t: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.value)


class _KnotPath(AbstractPath):
    """What paths through knots share: checked knots, and finding the interval of a time."""

    def __init__(self, times: Any, values: Tensor):
        times = torch.as_tensor(times, dtype=torch.float64, device=values.device)
        if values.dim() != 3:
            raise ShapeError(f"values: expected (series, time, channel), got {tuple(values.shape)}.")
        if times.dim() == 1:
            times = times.expand(len(values), -1)
        if times.shape != values.shape[:2] or times.shape[1] < 2:
            raise ShapeError(
                f"times: expected (time,) or {tuple(values.shape[:2])} with two times or more, "
                f"got {tuple(times.shape)}."
            )
        if not bool((times.diff() > 0).all()):
            row, column = (~(times.diff() > 0)).nonzero()[0].tolist()
            raise DataError(
                f"times[{row}, {column}] is not followed by a later one; sort, and drop repeated ones."
            )
        if not bool(torch.isfinite(values).all()):
            place = (~torch.isfinite(values)).nonzero()[0].tolist()
            raise DataError(f"values{place} is not finite; fill missing values before making a path of them.")
        self.times, self.values = times.contiguous(), values
        self.slopes = values.diff(dim=1) / times.diff().unsqueeze(-1).to(values)

    def _locate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Interval of each series at t (an end one beyond the knots), time since its start, length."""
        t = t.to(torch.float64).reshape(-1, 1).expand(len(self.times), 1)
        interval = torch.searchsorted(self.times, t.contiguous(), right=True) - 1
        interval = interval.clamp(0, self.times.shape[1] - 2)
        start = self.times.gather(1, interval)
        since = (t - start).to(self.values)
        return interval, since, (self.times.gather(1, interval + 1) - start).to(self.values)

    def _at(self, table: Tensor, interval: Tensor) -> Tensor:
        return table.gather(1, interval.unsqueeze(-1).expand(-1, 1, table.shape[-1])).squeeze(1)


class LinearPath(_KnotPath):
    """Straight lines between knots, each series with knots of its own.

    Parameters
    ----------
    times
        ``(time,)`` or ``(series, time)``, strictly increasing.
    values
        ``(series, time, channel)``, finite.

    Examples
    --------
    >>> import torch
    >>> from neurosde.paths import LinearPath
    >>> path = LinearPath([0.0, 1.0], torch.tensor([[[0.0], [2.0]]]))
    >>> path.evaluate(torch.tensor(0.25))
    tensor([[0.5000]])
    """

    def evaluate(self, t: Tensor) -> Tensor:
        """Value at t; the end lines go on beyond the knots."""
        interval, since, _ = self._locate(t)
        return self._at(self.values, interval) + since * self._at(self.slopes, interval)

    def derivative(self, t: Tensor) -> Tensor:
        """Slope of the line at t."""
        return self._at(self.slopes, self._locate(t)[0])


class HermitePath(_KnotPath):
    """Cubic pieces whose slope at a knot is the backward difference: causal, and once differentiable.

    The spline of Morrill, Kidger, Yang & Lyons 2021 ("Neural controlled differential equations for online
    prediction tasks", section 3.3); on ``[t_i, t_i+1]`` of length h with slopes ``d_i`` (backward) and
    ``s_i`` (of the chord), ``x(t_i + u) = x_i + d_i u + (s_i - d_i) (2 u^2 / h - u^3 / h^2)``.

    Parameters
    ----------
    times
        ``(time,)`` or ``(series, time)``, strictly increasing.
    values
        ``(series, time, channel)``, finite.

    Examples
    --------
    >>> import torch
    >>> from neurosde.paths import HermitePath
    >>> path = HermitePath([0.0, 1.0, 2.0], torch.tensor([[[0.0], [1.0], [0.0]]]))
    >>> path.evaluate(torch.tensor(2.0))
    tensor([[0.]])
    """

    def __init__(self, times: Any, values: Tensor):
        super().__init__(times, values)
        self.backward = torch.cat((self.slopes[:, :1], self.slopes[:, :-1]), dim=1)

    def evaluate(self, t: Tensor) -> Tensor:
        """Value at t."""
        interval, u, h = self._locate(t)
        d, s = self._at(self.backward, interval), self._at(self.slopes, interval)
        return self._at(self.values, interval) + d * u + (s - d) * (2 * u**2 / h - u**3 / h**2)

    def derivative(self, t: Tensor) -> Tensor:
        """Slope at t."""
        interval, u, h = self._locate(t)
        d, s = self._at(self.backward, interval), self._at(self.slopes, interval)
        return d + (s - d) * (4 * u / h - 3 * u**2 / h**2)


class ForeignPath(AbstractPath):
    """A torchcde interpolation seen as a path; its series share their times.

    Parameters
    ----------
    spline
        Object with ``evaluate(t)`` and ``derivative(t)``, such as ``torchcde.CubicSpline``.
    """

    def __init__(self, spline: Any):
        self.spline = spline

    def evaluate(self, t: Tensor) -> Tensor:
        """Value at a time that all series share."""
        return self.spline.evaluate(self._shared(t))

    def derivative(self, t: Tensor) -> Tensor:
        """Slope at a time that all series share."""
        return self.spline.derivative(self._shared(t))

    def _shared(self, t: Tensor) -> Tensor:
        if t.dim() and bool((t != t.flatten()[0]).any()):
            raise DataError(
                "t: a torchcde spline knows one time for all series; build a HermitePath instead."
            )
        return t.flatten()[0] if t.dim() else t


def as_path(path: Any) -> AbstractPath:
    """Take any control: one of ours, a torchcde spline, or a constant ``(series, channel)``.

    Raises
    ------
    DataError
        If it is none of these.

    Examples
    --------
    >>> import torch
    >>> from neurosde.paths import as_path
    >>> as_path(torch.zeros(2, 1)).evaluate(torch.tensor(3.0)).shape
    torch.Size([2, 1])
    """
    if isinstance(path, AbstractPath):
        return path
    if isinstance(path, Tensor):
        return ConstantPath(path)
    if callable(getattr(path, "evaluate", None)) and callable(getattr(path, "derivative", None)):
        return ForeignPath(path)
    raise DataError(f"path: expected a path, a torchcde spline or a tensor (series, channel), got {path!r}.")
