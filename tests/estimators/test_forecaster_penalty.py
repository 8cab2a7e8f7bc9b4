"""A penalty on the forecaster's solves: off by default, seen in the history, saved, resumed, and it bites."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

import neurosde
from neurosde.data import Series
from neurosde.errors import CheckpointError
from neurosde.estimators import NeuralSDEForecaster
from neurosde.estimators._codec import decode, encode
from neurosde.estimators._forecast_network import CorrectionNetwork
from neurosde.solve import StepPenalty
from neurosde.testing import series_case, series_checks
from neurosde.training import Schedule

SMALL = {"n_cuts": 1, "state_size": 3, "hidden": 8, "n_components": 1, "n_paths": 2, "batch_size": 8}
SMALL |= {"random_state": 0, "max_iter": 2, "start": "zero"}
SAMPLED = StepPenalty("squared_error", "one_step")
FALLING = Schedule("exponential", 2.0, 0.5)


def series(seed=0, n=24):
    rng = np.random.default_rng((seed, 5))
    owner = np.repeat(np.arange(n), 12)
    time = rng.uniform(0, 10, len(owner))
    table = {
        "id": owner + 100 * seed,
        "time": time,
        "variable": np.array(["a", "b"])[rng.integers(0, 2, len(owner))],
    }
    return Series.from_long(table | {"value": np.sin(time + owner) + 0.1 * rng.normal(size=len(owner))})


def forecaster(horizon=5, **settings):
    return NeuralSDEForecaster(5, horizon, **SMALL | settings)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.module_.parameters()])


def test_off_is_off():
    """A weight without a penalty changes no bit, and none is reported."""
    plain, weighed = forecaster().fit(series()), forecaster(penalty_weight=7.0).fit(series())
    assert torch.equal(weights(plain), weights(weighed))
    assert "penalty" not in plain.history_[0]
    assert plain.get_params()["penalty"] is None


@pytest.mark.parametrize("sample", ["all", "one_step", "one_time"])
def test_the_history_tells_of_it_and_a_fit_can_be_repeated(sample):
    model = forecaster(penalty=StepPenalty(sample=sample), penalty_weight=FALLING)
    first, second = (clone(model).fit(series()) for _ in range(2))
    assert first.history_ == second.history_
    assert torch.equal(weights(first), weights(second))
    rows = first.history_
    assert all(row["penalty"] > 0 for row in rows)
    assert rows[0]["penalty_weight"] > rows[1]["penalty_weight"] > 0.5
    other = clone(model).set_params(penalty=StepPenalty(sample=sample, seed=3)).fit(series())
    assert (other.history_[0]["penalty"] == first.history_[0]["penalty"]) == (sample == "all")


def test_it_steps_with_an_error_estimate_and_the_penalty_falls_with_its_weight():
    final = {}
    for weight in (0.0, 300.0):
        model = forecaster(penalty=StepPenalty(), penalty_weight=weight, max_iter=8, learning_rate=3e-2)
        model.set_params(early_stopping=False).fit(series())
        assert model.module_.embedded
        final[weight] = model.history_[-1]["penalty"]
    assert final[300.0] < 0.5 * final[0.0]


def test_the_gradient_reaches_the_drift_that_is_penalised():
    model = forecaster(penalty=StepPenalty(), max_iter=0).fit(series())
    network: CorrectionNetwork = model.module_.train()
    at = np.full(24, 5.0)
    past, future = model._cut(series(), at)
    samples, _ = model._lay_out(past, future)
    batch, paths = samples.batch(np.arange(4)), torch.arange(2)
    mixture, effort = network.penalised(batch, paths, 3, StepPenalty())
    effort.backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in network.cell.pull.parameters() if p.grad is not None)
    assert network.head.weight.grad is None  # the penalty is of the solve alone
    plain, nothing = network.penalised(batch, paths, 3, None)
    assert nothing is None
    assert torch.equal(plain.mean, mixture.mean)  # measuring does not change the path


def test_files_clones_and_parameters_carry_it(tmp_path):
    model = forecaster(penalty=SAMPLED, penalty_weight=FALLING).fit(series())
    model.save(tmp_path / "model")
    again = neurosde.load(tmp_path / "model")
    for other in (again, clone(model), clone(model).set_params(penalty=SAMPLED, penalty_weight=FALLING)):
        assert other.get_params()["penalty"] == SAMPLED
        assert other.get_params()["penalty_weight"] == FALLING
    np.testing.assert_array_equal(again.predict(series(1)).value, model.predict(series(1)).value)
    assert again.module_.embedded


def test_a_file_may_only_say_what_a_penalty_can_be():
    for value in (SAMPLED, StepPenalty(rtol=0.0, seed=5), FALLING, Schedule("annealing", rate=0.9, delay=3)):
        tensors = {}
        assert decode(encode(value, "params/penalty", tensors), tensors) == value
        assert not tensors
    good = encode(SAMPLED, "x", {})["$record"][1]
    for change in (
        {"kind": "__import__"},
        {"kind": ["error"]},
        {"rtol": "1"},
        {"atol": -1.0},
        {"seed": 1.5},
        {"seed": "0"},
        {"code": "import os"},
    ):
        with pytest.raises(CheckpointError):
            decode({"$record": ["StepPenalty", good | change]}, {})
    schedule = encode(FALLING, "x", {})["$record"][1]
    for change in ({"start": [1]}, {"shape": None}, {"rate": 1.0}):
        with pytest.raises(CheckpointError):
            decode({"$record": ["Schedule", schedule | change]}, {})
    for name in ("PIController", "TrainingOptions"):
        with pytest.raises(CheckpointError):
            decode({"$record": [name, {}]}, {})


def test_a_warm_start_may_switch_it_on_and_off():
    model = forecaster(warm_start=True, early_stopping=False).fit(series())
    model.set_params(penalty=StepPenalty()).fit(series())
    assert "penalty" in model.history_[-1]
    assert model.module_.embedded
    model.set_params(penalty=None).fit(series())
    assert "penalty" not in model.history_[-1]
    assert not model.module_.embedded


@pytest.mark.slow
@pytest.mark.parametrize("check", series_checks(), ids=str)
def test_conformance(check):
    model = forecaster(penalty=SAMPLED, penalty_weight=FALLING, horizon=10, start="first")
    check(series_case(model, series))


def test_killed_and_resumed_is_bit_identical_and_another_penalty_is_another_run(tmp_path, monkeypatch):
    own = NeuralSDEForecaster._training_options

    def every_report(self, **overrides):
        return own(self, **overrides | {"checkpoint_every": 0.0})

    monkeypatch.setattr(NeuralSDEForecaster, "_training_options", every_report)
    settings = {"penalty": SAMPLED, "penalty_weight": FALLING, "max_iter": 4}
    whole = forecaster(**settings).fit(series())
    steps, step = [], torch.optim.AdamW.step

    def killed(optimizer, *args):
        steps.append(optimizer)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return step(optimizer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            forecaster(checkpoint=tmp_path, **settings).fit(series())
    assert len(list(tmp_path.iterdir())) == 1
    resumed = forecaster(checkpoint=tmp_path, **settings).fit(series())
    assert resumed.history_ == whole.history_
    assert torch.equal(weights(resumed), weights(whole))
    for penalty in (StepPenalty(), None):
        forecaster(checkpoint=tmp_path, **settings | {"penalty": penalty}).fit(series())
    assert len(list(tmp_path.iterdir())) == 3
