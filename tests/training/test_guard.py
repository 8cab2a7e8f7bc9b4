"""Non-finite losses and gradients are skipped and counted; interruptions leave usable weights."""

import math

import pytest
import torch
from torch import nn

from neurosde.errors import NotConvergedError, SolveError
from neurosde.training import Objective, TrainingOptions, TrainingRecord, train


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Faulty(Objective):
    """Calls a function of the call's number before (and with) the true loss."""

    def __init__(self, inner, fault):
        self.inner, self.fault, self.n_samples, self.calls = inner, fault, inner.n_samples, 0

    def loss(self, module, index, seed):
        self.calls += 1
        return self.fault(self.calls, self.inner.loss(module, index, seed))


class _BadGradient(torch.autograd.Function):
    """Finite forwards, NaN backwards: a loss that looks healthy."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.nan


def nan_loss(call, loss):
    return loss * math.nan


def nan_gradient(call, loss):
    return _BadGradient.apply(loss)


def inf_loss(call, loss):
    return loss / 0.0


def failed_solve(call, loss):
    raise SolveError("series 0 left the finite numbers")


FAULTS = [nan_loss, nan_gradient, inf_loss, failed_solve]


def unguarded(module, objective, options, seed):
    """The broken twin: the same updates without the guard."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=options.learning_rate, weight_decay=0.0)
    for _ in range(options.max_iter):
        optimizer.zero_grad()
        objective.loss(module, torch.arange(objective.n_samples), 0).backward()
        optimizer.step()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_batch_is_skipped_counted_and_changes_nothing(network, data, squares_class, fault):
    """Without noise every call is alike: 8 calls of which 3 and 4 are bad equal 6 good ones."""
    inner = squares_class(*data)
    options = TrainingOptions(max_iter=8, learning_rate=0.02)
    module, clean = network(), network()
    faulty = Faulty(inner, lambda call, loss: fault(call, loss) if call in (3, 4) else loss)
    record = train(module, faulty, options, seed=0)
    train(clean, inner, TrainingOptions(max_iter=6, learning_rate=0.02), seed=0)
    assert (record.n_skipped, record.n_updates) == (2, 6)
    assert [row["skipped"] for row in record.history] == [0, 0, 1, 1, 0, 0, 0, 0]
    assert [row["loss"] is None for row in record.history] == [False, False, True, True, *[False] * 4]
    assert torch.equal(weights(module), weights(clean))


@pytest.mark.parametrize("fault", [nan_loss, nan_gradient])
def test_the_twin_without_the_guard_goes_nan(network, data, squares_class, fault):
    inner = squares_class(*data)
    module = network()
    faulty = Faulty(inner, lambda call, loss: fault(call, loss) if call == 3 else loss)
    unguarded(module, faulty, TrainingOptions(max_iter=8), seed=0)
    assert weights(module).isnan().any()


@pytest.mark.parametrize("fault", FAULTS)
def test_too_many_failures_restore_the_last_finite_weights(network, data, squares_class, fault):
    inner = squares_class(*data)
    options = TrainingOptions(max_iter=100, max_failures=4)
    module, healthy = network(), network()
    faulty = Faulty(inner, lambda call, loss: fault(call, loss) if call > 5 else loss)
    record = TrainingRecord()
    with pytest.raises(NotConvergedError, match=r"5 batches in a row.*iteration 10.*max_failures=4"):
        train(module, faulty, options, seed=0, record=record)
    # Call 5 is the last with a finite loss: the weights are those that it saw, four updates old.
    train(healthy, inner, TrainingOptions(max_iter=4), seed=0)
    assert torch.equal(weights(module), weights(healthy))
    assert record.stopped == "not converged"
    assert (record.n_updates, record.n_skipped, len(record.history)) == (5, 5, 9)
    assert not module.training


def test_a_run_without_one_finite_batch_does_not_pass_as_trained(network, data, squares_class):
    module = network()
    with pytest.raises(NotConvergedError, match="all 3 batches"):
        train(module, Faulty(squares_class(*data), nan_loss), TrainingOptions(max_iter=3), seed=0)
    assert torch.equal(weights(module), weights(network()))


def test_exploding_weights_are_taken_back(network, data, squares_class):
    """An update that overflows is only seen by the next loss; at the end of a run there is no next loss."""
    inner = squares_class(*data)

    class Exploding(Faulty):
        def loss(self, module, index, seed):
            if self.calls == 4:
                with torch.no_grad():
                    next(module.parameters()).fill_(math.inf)
            return super().loss(module, index, seed)

    module = network()
    with pytest.raises(NotConvergedError):
        train(module, Exploding(inner, lambda call, loss: loss), TrainingOptions(max_iter=50), seed=0)
    assert weights(module).isfinite().all()


def test_a_last_update_that_ruins_the_loss_is_taken_back(network, data, squares_class):
    """One iteration with a learning rate of 1e200: finite weights whose loss overflows."""
    module = network()
    options = TrainingOptions(max_iter=1, learning_rate=1e200, weight_decay=0.0)
    train(module, squares_class(*data), options, seed=0)
    assert torch.equal(weights(module), weights(network()))
    twin = network()
    unguarded(twin, squares_class(*data), options, seed=0)
    assert weights(twin).isfinite().all()
    assert not squares_class(*data).loss(twin, torch.arange(60), 0).isfinite()


def test_running_means_survive_a_skipped_batch():
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1, device="meta").to_empty(device="cpu"))
    nn.init.ones_(module[1].weight)
    nn.init.zeros_(module[1].bias)

    class Poisoned(Objective):
        n_samples = 4

        def loss(self, module, index, seed):
            x = torch.arange(8.0).reshape(4, 2)[index]
            return module(x * math.nan if 0 in index else x).square().mean()

    train(module, Poisoned(), TrainingOptions(max_iter=3, batch_size=2), seed=0)
    assert module[0].running_mean.isfinite().all()
    assert module[0].running_var.isfinite().all()


def test_ctrl_c_leaves_the_last_finite_weights_and_a_record(network, data, squares_class):
    inner = squares_class(*data)

    def interrupt(call, loss):
        if call == 7:
            raise KeyboardInterrupt
        return loss

    module, healthy, record = network(), network(), TrainingRecord()
    with pytest.raises(KeyboardInterrupt):
        train(module, Faulty(inner, interrupt), TrainingOptions(max_iter=50), seed=0, record=record)
    train(healthy, inner, TrainingOptions(max_iter=5), seed=0)
    assert torch.equal(weights(module), weights(healthy))  # those that the last finite loss was seen at
    assert (record.stopped, record.n_iter, len(record.history)) == ("interrupted", 6, 6)
    assert not module.training


def test_ctrl_c_under_early_stopping_leaves_the_best_weights(network, squares):
    def interrupt(call, loss):
        if call == 40:
            raise KeyboardInterrupt
        return loss

    objective = Faulty(squares, interrupt)
    objective.score = squares.score
    module, record = network(), TrainingRecord()
    options = TrainingOptions(max_iter=500, early_stopping=True, learning_rate=0.3, n_iter_no_change=100)
    with pytest.raises(KeyboardInterrupt):
        train(module, objective, options, seed=0, record=record)
    from neurosde.training import hold_back

    held = torch.from_numpy(hold_back(60, 0.1, seed=0)[1])
    assert squares.score(module, held) == min(row["score"] for row in record.history)


def test_a_held_back_score_that_is_not_finite_is_no_improvement(network, squares):
    objective = Faulty(squares, lambda call, loss: loss)
    objective.score = lambda module, index: math.nan
    record = train(network(), objective, TrainingOptions(max_iter=50, early_stopping=True), seed=0)
    assert record.stopped == "no improvement"
    assert [row["score"] for row in record.history] == [None] * 10
