"""Two small estimators on the base: a torch ridge regressor of a table, and a forecaster of series."""

import numpy as np
import pytest
import torch
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from neurosde.data import ChannelScaler, Series
from neurosde.errors import DataError
from neurosde.estimators import Estimator, SeriesEstimator, fitting
from neurosde.io import as_query
from neurosde.nets import MLP
from neurosde.training import Objective


class Squares(Objective):
    def __init__(self, X, y):
        self.X, self.y, self.n_samples = X, y, len(X)

    def loss(self, module, index, seed):
        return (module(self.X[index]).squeeze(-1) - self.y[index]).square().mean()


class TorchRidge(RegressorMixin, Estimator):
    """Ridge regression by AdamW, or a small network."""

    def __init__(
        self, hidden=4, depth=0, max_iter=200, learning_rate=0.05, batch_size=None, weight_decay=1e-3,
        tol=0.0, early_stopping=False, validation_fraction=0.1, n_iter_no_change=10, warm_start=False,
        verbose=0, checkpoint=None, checkpoint_every=0.0, device="auto", random_state=None, note=None,
    ):  # fmt: skip
        self.hidden = hidden
        self.depth = depth
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.device = device
        self.random_state = random_state
        self.note = note

    def _build_module(self, generator=None):
        return MLP(self.n_features_in_, 1, hidden=self.hidden, depth=self.depth, generator=generator).double()

    def _tensor(self, X):
        return torch.tensor((X - self.mean_) / self.scale_, device=self._device())

    @fitting
    def fit(self, X, y):
        return self._fit(X, y, self._continued() if self.warm_start else None)

    @fitting
    def partial_fit(self, X, y):
        return self._fit(X, y, self._continued(), max_iter=1)

    def _fit(self, X, y, continued, **overrides):
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, reset=continued is None)
        seed = self._seed()
        if continued is None:
            self.mean_, spread, self.seed_ = X.mean(0), X.std(0), seed
            self.scale_ = np.where(spread > 0, spread, 1.0)
            self.y_mean_, self.y_scale_ = float(y.mean()), float(y.std()) or 1.0
            generator = torch.Generator().manual_seed(seed)
            continued = self._build_module(generator).to(self._device()), None
        module, record = continued
        target = torch.tensor((y - self.y_mean_) / self.y_scale_, dtype=torch.float64, device=self._device())
        objective = Squares(self._tensor(X), target)
        self._run_training(module, objective, seed=self.seed_, record=record, **overrides)
        return self

    def predict(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            return self.module_(self._tensor(X)).squeeze(-1).cpu().numpy() * self.y_scale_ + self.y_mean_


class Shrink(nn.Module):
    """Forecast = level of the channel + weight times (last value - level), on the scaled axis."""

    def __init__(self, n_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_channels, dtype=torch.float64))
        self.level = nn.Parameter(torch.zeros(n_channels, dtype=torch.float64))

    def forward(self, last, channel):
        return self.level[channel] + self.weight[channel] * (last - self.level[channel])


class NextValue(Objective):
    """Squared error of each observation given the one before of its series and channel."""

    def __init__(self, owner, channel, before, value, n_series):
        self.owner, self.channel, self.before, self.value = owner, channel, before, value
        self.n_samples = n_series

    def loss(self, module, index, seed):
        rows = torch.isin(self.owner, index)
        if not rows.any():
            return (module.weight * 0).sum()
        return (module(self.before[rows], self.channel[rows]) - self.value[rows]).square().mean()


class ShrunkLast(SeriesEstimator):
    """Shrinks each channel's last value towards the channel's level."""

    def __init__(
        self, cell="shrink", max_iter=20, learning_rate=0.05, batch_size=None, early_stopping=False,
        validation_fraction=0.25, warm_start=False, verbose=0, checkpoint=None, checkpoint_every=0.0,
        device="auto", random_state=None,
    ):  # fmt: skip
        self.cell = cell
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every
        self.device = device
        self.random_state = random_state

    def _build_module(self):
        return Shrink(self.n_features_in_)

    @fitting
    def fit(self, X, y=None):
        if self.cell != "shrink":
            raise DataError(f"cell must be 'shrink', got {self.cell!r}")
        seed = self._seed()
        continued = self._continued() if self.warm_start else None
        series = self._check_series(X, reset=continued is None)
        if continued is None:
            self.scaler_ = ChannelScaler.fit(series)
            continued = self._build_module().to(self._device()), None
        module, record = continued
        scaled = self.scaler_.apply(series)
        owner, previous = scaled.rows_of_series(), _previous(scaled)
        rows = previous >= 0
        if not rows.any():
            raise DataError("X has no channel with two observations in one series")
        parts = (
            owner[rows],
            scaled.channel[rows].astype(np.int64),
            scaled.value[previous[rows]],
            scaled.value[rows],
        )
        tensors = [torch.tensor(part) for part in parts]
        objective = NextValue(*tensors, n_series=len(series))
        self._run_training(module, objective, seed=seed, record=record)
        return self

    def predict(self, X, query):
        check_is_fitted(self)
        history = self._check_series(X, reset=False)
        scaled = self.scaler_.apply(history)
        asked = as_query(query, history).series.align_channels(self.channel_names_)
        last = np.zeros((len(history), self.n_features_in_))
        last[scaled.rows_of_series(), scaled.channel] = scaled.value
        place = history.index_of(asked.ids)[asked.rows_of_series()]
        channel = torch.tensor(asked.channel.astype(np.int64))
        with torch.no_grad():
            predicted = self.module_(torch.tensor(last[place, asked.channel]), channel).numpy()
        return asked.with_values(self.scaler_.invert(predicted, asked.channel))

    def score(self, X, y=None):
        series = self._check_series(X, reset=False)
        first = self.scaler_.apply(series).value
        return -float(np.mean(first**2))


def _previous(series):
    """Row of the observation before, of the same series and channel; -1 where there is none."""
    last, found = {}, np.full(len(series.time), -1)
    for row, key in enumerate(zip(series.rows_of_series().tolist(), series.channel.tolist(), strict=True)):
        found[row] = last.get(key, -1)
        last[key] = row
    return found


def make_series(seed):
    """Nine short series of two channels at random times, as random walks; values are far from standard."""
    rng = np.random.default_rng(seed)
    n, steps = 9, 6
    times = np.sort(rng.uniform(0, 10, (n, steps)), axis=1)
    values = 50 + 10 * rng.normal(size=(n, steps, 2)).cumsum(axis=1)
    values[rng.uniform(size=values.shape) < 0.2] = np.nan
    return Series.from_padded(values, times, channel_names=["a", "b"])


@pytest.fixture
def ridge_class():
    return TorchRidge


@pytest.fixture
def ridge():
    return TorchRidge(random_state=0, max_iter=30)


@pytest.fixture
def table():
    def make(seed=0):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(40, 3)) * [1, 10, 0.1] + [0, 5, 0]
        return X, X @ [1.0, 0.2, -3.0] + 0.1 * rng.normal(size=40)

    return make


@pytest.fixture
def forecaster():
    return ShrunkLast(random_state=0)


@pytest.fixture
def series_maker():
    return make_series
