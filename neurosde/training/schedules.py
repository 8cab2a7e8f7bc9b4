"""How a weight in the loss moves over training."""

import dataclasses
import math
import numbers

from neurosde.errors import DataError
from neurosde.typing import Any, Literal

__all__ = ["Schedule"]

# What each shape takes beside `start`.
_TAKES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "linear": ("end",),
    "exponential": ("end",),
    "inverse": ("rate",),
    "annealing": ("rate", "delay"),
}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A weight as a function of the iteration t of N: a plain value, compared and saved by its fields.

    With ``a = start`` and ``b = end``: "constant" a; "linear" ``a + (b - a) t / N``; "exponential" ``a (b /
    a)^(t / N)``; "inverse" ``a / (1 + rate t)`` (Pal, Ma, Shah & Rackauckas 2021 let learning rates fall by
    the last and penalties by the one before); "annealing" ``a max(0, 1 - rate^(t - delay))``, which lets a
    term in slowly (the KL term of their latent ODE: rate .99, delay 10).

    Parameters
    ----------
    shape
        "constant", "linear", "exponential", "inverse" or "annealing".
    start
        Weight at the start; of "annealing" the weight that is approached. Not negative.
    end
        Weight at the end of "linear" and "exponential".
    rate
        Of "inverse", per iteration, not negative; of "annealing", strictly between 0 and 1.
    delay
        Iterations before "annealing" lets anything in.

    Raises
    ------
    DataError
        If a word is not known, or a value is missing, over, or out of its range.

    Examples
    --------
    >>> from neurosde.training import Schedule
    >>> Schedule("exponential", 100.0, 1.0).at(5, 10)
    10.0
    >>> [Schedule("annealing", rate=0.5, delay=1).at(t, 10) for t in range(4)]
    [0.0, 0.0, 0.5, 0.75]
    """

    shape: Literal["constant", "linear", "exponential", "inverse", "annealing"] = "constant"
    start: float = 1.0
    end: float | None = None
    rate: float | None = None
    delay: float | None = None

    def __post_init__(self):
        if not isinstance(self.shape, str) or self.shape not in _TAKES:
            raise DataError(f"shape: expected one of {', '.join(_TAKES)}, got {self.shape!r}.")
        for name in ("end", "rate", "delay"):
            if getattr(self, name) is not None and name not in _TAKES[self.shape]:
                raise DataError(f"{name}: a {self.shape!r} schedule takes none, got {getattr(self, name)!r}.")
        strict = self.shape == "exponential"
        self._check("start", self.start, above=0.0, strict=strict)
        if "end" in _TAKES[self.shape]:
            self._check("end", self.end, above=0.0, strict=strict)
        if self.shape == "inverse":
            self._check("rate", self.rate, above=0.0)
        if self.shape == "annealing":
            self._check("rate", self.rate, above=0.0, below=1.0, strict=True)
            self._check("delay", 0.0 if self.delay is None else self.delay, above=0.0)

    def _check(
        self, name: str, value: Any, *, above: float, below: float = math.inf, strict: bool = False
    ) -> None:
        real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
        number = float(value) if real else math.nan
        if not (above < number < below if strict else above <= number <= below):
            least = f"a finite number {'>' if strict else '>='} {above:g}"
            most = "" if math.isinf(below) else f" and < {below:g}"
            raise DataError(f"{name}: expected {least}{most} for a {self.shape!r} schedule, got {value!r}.")

    def at(self, step: float, total: float) -> float:
        """Weight at an iteration.

        Parameters
        ----------
        step
            Iterations done, 0 at the first; parts of an epoch count as such.
        total
            Iterations of the whole run.
        """
        if self.shape == "linear" and self.end is not None:
            return self.start + (self.end - self.start) * step / total
        if self.shape == "exponential" and self.end is not None:
            return self.start * (self.end / self.start) ** (step / total)
        if self.shape == "inverse" and self.rate is not None:
            return self.start / (1.0 + self.rate * step)
        if self.shape == "annealing" and self.rate is not None:
            return self.start * max(0.0, 1.0 - self.rate ** max(0.0, step - (self.delay or 0.0)))
        return float(self.start)
