"""Checks of any estimator: scikit-learn's manners, seeds, files, and what happens when a fit goes wrong."""

import contextlib
import copy
import dataclasses
import io
import json
import math
import pickle
import random
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state

import neurosde
from neurosde import estimators
from neurosde.errors import CheckpointError, NotConvergedError
from neurosde.files import fingerprint
from neurosde.testing.case import Case, Check, finite, fitted, numbered, refused, require, same
from neurosde.training import TrainingOptions
from neurosde.training.weights import Weights
from neurosde.typing import Any, Callable

__all__ = ["estimator_checks"]

_CHECKS: list[Check] = []


def estimator_checks() -> list[Check]:
    """Checks 1 to 21, of any estimator."""
    return list(_CHECKS)


@numbered(_CHECKS, 1)
def _arguments(case: Case) -> None:
    """The constructor stores its arguments verbatim, and clone copies them."""
    for name, value in case.estimator.get_params(deep=False).items():
        require(vars(case.estimator)[name] is value, f"the constructor changed {name}")
    require(not fitted(case.estimator), f"{fitted(case.estimator)} exist before fit")
    copied = case.make().get_params(deep=False)
    require(fingerprint(copied) == fingerprint(case.estimator.get_params(deep=False)), "clone differs")
    repr(case.estimator)


@numbered(_CHECKS, 2)
def _unfitted(case: Case) -> None:
    """An unfitted estimator answers NotFittedError, and save refuses it."""
    refused(lambda: case.ask(case.make()), error=NotFittedError)
    with tempfile.TemporaryDirectory() as folder:
        refused(lambda: case.make().save(Path(folder) / "model"), error=CheckpointError, naming="not fitted")


@numbered(_CHECKS, 3)
def _fit(case: Case) -> None:
    """Fit returns the estimator, leaves its parameters alone and sets what the base promises."""
    estimator = case.make()
    before = fingerprint(estimator.get_params(deep=False))
    require(estimator.fit(*case.data(0)) is estimator, "fit does not return the estimator")
    require(fingerprint(estimator.get_params(deep=False)) == before, "fit changed a parameter")
    require(isinstance(estimator.module_, torch.nn.Module), "module_ is no module")
    require(not estimator.module_.training, "module_ is in training mode")
    require(all(p.isfinite().all() for p in estimator.module_.parameters()), "a weight is not finite")
    copied = json.loads(json.dumps(estimator.history_, allow_nan=False))
    require(copied == estimator.history_, "history_ is not JSON")
    require(type(estimator.n_iter_) is int and estimator.n_iter_ >= 0, "n_iter_ is no count")
    require(estimator.partial_ is False, "partial_ is not False")
    finite(case.ask(estimator))


@numbered(_CHECKS, 4)
def _seed(case: Case) -> None:
    """Two fits with one seed are equal bit for bit, whatever was asked in between."""
    first = case.fit()
    before = case.ask(first)
    second = case.fit()
    same(case.ask(first), before)
    same(case.ask(second), before)


@numbered(_CHECKS, 5)
def _random_state(case: Case) -> None:
    """A RandomState or None serves as random_state; anything else is refused."""
    case.need("random_state")
    same(*(case.ask(case.fit(random_state=np.random.RandomState(7))) for _ in range(2)))
    finite(case.ask(case.fit(random_state=None)))
    for wrong in (-1, "zero", 1.5):
        _refuses(case, "random_state", wrong)


@numbered(_CHECKS, 6)
def _globals(case: Case) -> None:
    """No global state is touched: generators, default dtype, gradient mode, threads."""
    case.fit()  # what is imported on first use may settle
    before = _global_state()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            estimator = case.fit()
            case.ask(estimator)
            case.ask(pickle.loads(pickle.dumps(estimator)))
            require(torch.is_grad_enabled() is grad, "the gradient mode changed")
    changed = [name for name, value in _global_state().items() if value != before[name]]
    require(not changed, f"{changed} changed")


@numbered(_CHECKS, 7)
def _answers_change_nothing(case: Case) -> None:
    """Answering changes neither the estimator nor the data."""
    estimator, data = case.fit(), case.data(1)
    before = fingerprint(estimator.__getstate__()), fingerprint(data)
    case.answer(estimator, data[0])
    require(fingerprint(estimator.__getstate__()) == before[0], "answering changed the estimator")
    require(fingerprint(data) == before[1], "answering changed the data")
    case.make().fit(*data)
    require(fingerprint(data) == before[1], "fit changed its data")


@numbered(_CHECKS, 8)
def _pickle(case: Case) -> None:
    """Pickle and deepcopy are exact, and the pickled state holds no torch object."""
    estimator = case.fit()
    answers = case.ask(estimator)
    same(case.ask(pickle.loads(pickle.dumps(estimator))), answers)
    same(case.ask(copy.deepcopy(estimator)), answers)
    state = {name: value for name, value in estimator.__getstate__().items() if name.endswith("_")}
    require(b"torch" not in pickle.dumps(state), "the fitted state pickles a torch object")


@numbered(_CHECKS, 9)
def _files(case: Case) -> None:
    """Save and load are exact; the file is one safetensors file."""
    estimator = case.fit()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        estimator.save(path)
        require(list(Path(folder).iterdir()) == [path], "save left more than its file")
        loaded = type(estimator).load(path)
        if type(estimator).__name__ in estimators.CLASSES:
            require(type(neurosde.load(path)) is type(estimator), "neurosde.load gives another class")
        info = estimators.read_model_info(path)
        loaded.save(Path(folder) / "again")
        require((Path(folder) / "again").read_bytes() == path.read_bytes(), "a second save differs")
    require(info["class"] == type(estimator).__name__, "the file names another class")
    params = (fingerprint(e.get_params(deep=False)) for e in (loaded, estimator))
    require(len(set(params)) == 1, "the loaded parameters differ")
    require(sorted(fitted(loaded)) == sorted(fitted(estimator)), "loaded attributes differ")
    same(case.ask(loaded), case.ask(estimator))


@numbered(_CHECKS, 10)
def _refit(case: Case) -> None:
    """Fit forgets what an earlier fit has left."""
    estimator = case.fit(seed=2)
    estimator.set_params(**case.estimator.get_params(deep=False)).fit(*case.data(0))
    fresh = case.fit(seed=0)
    same(case.ask(estimator), case.ask(fresh))
    require(sorted(fitted(estimator)) == sorted(fitted(fresh)), "attributes of the earlier fit are left")


@numbered(_CHECKS, 11)
def _failing_fit(case: Case) -> None:
    """A fit that raises leaves an unfitted estimator unfitted and a fitted one as it was."""
    new, old = case.make(), case.fit()
    before, state = case.ask(old), fingerprint(old.__getstate__())
    for estimator in (new, old):
        _fit_broken(case, estimator, ZeroDivisionError, seed=3)
    require(not fitted(new), f"{fitted(new)} were left behind")
    require(fingerprint(old.__getstate__()) == state, "the failing fit changed a fitted estimator")
    same(case.ask(old), before)


@numbered(_CHECKS, 12)
def _interrupted_fit(case: Case) -> None:
    """Ctrl-C goes on, and the estimator answers with the weights reached, marked as partial."""
    estimator = case.make()
    _fit_broken(case, estimator, KeyboardInterrupt)
    require(estimator.partial_ is True, "partial_ is not True")
    finite(case.ask(estimator))
    same(case.ask(pickle.loads(pickle.dumps(estimator))), case.ask(estimator))
    require(estimator.fit(*case.data(0)).partial_ is False, "partial_ stays after a whole fit")
    same(case.ask(estimator), case.ask(case.fit()))


@numbered(_CHECKS, 13)
def _not_finite(case: Case) -> None:
    """Gradients that stay non-finite end in NotConvergedError with the last finite weights."""
    estimator = case.make()
    healthy = Weights.gradient_norm
    calls = []

    def norm(weights: Weights, loss: Any) -> tuple[float, float]:
        calls.append(loss)
        return healthy(weights, loss) if len(calls) == 1 else (math.nan, math.nan)

    with mock.patch.object(Weights, "gradient_norm", norm):
        try:
            estimator.fit(*case.data(0))
        except NotConvergedError:
            require(estimator.partial_ is True, "partial_ is not True")
        if len(calls) < 2:
            raise unittest.SkipTest("a fit makes fewer than 2 gradient updates")
    finite(case.ask(estimator))


@numbered(_CHECKS, 14)
def _unknown_words(case: Case) -> None:
    """An unknown word for a parameter that takes words is refused, and the message names the parameter."""
    for name, value in case.estimator.get_params(deep=False).items():
        if isinstance(value, str):
            _refuses(case, name, "no such thing")


@numbered(_CHECKS, 15)
def _wrong_numbers(case: Case) -> None:
    """Settings of training outside their range are refused, and the message names them."""
    wrong = {
        "max_iter": (-1, 2.5),
        "learning_rate": (0.0, -1.0, math.nan),
        "batch_size": (0,),
        "weight_decay": (-1.0,),
        "tol": (-1.0,),
        "validation_fraction": (0.0, 1.0),
        "n_iter_no_change": (0,),
        "verbose": (-1,),
    }
    for name in set(wrong) & set(case.estimator.get_params(deep=False)):
        for value in wrong[name]:
            _refuses(case, name, value)


@numbered(_CHECKS, 16)
def _no_iterations(case: Case) -> None:
    """max_iter=0 fits at the initial weights, or is refused by name."""
    case.need("max_iter")
    estimator = case.make(max_iter=0)
    try:
        estimator.fit(*case.data(0))
    except ValueError:
        refused(lambda: estimator.fit(*case.data(0)), naming="max_iter")
        return
    require(estimator.n_iter_ == 0, "n_iter_ is not 0")
    finite(case.ask(estimator))


@numbered(_CHECKS, 17)
def _device(case: Case) -> None:
    """A device that is not there is refused by name; "cpu" serves everywhere."""
    case.need("device")
    finite(case.ask(case.fit(device="cpu")))
    _refuses(case, "device", "cuda:99")
    _refuses(case, "device", "meta")


@numbered(_CHECKS, 18)
def _warm_start(case: Case) -> None:
    """With warm_start a second fit goes on where the first ended."""
    case.need("warm_start", "max_iter")
    estimator = case.fit(warm_start=True)
    n_iter, history = estimator.n_iter_, list(estimator.history_)
    estimator.fit(*case.data(0))
    require(estimator.n_iter_ > n_iter, "the second fit did not go on")
    require(estimator.history_[: len(history)] == history, "the history was rewritten")


@numbered(_CHECKS, 19)
def _verbose(case: Case) -> None:
    """verbose=0 is silent; verbose=1 shows a bar with the loss."""
    case.need("verbose")
    for verbose in (0, 1):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            case.fit(verbose=verbose)
        require(not out.getvalue(), f"verbose={verbose} printed {out.getvalue()!r}")
        require(("loss=" in err.getvalue()) == bool(verbose), f"verbose={verbose} showed {err.getvalue()!r}")


@numbered(_CHECKS, 20)
def _early_stopping(case: Case) -> None:
    """Early stopping holds samples back and writes their score into the history."""
    case.need("early_stopping")
    estimator = case.fit(early_stopping=True)
    require(all("score" in row for row in estimator.history_), "the history has no held-back score")
    finite(case.ask(estimator))


@numbered(_CHECKS, 21)
def _checkpoint(case: Case) -> None:
    """A fit with checkpoints equals one without, and goes on after Ctrl-C bit for bit."""
    case.need("checkpoint")
    whole, n_whole = _counting_updates(case.fit)
    expected = case.ask(whole)
    with tempfile.TemporaryDirectory() as folder:
        with _checkpoints_at_every_report(case):
            broken_off = case.make(checkpoint=folder)
            _fit_broken(case, broken_off, KeyboardInterrupt, when=lambda _: any(Path(folder).iterdir()))
        resumed, n_resumed = _counting_updates(lambda: case.fit(checkpoint=folder))
        same(case.ask(resumed), expected)
        require(n_resumed < n_whole, "the fit after Ctrl-C began anew; its checkpoint was not read")
        same(case.ask(case.fit(checkpoint=folder)), expected)


def _global_state() -> dict[str, Any]:
    numpy_state: Any = check_random_state(None).get_state(legacy=True)  # None: the global generator
    return {
        "torch's generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's generator": (numpy_state[1].tobytes(), *numpy_state[2:]),
        "Python's generator": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
    }


def _refuses(case: Case, name: str, value: Any) -> None:
    """Assert that fit refuses a parameter's value by name, and leaves the estimator unfitted."""
    estimator = case.make(**{name: value})
    refused(lambda: estimator.fit(*case.data(0)), naming=name)
    require(not fitted(estimator), f"{name}={value!r} left {fitted(estimator)} behind")


def _fit_broken(
    case: Case,
    estimator: Any,
    error: type[BaseException],
    seed: int = 0,
    when: Callable[[int], bool] = lambda update: update == 2,
) -> None:
    """Fit with an error at an update of the weights; the check does not apply where none is ever due."""
    step, calls, raised = torch.optim.AdamW.step, [], []

    def broken(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        calls.append(optimizer)
        if when(len(calls)):
            raised.append(error)
            raise error
        return step(optimizer, *args)

    with mock.patch.object(torch.optim.AdamW, "step", broken):
        try:
            estimator.fit(*case.data(seed))
        except error:
            return
    if not raised:
        raise unittest.SkipTest("a fit makes too few gradient updates to be broken off")
    raise AssertionError(f"{error.__name__} was swallowed")


def _counting_updates(fit: Callable[[], Any]) -> tuple[Any, int]:
    """A fitted estimator, and how many updates of the weights it took."""
    step, calls = torch.optim.AdamW.step, []

    def counted(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        calls.append(optimizer)
        return step(optimizer, *args)

    with mock.patch.object(torch.optim.AdamW, "step", counted):
        return fit(), len(calls)


@contextlib.contextmanager
def _checkpoints_at_every_report(case: Case) -> Iterator[None]:
    """Let fits write every checkpoint: the usual ten seconds outlast the quick fits of a check."""
    own = type(case.estimator)._training_options

    def options(estimator: Any, **overrides: Any) -> TrainingOptions:
        return dataclasses.replace(own(estimator, **overrides), checkpoint_every=0.0)

    with mock.patch.object(type(case.estimator), "_training_options", options):
        yield
