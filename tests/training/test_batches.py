"""Splits, shuffles and keys are functions of the seed and the iteration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurosde.errors import DataError, ShapeError
from neurosde.training.batches import draw_batches, hold_back


@given(
    groups=st.lists(st.integers(0, 6), min_size=2, max_size=40).filter(lambda g: len(set(g)) > 1),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**40),
)
def test_hold_back_never_splits_a_group_and_loses_nothing(groups, fraction, seed):
    groups = np.array(groups)
    training, held = hold_back(len(groups), fraction, seed=seed, groups=groups)
    assert sorted([*training, *held]) == list(range(len(groups)))
    assert training.size
    assert held.size
    assert not set(groups[training]) & set(groups[held])
    if len(held) > len(groups) * fraction + 1:  # no more groups than the fraction asks for
        assert len(held) - np.bincount(groups[held]).max() < np.ceil(fraction * len(groups))


def test_hold_back_takes_the_fraction_rounded_up():
    assert [len(hold_back(30, f, seed=0)[1]) for f in (0.1, 0.11, 0.5, 0.99)] == [3, 4, 15, 29]


def test_hold_back_needs_two_groups_and_a_label_each():
    with pytest.raises(DataError, match="early_stopping"):
        hold_back(3, 0.5, seed=0, groups=np.zeros(3))
    with pytest.raises(ShapeError, match="groups"):
        hold_back(3, 0.5, seed=0, groups=np.zeros(4))


@given(n=st.integers(1, 50), size=st.integers(1, 60), iteration=st.integers(0, 10**6))
def test_an_epoch_takes_each_sample_once(n, size, iteration):
    samples = np.arange(100, 100 + n)
    batches = [batch for batch, _ in draw_batches(samples, size, unit="epoch", seed=3, iteration=iteration)]
    assert sorted(np.concatenate(batches)) == samples.tolist()
    assert max(map(len, batches)) <= size
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_steps_draw_fresh_batches_without_repeats():
    batches = [draw_batches(np.arange(50), 10, unit="step", seed=0, iteration=i) for i in range(20)]
    assert all(len(batch) == 1 and len(set(batch[0][0])) == 10 for batch in batches)
    assert len({tuple(batch[0][0]) for batch in batches}) == 20


@pytest.mark.parametrize("size", [2, 10])
def test_keys_differ_by_seed_iteration_and_batch(size):
    keys = [
        key
        for seed in range(5)
        for iteration in range(20)
        for _, key in draw_batches(np.arange(10), size, unit="epoch", seed=seed, iteration=iteration)
    ]
    assert len(keys) == len(set(keys)) == 100 * (10 // size)
    assert all(0 <= key < 2**63 for key in keys)
