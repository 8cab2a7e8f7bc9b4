"""The declared linear part of a drift, and the weights with which exponential steps integrate it."""

import abc
import math

import torch

from neurosde.errors import ShapeError, SolveError
from neurosde.linear.flow import Flow, distinct, filtered_noise, linear_flow, matched
from neurosde.sde import SDE
from neurosde.solve.phi import phi1, phi2
from neurosde.typing import Tensor


class AbstractLinearPart(abc.ABC):
    """The part ``-D y`` over many steps; all weights are float64 and have a leading step axis.

    Parameters
    ----------
    h
        Lengths of the steps, of a shape that broadcasts against the weights.
    D
        Rates or matrices, of the shape of the weights.
    """

    def __init__(self, h: Tensor, D: Tensor):
        self.h, self.D = h, D

    @abc.abstractmethod
    def keep(self, fraction: float = 1.0) -> Tensor:
        """``e^{-x}`` at ``x = fraction D h``: the weight of y."""

    @abc.abstractmethod
    def mean(self, fraction: float = 1.0) -> Tensor:
        """``phi1(x) = int_0^1 e^{-x s} ds``: the weight of the rest of the drift, and of ``g W``."""

    @abc.abstractmethod
    def ramp(self) -> Tensor:
        """``phi2(x) = int_0^1 (1 - s) e^{-x s} ds``: the weight of what grows over the step."""

    @abc.abstractmethod
    def swing(self) -> Tensor:
        """Weight of ``-g H`` that gives noise alike in all directions its exact law.

        ``b`` with ``b b' / 12 = int e^{-x s} e^{-x' s} ds - phi1 phi1'``, nearest to the regression on H.
        """


class DiagonalPart(AbstractLinearPart):
    """Rates a state: the weights are numbers."""

    def __init__(self, h: Tensor, rates: Tensor):
        h, rates = h.to(torch.float64), rates.to(torch.float64)
        self.x = rates * h
        self._means: dict[float, Tensor] = {}
        super().__init__(h, rates.expand_as(self.x))

    def keep(self, fraction: float = 1.0) -> Tensor:
        """See :class:`AbstractLinearPart`."""
        return torch.exp(-self._at(fraction))

    def mean(self, fraction: float = 1.0) -> Tensor:
        """See :class:`AbstractLinearPart`."""
        if fraction not in self._means:
            self._means[fraction] = phi1(self._at(fraction))
        return self._means[fraction]

    def ramp(self) -> Tensor:
        """See :class:`AbstractLinearPart`."""
        return phi2(self.x)

    def swing(self) -> Tensor:
        """``sqrt(12 (v - p^2))``, ``v = (1 - e^{-2x}) / 2x``, ``p = phi1(x)``; a series near 0."""
        small = self.x.abs() < 0.03
        x = torch.where(small, 1.0, self.x)
        exact = torch.sqrt((12 * (phi1(2 * x) - phi1(x) ** 2)).clamp(min=0.0))
        x = self.x
        series = 1 - x + 17 / 30 * x**2 - 7 / 30 * x**3 + 43 / 560 * x**4
        return torch.where(small, x * torch.sqrt(torch.where(small, series, 1.0)), exact)

    def _at(self, fraction: float) -> Tensor:
        return self.x if fraction == 1 else fraction * self.x


class MatrixPart(AbstractLinearPart):
    """A matrix: so are the weights, ``(step, 1 or series, state, state)``, one calculation a length."""

    def __init__(self, h: Tensor, D: Tensor):
        durations, self.place = distinct(h.squeeze(-1)) if D.dim() == 2 else (h.squeeze(-1), None)
        self.Z = -D.to(torch.float64) * durations.to(torch.float64)[..., None, None]
        self._flows: dict[float, Flow] = {}
        own = D if D.dim() == 4 else D.expand(len(h), 1, -1, -1)
        super().__init__(h.to(torch.float64).unsqueeze(-1), own.to(torch.float64))

    def keep(self, fraction: float = 1.0) -> Tensor:
        """See :class:`AbstractLinearPart`."""
        return self._spread(self._flow(fraction).Phi)

    def mean(self, fraction: float = 1.0) -> Tensor:
        """See :class:`AbstractLinearPart`."""
        return self._spread(self._flow(fraction).phi1)

    def ramp(self) -> Tensor:
        """See :class:`AbstractLinearPart`."""
        return self._spread(self._flow(1.0).phi2)

    def swing(self) -> Tensor:
        """See :class:`AbstractLinearPart`; asked for first, it spares the others a second calculation."""
        self._flows[1.0], noise = filtered_noise(self.Z, torch.eye(self.Z.shape[-1]).to(self.Z))
        return self._spread(-math.sqrt(12) * self.Z @ matched(noise, 1))

    def _flow(self, fraction: float) -> Flow:
        if fraction not in self._flows:
            self._flows[fraction] = linear_flow(fraction * self.Z)
        return self._flows[fraction]

    def _spread(self, weight: Tensor) -> Tensor:
        return weight if self.place is None else weight[self.place]


def linear_part(sde: SDE, t: Tensor, h: Tensor) -> AbstractLinearPart:
    """Linear part of an SDE over steps at t of lengths h, both ``(step, 1 or series, 1)``.

    Raises
    ------
    SolveError
        If the SDE declares none.
    ShapeError
        If what it declares is neither a vector of rates nor a square matrix.
    """
    D = sde.decay(t)
    if D is None:
        raise SolveError("sde: decay(t) gave None in the midst of a solve; declare the linear part always.")
    if D.dim() < 2:
        return DiagonalPart(h, D)
    if D.dim() > 2:  # it moves in time; which of both it is, one time tells
        one = sde.decay(t.flatten()[0])
        if one is None or one.dim() < 2:
            return DiagonalPart(h, D)
        D = torch.stack([_matrix(sde, time) for time in t.flatten()]).unflatten(0, t.shape[:2])
    if D.shape[-1] != D.shape[-2]:
        raise ShapeError(
            f"sde: decay(t): expected rates (state,) or a matrix (state, state), got {tuple(D.shape)}."
        )
    return MatrixPart(h, D)


def check_linear_part(sde: SDE, t: Tensor, n_state: int) -> None:
    """Check the linear part that an SDE declares, at one time ``()``.

    Raises
    ------
    ShapeError
        If it is neither a tensor of rates nor a matrix for that many states.
    """
    D = sde.decay(t)
    rates = isinstance(D, Tensor) and D.dim() < 2 and D.numel() in (1, n_state)
    if not rates and not (isinstance(D, Tensor) and tuple(D.shape) == (n_state, n_state)):
        got = tuple(D.shape) if isinstance(D, Tensor) else f"{D!r} of type {type(D).__name__}"
        raise ShapeError(
            f"sde: decay(t): expected rates (state,) or a matrix (state, state), a tensor for {n_state} "
            f"states, got {got}."
        )


def _matrix(sde: SDE, t: Tensor) -> Tensor:
    D = sde.decay(t)
    assert D is not None  # it was a matrix at the first time
    return D


def weigh(weight: Tensor, x: Tensor) -> Tensor:
    """Apply the weight of one step, numbers ``(1 or series, state)`` or matrices with one axis more.

    Parameters
    ----------
    weight
        ``(1 or series, out)``, or ``(1 or series, out, state)``.
    x
        ``(series, state)``.
    """
    if weight.dim() == 2:
        return weight * x
    if len(weight) == 1:
        return x @ weight[0].mT
    return (weight @ x.unsqueeze(-1)).squeeze(-1)


def narrow(h: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Weights in the precision of the steps."""
    return tuple(weight.to(h.dtype) for weight in weights)
