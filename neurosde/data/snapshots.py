"""Cells observed at a few times, each cell once."""

import dataclasses
from typing import Any, Self

import numpy as np

from neurosde.data import columns
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Snapshots:
    """Samples of a population at two or more times, with nobody followed from one to the next.

    Arrays are read-only; ``len`` and indexing go along the cells.

    Parameters
    ----------
    X : (cell, feature) float64
        Dense and finite.
    time : (cell,) float64
        Time label of each cell. Strings are taken if they read as numbers ("3", "7.5"); others are refused,
        for sorting "d10" and "d2" by letters is wrong.
    weights : (cell,) float64, optional
        Positive; by default all alike.
    feature_names : sequence of str, optional
        By default "0", "1", ...

    Raises
    ------
    DataError, ShapeError
        Fewer than two labels, NaN, text, or arrays that do not fit.

    Examples
    --------
    >>> snapshots = Snapshots([[0.0], [1.0], [5.0]], ["0", "0", "2.5"])
    >>> snapshots
    Snapshots(3 cells, 1 features, 2 times: 0 (2), 2.5 (1))
    >>> snapshots.at(2.5)
    array([[5.]])
    """

    X: Array
    time: Array
    weights: Any = None
    feature_names: Any = None

    def __post_init__(self) -> None:
        if np.asarray(self.X).ndim == 0:  # a sparse matrix is one object to numpy
            raise DataError(
                f"X is a {type(self.X).__name__}, expected a dense array: X.toarray(), or a PCA of it"
            )
        X, time = columns.finite(self.X, argument="X"), time_labels(self.time)
        if X.ndim != 2:
            hint = "; for series use Series.from_padded" if X.ndim == 3 else ""
            raise ShapeError(f"X has shape {X.shape}, expected (cell, feature){hint}")
        weights = (
            np.ones(len(X)) if self.weights is None else columns.finite(self.weights, argument="weights")
        )
        for name, array in (("time", time), ("weights", weights)):
            if array.shape != (len(X),):
                raise ShapeError(
                    f"{name} has shape {array.shape}, expected ({len(X)},), one for each cell of X"
                )
        if (weights <= 0).any():
            i = columns.first(weights <= 0)
            raise DataError(
                f"weights[{i}] is {weights[i]}, expected a positive number; leave the cell out instead"
            )
        n_labels = len(np.unique(time))
        if n_labels < 2:
            raise DataError(
                f"time has {n_labels} distinct label(s) in {len(X)} sample(s), expected two or more"
            )
        for name, array in (("X", X), ("time", time), ("weights", weights)):
            object.__setattr__(self, name, columns.frozen(array))
        names = columns.names(self.feature_names, X.shape[1], argument="feature_names")
        object.__setattr__(self, "feature_names", names)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, key: Any) -> Self:
        cells = np.arange(len(self))[key]
        return dataclasses.replace(self, X=self.X[cells], time=self.time[cells], weights=self.weights[cells])

    @property
    def shape(self) -> tuple[int, int]:
        """``(cell, feature)``."""
        return self.X.shape

    @property
    def times(self) -> Array:
        """Distinct labels in rising order, ``(time,)``."""
        return np.unique(self.time)

    def at(self, t: float) -> Array:
        """Cells with label ``t``, ``(cell, feature)``."""
        return self.X[self._mask(t)]

    def weights_at(self, t: float) -> Array:
        """Weights of the cells with label ``t``, ``(cell,)``, with sum one."""
        weights = self.weights[self._mask(t)]
        return weights / weights.sum()

    def leave_out(self, t: float) -> Self:
        """Return the record without the cells of label ``t``."""
        return self[~self._mask(t)]

    def _mask(self, t: float) -> Array:
        mask = self.time == t
        if not mask.any():
            raise DataError(f"t is {t}, expected one of the labels {', '.join(f'{u:g}' for u in self.times)}")
        return mask

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.X, self.time, self.weights, self.feature_names)

    def __repr__(self) -> str:
        counts = ", ".join(f"{t:g} ({int((self.time == t).sum())})" for t in self.times)
        return f"Snapshots({len(self)} cells, {self.shape[1]} features, {len(self.times)} times: {counts})"


def time_labels(values: Any, *, argument: str = "time") -> Array:
    """Time labels as float64: numbers, or strings every one of which reads as a number.

    Raises
    ------
    DataError
        Naming the first label that is not a finite number.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "OU":
        return columns.finite(values, argument=argument)
    labels, index = np.unique(array.astype(str), return_inverse=True)
    known = [_number(label) for label in labels.tolist()]
    time = np.array(known, dtype=np.float64)[index].reshape(array.shape)
    bad = ~np.isfinite(time)
    if bad.any():
        at = columns.first(bad)
        raise DataError(
            f"{argument}[{at}] = {columns.told(array[at])} does not read as a number; give the days"
            " themselves: as text 'd10' comes before 'd2'"
        )
    return time


def _number(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return np.nan
