"""The loop: it minimises, it is a function of its seed, it stops, it averages, it shows, it goes on."""

import json

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from neurosde.errors import DataError, ShapeError
from neurosde.training import Objective, TrainingOptions, TrainingRecord, train


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_one_plain_step_is_adamw_by_hand(network, data, squares_class):
    """A second road: the published update (Loshchilov and Hutter 2019, algorithm 2) written out."""
    module, twin = network(), network()
    objective = squares_class(*data)
    rate, decay, b1, b2 = 0.01, 0.1, 0.9, 0.999
    options = TrainingOptions(max_iter=3, learning_rate=rate, weight_decay=decay, clip_norm=None)
    train(module, objective, options, seed=0)
    m = v = torch.zeros_like(weights(twin))
    for t in range(1, 4):
        twin.zero_grad()
        objective.loss(twin, torch.arange(60), 0).backward()
        g = torch.cat([p.grad.flatten() for p in twin.parameters()])
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        step = (m / (1 - b1**t)) / ((v / (1 - b2**t)).sqrt() + 1e-8)
        new = weights(twin) * (1 - rate * decay) - rate * step
        torch.nn.utils.vector_to_parameters(new, twin.parameters())
    torch.testing.assert_close(weights(module), weights(twin), rtol=1e-12, atol=1e-14)


def test_training_lowers_the_loss_and_history_is_json(network, squares):
    record = train(
        network(), squares, TrainingOptions(max_iter=60, learning_rate=0.02, batch_size=20), seed=0
    )
    losses = [row["loss"] for row in record.history]
    assert losses[-1] < 0.2 * losses[0]
    assert [row["iteration"] for row in record.history] == list(range(1, 61))
    assert json.loads(json.dumps(record.history, allow_nan=False)) == record.history
    assert (record.n_iter, record.n_updates, record.n_skipped, record.stopped) == (60, 180, 0, "max_iter")


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(network, squares, unit):
    options = TrainingOptions(max_iter=30, learning_rate=0.02, batch_size=16, unit=unit, early_stopping=True)
    runs = []
    for seed in (5, 5, 6):
        module = network()
        record = train(module, squares, options, seed=seed)
        runs.append((weights(module), record.history))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not torch.equal(runs[0][0], runs[2][0])


def test_max_iter_zero_keeps_the_initial_weights(network, squares):
    module = network()
    record = train(module, squares, TrainingOptions(max_iter=0), seed=0)
    assert torch.equal(weights(module), weights(network()))
    assert (record.n_iter, record.history, record.stopped) == (0, [], "max_iter")
    assert not module.training


def test_early_stopping_restores_the_best_weights(network, squares_class):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    noise = squares_class(X, torch.randn(30, generator=generator, dtype=torch.float64))  # nothing to learn
    options = TrainingOptions(
        max_iter=500, learning_rate=0.05, early_stopping=True, validation_fraction=0.3, n_iter_no_change=7
    )
    module = network()
    record = train(module, noise, options, seed=0)
    scores = [row["score"] for row in record.history]
    assert record.stopped == "no improvement"
    assert record.n_iter == scores.index(min(scores)) + 1 + 7
    held = np.setdiff1d(np.arange(30), _training_part(noise, options))
    assert noise.score(module, torch.from_numpy(held)) == min(scores)


def _training_part(objective, options):
    from neurosde.training import hold_back

    return hold_back(objective.n_samples, options.validation_fraction, seed=0)[0]


def test_tol_stops_on_the_training_loss(network, squares):
    options = TrainingOptions(max_iter=500, tol=0.5, n_iter_no_change=3)
    record = train(network(), squares, options, seed=0)
    assert record.stopped == "no improvement"
    assert record.n_iter < 20


def test_the_cosine_schedule_ends_at_zero(network, squares):
    options = TrainingOptions(max_iter=10, learning_rate=0.1, schedule="cosine")
    rates = [row["learning_rate"] for row in train(network(), squares, options, seed=0).history]
    np.testing.assert_allclose(rates, 0.05 * (1 + np.cos(np.pi * np.arange(10) / 10)), rtol=1e-12)


def test_the_average_is_kept_and_it_is_the_average(network, data, squares_class):
    objective = squares_class(*data)
    paths = []
    for n in range(1, 6):
        module = network()
        train(module, objective, TrainingOptions(max_iter=n, learning_rate=0.05), seed=0)
        paths.append(weights(module))
    average = weights(network())
    for n, path in enumerate(paths, start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * path
    module = network()
    train(module, objective, TrainingOptions(max_iter=5, learning_rate=0.05, ema=0.5), seed=0)
    torch.testing.assert_close(weights(module), average, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("clip_norm", "used"), [(1.0, 1.0), (None, None)])
def test_clipping_bounds_the_gradient_that_is_used(network, data, squares_class, clip_norm, used):
    class Steep(squares_class):
        def loss(self, module, index, seed):
            return 1e6 * super().loss(module, index, seed)

    module, norms = network(), []

    def look(optimizer, args, kwargs):
        norms.append(torch.cat([p.grad.flatten() for p in module.parameters()]).norm().item())

    handle = register_optimizer_step_pre_hook(look)
    record = train(module, Steep(*data), TrainingOptions(max_iter=1, clip_norm=clip_norm), seed=0)
    handle.remove()
    before = record.history[0]["gradient_norm"]
    assert before > 1e5
    assert norms == pytest.approx([used or before], rel=1e-5)
    assert all(p.grad is None for p in module.parameters())  # nothing is left behind


def test_a_run_goes_on_from_its_record(network, squares):
    """Two runs of 10 with the record handed on are one run of 20."""
    whole, parts = network(), network()
    expected = train(whole, squares, TrainingOptions(max_iter=20, batch_size=16), seed=4)
    record = TrainingRecord()
    for _ in range(2):
        train(parts, squares, TrainingOptions(max_iter=10, batch_size=16), seed=4, record=record)
    assert torch.equal(weights(whole), weights(parts))
    assert record.history == expected.history
    assert record.n_iter == 20


def test_a_run_that_forgets_the_optimiser_is_another_run(network, squares):
    """The twin of the test above: without the moments the weights differ."""
    whole, parts = network(), network()
    train(whole, squares, TrainingOptions(max_iter=20, batch_size=16), seed=4)
    record = TrainingRecord()
    for _ in range(2):
        record.optimizer = {}
        train(parts, squares, TrainingOptions(max_iter=10, batch_size=16), seed=4, record=record)
    assert not torch.equal(weights(whole), weights(parts))


def test_frozen_parameters_stay(network, squares):
    module = network()
    frozen = next(module.parameters())
    frozen.requires_grad_(False)
    before = frozen.clone()
    train(module, squares, TrainingOptions(max_iter=3), seed=0)
    assert torch.equal(frozen, before)


def test_grad_mode_of_the_caller_does_not_matter(network, squares):
    with torch.no_grad():
        record = train(network(), squares, TrainingOptions(max_iter=2), seed=0)
    assert record.n_updates == 2


def test_verbose_shows_loss_score_and_time_left(network, squares, capsys):
    options = TrainingOptions(max_iter=4, early_stopping=True, verbose=1)
    train(network(), squares, options, seed=0)
    shown = capsys.readouterr().err
    assert "loss=" in shown
    assert "score=" in shown
    assert "4/4" in shown
    assert "<" in shown  # tqdm's elapsed<left


def test_verbose_zero_is_silent(network, squares, capsys):
    train(network(), squares, TrainingOptions(max_iter=4), seed=0)
    assert capsys.readouterr() == ("", "")


def test_a_loss_with_axes_and_an_empty_module_are_refused(network, squares, squares_class, data):
    class PerSample(squares_class):
        def loss(self, module, index, seed):
            return module(self.X[index])

    with pytest.raises(ShapeError, match="scalar"):
        train(network(), PerSample(*data), TrainingOptions(max_iter=1), seed=0)
    with pytest.raises(DataError, match="0 parameters"):
        train(torch.nn.Identity(), squares, TrainingOptions(max_iter=1), seed=0)


def test_an_objective_must_say_its_loss():
    with pytest.raises(TypeError, match="abstract"):
        Objective()
