"""Keyed normals: their law, their independence, and that a key is all they depend on."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from neurosde.errors import DataError
from neurosde.noise import as_seed, chain, normal, normals, series_keys

ALPHA = 1e-5


def test_integer_and_tensor_fields_make_the_same_key():
    words = torch.tensor([0, 1, -1, 2**40, -(2**62)])
    for seed in (0, 7, -3, 2**63 - 1):
        by_tensor = chain(seed, words, 5)
        assert [chain(seed, int(word), 5) for word in words] == by_tensor.tolist()


def test_the_law_is_standard_normal():
    z = normals(torch.arange(200_000), 3, torch.float64)
    assert stats.kstest(z[:, 0].numpy(), "norm").pvalue > ALPHA
    flat = z.flatten()
    n = flat.numel()
    quantile = stats.norm.isf(ALPHA / 6)
    assert abs(float(flat.mean())) < quantile / math.sqrt(n)
    assert abs(float(flat.var()) - 1) < quantile * math.sqrt(2 / n)
    assert abs(float((flat**4).mean()) - 3) < quantile * math.sqrt(96 / n)


def lagged_correlations(draw) -> float:
    """Largest correlation, in standard errors, between streams that differ by one in a single field."""
    fields = torch.arange(400)
    grid = [draw(seed, fields[:, None], fields[None, :]) for seed in range(3)]
    n = grid[0].numel()
    pairs = [(grid[0], grid[1]), (grid[0][1:], grid[0][:-1]), (grid[0][:, 1:], grid[0][:, :-1])]
    pairs += [(grid[0][:, 1:], grid[1][:, :-1]), (grid[0][1:, :-1], grid[0][:-1, 1:])]
    return max(abs(float((a * b).mean())) * math.sqrt(a.numel()) for a, b in pairs) if n else 0.0


def test_streams_of_neighbouring_keys_are_independent_and_a_sum_of_fields_is_not():
    quantile = stats.norm.isf(ALPHA / 10)

    def keyed(seed, i, j):
        return normal(seed, i, j, dtype=torch.float64)

    def added(seed, i, j):  # the broken twin: fields are added before they are mixed
        return normal(seed + i + j, dtype=torch.float64)

    assert lagged_correlations(keyed) < quantile
    assert lagged_correlations(added) > 100


def test_a_draw_does_not_depend_on_its_company():
    keys = torch.arange(100)
    assert torch.equal(normals(keys, 5)[17:18], normals(keys[17:18], 5))
    assert torch.equal(normals(keys, 5)[:, :2], normals(keys, 2))


def test_both_dtypes_come_from_the_same_uniforms():
    keys = torch.arange(1000)
    assert torch.allclose(normals(keys, 2).double(), normals(keys, 2, torch.float64), atol=1e-5)


def test_series_keys_are_stable_names():
    assert series_keys(np.array([5, 2])).tolist() == [5, 2]
    assert series_keys(["b", "a"])[1] == series_keys(["a"])[0]
    assert series_keys(["a"])[0] == 1702698405120146464


def test_a_seed_is_an_integer_or_none():
    assert as_seed(None) != as_seed(None)
    for bad in (1.5, True, "x"):
        with pytest.raises(DataError, match="seed: expected an integer or None"):
            as_seed(bad)
