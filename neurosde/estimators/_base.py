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

from neurosde.errors import DataError, NotConvergedError
from neurosde.training import Objective, TrainingOptions, TrainingRecord, train
from neurosde.typing import Any, Array, Callable

__all__ = ["Estimator", "fitting"]

_OPTIONS = frozenset(TrainingOptions.__dataclass_fields__)


def fitting(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Make a `fit` or `partial_fit` method all or nothing.

    An exception leaves the estimator as it was before the call. After Ctrl-C, or `NotConvergedError` from training,
    the weights reached so far are kept instead (best under early stopping, else last finite) and `partial_` is True.
    A fresh `fit` (no `warm_start`) first removes what earlier fits have left.
    """

    @functools.wraps(fit)
    def guarded(self: "Estimator", *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        if fit.__name__ == "fit" and not self.get_params(deep=False).get("warm_start", False):
            self._forget()
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

    A subclass stores its constructor's arguments verbatim and checks them in `fit`, which is wrapped in `@fitting`.
    `fit` sets every plain fitted attribute (numpy arrays and JSON-able values, names ending in ``_``) *before* it
    calls `_run_training`, because an interrupted run must leave a usable estimator; `_build_module` makes an untrained
    module from parameters and these attributes. Random numbers come from ``self._seed()``, computed once a fit.

    Attributes
    ----------
    module_ : nn.Module
        The trained module, in evaluation mode.
    history_ : list of dict
        One row a report (see `neurosde.training.TrainingRecord`).
    n_iter_ : int
        Iterations run.
    partial_ : bool
        True where training was interrupted or did not converge, and the weights are those reached so far.
    """

    module_: nn.Module
    history_: list[dict[str, Any]]
    n_iter_: int
    partial_: bool

    @abc.abstractmethod
    def _build_module(self) -> nn.Module:
        """Untrained module of the fitted shape, from parameters and plain fitted attributes alone."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters, fitted attributes and weights to one safetensors file.

        Parameters
        ----------
        path
            Where to write; an existing file is replaced, whole or not at all.

        Raises
        ------
        CheckpointError
            If a parameter or attribute has no place in the format; the message names it.
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
            If the file is foreign, oversized, damaged, of another class or of a later version; nothing in it runs.
        """
        from neurosde.estimators._persistence import load

        return load(path, max_bytes=max_bytes, expected=cls)

    def _device(self) -> torch.device:
        """Device of the `device` parameter; "auto" takes the GPU where there is one."""
        name = self.get_params(deep=False).get("device", "cpu")
        if name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(name)
        except (RuntimeError, TypeError) as error:
            raise DataError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}") from error
        if device.type not in ("cpu", "cuda"):
            raise DataError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}")
        n_devices = torch.cuda.device_count() if device.type == "cuda" else 1
        if (device.index or 0) >= n_devices:
            raise DataError(f"device={name!r} was asked for, {n_devices} such devices are there; use device='auto'")
        return device

    def _seed(self) -> int:
        """Non-negative int from `random_state`: itself, a draw from a RandomState, or fresh entropy for None."""
        state = self.get_params(deep=False).get("random_state")
        if state is None:
            return int(np.random.SeedSequence().generate_state(1)[0])
        if isinstance(state, np.random.RandomState):
            return int(state.randint(2**31 - 1))
        if isinstance(state, int | np.integer) and not isinstance(state, bool) and 0 <= state < 2**63:
            return int(state)
        raise DataError(f"random_state must be None, an integer in [0, 2**63) or a RandomState, got {state!r}")

    def _run_training(self, module: nn.Module, objective: Objective, *, seed: int, groups: Array | None = None, record: TrainingRecord | None = None, **overrides: Any) -> TrainingRecord:  # fmt: skip
        """Train `module` with the options that stand among the parameters, and set the fitted attributes.

        Sets `module_`, `history_`, `n_iter_`, `partial_`; also where training is interrupted or does not converge
        after at least one update, before the exception goes on. `overrides` are `TrainingOptions` by name.
        """
        params = {name: value for name, value in self.get_params(deep=False).items() if name in _OPTIONS}
        options = TrainingOptions(**(params | overrides))
        if options.checkpoint is not None and self.get_params(deep=False).get("random_state") is None:
            raise DataError("checkpoint needs an integer random_state: without it no later fit is the same run")
        record = TrainingRecord() if record is None else record
        partial = True
        try:
            train(module, objective, options, seed=seed, groups=groups, record=record)
            partial = False
        except (KeyboardInterrupt, NotConvergedError):
            if not record.n_updates:
                raise
            self._keep(module, record, partial)
            raise
        self._keep(module, record, partial)
        return record

    def _keep(self, module: nn.Module, record: TrainingRecord, partial: bool) -> None:
        self.module_ = module
        self.history_ = record.history
        self.n_iter_ = record.n_iter
        self.partial_ = partial
        self._optimizer_state = record.optimizer

    def _continued(self) -> tuple[nn.Module, TrainingRecord] | None:
        """Copy of module and record to go on from (`warm_start`, `partial_fit`), or None where nothing is fitted."""
        if "module_" not in vars(self):
            return None
        state = vars(self).get("_optimizer_state", {})
        return copy.deepcopy(self.module_), TrainingRecord(list(self.history_), self.n_iter_, optimizer=state)

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_") and not name.startswith("_")]:
            delattr(self, name)
        vars(self).pop("_optimizer_state", None)

    def __sklearn_is_fitted__(self) -> bool:
        return "module_" in vars(self)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "module_" in state:
            state["module_"] = weights(state["module_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        stored = state.get("module_")
        super().__setstate__({name: value for name, value in state.items() if name != "module_"})
        if stored is not None:
            self._set_module(stored)

    def _set_module(self, stored: dict[str, Array]) -> None:
        """Build `module_` and fill it; on the CPU, with a warning, where its device is not there."""
        with torch.random.fork_rng(devices=[]):
            module = self._build_module()
        module.load_state_dict({name: torch.tensor(array) for name, array in stored.items()})
        try:
            device = self._device()
        except DataError as error:
            warnings.warn(f"{error}; the model was put on the CPU", stacklevel=3)
            device = torch.device("cpu")
        self.module_ = module.to(device).eval()


def weights(module: nn.Module) -> dict[str, Array]:
    """State of a module as plain numpy arrays, by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}
