"""Bridges: an SDE together with the marginals it meets, composed over the intervals between snapshots."""

import abc
import math

import torch

from neurosde.bridge.light import CHUNK_BYTES, LightMixture, chunk_length
from neurosde.bridge.reference import Reference, apply
from neurosde.errors import DataError, ShapeError
from neurosde.sde import SDE
from neurosde.typing import Sequence, Tensor


class LightInterval:
    """The light bridge between two snapshots: a reference and the mixture potential in its coordinates.

    Parameters
    ----------
    reference
        The reference process on the interval.
    mixture
        The potential in the reference's coordinates.
    """

    def __init__(self, reference: Reference, mixture: LightMixture):
        self.reference, self.mixture = reference, mixture
        n_components, state_size = mixture.location.shape
        self.full = mixture.basis is not None
        self.chunk = chunk_length(n_components, state_size, self.full)

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """Drift at one time ``()`` or one a cell ``(cell,)``."""
        if t.dim() == 0:
            potential = self.mixture.potential(self.reference.remaining(t))
            parts = []
            for cells in x.split(self.chunk):
                gradient = potential.gradient(self.reference.predict(t, cells))
                parts.append(self.reference.drift(t, cells, gradient))
            return torch.cat(parts)
        result = torch.empty_like(x)
        for time in t.unique():
            cells = t == time
            result[cells] = self.drift(time, x[cells])
        return result

    def sample(self, x: Tensor, t0: float, t1: float, generator: torch.Generator) -> Tensor:
        """Exact draws at ``t1`` given cells at ``t0``: an end point, then the pinned reference."""
        uniform = torch.rand(len(x), generator=generator, dtype=torch.float64).to(x)
        normal, pinned_normal = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64).to(x)
        clock = x.new_tensor(t0)
        plan = self.mixture.plan(self.reference.remaining(clock))
        pinned = self.reference.pinned(t0, t1)
        draws = []
        for cells, u, first, second in zip(
            *(part.split(self.chunk) for part in (x, uniform, normal, pinned_normal)), strict=True
        ):
            y = self.reference.colour(plan.sample(self.reference.predict(clock, cells), u, first))
            draws.append(pinned.mean(cells, y) + apply(pinned.root, second))
        return torch.cat(draws)

    def log_density(self, t: float, x: Tensor, start: Tensor, log_weight: Tensor) -> Tensor:
        """Log density at ``t`` of the process that began in weighted cells, ``(cell,)``.

        ``p_t(x) = sum_i a_i sum_k w_k(x_i) N(x | G x_i + H (r_k + S_k z_i) + shift, H C_k H' + root root')``
        """
        ref, clock = self.reference, x.new_tensor(self.reference.start)
        plan = self.mixture.plan(ref.remaining(clock))
        pinned = ref.pinned(ref.start, t)
        z = ref.predict(clock, start)
        log_w = plan.log_weights(z) + log_weight.unsqueeze(-1)
        eye = torch.eye(x.shape[1]).to(x)
        noise = apply(pinned.root, eye).T
        origin = ref.colour(torch.zeros_like(eye[:1]))
        result = x.new_full((len(x),), -math.inf)
        for k in range(log_w.shape[1]):
            end = ref.colour(plan.intercept[k] + apply(plan.slope[k], z))
            spread = apply(pinned.H, ref.colour(apply(plan.root[k], eye)) - origin).T
            law = _Gaussian(spread @ spread.T + noise @ noise.T)
            result = torch.logaddexp(result, law.log_mixture(x, pinned.mean(start, end), log_w[:, k]))
        return result


class _Gaussian:
    """One covariance, shared by many means."""

    def __init__(self, covariance: Tensor):
        self.root = torch.linalg.cholesky(covariance)
        self.log_norm = self.root.diagonal().log().sum() + 0.5 * len(covariance) * math.log(2 * math.pi)

    def log_mixture(self, x: Tensor, means: Tensor, log_weight: Tensor) -> Tensor:
        """``log sum_i exp(log_weight_i) N(x | means_i, covariance)``."""
        points = torch.linalg.solve_triangular(self.root, x.T, upper=False).T
        centres = torch.linalg.solve_triangular(self.root, means.T, upper=False).T
        rows = max(1, CHUNK_BYTES // (16 * len(centres)))
        return torch.cat(
            [
                torch.logsumexp(log_weight - 0.5 * torch.cdist(part, centres).square(), -1) - self.log_norm
                for part in points.split(rows)
            ]
        )


class Bridge(abc.ABC):
    """A process that meets given marginals, as an SDE and as an exact sampler, over one interval or several.

    Times are physical; cells ``(cell, state)`` are float64 tensors in data units.

    Parameters
    ----------
    intervals
        One a pair of consecutive marginals, each beginning where the last ended.

    Attributes
    ----------
    times
        ``(time,)`` increasing: the marginals' times.
    state_size
        Number of coordinates.
    """

    def __init__(self, intervals: Sequence[LightInterval]):
        ends = [part.reference.end for part in intervals[:-1]]
        if not intervals or ends != [part.reference.start for part in intervals[1:]]:
            raise DataError("intervals: each must begin where the one before it ends")
        self.intervals = list(intervals)
        location = intervals[0].mixture.location
        self.state_size = location.shape[1]
        clock = [part.reference.start for part in intervals] + [intervals[-1].reference.end]
        self.times: Tensor = location.new_tensor(clock)

    @abc.abstractmethod
    def marginal(self, t: float, n: int | None = None, *, seed: int = 0) -> Tensor:
        """Exact draws from the law at ``t``, ``(n, state)``."""

    def sde(self) -> "BridgeSDE":
        """The bridge as an SDE for :func:`neurosde.solve`."""
        return BridgeSDE(self)

    def drift(self, t: Tensor, x: Tensor) -> Tensor:
        """Mean rate of change of cells ``(cell, state)`` at one time ``()`` or one a cell ``(cell, 1)``."""
        t, x = torch.as_tensor(t, dtype=self.times.dtype).to(self.times), self._cells("x", x)
        for extreme in (t.min(), t.max()):
            self._time("t", float(extreme))
        if t.numel() == 1:
            t = t.reshape(())
            return self.intervals[int(self._number(t))].drift(t, x)
        t = t.reshape(-1)
        if len(t) != len(x):
            raise ShapeError(f"t: expected one time, or one a cell, {len(x)}, got {len(t)}")
        result, number = torch.empty_like(x), self._number(t)
        for i in number.unique().tolist():
            cells = number == i
            result[cells] = self.intervals[i].drift(t[cells], x[cells])
        return result

    def diffusion(self) -> Tensor:
        """Noise matrix of the reference, ``(state, noise)``, the same at all times."""
        return self.intervals[0].reference.diffusion()

    def sample(self, x0: Tensor, t0: float, t1: float | Sequence[float], *, seed: int = 0) -> Tensor:
        """Exact draws given the cells at ``t0``; no solver is involved.

        Parameters
        ----------
        x0
            ``(cell, state)``.
        t0
            Their time, anywhere in the bridge's span.
        t1
            A later time, or increasing later times; several give joint draws, one path a cell.
        seed
            Fixes the draws.

        Returns
        -------
        Tensor
            ``(cell, state)``, or ``(cell, time, state)`` for several times.

        Raises
        ------
        DataError
            If a time lies outside the span or before the one that precedes it.
        """
        x, t = self._cells("x0", x0), self._time("t0", t0)
        wanted = [self._time("t1", s) for s in torch.as_tensor(t1, dtype=torch.float64).reshape(-1).tolist()]
        for number, (earlier, later) in enumerate(zip([t, *wanted], wanted, strict=False)):
            if later < earlier:
                raise DataError(
                    f"t1: expected rising times from t0 on, entry {number} is {later:g} after {earlier:g}"
                )
        generator = torch.Generator().manual_seed(seed)
        path = []
        for target in wanted:
            while t < target:
                interval = self.intervals[int(self._number(self.times.new_tensor(t)))]
                stop = min(target, interval.reference.end)
                x, t = interval.sample(x, t, stop, generator), stop
            path.append(x)
        return path[0] if torch.as_tensor(t1).dim() == 0 else torch.stack(path, 1)

    def interval_number(self, name: str, t: float) -> int:
        """Number of the interval that holds a time; `name` is the argument's, for the error message."""
        return int(self._number(self.times.new_tensor(self._time(name, t))))

    def _number(self, t: Tensor) -> Tensor:
        """Number of the interval that holds ``t``; a marginal's time belongs to the interval it begins."""
        return torch.searchsorted(self.times[1:-1].contiguous(), t.contiguous(), right=True)

    def _time(self, name: str, t: float) -> float:
        """``t`` as a float within the span; rounding of a float32 clock is forgiven."""
        first, last = float(self.times[0]), float(self.times[-1])
        slack = 1e-6 * max(last - first, abs(first), abs(last))
        if not first - slack <= float(t) <= last + slack:
            raise DataError(f"{name}: expected a time between {first:g} and {last:g}, got {float(t)!r}")
        return min(max(float(t), first), last)

    def _cells(self, name: str, x: Tensor) -> Tensor:
        x = torch.as_tensor(x)
        if x.dim() != 2 or x.shape[1] != self.state_size:
            raise ShapeError(f"{name}: expected (cell, {self.state_size}), got {tuple(x.shape)}")
        return x.to(self.times)


class BridgeSDE(SDE):
    """A bridge as an SDE with additive noise, piecewise in time: ``drift(t, y)`` and ``diffusion(t, y)``.

    Fields are evaluated in float64 and returned in the precision of ``y``. At a snapshot's time the drift is
    the one of the interval that begins there.

    Parameters
    ----------
    bridge
        The bridge.
    """

    sde_type = "ito"
    noise_type = "additive"
    additive = True

    def __init__(self, bridge: Bridge):
        super().__init__()
        self.bridge = bridge

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift of the bridge."""
        return self.bridge.drift(torch.as_tensor(t), y).to(y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Noise matrix, ``(series, state, noise)``."""
        L = self.bridge.diffusion().to(y)
        return L.expand(*y.shape[:-1], *L.shape)


class LightBridge(Bridge):
    """Light Schrödinger bridges of consecutive snapshots, one after the other.

    With a Markov reference in the observed space the multi-marginal bridge is exactly this composition.

    Parameters
    ----------
    intervals
        One a pair of consecutive snapshots, each beginning where the last ended.
    snapshots
        Cells ``(cell, state)`` at the start of each interval, in data units.
    weights
        Positive weight of each of these cells; None weighs all alike.

    Examples
    --------
    >>> import torch
    >>> from neurosde.bridge import BrownianReference, LightInterval, LightMixture
    >>> reference = BrownianReference(0.0, 2.0, sigma=torch.ones(1).double(), centre=torch.zeros(1).double())
    >>> mixture = LightMixture(*(torch.tensor(a).double() for a in ([0.0], [[1.0]], [[0.5]])))
    >>> bridge = LightBridge([LightInterval(reference, mixture)], [torch.zeros(4, 1).double()])
    >>> bridge.sample(torch.zeros(3, 1), 0.0, [1.0, 2.0]).shape
    torch.Size([3, 2, 1])
    """

    def __init__(
        self,
        intervals: Sequence[LightInterval],
        snapshots: Sequence[Tensor],
        weights: Sequence[Tensor] | None = None,
    ):
        super().__init__(intervals)
        if len(snapshots) != len(intervals):
            raise ShapeError(f"snapshots: expected one an interval, {len(intervals)}, got {len(snapshots)}")
        self.snapshots = list(snapshots)
        self.weights = [torch.ones_like(x[:, 0]) for x in snapshots] if weights is None else list(weights)

    def marginal(self, t: float, n: int | None = None, *, seed: int = 0) -> Tensor:
        """Exact draws from the law at ``t``, which starts from the observed cells of the snapshot before.

        Parameters
        ----------
        t
            Time within the span. At a snapshot's time (but the last) the draws are observed cells.
        n
            Number of draws; None gives as many as that snapshot has cells. Starting cells are drawn by
            systematic sampling of the weights, so that with equal weights each cell serves equally often.
        seed
            Fixes the draws.
        """
        t = self._time("t", t)
        i = self.interval_number("t", t)
        rows = systematic(self.weights[i], n, seed=seed)
        return self.sample(self.snapshots[i][rows], float(self.times[i]), t, seed=seed)

    def log_marginal(self, t: float, x: Tensor) -> Tensor:
        """Log density of the law at ``t``, ``(cell,)``; costs cells times starting cells times components.

        Raises
        ------
        DataError
            At the time of a snapshot, but the last: the law there is a set of points.
        """
        t, x = self._time("t", t), self._cells("x", x)
        i = self.interval_number("t", t)
        if t == float(self.times[i]):
            raise DataError(
                f"t: the law at a snapshot's time {t:g} is a set of observed cells, without density"
            )
        log_weight = (self.weights[i] / self.weights[i].sum()).log()
        return self.intervals[i].log_density(t, x, self.snapshots[i], log_weight)


def systematic(weight: Tensor, n: int | None = None, *, seed: int) -> Tensor:
    """Draw rows in proportion to their weights by systematic sampling, in random order.

    Every row appears ``n weight / sum(weight)`` times, rounded up or down: far less variable than independent
    draws, and without needless duplicates.

    Parameters
    ----------
    weight
        ``(row,)``, positive.
    n
        Number of draws; None draws as many as there are rows.
    seed
        Fixes the draws.

    Examples
    --------
    >>> import torch
    >>> systematic(torch.ones(4), seed=0).sort().values
    tensor([0, 1, 2, 3])
    """
    n = len(weight) if n is None else n
    if n < 1:
        raise DataError(f"n: expected at least 1 draw, got {n}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(weight), generator=generator)
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    mass = weight.detach().cpu().double()[order].cumsum(0)
    positions = (torch.arange(n, dtype=torch.float64) + offset) / n * mass[-1]
    rows = order[torch.searchsorted(mass, positions, right=True).clamp(max=len(weight) - 1)]
    return rows[torch.randperm(n, generator=generator)].to(weight.device)
