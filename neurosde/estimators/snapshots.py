"""Light Schrödinger bridges between snapshots, as an estimator."""

import itertools
import math
import numbers
from typing import cast

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted, validate_data

from neurosde.bridge import (
    BridgeSDE,
    BrownianReference,
    LightBridge,
    LightInterval,
    LightObjective,
    LightPotential,
    LinearReference,
    Reference,
    displace,
    entropic_coupling,
    exact_coupling,
)
from neurosde.data import Snapshots, columns
from neurosde.data.snapshots import time_labels
from neurosde.errors import DataError, ShapeError
from neurosde.estimators._base import Estimator, fitting
from neurosde.linear import LinearSDE
from neurosde.scores import wasserstein
from neurosde.scores.snapshots import Coupling
from neurosde.typing import Any, Array, Literal, Sequence, Tensor

__all__ = ["LightSchrodingerBridge"]

Road = Literal["auto", "mixture", "observed"]
MAX_OBSERVED = 100_000_000  # pairs of cells that are coupled exactly: about a minute and 2 GB
MAX_FEATURES = 10  # beyond, the mixture loses to observed cells at any number of them


class LightSchrodingerBridge(Estimator):
    """Stochastic paths between snapshots of a population: light Schrödinger bridges of consecutive pairs.

    Of all processes that meet the snapshots, the one closest to a reference diffusion,
    ``min KL(T | dX = sigma dW)``. The plan between two snapshots is
    ``pi(y | x) = sum_k w_k(x) N(y | r_k + S_k x, epsilon S_k)``, trained by one expectation, without
    networks and without simulation; drift, samples and intermediate laws are closed forms (Korotin, Gushchin
    & Burnaev, *Light Schrödinger Bridge*, ICLR 2024, sections 3.1 and 3.2). All intervals are trained in one
    program.

    Parameters
    ----------
    epsilon
        Variance that the reference gains over the longest interval, in units of each feature's variance over
        all cells; shorter intervals have less in proportion. Small gives nearly deterministic transport,
        large nearly independent ends. With left-out times inside the training times of the embryoid bodies
        the error is flat from 0.05 to 0.15 and grows beyond.
    n_components
        Components of the mixture potential of each interval.
    covariance
        "diag", or "full" for components that may be tilted; full costs features times as much.
    reference
        None for Brownian motion, or a `LinearSDE` in the units of X and time, whose own noise then takes the
        place of `epsilon`.
    max_iter
        Updates. Training costs the same for any number of cells.
    learning_rate
        Step of Adam, which falls to zero on a cosine.
    batch_size
        Cells of each snapshot an update.
    standardize
        True: distances and noise are relative to each feature's standard deviation. False: to one common
        standard deviation, which keeps the geometry of principal components.
    tol, early_stopping, validation_fraction, n_iter_no_change, verbose, checkpoint
        See `neurosde.training.TrainingOptions`; a held-back part is held back in every snapshot.
    device
        "auto" takes the GPU where there is one; or "cpu", "cuda", "cuda:N".
    random_state
        Integer, RandomState or None: fixes initial weights, batches and draws.

    Attributes
    ----------
    times_ : ndarray (time,)
        Times of the snapshots.
    epsilon_ : ndarray (interval, feature)
        Variance that the reference gains over each interval, in the units of X squared.
    sigma_ : ndarray (feature,)
        Noise amplitude of each feature per square root of time.
    n_components_ : int
        Components of each interval.
    roads_ : list of str
        How `interpolate` goes through each interval by default: "mixture", or "observed" where a mixture
        blurs: with less than one cell a component and feature, or more than 10 features (on the embryoid
        bodies its left-out error is then 2 to 8 % larger). Beyond 1e8 pairs of cells it is "mixture".
    couplings_ : list of dict or None
        Optimal coupling of the observed cells, as pairs ``source, target, mass``, where that is the road.
    cells_, weights_ : ndarray (cell, feature), (cell,)
        The snapshots, in order of time: the marginals start from observed cells, so a saved model holds them.
    sizes_ : ndarray (time,)
        Number of cells of each snapshot.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, time = rng.standard_normal((600, 2)), np.repeat([0.0, 1.0, 3.0], 200)
    >>> X[:, 0] += 4 * time
    >>> bridge = LightSchrodingerBridge(n_components=5, max_iter=300, random_state=0).fit(X, time)
    >>> bridge.interpolate(2.0, 500).mean(0).round(0) + 0.0
    array([8., 0.])
    """

    covariance: Literal["diag", "full"]
    n_features_in_: int
    times_: Array
    epsilon_: Array
    sigma_: Array
    n_components_: int
    roads_: list[str]
    couplings_: list[dict[str, Array] | None]
    cells_: Array
    weights_: Array
    sizes_: Array

    def __init__(
        self,
        epsilon: float = 0.1,
        n_components: int = 100,
        covariance: Literal["diag", "full"] = "diag",
        reference: LinearSDE | None = None,
        *,
        max_iter: int = 2000,
        learning_rate: float = 0.03,
        batch_size: int = 128,
        standardize: bool = True,
        tol: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        verbose: int = 0,
        checkpoint: str | None = None,
        device: str = "auto",
        random_state: Any = None,
    ):
        self.epsilon = epsilon
        self.n_components = n_components
        self.covariance = covariance
        self.reference = reference
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.standardize = standardize
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.device = device
        self.random_state = random_state

    @fitting
    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, time: Any = None
    ) -> "LightSchrodingerBridge":
        """Fit the bridges of all consecutive pairs of snapshots.

        Parameters
        ----------
        X
            ``(cell, feature)``, finite.
        y, time
            Time label of each cell, ``(cell,)``: numbers, or text that reads as numbers; two distinct labels
            or more. The second place is scikit-learn's ``y``; ``time=`` says the same.
        sample_weight
            Weight of each cell, for growth or uneven sampling. A cell of weight 0 is left out.

        Raises
        ------
        DataError, ShapeError
            On bad data or settings; the message names the argument and the first offending entry.
        NotConvergedError
            If the loss stays non-finite.
        """
        self._check_settings()
        data = self._check_data(X, y if time is None else time, sample_weight)
        seed, order = self._seed(), np.argsort(data.time, kind="stable")
        self.times_, self.sizes_ = np.unique(data.time, return_counts=True)
        self.cells_, self.weights_ = data.X[order], data.weights[order]
        del data  # a copy of X: cells may fill the memory
        self.sigma_ = self._amplitude()
        self.n_components_ = int(self.n_components)
        device = self._device()
        cells, weights = (torch.from_numpy(part).to(device) for part in (self.cells_, self.weights_))
        sizes = self.sizes_.tolist()
        snapshots, masses = cells.split(sizes), weights.split(sizes)
        references = self._references(snapshots)
        self.epsilon_ = np.stack([reference.variance().cpu().numpy() for reference in references])
        self.roads_ = self._choose_roads()
        self.couplings_ = [
            exact_coupling(ref, *snapshots[i : i + 2], *masses[i : i + 2])._asdict()
            if road == "observed"
            else None
            for i, (ref, road) in enumerate(zip(references, self.roads_, strict=True))
        ]
        objective = LightObjective(references, cells, weights, sizes, seed=seed)
        module, generator = self._build_module().to(device), torch.Generator().manual_seed(seed)
        for i, reference in enumerate(references):
            module.initialise(
                i, reference.predict_from_start(snapshots[i]), reference.whiten(snapshots[i + 1]), generator
            )
        self._run_training(
            module,
            objective,
            seed=seed,
            groups=objective.groups,
            unit="step",
            schedule="cosine",
            clip_norm=None,
        )
        return self

    def bridge(self) -> LightBridge:
        """The fitted bridge in torch, in the units of X and time: see `neurosde.bridge.LightBridge`."""
        check_is_fitted(self)
        module = cast(LightPotential, self.module_)
        cells, weights = self._snapshots(module.logits.device)
        parts = zip(self._references(cells), module.mixtures(), strict=True)
        return LightBridge([LightInterval(*part) for part in parts], cells[:-1], weights[:-1])

    def sde(self) -> BridgeSDE:
        """The fitted bridge as an SDE for `neurosde.solve`, piecewise in time, with additive noise."""
        return self.bridge().sde()

    def drift(self, X: Any, t: Any) -> Array:
        """Mean velocity of cells, per unit of time.

        Parameters
        ----------
        X
            ``(cell, feature)``.
        t
            One time, or one a cell ``(cell,)``, within the fitted span.

        Returns
        -------
        ndarray (cell, feature)
        """
        X = self._queries(X)
        return self.bridge().drift(torch.as_tensor(t, dtype=torch.float64), X).cpu().numpy()

    def sample(self, X0: Any, t0: float, t1: Any, *, seed: int | None = None) -> Array:
        """Draw where cells go, exactly and without a solver.

        Parameters
        ----------
        X0
            Cells at `t0`, ``(cell, feature)``.
        t0
            A time within the fitted span.
        t1
            A later time, or several that rise: then one path a cell.
        seed
            Fixes the draws; None takes the estimator's `random_state`.

        Returns
        -------
        ndarray (cell, feature), or (cell, time, feature) for several times
        """
        X0 = self._queries(X0)
        return self.bridge().sample(X0, t0, t1, seed=self._draws(seed)).cpu().numpy()

    def interpolate(
        self, t: float, n: int | None = None, *, road: Road = "auto", seed: int | None = None
    ) -> Array:
        """Draw cells of the population at any time of the fitted span.

        Parameters
        ----------
        t
            The time. At a snapshot's time (but the last) the cells are observed ones.
        n
            Number of cells; None gives as many as the snapshot before has.
        road
            "mixture": the bridge's law, from the observed cells of the snapshot before. "observed":
            displacement between observed cells along their optimal coupling, without noise, which does not
            blur where cells are few; beyond 1e8 pairs the coupling is a sparse entropic one. "auto" takes
            the interval's entry of `roads_`.
        seed
            Fixes the draws; None takes the estimator's `random_state`.

        Returns
        -------
        ndarray (n, feature)
        """
        if road not in ("auto", "mixture", "observed"):
            raise DataError(f"road must be 'auto', 'mixture' or 'observed', got {road!r}")
        bridge, seed = self.bridge(), self._draws(seed)
        i = bridge.interval_number("t", t)
        if (self.road(t) if road == "auto" else road) == "mixture":
            return bridge.marginal(t, n, seed=seed).cpu().numpy()
        cells, weights = self._snapshots(bridge.times.device)
        ends = (cells[i], cells[i + 1], weights[i], weights[i + 1])
        stored = self.couplings_[i]
        if stored is not None:
            coupling = Coupling(**stored)
        elif len(ends[0]) * len(ends[1]) <= MAX_OBSERVED:
            coupling = exact_coupling(bridge.intervals[i].reference, *ends)
        else:
            coupling = entropic_coupling(bridge.intervals[i], *ends)
        return displace(bridge.intervals[i].reference, coupling, *ends[:2], t, n, seed=seed).cpu().numpy()

    def road(self, t: float) -> str:
        """How `interpolate` gets to a time by default: "mixture" or "observed"."""
        check_is_fitted(self)
        return self.roads_[int(np.searchsorted(self.times_[1:-1], t, side="right"))]

    def score(self, X: Any, y: Any = None, sample_weight: Any = None, *, time: Any = None) -> float:
        """Minus the mean W2 between given snapshots and their predictions from the fitted snapshot before.

        Parameters
        ----------
        X
            ``(cell, feature)``.
        y, time
            Their labels ``(cell,)``, held-out times or fitted ones; the first fitted time has no prediction.
        sample_weight
            Positive weights.

        Returns
        -------
        float
            Higher is better.
        """
        X, t_cells = self._queries(X).numpy(), time_labels(y if time is None else time)
        if t_cells.shape != (len(X),):
            raise ShapeError(f"time has shape {t_cells.shape}, expected ({len(X)},), one label a cell")
        weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        labels = [t for t in np.unique(t_cells).tolist() if t != self.times_[0]]
        if not labels:
            raise DataError(
                f"time: all cells are at {self.times_[0]:g}, the first fitted time: nothing to score"
            )
        bridge, seed, distances = self.bridge(), self._draws(None), []
        for t in labels:
            i = max(int(np.searchsorted(self.times_, t)) - 1, 0)
            predicted = bridge.sample(bridge.snapshots[i], self.times_[i], t, seed=seed)
            truth, start_weights = t_cells == t, bridge.weights[i].cpu().numpy()
            cloud = predicted.cpu().numpy()
            distances.append(
                wasserstein(cloud, X[truth], 2, x_weights=start_weights, y_weights=weights[truth])
            )
        return -float(np.mean(distances))

    def _build_module(self) -> LightPotential:
        return LightPotential(len(self.times_) - 1, self.n_components_, self.n_features_in_, self.covariance)

    def _check_settings(self) -> None:
        if not isinstance(self.epsilon, numbers.Real) or not 0 < self.epsilon < math.inf:
            raise DataError(f"epsilon must be a finite number > 0, got {self.epsilon!r}")
        if not isinstance(self.n_components, numbers.Integral) or self.n_components < 1:
            raise DataError(f"n_components must be an integer >= 1, got {self.n_components!r}")
        if self.covariance not in ("diag", "full"):
            raise DataError(f"covariance must be 'diag' or 'full', got {self.covariance!r}")
        if self.reference is not None and not isinstance(self.reference, LinearSDE):
            name = type(self.reference).__name__
            raise DataError(f"reference must be None or a LinearSDE, got a {name}")

    def _check_data(self, X: Any, time: Any, sample_weight: Any) -> Snapshots:
        X = validate_data(self, X, dtype=np.float64)
        if time is None:  # the last sentence is scikit-learn's own
            raise DataError(
                "time: expected one label a cell, got None. This LightSchrodingerBridge estimator requires y "
                "to be passed, but the target y is None."
            )
        if self.reference is not None and len(self.reference.A) != X.shape[1]:
            raise ShapeError(
                f"reference: expected {X.shape[1]} states, the features of X, got {len(self.reference.A)}"
            )
        if sample_weight is None:
            return Snapshots(X, time)
        weight, labels = columns.finite(sample_weight, argument="sample_weight"), time_labels(time)
        kept = weight != 0
        if weight.shape == labels.shape == (len(X),):
            for t in np.setdiff1d(labels, labels[kept]):
                raise DataError(f"sample_weight: all weights of the snapshot at time {t:g} are zero")
            X, labels, weight = X[kept], labels[kept], weight[kept]
        return Snapshots(X, labels, weight)

    def _amplitude(self) -> Array:
        """Noise amplitude a feature, so that the longest interval adds `epsilon` variances."""
        cells = torch.from_numpy(self.cells_)  # whose variance takes no copy, unlike numpy's
        variance, constant = cells.var(0, correction=0), cells.amin(0) == cells.amax(0)
        if not self.standardize:
            variance = variance.mean().expand_as(variance)
            constant = constant.all()
        variance = torch.where(constant, 1.0, variance).numpy()
        return np.sqrt(variance * self.epsilon / np.diff(self.times_).max())

    def _choose_roads(self) -> list[str]:
        """Observed cells where a mixture blurs and the exact coupling can be had."""
        roads, enough = [], self.n_components_ * self.n_features_in_
        for n, m in itertools.pairwise(self.sizes_.tolist()):
            blurs = min(n, m) < enough or self.n_features_in_ > MAX_FEATURES
            roads.append("observed" if blurs and n * m <= MAX_OBSERVED else "mixture")
        return roads

    def _snapshots(self, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        sizes = self.sizes_.tolist()
        cells, weights = (torch.from_numpy(part).to(device) for part in (self.cells_, self.weights_))
        return list(cells.split(sizes)), list(weights.split(sizes))

    def _references(self, cells: Sequence[Tensor]) -> list[Reference]:
        references: list[Reference] = []
        for i, (start, end) in enumerate(itertools.pairwise(self.times_.tolist())):
            centre = 0.5 * (cells[i].mean(0) + cells[i + 1].mean(0))
            if self.reference is None:
                sigma = torch.from_numpy(self.sigma_).to(centre)
                references.append(BrownianReference(start, end, sigma, centre))
            else:
                references.append(LinearReference(start, end, self.reference, centre))
        return references

    def _queries(self, X: Any) -> Tensor:
        check_is_fitted(self)
        return torch.from_numpy(validate_data(self, X, dtype=np.float64, reset=False))

    def _draws(self, seed: int | None) -> int:
        if seed is None:
            return self._seed()
        if not isinstance(seed, numbers.Integral) or seed < 0:
            raise DataError(f"seed must be None or an integer >= 0, got {seed!r}")
        return int(seed)
