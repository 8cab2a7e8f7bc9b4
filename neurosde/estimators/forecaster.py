"""Forecasts of irregular series: a trivial baseline plus what a latent stable SDE has learned to add."""

import dataclasses
import math
import numbers
import warnings
from typing import Literal, Self, cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from neurosde.baselines import Forecaster, LastValue, PatientMean, RidgeForecaster, ShrunkForecaster
from neurosde.data import ChannelScaler, Series
from neurosde.errors import DataError, ShapeError
from neurosde.estimators._base import SeriesEstimator, fitting
from neurosde.estimators._forecast_answers import Answers
from neurosde.estimators._forecast_network import CorrectionNetwork, CorrectionObjective
from neurosde.estimators._forecast_samples import (
    Samples,
    covariate_scales,
    covariates,
    residual_scales,
)
from neurosde.io import Query, as_query, like
from neurosde.solve import StepPenalty
from neurosde.training import Schedule, hold_back
from neurosde.typing import Any, Array

__all__ = ["NeuralSDEForecaster"]

_BASELINES: dict[str, type[Forecaster]] = {
    "ridge": RidgeForecaster,
    "shrunk": ShrunkForecaster,
    "last": LastValue,
    "mean": PatientMean,
}
_WORDS = {
    "cell": ("langevin",),
    "baseline": tuple(_BASELINES),
    "loss": ("crps", "nll", "mse"),
    "start": ("first", "zero"),
}


class NeuralSDEForecaster(SeriesEstimator):
    """Probabilistic forecasts of irregular, asynchronous series by a baseline and a latent stable SDE.

    ``y(t, c) = baseline(t, c) + scale_c * e``, where e follows a Gaussian mixture read from the channel's
    token and from the state z(t) of a Langevin SDE ``dz = (-kappa z + s(z, u)) dt + sigma(t) dW`` (Oh, Lim &
    Kim 2024, arXiv 2402.14989, section 3), solved over each series' own query times from an initial state
    and a control u that encode the history. The correction starts at zero: before training, the forecast is
    the baseline. Point forecasts are means; for the least absolute error take the quantile 0.5.

    In training every series is cut at several times around the one asked for (`n_cuts`): each cut gives
    another history and its future, which shows the network more forecasts than there are series.

    Parameters
    ----------
    history
        Length of the history that a forecast looks back on, in the unit of the series' time.
    horizon
        Length of the forecast that is trained.
    cell
        "langevin".
    baseline
        "ridge", "shrunk", "last" or "mean": what is corrected; see `neurosde.baselines`.
    loss
        "crps", which keeps the spread honest and does not follow outliers; "nll"; or "mse", which trains the
        mean alone and lets the spread drift (with a warning).
    start
        Where the clock of a series starts: "first" at its first observation, "zero" at time zero (hours
        since admission). In training the forecast is made `history` later.
    n_cuts
        Times at which each training series is cut, evenly spaced over a third of `horizon` on either side.
    state_size, hidden, n_components
        Latent states; width of the network; components of the mixture at each entry.
    kappa, contraction
        Restoring and certified rate of the latent SDE, per horizon: it forgets over a quarter of it.
    dropout
        Rate in encoder and head.
    balance
        A channel with n training targets weighs ``n^-balance`` an entry: 0 is the micro, 1 the macro average.
    n_paths
        Latent paths behind each prediction; `sample` follows one for each sample.
    penalty
        A :class:`~neurosde.solve.StepPenalty` on the training solves of the latent SDE, or None. With one,
        `ExponentialShARK` steps the SDE, in forecasts too, instead of `ExponentialEuler`: it estimates its
        error, at twice the evaluations. Forecasts take a fixed number of steps, so that a penalty buys paths
        that these steps follow well, not time.
    penalty_weight
        Weight of the penalty in the loss: a number, or a :class:`~neurosde.training.Schedule`.
    max_iter, learning_rate, batch_size, weight_decay, schedule, ema, clip_norm
        See `neurosde.training.TrainingOptions`; an iteration is a pass over all cuts.
    tol, early_stopping, validation_fraction, n_iter_no_change
        Series are held back whole, with all their cuts. They also set the width of the forecasts, channel by
        channel; without early stopping it stays as trained.
    warm_start
        Go on from the present weights and scales where the estimator is fitted.
    verbose, checkpoint
        See `neurosde.training.TrainingOptions`.
    device
        "auto" takes the GPU where there is one; or "cpu", "cuda", "cuda:N".
    random_state
        Integer, RandomState or None: fixes weights, batches, held-back series and the noise of predictions.

    Attributes
    ----------
    baseline_ : dict
        Fitted state of the baseline.
    location_, scale_ : ndarray (channel,)
        Median and robust scale of the training values.
    residual_scale_ : ndarray (channel,)
        Scale of the baseline's residuals; 0 for a channel that is constant in training.
    width_ : ndarray (channel,)
        Factor on the forecast's spread that gives 90 % intervals their coverage on the held-back series.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> values = np.sin(np.arange(12) / 2 + rng.uniform(0, 6, (60, 1)))[..., None]
    >>> model = NeuralSDEForecaster(history=8, horizon=4, max_iter=2, random_state=0).fit(values)
    >>> model.predict(values[:3, :8], [8.0, 9.5]).shape
    (3, 2, 1)
    """

    baseline_: dict[str, Any]
    location_: Array
    scale_: Array
    residual_scale_: Array
    width_: Array
    static_names_: list[str]
    static_mean_: Array
    static_scale_: Array
    seed_: int

    def __init__(
        self,
        history: float = 24.0,
        horizon: float = 24.0,
        cell: Literal["langevin"] = "langevin",
        *,
        baseline: Literal["ridge", "shrunk", "last", "mean"] = "ridge",
        loss: Literal["crps", "nll", "mse"] = "crps",
        start: Literal["first", "zero"] = "first",
        n_cuts: int = 5,
        state_size: int = 16,
        hidden: int = 64,
        n_components: int = 3,
        kappa: float = 4.0,
        contraction: float = 0.4,
        dropout: float = 0.2,
        balance: float = 0.5,
        n_paths: int = 8,
        penalty: StepPenalty | None = None,
        penalty_weight: float | Schedule = 1.0,
        max_iter: int = 20,
        learning_rate: float = 2e-3,
        batch_size: int = 64,
        weight_decay: float = 1e-2,
        schedule: Literal["constant", "cosine"] = "cosine",
        ema: float | None = 0.995,
        clip_norm: float | None = 1.0,
        tol: float = 0.0,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 4,
        warm_start: bool = False,
        verbose: int = 0,
        checkpoint: Any = None,
        device: str = "auto",
        random_state: Any = None,
    ):
        self.history = history
        self.horizon = horizon
        self.cell = cell
        self.baseline = baseline
        self.loss = loss
        self.start = start
        self.n_cuts = n_cuts
        self.state_size = state_size
        self.hidden = hidden
        self.n_components = n_components
        self.kappa = kappa
        self.contraction = contraction
        self.dropout = dropout
        self.balance = balance
        self.n_paths = n_paths
        self.penalty = penalty
        self.penalty_weight = penalty_weight
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.ema = ema
        self.clip_norm = clip_norm
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.device = device
        self.random_state = random_state

    @fitting
    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Fit the baseline, then train the correction.

        Parameters
        ----------
        X
            Whole series, histories and what followed them: a `Series`, a long table, an array (series, time,
            channel) with NaN, or an xarray Dataset.
        y
            Not used.
        groups
            (series,) labels of series that belong together, such as windows of one recording or stays of one
            patient: they are held back together. By default each series is its own group.

        Raises
        ------
        DataError
            If a parameter is out of its range, or no series has an observation on either side of the cut.
        ShapeError
            If there is not one label a series.
        """
        self._check_parameters()
        continued = self._continued() if self.warm_start else None
        device, seed = self._device(), self._seed()
        series = self._check_series(X, reset=continued is None)
        reach = min(self.horizon / 3, self.history / 2)
        shifts = reach * np.linspace(-1.0, 1.0, self.n_cuts) if self.n_cuts > 1 else np.zeros(1)
        at = self._starts(series) + self.history
        cuts = [self._cut(series, at + shift) for shift in shifts]
        middle = self.n_cuts // 2
        if not ((cuts[middle][0].counts > 0) & (cuts[middle][1].counts > 0)).any():
            raise DataError(
                f"X: no series has observations both in the {self.history} before its forecast and in the "
                f"{self.horizon} after it, with start={self.start!r}; check history, horizon, unit of time"
            )
        asked = [np.flatnonzero(future.counts) for _, future in cuts]
        owner = np.concatenate(asked)
        groups = _labels(groups, len(series))[owner]
        nominal = np.repeat(np.arange(self.n_cuts) == middle, [len(rows) for rows in asked])
        holds_back = self.early_stopping and len(np.unique(groups)) > 1
        trained, held = np.arange(len(groups)), np.arange(0)
        if holds_back:
            trained, held = hold_back(len(groups), self.validation_fraction, seed=seed, groups=groups)
        if continued is None:
            learners = np.unique(owner[trained])
            self.seed_ = seed
            self._learn_scales(*(side[learners] for side in cuts[middle]))
            continued = self._build_module(torch.Generator().manual_seed(seed)).to(device), None
        module, record = continued
        cast(CorrectionNetwork, module).embedded = (
            self.penalty is not None
        )  # a warm start may have changed it
        samples = Samples.concatenate(
            [
                self._lay_out(past[i], self._answerable(future[i]))[0]
                for (past, future), i in zip(cuts, asked, strict=True)
            ]
        )
        weights = self._weights(samples, trained)
        objective = CorrectionObjective(samples, weights, nominal, self.loss, device, self.penalty)
        overrides = {"record": record, "early_stopping": holds_back}
        self._run_training(module, objective, seed=seed, groups=groups, **overrides)
        self.width_ = np.ones(self.n_features_in_)
        checked = samples.take(held[nominal[held]])
        checked = checked.keep(self.residual_scale_[checked.channel] > 0)
        self.width_ = self._answers(checked).widths()
        return self

    def predict(self, history: Any, query: Any = None) -> Any:
        """Mean forecasts of the entries asked for.

        The forecast of a series is made `history` after its start (see `start`), or right after its last
        observation where the history is longer than that, or the query begins earlier.

        Parameters
        ----------
        history
            What was observed, in any kind that `fit` takes.
        query
            The (id, time, variable) entries to predict, as a `Series` or long table, or a 1-D array of times
            that asks for every channel of every series. None asks for the entries of ``history`` itself from
            the time of the forecast on, whose values are then not looked at.

        Returns
        -------
        The query with values filled in, in its own kind; for 1-D times an array (series, time, channel)

        Raises
        ------
        DataError
            If an entry does not lie after the history of its series, its series is unknown, or its channel
            was never observed in training.

        Warns
        -----
        UserWarning
            If entries lie beyond the horizon of the training.
        """
        asked = self._ask(history, query)
        filled = asked.query.fill(asked.values(asked.answers.mean()))
        return like(filled, history) if query is None and isinstance(filled, Series) else filled

    def predict_quantiles(self, history: Any, query: Any = None, alpha: Any = (0.05, 0.5, 0.95)) -> Any:
        """Quantiles of the entries asked for; arguments and errors as in `predict`.

        Parameters
        ----------
        history, query
            See `predict`.
        alpha
            Levels strictly between 0 and 1.

        Returns
        -------
        (row, alpha) array; for a table its keys with a column for each level
        """
        levels = np.atleast_1d(np.asarray(alpha, dtype=np.float64))
        if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
            raise DataError(f"alpha must hold levels strictly between 0 and 1, got {alpha!r}")
        return self._quantiles(history, query, levels.tolist(), [f"{level:g}" for level in levels])

    def predict_interval(self, history: Any, query: Any = None, coverage: float = 0.9) -> Any:
        """Central intervals of the entries asked for; arguments and errors as in `predict`.

        Parameters
        ----------
        history, query
            See `predict`.
        coverage
            Probability with which an interval holds its entry.

        Returns
        -------
        (row, 2) array of lower and upper ends; for a table its keys with columns "lower" and "upper"
        """
        if not 0 < coverage < 1:
            raise DataError(f"coverage must lie strictly between 0 and 1, got {coverage!r}")
        return self._quantiles(history, query, [(1 - coverage) / 2, (1 + coverage) / 2], ["lower", "upper"])

    def sample(self, history: Any, query: Any = None, n: int = 100, *, seed: int | None = None) -> Any:
        """Draws of the entries asked for; arguments and errors as in `predict`.

        One draw of a series follows one latent path, so that its entries belong together. A path depends on
        the seed and the series alone, not on what else is asked for.

        Parameters
        ----------
        history, query
            See `predict`.
        n
            Number of draws.
        seed
            By default that of the fit.

        Returns
        -------
        (sample, row) array; for a table its keys with a column for each sample
        """
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise DataError(f"n must be a positive integer, got {n!r}")
        asked = self._ask(history, query)
        draws = asked.answers.draws(n, self.seed_ if seed is None else seed)
        labelled = asked.query.label(asked.values(draws), [f"sample {i}" for i in range(n)])
        return labelled.T if isinstance(labelled, np.ndarray) else labelled

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the mean CRPS of forecasts, each in units of its channel's scale, on whole series.

        Parameters
        ----------
        X
            Whole series, cut as in `fit`.
        y
            Not used.
        """
        check_is_fitted(self)
        asked = self._ask(self._answerable(self._check_series(X, reset=False)), None)
        future = asked.query.series
        if not len(future.time):
            raise DataError(f"X: no observation {self.history} or more after the start of a series, to score")
        error = np.abs(future.value - asked.points)
        crps = np.where(asked.scale > 0, asked.scale * asked.answers.crps(), error)
        return -float(np.mean(crps / self.scale_[future.channel]))

    # --- what stands around the network ---------------------------------------------------------------------

    def _check_parameters(self) -> None:
        for name, allowed in _WORDS.items():
            if getattr(self, name) not in allowed:
                raise DataError(f"{name} must be one of {list(allowed)}, got {getattr(self, name)!r}")
        for name in ("history", "horizon", "kappa", "contraction"):
            value = getattr(self, name)
            real = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not real or not 0 < float(value) < math.inf:
                raise DataError(f"{name} must be a positive finite number, got {value!r}")
        for name in ("n_cuts", "state_size", "hidden", "n_components", "n_paths", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise DataError(f"{name} must be a positive integer, got {value!r}")
        if self.contraction > self.kappa:
            raise DataError(f"contraction must not exceed kappa = {self.kappa}, got {self.contraction}")
        if self.n_cuts % 2 == 0:
            raise DataError(f"n_cuts must be odd, the middle one being that of history, got {self.n_cuts}")
        for name, top in (("dropout", 0.95), ("balance", 1.0)):
            if not 0 <= getattr(self, name) <= top:
                raise DataError(f"{name} must lie between 0 and {top}, got {getattr(self, name)!r}")
        if self.penalty is not None and not isinstance(self.penalty, StepPenalty):
            raise DataError(f"penalty must be None or a neurosde.solve.StepPenalty, got {self.penalty!r}")
        self._training_options()
        if self.loss == "mse":
            warnings.warn(
                "loss='mse' trains the mean alone and the spread of the forecasts drifts: use loss='crps'",
                stacklevel=4,
            )

    def _starts(self, series: Series) -> Array:
        """Where the clock of each series starts, ``(series,)``; NaN if nothing tells."""
        if self.start == "zero":
            return np.zeros(len(series))
        first = np.full(len(series), np.nan)
        some = series.counts > 0
        first[some] = series.time[series.offsets[:-1][some]]
        return first

    def _cut(self, series: Series, at: Array) -> tuple[Series, Series]:
        """Windows of history and forecast on either side of ``at`` (series,), from which time is counted."""
        ahead = series.time - at[series.rows_of_series()]
        inside = (ahead >= -self.history) & (ahead <= self.horizon * (1.0 + 1e-9))
        window = series.keep(inside).replace(time=ahead[inside], origin=None)
        return window.keep(window.time < 0), window.keep(window.time >= 0)

    def _learn_scales(self, past: Series, future: Series) -> None:
        """Fit what stands before the network: baseline; scales of values, covariates and residuals."""
        whole = Series.concatenate([past, future])
        baseline = _BASELINES[self.baseline]().fit(whole, 0.0)
        self.baseline_ = baseline.state()
        scaler = ChannelScaler.fit(whole, "robust")
        self.location_, self.scale_ = np.array(scaler.location), np.array(scaler.scale)
        self.static_names_ = list(whole.static_names)
        self.static_mean_, self.static_scale_ = covariate_scales(whole)
        residual = future.value - baseline.predict(past, future)
        self.residual_scale_ = residual_scales(whole, residual, future.channel, self.scale_)
        self.width_ = np.ones(self.n_features_in_)

    def _answerable(self, asked: Series) -> Series:
        """Entries of the channels that the baseline has seen: a rare one may have been held back whole."""
        return asked.keep(np.isfinite(self.baseline_["mean_"])[asked.channel])

    def _lay_out(self, past: Series, asked: Series) -> tuple[Samples, Array]:
        """Samples of histories and entries on the clock of the forecast, and the baseline's points."""
        if list(past.static_names) != self.static_names_:
            raise DataError(
                f"history: covariates {list(past.static_names)}, expected {self.static_names_} as in fit"
            )
        points = _BASELINES[self.baseline].restore(self.baseline_).predict(past, asked)
        scale = self.residual_scale_[asked.channel]
        target = np.divide(asked.value - points, scale, out=np.zeros(len(points)), where=scale > 0)
        static = covariates(past, self.static_mean_, self.static_scale_)
        scaler = ChannelScaler(self.location_, self.scale_)
        window, horizon = float(self.history), float(self.horizon)
        return Samples.of(past, asked, static, points, target, window, horizon, scaler), points

    def _weights(self, samples: Samples, trained: Array) -> Array:
        """Weight of an entry of each channel in the loss, ``(channel,)``, of mean 1 over training."""
        count = np.bincount(samples.take(trained).channel, minlength=self.n_features_in_)
        weights = np.where(self.residual_scale_ > 0, np.maximum(count, 1.0) ** -self.balance, 0.0)
        return weights * (count.sum() / max((weights * count).sum(), 1e-30))

    def _build_module(self, generator: torch.Generator | None = None) -> CorrectionNetwork:
        return CorrectionNetwork(
            self.n_features_in_,
            2 * len(self.static_names_),
            state_size=self.state_size,
            hidden=self.hidden,
            n_components=self.n_components,
            kappa=self.kappa,
            contraction=self.contraction,
            dropout=self.dropout,
            embedded=self.penalty is not None,
            generator=generator,
        )

    # --- questions ------------------------------------------------------------------------------------------

    def _ask(self, history: Any, query: Any) -> "_Asked":
        """Line up a question with its history, on the clock of each series' forecast."""
        check_is_fitted(self)
        known = self._check_series(history, reset=False)
        if query is None:
            import pandas as pd

            starts = np.nan_to_num(self._starts(known))
            known, query = known.split(starts + self.history)
            query = query.to_long() if isinstance(history, pd.DataFrame) else query
        request = as_query(query, known)
        at = self._forecast_times(known, request.series)
        ahead = request.series.time - at[request.series.rows_of_series()]
        if (ahead < 0).any():
            row = int(np.flatnonzero(ahead < 0)[0])
            name = known.ids[request.series.rows_of_series()[row]]
            raise DataError(
                f"query: row {request.order[row]} lies at {request.series.time[row]}, expected one after the "
                f"last observation in the history of series {name}"
            )
        beyond = int((ahead > self.horizon * (1.0 + 1e-6)).sum())
        if beyond:
            warnings.warn(
                f"{beyond} of {len(ahead)} entries lie beyond the horizon of the training, {self.horizon}",
                stacklevel=3,
            )
        past, _ = self._cut(known, at)
        samples, points = self._lay_out(past, request.series.replace(time=ahead, origin=None))
        scale = self.residual_scale_[request.series.channel]
        return _Asked(request, self._answers(samples), points, scale)

    def _forecast_times(self, known: Series, asked: Series) -> Array:
        """When each forecast is made: `history` after the start, unless data or query say otherwise."""
        last, first = np.full(len(known), -np.inf), np.full(len(known), np.inf)
        some = known.counts > 0
        last[some] = known.time[known.offsets[1:][some] - 1]
        some = asked.counts > 0
        first[some] = asked.time[asked.offsets[:-1][some]]
        at = self._starts(known) + self.history
        late = np.where(
            np.isfinite(last), np.nextafter(last, np.inf), np.where(np.isfinite(first), first, 0.0)
        )
        return np.where((last < at) & (at <= first), at, late)

    def _answers(self, samples: Samples) -> Answers:
        network = cast(CorrectionNetwork, self.module_)
        return Answers(network, samples, self.width_, self.n_paths, self.seed_)

    def _quantiles(self, history: Any, query: Any, levels: list[float], names: list[str]) -> Any:
        asked = self._ask(history, query)
        return asked.query.label(asked.values(asked.answers.quantiles(levels)), names)


def _labels(groups: Any, n_series: int) -> Array:
    """Numbers of the groups of the series, ``(series,)``."""
    labels = np.arange(n_series) if groups is None else np.asarray(groups)
    if labels.shape != (n_series,):
        raise ShapeError(f"groups must have shape ({n_series},), one label a series, got {labels.shape}")
    return np.unique(labels, return_inverse=True)[1]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A question ready for the network: rows in the order of ``query.series``."""

    query: Query
    answers: Answers
    points: Array
    scale: Array

    def values(self, correction: Array) -> Array:
        """Forecasts in units of the data, of corrections ``(row, ...)`` in units of the residuals."""
        return (self.points + self.scale * correction.T).T
