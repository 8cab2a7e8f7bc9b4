"""Linear SDEs, whose laws are known exactly: the oracle of the whole package."""

import math

import torch

from neurosde.arguments import as_numbers
from neurosde.errors import DataError, ShapeError
from neurosde.linear import checks, kalman
from neurosde.linear.checks import Evidence
from neurosde.linear.gaussian import Gaussian, square_root
from neurosde.linear.kalman import Filtered, Observations
from neurosde.linear.transition import Transition, apply, follow, linear_transition
from neurosde.noise import as_seed, chain, normals
from neurosde.sde import SDE
from neurosde.typing import Any, Tensor


class LinearSDE(SDE):
    """``dX = (A X + b) dt + L dW``, whose transitions, samples and posterior laws are exact.

    All results are float64. Series are batched, each on its own times; gradients pass through A, b and L, so
    an SDE built from parameters inside a loss can be fitted by maximum likelihood.

    Parameters
    ----------
    A
        ``(state, state)``.
    b
        ``(state,)``; zero by default.
    L
        ``(state, noise)``; the identity by default.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    DataError
        If an entry is not finite.

    Notes
    -----
    What the methods on data share:

    times
        ``(time,)`` for all series or ``(*batch, time)``, never decreasing, padded with NaN at the end.
    values
        ``(*batch, time, channel)``, NaN where nothing was seen.
    observation
        ``(C, R)``: values are ``C x + e``, ``e ~ N(0, R)``, with C ``(channel, state)`` and R a variance,
        variances ``(channel,)`` or a covariance ``(channel, channel)``. By default the state
        itself, without noise.
    initial
        Law at each series' first time, ``(mean, covariance)``: ``(state,)``, ``(state, state)``, or with
        ``*batch`` in front. By default the stationary law.

    Examples
    --------
    >>> import torch
    >>> from neurosde import LinearSDE
    >>> sde = LinearSDE([[-1.0]], [1.0], [[1.0]])
    >>> Phi, m, Q = sde.transition(2.0)
    >>> round(float(Q), 6)  # (1 - exp(-4)) / 2
    0.490842
    >>> times, values = [0.0, 0.5, 2.0], [[1.3], [torch.nan], [0.4]]
    >>> sde.log_likelihood(times, values, ([[1.0]], 0.1))
    tensor(-1.7348, dtype=torch.float64)
    """

    sde_type = "ito"
    noise_type = "additive"
    additive = True
    A: Tensor
    b: Tensor
    L: Tensor

    def __init__(self, A: Any, b: Any = None, L: Any = None):
        super().__init__()
        A = as_numbers("A", A, "a matrix (state, state)")
        if A.dim() != 2 or A.shape[0] != A.shape[1] or not len(A):
            raise ShapeError(f"A: expected (state, state) of at least one state, got {tuple(A.shape)}.")
        d = A.shape[0]
        b = torch.zeros(d, dtype=torch.float64) if b is None else as_numbers("b", b, f"a vector ({d},)")
        L = torch.eye(d, dtype=torch.float64) if L is None else as_numbers("L", L, f"a matrix ({d}, noise)")
        if b.shape != (d,):
            raise ShapeError(f"b: expected ({d},), got {tuple(b.shape)}.")
        if L.dim() != 2 or L.shape[0] != d:
            raise ShapeError(f"L: expected ({d}, noise), got {tuple(L.shape)}.")
        for name, value in (("A", A), ("b", b), ("L", L)):
            if not value.is_meta and not bool(torch.isfinite(value).all()):
                index = (~torch.isfinite(value)).nonzero()[0].tolist()
                raise DataError(
                    f"{name}: expected finite entries, entry {index} is {value[tuple(index)].item()}."
                )
            self.register_buffer(name, value)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """``A y + b``."""
        return y @ self.A.to(y).T + self.b.to(y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """``L``, the same for every series."""
        return self.L.to(y).expand(*y.shape[:-1], *self.L.shape)

    def decay(self, t: Tensor) -> Tensor:
        """``-A``, so that an SDE with a further drift, a subclass, has its linear part integrated exactly."""
        return -self.A

    def transition(self, duration: float | Tensor) -> Transition:
        """Exact law after one or many durations; see :func:`linear_transition`."""
        return linear_transition(self.A, self.b, self.L, duration)

    def stationary(self) -> Gaussian:
        """The law that does not change with time, mean ``(state,)`` and covariance ``(state, state)``.

        The transition over so long a time that the start is forgotten; its covariance solves Lyapunov's
        equation ``A P + P A' + L L' = 0``.

        Raises
        ------
        DataError
            If A has an eigenvalue whose real part is not negative.

        Examples
        --------
        >>> from neurosde import LinearSDE
        >>> LinearSDE([[-2.0]], [2.0], [[1.0]]).stationary().covariance
        tensor([[0.2500]], dtype=torch.float64)
        """
        A = self.A.detach().to(torch.float64)
        slowest = float(torch.linalg.eigvals(A).real.max())
        if slowest >= -1e-14 * float(torch.linalg.matrix_norm(A, 1)):
            raise DataError(
                "A: a stationary law needs eigenvalues with negative real parts, the largest is "
                f"{slowest:.3g}; give the law at the first time as `initial`."
            )
        _, m, Q = self.transition(64.0 / -slowest)
        return Gaussian(m, Q)

    def sample(self, y0: Any, ts: Any, *, seed: int | None = None, series: Any = None) -> Tensor:
        """Draw paths at the requested times, exactly: no step size.

        Parameters
        ----------
        y0
            States at each series' first time, ``(*batch, state)``; random starts come from
            ``stationary().sample(n)``.
        ts
            ``(time,)`` or ``(*batch, time)``, never decreasing, padded with NaN at the end.
        seed
            Noise is keyed by (seed, series, time); None for a fresh seed.
        series
            int64 keys of the series, ``(*batch)``; by default their row numbers.

        Returns
        -------
        Tensor
            ``(*batch, time, state)``, NaN at padding. Differentiable in ``y0``, A, b and L.

        Raises
        ------
        ShapeError, DataError
            If an argument cannot be used.

        Examples
        --------
        >>> from neurosde import LinearSDE
        >>> LinearSDE([[-1.0]]).sample([[0.0], [5.0]], [0.0, 0.1, 4.0], seed=0).shape
        torch.Size([2, 3, 1])
        """
        d = len(self.A)
        y0 = as_numbers("y0", y0, f"states (*batch, {d})", device=self.A.device)
        if y0.dim() == 0 or y0.shape[-1] != d or 0 in y0.shape:
            raise ShapeError(f"y0: expected (*batch, {d}) = (*batch, state), got {tuple(y0.shape)}.")
        if not bool(torch.isfinite(y0).all()):
            index = (~torch.isfinite(y0)).nonzero()[0].tolist()
            raise DataError(f"y0{index} is {y0[tuple(index)].item()}, expected a finite state.")
        batch = tuple(y0.shape[:-1])
        n = math.prod(batch)
        times = checks.check_clock(ts, batch, y0.device, "ts")
        keys = torch.arange(n)
        if series is not None:
            keys = as_numbers("series", series, "integer keys, one a series", dtype=None).reshape(-1)
        if keys.shape != (n,) or keys.dtype.is_floating_point or keys.is_complex():
            raise ShapeError(
                f"series: expected an integer for each of {n} series, got {tuple(keys.shape)} {keys.dtype}."
            )
        moments = (times.nan_to_num() + 0.0).view(torch.int64)  # -0.0 and 0.0 are one time
        key = chain(as_seed(seed), keys.to(y0.device, torch.int64).unsqueeze(-1), moments)
        Phi, m, Q = self._steps(times)
        z = normals(torch.as_tensor(key), d, torch.float64)
        shift = m + apply(square_root(Q), z)
        path = follow(y0.reshape(n, d), Phi[:, 1:], shift[:, 1:])
        return _lay_out(path, times, batch)

    def log_likelihood(
        self, times: Any, values: Any, observation: Any = None, *, initial: Any = None
    ) -> Tensor:
        """Log-density in nats of all that was seen of each series.

        By the prediction error decomposition, ``sum_k log p(y_k | y_1, ..., y_{k-1})``; see :meth:`filter`.

        Returns
        -------
        Tensor
            ``(*batch)``.

        Examples
        --------
        >>> import torch
        >>> from neurosde import LinearSDE
        >>> theta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        >>> sde = LinearSDE(-theta.reshape(1, 1))
        >>> sde.log_likelihood([0.0, 1.0], [[0.3], [0.1]]).backward()
        >>> theta.grad
        tensor(0.7560, dtype=torch.float64)
        """
        return self.filter(times, values, observation, initial=initial).log_likelihood

    def filter(self, times: Any, values: Any, observation: Any = None, *, initial: Any = None) -> Filtered:
        """Law of the state at each time given what was seen until then (Kalman 1960).

        Parameters
        ----------
        times, values, observation, initial
            See the notes of the class.

        Returns
        -------
        Filtered

        Raises
        ------
        ShapeError, DataError
            If an argument cannot be used, or an observation without noise repeats what is known exactly.
        """
        evidence = self._read(times, values, observation, initial)
        filtered, _ = self._run(evidence)
        predicted, updated = (_lay_out_law(law, evidence) for law in filtered[:2])
        return Filtered(predicted, updated, filtered.log_density.reshape(*evidence.batch, -1))

    def smooth(self, times: Any, values: Any, observation: Any = None, *, initial: Any = None) -> Gaussian:
        """Law of the state at each time given all that was seen (Rauch, Tung & Striebel 1965).

        Parameters
        ----------
        times, values, observation, initial
            See the notes of the class.

        Returns
        -------
        Gaussian
            Mean ``(*batch, time, state)``, covariance ``(*batch, time, state, state)``; NaN at padding.

        Raises
        ------
        ShapeError, DataError
            As :meth:`filter`.
        """
        evidence = self._read(times, values, observation, initial)
        return _lay_out_law(kalman.smooth(*self._run(evidence)), evidence)

    def predict(
        self, times: Any, values: Any, query: Any, observation: Any = None, *, initial: Any = None
    ) -> Gaussian:
        """Law of the state at other times given all that was seen: forecasts, and gaps filled.

        ``predict(...).push(C, noise=R)`` is the law of the values there.

        Parameters
        ----------
        times, values, observation, initial
            See the notes of the class.
        query
            Times asked for, in any order, ``(query,)`` for all series or ``(*batch, query)`` with NaN as
            padding. Before a series' first time only if ``initial`` is the stationary law.

        Returns
        -------
        Gaussian
            Mean ``(*batch, query, state)``, covariance ``(*batch, query, state, state)``; NaN at padding.

        Raises
        ------
        ShapeError, DataError
            As :meth:`filter`; or if a query comes before the time at which ``initial`` was given.

        Examples
        --------
        >>> from neurosde import LinearSDE
        >>> law = LinearSDE([[-1.0]]).predict([0.0, 1.0], [[2.0], [1.0]], [2.0, 40.0])
        >>> law.mean.flatten().round(decimals=4), law.covariance.flatten()
        (tensor([0.3679, 0.0000], dtype=torch.float64), tensor([0.4323, 0.5000], dtype=torch.float64))
        """
        evidence = self._read(times, values, observation, initial)
        known, rows = evidence.times, evidence.values
        asked = checks.check_times(query, evidence.batch, self.A.device, "query")
        early = asked < known[:, :1]
        if initial is not None and bool(early.any()):
            raise DataError(
                f"query{early.nonzero()[0].tolist()} comes before the series' first time, at which `initial` "
                "holds; give `initial` at an earlier time, whose values are NaN."
            )
        n_clocks = max(len(known), len(asked))
        both = torch.cat([known.expand(n_clocks, -1), asked.expand(n_clocks, -1)], 1)
        merged, order = both.sort(dim=1, stable=True)  # NaN comes last
        rows = torch.cat([rows, rows.new_full((len(rows), asked.shape[1], rows.shape[2]), math.nan)], 1)
        rows = torch.take_along_dim(rows, order.unsqueeze(-1), 1)
        place = order.argsort(1)[:, known.shape[1] :]
        law = kalman.smooth(*self._run(evidence._replace(times=merged, values=rows)))
        law = Gaussian(
            torch.take_along_dim(law.mean, place.unsqueeze(-1), 1),
            torch.take_along_dim(law.covariance, place[..., None, None], 1),
        )
        return _lay_out_law(law, evidence._replace(times=asked))

    def _steps(self, times: Tensor) -> Transition:
        """Transitions that lead to each time from the one before, ``(1 or series, time, ...)``."""
        durations = torch.diff(times, prepend=times[:, :1], dim=1).nan_to_num(nan=0.0)
        distinct, place = durations.unique(return_inverse=True)
        return Transition(*(part[place] for part in self.transition(distinct)))

    def _read(self, times: Any, values: Any, observation: Any, initial: Any) -> Evidence:
        initial = self.stationary() if initial is None else initial
        return checks.read_evidence(times, values, observation, initial, self.A.to(torch.float64))

    def _run(self, evidence: Evidence) -> tuple[Filtered, Transition]:
        """Filter; what all series share is kept once."""
        transition = self._steps(evidence.times)
        seen = ~evidence.values.isnan()
        if bool((seen == seen[:1]).all()):
            seen = seen[:1]
        mean, covariance = evidence.initial
        n_laws = max(len(evidence.times), len(seen), len(covariance))
        initial = Gaussian(mean, covariance.expand(n_laws, -1, -1))
        observations = Observations(evidence.values, seen, evidence.C, evidence.R)
        return kalman.kalman_filter(initial, transition, observations), transition


def _lay_out(x: Tensor, times: Tensor, batch: tuple[int, ...]) -> Tensor:
    """``(1 or series, time, ...)`` as ``(*batch, time, ...)``, NaN at padding."""
    padding = times.isnan().reshape(*times.shape, *[1] * (x.dim() - 2))
    x = x.masked_fill(padding, math.nan)
    return x.expand(math.prod(batch), *x.shape[1:]).reshape(*batch, *x.shape[1:])


def _lay_out_law(law: Gaussian, evidence: Evidence) -> Gaussian:
    return Gaussian(*(_lay_out(part, evidence.times, evidence.batch) for part in law))
