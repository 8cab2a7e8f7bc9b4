"""The base of every estimator: scikit-learn manners, training, and fitted state that is plain numpy."""

import abc
import copy
import functools
import os
import warnings

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn

from neurosde.data import Series
from neurosde.errors import DataError, NotConvergedError
from neurosde.training import Objective, TrainingOptions, TrainingRecord, train
from neurosde.typing import Any, Array, Callable

__all__ = ["Estimator", "SeriesEstimator", "fitting", "is_fitted_name", "module_arrays"]

_OPTIONS = frozenset(TrainingOptions.__dataclass_fields__)


def fitting(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Make a `fit` or `partial_fit` method all or nothing.

    An exception leaves the estimator as it was before the call. After Ctrl-C, or `NotConvergedError` from
    training, the weights reached so far are kept instead (best under early stopping, else last finite) and
    `partial_` is True. A fresh `fit` (no `warm_start`) first removes what earlier fits have left.
    """

    @functools.wraps(fit)
    def guarded(self: "Estimator", *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        if fit.__name__ == "fit" and not self._parameter("warm_start", False):
            for name in [name for name in before if is_fitted_name(name) or name == "_optimizer_state"]:
                delattr(self, name)
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            state = vars(self)
            if not (state.get("partial_", False) and state.get("module_") is not before.get("module_")):
                state.clear()
                state.update(before)
            raise

    return guarded


class Estimator(BaseEstimator, abc.ABC):
    """Abstract estimator around one `nn.Module`.

    A subclass stores its constructor's arguments verbatim and checks them in `fit`, which is wrapped in
    `@fitting`. `fit` sets every plain fitted attribute (numpy arrays and JSON-able values, names ending in
    ``_``) *before* it calls `_run_training`, because an interrupted run must leave a usable estimator.
    `_build_module` makes an untrained module from parameters and these attributes. Random numbers come from
    ``self._seed()``, computed once a fit.

    Attributes
    ----------
    module_ : nn.Module
        The trained module, in evaluation mode.
    history_ : list of dict
        One row a report (see `neurosde.training.TrainingRecord`).
    n_iter_ : int
        Iterations run.
    partial_ : bool
        True where training was interrupted or did not converge: the weights are those reached so far.

    Examples
    --------
    The mean of a column, by gradient descent:

    >>> class Squares(Objective):
    ...     def __init__(self, x):
    ...         self.x, self.n_samples = x, len(x)
    ...     def loss(self, module, index, seed):
    ...         return (module.level - self.x[index]).square().mean()
    >>> class Mean(Estimator):
    ...     def __init__(self, max_iter=200, learning_rate=0.1, random_state=None):
    ...         self.max_iter, self.learning_rate, self.random_state = max_iter, learning_rate, random_state
    ...     def _build_module(self):
    ...         module = nn.Module()
    ...         module.level = nn.Parameter(torch.zeros(self.n_features_in_))
    ...         return module
    ...     @fitting
    ...     def fit(self, X, y=None):
    ...         self.n_features_in_ = X.shape[1]
    ...         self._run_training(self._build_module(), Squares(torch.tensor(X)), seed=self._seed())
    ...         return self
    >>> mean = Mean(random_state=0).fit(np.array([[1.0], [2.0], [6.0]]))
    >>> round(mean.module_.level.item(), 2), mean.n_iter_
    (3.0, 200)
    """

    module_: nn.Module
    history_: list[dict[str, Any]]
    n_iter_: int
    partial_: bool

    @abc.abstractmethod
    def _build_module(self) -> nn.Module:
        """Untrained module of the fitted shape, from parameters and plain fitted attributes alone.

        It runs without a seed and must not touch the global random state; it is also run on the meta device.
        """

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, fitted attributes and weights to one safetensors file.

        Parameters
        ----------
        path
            Where to write; an existing file is replaced, whole or not at all.

        Raises
        ------
        CheckpointError
            If the estimator is not fitted, or a parameter or attribute has no place in the format.
        """
        from neurosde.estimators._persistence import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_bytes: int = 2**30) -> Any:
        """Read an estimator of this class that `save` wrote.

        Parameters
        ----------
        path
            The file.
        max_bytes
            Largest file that is accepted.

        Raises
        ------
        UnsafeFileError, CheckpointError
            If the file is foreign, oversized, damaged, of another class or of a later version; nothing in it
            runs.
        """
        from neurosde.estimators._persistence import load

        return load(path, max_bytes=max_bytes, expected=cls)

    def _parameter(self, name: str, default: Any) -> Any:
        """Constructor argument, or `default` where this class has none of that name."""
        return self.get_params(deep=False).get(name, default)

    def _device(self) -> torch.device:
        """Device of the `device` parameter; "auto" takes the GPU where there is one."""
        name = self._parameter("device", "cpu")
        if name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        expected = f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}"
        try:
            device = torch.device(name)
        except (RuntimeError, TypeError) as error:
            raise DataError(expected) from error
        if not isinstance(name, str) or device.type not in ("cpu", "cuda"):
            raise DataError(expected)
        n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
        if (device.index or 0) >= n_devices:
            raise DataError(f"device={name!r}: there are {n_devices} such devices here; use device='auto'")
        return device

    def _seed(self) -> int:
        """Non-negative int from `random_state`: itself, a draw from a RandomState, or fresh entropy."""
        state = self._parameter("random_state", None)
        if state is None:
            return int(np.random.SeedSequence().generate_state(1)[0])
        if isinstance(state, np.random.RandomState):
            return int(state.randint(2**31 - 1))
        if isinstance(state, int | np.integer) and not isinstance(state, bool) and 0 <= state < 2**63:
            return int(state)
        raise DataError(f"random_state must be None, an integer >= 0 or a RandomState, got {state!r}")

    def _training_options(self, **overrides: Any) -> TrainingOptions:
        """Check and collect the options that stand among the parameters; `overrides` come on top."""
        params = {name: value for name, value in self.get_params(deep=False).items() if name in _OPTIONS}
        options = TrainingOptions(**(params | overrides))
        if options.checkpoint is not None and self._parameter("random_state", None) is None:
            raise DataError("checkpoint needs an integer random_state: no later fit would be the same run")
        return options

    def _run_training(
        self,
        module: nn.Module,
        objective: Objective,
        *,
        seed: int,
        groups: Array | None = None,
        record: TrainingRecord | None = None,
        **overrides: Any,
    ) -> TrainingRecord:
        """Train `module` with the options that stand among the parameters, and set the fitted attributes.

        Sets `module_`, `history_`, `n_iter_` and `partial_`; also where training is interrupted or does not
        converge after at least one update, before the exception goes on.

        Parameters
        ----------
        module
            Trained in place; never ``self.module_`` itself (see `_continued`).
        objective, seed, groups, record
            See `neurosde.training.train`.
        **overrides
            `TrainingOptions` by name, on top of the parameters.
        """
        options = self._training_options(**overrides)
        record = TrainingRecord() if record is None else record
        try:
            train(module, objective, options, seed=seed, groups=groups, record=record)
        except (KeyboardInterrupt, NotConvergedError):
            if record.n_updates:
                self._keep(module, record, partial=True)
            raise
        self._keep(module, record, partial=False)
        return record

    def _keep(self, module: nn.Module, record: TrainingRecord, *, partial: bool) -> None:
        self.module_ = module
        self.history_ = record.history
        self.n_iter_ = record.n_iter
        self.partial_ = partial
        self._optimizer_state = record.optimizer

    def _continued(self) -> tuple[nn.Module, TrainingRecord] | None:
        """Copy of module and record for `warm_start` and `partial_fit`; None where nothing is fitted."""
        if not self.__sklearn_is_fitted__():
            return None
        state = vars(self).get("_optimizer_state", {})
        record = TrainingRecord(history=list(self.history_), n_iter=self.n_iter_, optimizer=state)
        return copy.deepcopy(self.module_), record

    def __sklearn_is_fitted__(self) -> bool:
        return "module_" in vars(self)

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self)}
        if "module_" in state:
            state["module_"] = module_arrays(state["module_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: value for name, value in state.items() if name != "module_"})
        if "module_" in state:
            self._set_module(state["module_"])

    def _set_module(self, arrays: dict[str, Array]) -> None:
        """Build `module_` and fill it; on the CPU, with a warning, where its device is not there."""
        module = self._build_module()
        module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
        try:
            device = self._device()
        except DataError as error:
            warnings.warn(f"{error}; the model was put on the CPU", stacklevel=2)
            device = torch.device("cpu")
        self.module_ = module.to(device).eval()


class SeriesEstimator(Estimator):
    """Abstract estimator of irregular series; it takes whatever `neurosde.io.as_series` takes.

    Attributes
    ----------
    channel_names_ : list of str
        Channels seen in `fit`, in order.
    n_features_in_ : int
        Their number.
    """

    channel_names_: list[str]
    n_features_in_: int

    def _check_series(self, X: Any, *, reset: bool) -> Series:
        """Convert X to a `Series`; `reset` learns its channels (in `fit`), else they are put in fitted order.

        Raises
        ------
        DataError
            If a channel is observed that was not there in `fit`.
        """
        from neurosde.io import as_series

        series = as_series(X)
        if reset:
            self.channel_names_ = list(series.channel_names)
            self.n_features_in_ = len(self.channel_names_)
            return series
        return series.align_channels(self.channel_names_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def is_fitted_name(name: Any) -> bool:
    """Whether a name is that of a public fitted attribute, as scikit-learn writes them."""
    return isinstance(name, str) and name.isidentifier() and name.endswith("_") and not name.startswith("_")


def module_arrays(module: nn.Module) -> dict[str, Array]:
    """State of a module as plain numpy arrays, by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}
