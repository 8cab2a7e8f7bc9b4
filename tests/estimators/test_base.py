"""What the base does beyond the conformance suite: partial_fit, devices, parallel searches, interruptions."""

import dataclasses
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, GroupKFold

import neurosde
from neurosde import estimators
from neurosde.data import Series
from neurosde.errors import DataError, NotConvergedError
from neurosde.estimators import Estimator, SeriesEstimator
from neurosde.training import TrainingOptions


def test_partial_fit_is_one_pass_and_passes_add_up(ridge_class, table):
    """Ten passes are a fit of ten iterations: the optimiser's moments and the shuffles go on."""
    X, y = table()
    whole = ridge_class(random_state=0, max_iter=10, batch_size=8).fit(X, y)
    parts = ridge_class(random_state=0, batch_size=8)
    for n in range(1, 11):
        parts.partial_fit(X, y)
        assert parts.n_iter_ == n
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))
    assert parts.history_ == whole.history_


def test_partial_fit_goes_on_after_pickling(ridge_class, table):
    X, y = table()
    a = ridge_class(random_state=0, batch_size=8).partial_fit(X, y)
    b = pickle.loads(pickle.dumps(a))
    np.testing.assert_array_equal(a.partial_fit(X, y).predict(X), b.partial_fit(X, y).predict(X))


def test_a_failing_partial_fit_changes_nothing(ridge_class, table, monkeypatch):
    X, y = table()
    model = ridge_class(random_state=0, batch_size=8).partial_fit(X, y)
    before = model.predict(X)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :2], y)
    monkeypatch.setattr(model, "batch_size", 0)
    with pytest.raises(DataError, match="batch_size"):
        model.partial_fit(X, y)
    np.testing.assert_array_equal(model.predict(X), before)
    assert model.n_iter_ == 1


def test_ctrl_c_during_a_warm_start_keeps_what_was_reached(ridge_class, table, monkeypatch):
    X, y = table()
    model = ridge_class(random_state=0, max_iter=20, warm_start=True).fit(X, y)
    step, calls = torch.optim.AdamW.step, []

    def interrupt(optimizer, *args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupt)
    before = model.predict(X)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, y)
    assert model.partial_
    assert model.n_iter_ == 24
    assert not np.array_equal(model.predict(X), before)


def test_not_converged_keeps_the_last_finite_weights_and_says_so(ridge_class, table):
    """A learning rate at which the weights overflow."""
    X, y = table()
    model = ridge_class(random_state=0, max_iter=200, learning_rate=1e200, weight_decay=1.0)
    with pytest.raises(NotConvergedError, match=r"last finite weights were restored.*lower learning_rate"):
        model.fit(X, y)
    assert model.partial_
    assert np.isfinite(model.predict(X)).all()


def test_never_one_finite_batch_leaves_it_unfitted(ridge_class, table, monkeypatch):
    from neurosde.training.weights import Weights

    monkeypatch.setattr(Weights, "gradient_norm", lambda weights, loss: (np.nan, np.nan))
    model = ridge_class(random_state=0, max_iter=3)
    with pytest.raises(NotConvergedError, match="all 3 batches"):
        model.fit(*table())
    assert "module_" not in vars(model)


def test_a_parallel_search_shares_a_checkpoint_directory(ridge_class, table, tmp_path):
    """Two workers, twelve fits, one directory: the result is that of a search without checkpoints."""
    X, y = table()
    grid = {"weight_decay": [0.0, 0.1], "random_state": [0, 1]}
    results = []
    for checkpoint in (None, tmp_path / "runs"):
        model = ridge_class(max_iter=5, batch_size=8, random_state=0, checkpoint=checkpoint)
        with joblib.parallel_config(backend="threading", n_jobs=2):
            search = GridSearchCV(model, grid, cv=3).fit(X, y)
        results.append(search.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(*results)
    assert len(list((tmp_path / "runs").iterdir())) == 12 + 1  # and the refit


def test_a_search_with_groups_never_splits_a_subject(forecaster, series_maker):
    series = Series.concatenate([series_maker(0), series_maker(1).replace(ids=np.arange(9) + 100)])
    groups = np.repeat(np.arange(6), 3)
    search = GridSearchCV(forecaster, {"max_iter": [1, 3]}, cv=GroupKFold(3)).fit(series, groups=groups)
    assert isinstance(search.best_estimator_.predict(*series.split(5.0)), Series)


def test_a_checkpoint_without_a_seed_is_refused(ridge_class, table, tmp_path):
    with pytest.raises(DataError, match="checkpoint needs an integer random_state"):
        ridge_class(checkpoint=tmp_path).fit(*table())


def test_a_model_of_a_gpu_opens_on_the_cpu_with_a_warning(ridge, table, tmp_path):
    X, y = table()
    model = ridge.fit(X, y)
    model.set_params(device="cuda:99")
    model.save(tmp_path / "m")
    for load in (lambda: type(model).load(tmp_path / "m"), lambda: pickle.loads(pickle.dumps(model))):
        with pytest.warns(UserWarning, match="the model was put on the CPU"):
            loaded = load()
        assert next(loaded.module_.parameters()).device.type == "cpu"


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "mps", 0, None, torch.device("cpu")])
def test_devices_are_words(ridge, table, device):
    with pytest.raises(DataError, match="device"):
        ridge.set_params(device=device).fit(*table())


def test_options_come_from_the_parameters_and_overrides_win(ridge_class):
    model = ridge_class(max_iter=7, batch_size=3, tol=0.5)
    assert model._training_options(unit="step", tol=0.1) == TrainingOptions(
        max_iter=7,
        batch_size=3,
        learning_rate=0.05,
        weight_decay=1e-3,
        unit="step",
        tol=0.1,
        checkpoint_every=0.0,
    )


def test_every_option_that_an_estimator_names_reaches_the_loop(ridge_class):
    """Twin-proof: each shared parameter, set to a value of its own, shows up in the options."""
    names = {field.name for field in dataclasses.fields(TrainingOptions)} & set(ridge_class().get_params())
    assert len(names) == 11
    values = {
        "max_iter": 3, "learning_rate": 0.5, "batch_size": 4, "weight_decay": 0.25, "tol": 0.125,
        "early_stopping": True, "validation_fraction": 0.5, "n_iter_no_change": 6, "verbose": 2,
        "checkpoint": "somewhere", "checkpoint_every": 3.0,
    }  # fmt: skip
    assert set(values) == names
    options = ridge_class(random_state=0, **values)._training_options()
    assert {name: getattr(options, name) for name in names} == values


def test_the_base_is_abstract():
    for cls in (Estimator, SeriesEstimator):
        with pytest.raises(TypeError, match="abstract"):
            cls()
    assert issubclass(Estimator, BaseEstimator)


def test_names_are_lazy_and_spelt_right():
    with pytest.raises(AttributeError, match="NoSuchEstimator"):
        _ = estimators.NoSuchEstimator
    assert {*estimators.CLASSES, "Estimator", "load"} <= set(dir(estimators))
    code = "import neurosde.estimators, sys; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", estimators.CLASSES)
def test_every_listed_class_is_an_estimator_of_its_name(name):
    cls = getattr(neurosde, name)
    assert issubclass(cls, Estimator)
    assert cls.__name__ == name


def test_tags_say_that_series_may_have_gaps(forecaster, ridge):
    tags = forecaster.__sklearn_tags__().input_tags
    assert (tags.allow_nan, tags.two_d_array, tags.three_d_array) == (True, False, True)
    assert ridge.__sklearn_tags__().input_tags.two_d_array
