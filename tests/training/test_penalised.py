"""A penalised loss: weighed as scheduled, reported apart, no part of the held-back score, resumed exactly."""

import dataclasses

import numpy as np
import pytest
import torch

from neurosde.errors import DataError, ShapeError
from neurosde.training import Objective, Penalised, Schedule, TrainingOptions, train


class Pulled(Objective):
    """``(w - 1)^2`` with the penalty ``w^2``: at weight p the minimum is ``1 / (1 + p)``."""

    n_samples = 4

    def __init__(self, penalised=True):
        self.penalised = penalised

    def loss(self, module, index, seed):
        w = module.weight
        loss = (w - 1).square()
        return Penalised(loss, w.square()) if self.penalised else loss


class Weight(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0, dtype=torch.float64))


def weight():
    return Weight()


OPTIONS = TrainingOptions(max_iter=300, learning_rate=0.1, schedule="cosine", clip_norm=None)


@pytest.mark.parametrize("p", [0.0, 0.5, 3.0])
def test_the_minimum_is_that_of_loss_and_weighed_penalty(p):
    module = weight()
    record = train(module, Pulled(), dataclasses.replace(OPTIONS, penalty_weight=p), seed=0)
    w = module.weight.item()
    assert w == pytest.approx(1 / (1 + p), abs=1e-4)
    assert record.history[-1]["loss"] == pytest.approx((w - 1) ** 2, abs=1e-6)  # without the penalty
    assert record.history[-1]["penalty"] == pytest.approx(w**2, abs=1e-6)


def test_the_weight_moves_as_scheduled_within_an_epoch_too():
    seen = []

    class Watching(Pulled):
        def loss(self, module, index, seed):
            parts = super().loss(module, index, seed)
            parts.penalty.register_hook(lambda slope: seen.append(slope.item()))
            return parts

    schedule = Schedule("exponential", 8.0, 1.0)
    options = TrainingOptions(max_iter=3, batch_size=2, penalty_weight=schedule)
    record = train(weight(), Watching(), options, seed=0)
    expected = [schedule.at(step, 3) for step in (0, 0.5, 1, 1.5, 2, 2.5)]
    np.testing.assert_allclose(seen, expected, rtol=1e-12)
    weights = [row["penalty_weight"] for row in record.history]
    np.testing.assert_allclose(weights, expected[1::2], rtol=1e-12)  # of the report's last batch


def test_without_a_penalty_nothing_changes():
    plain, weighed = weight(), weight()
    records = [
        train(plain, Pulled(False), TrainingOptions(max_iter=9), seed=0),
        train(weighed, Pulled(False), TrainingOptions(max_iter=9, penalty_weight=5.0), seed=0),
    ]
    assert torch.equal(plain.weight, weighed.weight)
    assert records[0].history == records[1].history
    assert "penalty" not in records[0].history[0]


def test_the_held_back_score_leaves_the_penalty_out():
    module = weight()
    options = TrainingOptions(max_iter=1, early_stopping=True, validation_fraction=0.5, penalty_weight=9.0)
    record = train(module, Pulled(), options, seed=0)
    assert record.history[0]["score"] == pytest.approx((module.weight.item() - 1) ** 2)


def test_a_penalty_that_is_not_finite_or_no_scalar_is_seen():
    class Broken(Pulled):
        value = torch.nan

        def loss(self, module, index, seed):
            parts = super().loss(module, index, seed)
            return parts._replace(penalty=parts.penalty * torch.tensor(self.value))

    module = weight()
    with pytest.raises(Exception, match="non-finite loss"):
        train(module, Broken(), TrainingOptions(max_iter=1), seed=0)
    assert module.weight.item() == 3.0
    Broken.value = [1.0, 2.0]
    with pytest.raises(ShapeError, match="scalar"):
        train(module, Broken(), TrainingOptions(max_iter=1), seed=0)
    with pytest.raises(DataError, match="penalty_weight must be a finite number >= 0 or a Schedule"):
        TrainingOptions(penalty_weight="linear")


def test_killed_and_resumed_with_a_schedule_is_bit_identical(tmp_path):
    """Ctrl-C in the middle; the weight goes on where it was, not from its start."""
    options = TrainingOptions(
        max_iter=20, penalty_weight=Schedule("linear", 4.0, 0.0), checkpoint_every=0, checkpoint=tmp_path
    )
    expected = weight()
    whole = train(expected, Pulled(), dataclasses.replace(options, checkpoint=None), seed=0)

    class Killed(Pulled):
        calls = 0

        def loss(self, module, index, seed):
            Killed.calls += 1
            if Killed.calls == 12:
                raise KeyboardInterrupt
            return super().loss(module, index, seed)

        def fingerprint(self):
            return Pulled().fingerprint()

    with pytest.raises(KeyboardInterrupt):
        train(weight(), Killed(), options, seed=0)
    module = weight()
    record = train(module, Pulled(), options, seed=0)
    assert record.history == whole.history
    assert torch.equal(module.weight, expected.weight)
    other = dataclasses.replace(options, penalty_weight=Schedule("linear", 4.0, 1.0))
    train(weight(), Pulled(), other, seed=0)
    assert len(list(tmp_path.iterdir())) == 2  # another schedule is another run
