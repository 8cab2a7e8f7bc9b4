"""A million increments at random times: nothing is kept, and no query knows of another."""

import gc
import tracemalloc

import pytest
import torch

from neurosde.noise import BrownianPath

KEPT = 2**16  # bytes that the interpreter may hold on to for its own reasons


few_and_many = pytest.mark.parametrize(
    ("series", "queries"), [(500, 40), pytest.param(5_000, 200, marks=pytest.mark.slow)]
)


def path(series, first=0):
    keys = torch.arange(first, first + series)
    return BrownianPath(0.0, 3.0, (series, 1), seed=7, levy="space-time", tol=2.0**-14, series=keys)


def intervals(queries):
    """Random times, the same for all series; a third of them nested in the one before."""
    generator = torch.Generator().manual_seed(0)
    ends = 3 * torch.rand(queries, 2, generator=generator, dtype=torch.float64).sort(-1).values
    inner = ends[:-1, :1] + (ends[:-1, 1:] - ends[:-1, :1]) * torch.tensor([0.3, 0.7], dtype=torch.float64)
    ends[1::3] = inner[::3][: len(ends[1::3])]
    return [(a, b) for a, b in ends.tolist() if b - a > 2.0**-12]


def in_tensors():
    """Bytes of all tensors that Python can see."""
    gc.collect()
    return sum(x.untyped_storage().nbytes() for x in gc.get_objects() if type(x) is torch.Tensor)


def growth(query, asked):
    """Bytes in tensors and in Python's own objects that the queries leave behind; the first few warm up."""
    for start, end in asked[:5]:
        query(start, end)
    tensors = in_tensors()
    tracemalloc.start()
    try:
        for start, end in asked[5:60]:
            query(start, end)
        gc.collect()
        objects = tracemalloc.get_traced_memory()[0]
        for start, end in asked[60:]:
            query(start, end)
        gc.collect()
        return in_tensors() - tensors, tracemalloc.get_traced_memory()[0] - objects
    finally:
        tracemalloc.stop()


class Remembering:
    """The twin that keeps every interval it has been asked for, as a tree of nodes does."""

    def __init__(self, series):
        self.path, self.known = path(series), {}

    def increment(self, start, end):
        if (start, end) not in self.known:
            self.known[start, end] = self.path.increment(start, end)
        return self.known[start, end]


@few_and_many
def test_many_increments_leave_nothing_behind(series, queries):
    asked = intervals(queries)
    assert len(asked) > 0.95 * queries
    tensors, objects = growth(path(series).increment, asked)
    assert tensors == 0
    assert objects < KEPT


def test_a_path_that_remembers_is_noticed():
    tensors, objects = growth(Remembering(500).increment, intervals(40))
    assert tensors > 25 * 500 * 8
    assert tensors + objects > KEPT


def bits(increment):
    """All bits of the answer."""
    return increment.W.numpy().tobytes() + increment.H.numpy().tobytes()


@few_and_many
def test_no_query_knows_of_another(series, queries):
    """In order, in another order on a new path, and one series alone: the same bits."""
    asked, first, second, alone = intervals(queries), path(series), path(series), path(1, first=series - 1)
    answers = [hash(bits(first.increment(*times))) for times in asked]
    for k in torch.randperm(len(asked), generator=torch.Generator().manual_seed(1)).tolist():
        again = second.increment(*asked[k])
        assert hash(bits(again)) == answers[k]
        if k % 20 == 0:
            one = alone.increment(*asked[k])
            assert torch.equal(one.W, again.W[-1:])
            assert torch.equal(one.H, again.H[-1:])
