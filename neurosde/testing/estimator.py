"""Checks of any estimator: scikit-learn's manners, seeds, files, and what happens when a fit goes wrong."""

import contextlib
import copy
import io
import json
import math
import pickle
import random
import tempfile
import unittest
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
from neurosde.testing.case import Case, Check, finite, fitted, numbered, refused, same
from neurosde.training.weights import Weights
from neurosde.typing import Any

__all__ = ["estimator_checks"]

_CHECKS: list[Check] = []


def estimator_checks() -> list[Check]:
    """Checks 1 to 21, of any estimator."""
    return list(_CHECKS)


@numbered(_CHECKS, 1)
def _arguments(case: Case) -> None:
    """The constructor stores its arguments verbatim, and clone copies them."""
    for name, value in case.estimator.get_params(deep=False).items():
        assert vars(case.estimator)[name] is value, f"{name} was changed by the constructor"
    assert not fitted(case.estimator), f"{fitted(case.estimator)} exist before fit"
    copied = case.make().get_params(deep=False)
    assert fingerprint(copied) == fingerprint(case.estimator.get_params(deep=False))
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
    assert estimator.fit(*case.data(0)) is estimator
    assert fingerprint(estimator.get_params(deep=False)) == before, "fit changed a parameter"
    assert isinstance(estimator.module_, torch.nn.Module)
    assert not estimator.module_.training
    assert all(p.isfinite().all() for p in estimator.module_.parameters())
    assert json.loads(json.dumps(estimator.history_, allow_nan=False)) == estimator.history_
    assert type(estimator.n_iter_) is int
    assert estimator.n_iter_ >= 0
    assert estimator.partial_ is False
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
            assert torch.is_grad_enabled() is grad
    changed = [name for name, value in _global_state().items() if value != before[name]]
    assert not changed, f"{changed} changed"


@numbered(_CHECKS, 7)
def _answers_change_nothing(case: Case) -> None:
    """Answering changes neither the estimator nor the data."""
    estimator, data = case.fit(), case.data(1)
    before = fingerprint(estimator.__getstate__()), fingerprint(data)
    case.answer(estimator, data[0])
    assert (fingerprint(estimator.__getstate__()), fingerprint(data)) == before
    before = fingerprint(data)
    case.make().fit(*data)
    assert fingerprint(data) == before, "fit changed its data"


@numbered(_CHECKS, 8)
def _pickle(case: Case) -> None:
    """Pickle and deepcopy are exact, and the pickled state holds no torch object."""
    estimator = case.fit()
    answers = case.ask(estimator)
    same(case.ask(pickle.loads(pickle.dumps(estimator))), answers)
    same(case.ask(copy.deepcopy(estimator)), answers)
    state = {name: value for name, value in estimator.__getstate__().items() if name.endswith("_")}
    assert b"torch" not in pickle.dumps(state), "the fitted state pickles a torch object"


@numbered(_CHECKS, 9)
def _files(case: Case) -> None:
    """Save and load are exact; the file is one safetensors file."""
    estimator = case.fit()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        estimator.save(path)
        assert list(Path(folder).iterdir()) == [path]
        loaded = type(estimator).load(path)
        if type(estimator).__name__ in estimators.CLASSES:
            assert type(neurosde.load(path)) is type(estimator)
        info = estimators.read_model_info(path)
        loaded.save(Path(folder) / "again")
        assert (Path(folder) / "again").read_bytes() == path.read_bytes(), "a second save differs"
    assert info["class"] == type(estimator).__name__
    assert fingerprint(loaded.get_params(deep=False)) == fingerprint(estimator.get_params(deep=False))
    assert sorted(fitted(loaded)) == sorted(fitted(estimator))
    same(case.ask(loaded), case.ask(estimator))


@numbered(_CHECKS, 10)
def _refit(case: Case) -> None:
    """Fit forgets what an earlier fit has left."""
    estimator = case.fit(seed=2)
    estimator.set_params(**case.estimator.get_params(deep=False)).fit(*case.data(0))
    fresh = case.fit(seed=0)
    same(case.ask(estimator), case.ask(fresh))
    assert sorted(fitted(estimator)) == sorted(fitted(fresh))


@numbered(_CHECKS, 11)
def _failing_fit(case: Case) -> None:
    """A fit that raises leaves an unfitted estimator unfitted and a fitted one as it was."""
    new, old = case.make(), case.fit()
    before, state = case.ask(old), fingerprint(old.__getstate__())
    for estimator in (new, old):
        _fit_broken(case, estimator, ZeroDivisionError, seed=3)
    assert not fitted(new), f"{fitted(new)} were left behind"
    assert fingerprint(old.__getstate__()) == state
    same(case.ask(old), before)


@numbered(_CHECKS, 12)
def _interrupted_fit(case: Case) -> None:
    """Ctrl-C goes on, and the estimator answers with the weights reached, marked as partial."""
    estimator = case.make()
    _fit_broken(case, estimator, KeyboardInterrupt)
    assert estimator.partial_ is True
    finite(case.ask(estimator))
    same(case.ask(pickle.loads(pickle.dumps(estimator))), case.ask(estimator))
    assert estimator.fit(*case.data(0)).partial_ is False
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
            assert estimator.partial_ is True
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
    assert estimator.n_iter_ == 0
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
    assert estimator.n_iter_ > n_iter
    assert estimator.history_[: len(history)] == history


@numbered(_CHECKS, 19)
def _verbose(case: Case) -> None:
    """verbose=0 is silent; verbose=1 shows a bar with the loss."""
    case.need("verbose")
    for verbose in (0, 1):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            case.fit(verbose=verbose)
        assert not out.getvalue()
        assert ("loss=" in err.getvalue()) == bool(verbose), f"verbose={verbose} showed {err.getvalue()!r}"


@numbered(_CHECKS, 20)
def _early_stopping(case: Case) -> None:
    """Early stopping holds samples back and writes their score into the history."""
    case.need("early_stopping")
    estimator = case.fit(early_stopping=True)
    assert all("score" in row for row in estimator.history_)
    finite(case.ask(estimator))


@numbered(_CHECKS, 21)
def _checkpoint(case: Case) -> None:
    """A fit with checkpoints equals one without, and goes on after Ctrl-C bit for bit."""
    case.need("checkpoint")
    expected = case.ask(case.fit())
    with tempfile.TemporaryDirectory() as folder:
        _fit_broken(case, case.make(checkpoint=folder), KeyboardInterrupt)
        same(case.ask(case.fit(checkpoint=folder)), expected)
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
    assert not fitted(estimator), f"{name}={value!r} left {fitted(estimator)} behind"


def _fit_broken(case: Case, estimator: Any, error: type[BaseException], seed: int = 0) -> None:
    """Fit with an error at the second update of the weights; the check does not apply where there is none."""
    step, calls = torch.optim.AdamW.step, []

    def broken(optimizer: torch.optim.AdamW, *args: Any) -> Any:
        calls.append(optimizer)
        if len(calls) == 2:
            raise error
        return step(optimizer, *args)

    with mock.patch.object(torch.optim.AdamW, "step", broken):
        try:
            estimator.fit(*case.data(seed))
        except error:
            return
    if len(calls) < 2:
        raise unittest.SkipTest("a fit makes fewer than 2 gradient updates")
    raise AssertionError(f"{error.__name__} was swallowed")
