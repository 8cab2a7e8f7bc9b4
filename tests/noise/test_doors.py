"""Arguments of the wrong kind: one sentence each that names the argument, at every door of the noise."""

import math
import re

import numpy as np
import pytest
import torch

from neurosde.errors import DataError, NeuroSDEError, ShapeError
from neurosde.noise import BrownianPath, FreshNoise, StepNoise, chain, normal, normals, series_keys

NAN, INF = math.nan, math.inf
PATH = {"t0": 0.0, "t1": 1.0, "shape": (3, 2), "seed": 0}
SOURCES = [
    BrownianPath(**PATH, dtype=torch.float64),
    StepNoise((3, 2), seed=0, dtype=torch.float64),
    FreshNoise((3, 2), seed=0, dtype=torch.float64),
]
KINDS = [
    lambda **more: BrownianPath(**{**PATH, **more}),
    lambda **more: StepNoise(**{"shape": (3, 2), **more}),
    lambda **more: FreshNoise(**{"shape": (3, 2), **more}),
]


def named(value):
    return type(value).__name__


def says(sentence, call, error=NeuroSDEError):
    with pytest.raises(error, match=re.escape(sentence)):
        call()


@pytest.mark.parametrize("end", [None, "a", 1j, True, {}, [None], [0.0, [1.0]]], ids=repr)
def test_ends_that_are_no_numbers(end):
    for name in ("t0", "t1"):
        says(
            f"{name}: expected a number or one a series (3,), got", lambda name=name: KINDS[0](**{name: end})
        )


ENDS = [
    ({"t0": [0.0, 0.0]}, "t0: expected a number or one a series (3,), got (2,)"),
    ({"t1": [1.0, NAN, 1.0]}, "t1: expected finite times, got nan for series 1"),
    ({"t0": [0.0, 0.0, INF]}, "t0: expected finite times, got inf for series 2"),
    (
        {"t1": [1.0, 0.0, -1.0]},
        "t1: expected every end after its start, by a finite time; series 1 spans 0.0",
    ),
    ({"t0": -1e308, "t1": 1e308}, "by a finite time; series 0 spans inf"),
    ({"tol": "a"}, "tol: expected a positive length of time, or one a series, got 'a'"),
    ({"tol": 1j}, "tol: expected a positive length of time, or one a series, got 1j"),
    ({"tol": True}, "tol: expected a positive length of time, or one a series, got True"),
]


@pytest.mark.parametrize(("arguments", "sentence"), ENDS)
def test_ends_and_leaves_that_cannot_be_used(arguments, sentence):
    says(sentence, lambda: KINDS[0](**arguments))


def test_a_span_of_more_leaves_than_a_number_counts_has_the_deepest_tree():
    assert KINDS[0](tol=5e-324).levels == KINDS[0](tol=1e-300).levels == 40


SHAPES = [
    None,
    3,
    "ab",
    "12",
    (3, "a"),
    (NAN, 2),
    (INF, 2),
    (2.5, 2),
    (True, 2),
    (1, 2, 3),
    (0, 2),
    (2, 10**30),
]


@pytest.mark.parametrize("kind", KINDS, ids=["path", "step", "fresh"])
@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_shapes(kind, shape):
    says("shape: expected (series, noise), two positive integers, got", lambda: kind(shape=shape), ShapeError)


@pytest.mark.parametrize(
    "shape", [[3, 2], np.array([3, 2]), torch.tensor([3, 2]), torch.Size([3, 2])], ids=named
)
def test_shapes_as_users_bring_them(shape):
    assert [kind(shape=shape).shape for kind in KINDS] == [(3, 2)] * 3


OPTIONS = [
    ({"levy": []}, "levy: expected one of 'none', 'space-time', 'space-time-time', 'area', got []"),
    ({"levy": {}}, "levy: expected one of"),
    ({"levy": None}, "levy: expected one of"),
    ({"dtype": "a"}, "dtype: expected a floating point type such as torch.float32, got 'a'"),
    ({"dtype": torch.int64}, "dtype: expected a floating point type such as torch.float32, got torch.int64"),
    ({"dtype": torch.complex64}, "dtype: expected a floating point type"),
    ({"dtype": torch.bool}, "dtype: expected a floating point type"),
    ({"dtype": []}, "dtype: expected a floating point type"),
    ({"dtype": np.float32}, "dtype: expected a floating point type"),
    ({"device": "a"}, "device: expected one that this machine has, such as \"cpu\", got 'a'"),
    ({"device": 10**6}, "device: expected one that this machine has"),
    ({"device": "cuda:100"}, "device: expected one that this machine has"),
    ({"device": "meta"}, "device: expected one that this machine has"),
    ({"device": 1.5}, "device: expected one that this machine has"),
    ({"device": []}, "device: expected one that this machine has"),
    ({"device": True}, "device: expected one that this machine has"),
]


@pytest.mark.parametrize("kind", KINDS, ids=["path", "step", "fresh"])
@pytest.mark.parametrize(("option", "sentence"), OPTIONS, ids=lambda x: "" if isinstance(x, str) else repr(x))
def test_options_of_a_source(kind, option, sentence):
    says(sentence, lambda: kind(**option), DataError)


SERIES = ["a", ["a", "b", "c"], np.array(["a", "b", "c"]), 1j, torch.tensor([1j, 2j, 3j]), [1.0, 2.0, 3.0],
          [True, False, True], [1, 2], 3, [[1, 2, 3]], [1, 2, 2**70], [1, 2, NAN], {}]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS[:2], ids=["path", "step"])
@pytest.mark.parametrize("series", SERIES, ids=repr)
def test_keys_of_series(kind, series):
    says("series: expected 3 integer keys", lambda: kind(series=series))
    says("neurosde.noise.series_keys makes keys of any ids", lambda: kind(series=series))


@pytest.mark.parametrize("time", [None, "a", 1j, True, {}, [0.0, 0.0], [[0.0, 0.0, 0.0]]], ids=repr)
def test_times_of_one_increment(time):
    path = SOURCES[0]
    says("s: expected a number or one a series (3,), got", lambda: path.increment(time, 1.0))
    says("t: expected a number or one a series (3,), got", lambda: path.increment(0.0, time))


NO_TIMES = [None, "a", 1j, True, {}, ["a"], [[0.0, 1.0], [0.0]], torch.tensor([0.0, 1j]), 0.5,
            torch.tensor(0.5), [[0.0, 1.0]], [[0.0, 1.0]] * 2, [[[0.0, 1.0]]]]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=named)
@pytest.mark.parametrize("times", NO_TIMES, ids=repr)
def test_times_of_steps(source, times):
    sentence = "times: expected increasing times (step + 1,) or (series, step + 1) = (3, step + 1), got"
    says(sentence, lambda: source.increments(times))


@pytest.mark.parametrize("source", SOURCES, ids=named)
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_times_as_users_bring_them(source, own):
    times = [[0.0, 0.25, 1.0]] * 3 if own else [0.0, 0.25, 1.0]
    given = torch.tensor(times, dtype=torch.float64)
    for other in (times, np.array(times), given.float()):
        assert torch.equal(source.increments(other).W, source.increments(given).W)
        assert torch.equal(source.increments(other).dt, source.increments(given).dt)


ODD = [
    ([0.0, NAN, 1.0], "times[1] is nan; expected finite times"),
    ([0.0, 0.5, INF], "times[2] is inf; expected finite times"),
    ([0.0, 0.75, 0.5], "times[2] = 0.5 is before times[1] = 0.75; expected times that do not decrease"),
    ([[0.0, 1.0], [0.0, 1.0], [NAN, 1.0]], "times[2, 0] is nan; expected finite times"),
    ([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], "times[1, 1] = 0.0 is before times[1, 0] = 1.0"),
]


@pytest.mark.parametrize("source", SOURCES[1:], ids=named)
@pytest.mark.parametrize(("times", "sentence"), ODD)
def test_times_that_are_not_finite_or_run_backwards(source, times, sentence):
    says(sentence, lambda: source.increments(times), DataError)


OUTSIDE = [
    (0.0, 1.0, [0.0, NAN, 1.0], "inside the path's [0.0, 1.0], got nan at [1]"),
    (0.0, 1.0, [0.0, 0.5, 2.0], "inside the path's [0.0, 1.0], got 2.0 at [2]"),
    (0.0, [1.0, 2.0, 1.0], [0.0, 1.5], "inside the path's [0.0, 1.0], got 1.5 at [0, 1]"),
    (0.0, [1.0, 2.0, 3.0], [[0.0, 1.0], [0.0, 2.5], [0.0, 3.0]], "the path's [0.0, 2.0], got 2.5 at [1, 1]"),
]


@pytest.mark.parametrize(("t0", "t1", "times", "sentence"), OUTSIDE)
def test_times_outside_a_path(t0, t1, times, sentence):
    says(f"times: expected values {sentence}" if sentence.startswith("inside") else sentence,
         lambda: KINDS[0](t0=t0, t1=t1).increments(times), DataError)  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=named)
@pytest.mark.parametrize("first", [1.5, 3.0, "a", -1, None, True, 10**30, NAN], ids=repr)
def test_numbers_of_steps(source, first):
    says("first: expected the number of a step, 0 or more, got", lambda: source.increments([0.0, 1.0], first),
         DataError)  # fmt: skip


@pytest.mark.parametrize("ids", [None, "abc", b"abc", 3, {}, {1, 2}, [[1, 2]], [[1], [2, 3]]], ids=repr)
def test_ids_of_series(ids):
    says("ids: expected a list or array of ids, integers or strings, one a series (series,), got",
         lambda: series_keys(ids), DataError)  # fmt: skip


@pytest.mark.parametrize("n_channels", [0, -1, 1.5, 2.0, None, "a", True], ids=repr)
def test_numbers_of_channels(n_channels):
    says(
        "n_channels: expected a positive integer, got",
        lambda: normals(torch.arange(3), n_channels),
        DataError,
    )


@pytest.mark.parametrize("key", [None, 3, "a", [1, 2], torch.tensor([1.0]), torch.tensor([1j])], ids=repr)
def test_keys_of_normals(key):
    says("key: expected an int64 tensor, as chain makes them, got", lambda: normals(key, 2), DataError)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, "a"], ids=repr)
def test_types_of_normals(dtype):
    says("dtype: expected a floating point type", lambda: normals(torch.arange(3), 2, dtype), DataError)
    says("dtype: expected a floating point type", lambda: normal(0, 1, dtype=dtype), DataError)
    says("device: expected one that this machine has", lambda: normal(0, 1, device="a"), DataError)


@pytest.mark.parametrize(
    "word", [None, "a", 1.5, [1, 2], torch.tensor([1.0]), torch.tensor([1])[0].int()], ids=repr
)
def test_fields_of_a_key(word):
    sentence = "expected an integer or an int64 tensor, got"
    says(f"key: {sentence}", lambda: chain(word, 1), DataError)
    says(f"fields[1]: {sentence}", lambda: chain(0, 1, word), DataError)
    says(f"seed: {sentence}", lambda: normal(word, 1), DataError)
    says(f"fields[0]: {sentence}", lambda: normal(0, word), DataError)


def test_integers_of_numpy_are_fields():
    assert chain(np.int64(7), np.int32(2)) == chain(7, 2)
