"""A weight over training is its formula, a plain value, and refuses what its shape does not take."""

import dataclasses
import math

import numpy as np
import pytest

from neurosde.errors import DataError
from neurosde.training import Schedule

N = 40
FORMULAS = {
    "constant": (Schedule(start=3.0), lambda t: 3.0),
    "linear": (Schedule("linear", 5.0, 1.0), lambda t: 5.0 - 4.0 * t / N),
    "linear, rising": (Schedule("linear", 0.0, 2.0), lambda t: 2.0 * t / N),
    "exponential": (
        Schedule("exponential", 100.0, 10.0),
        lambda t: math.exp((1 - t / N) * math.log(100.0) + t / N * math.log(10.0)),
    ),
    "inverse": (Schedule("inverse", 2.0, rate=0.1), lambda t: 2.0 / (1.0 + 0.1 * t)),
    "annealing": (
        Schedule("annealing", 7.0, rate=0.99, delay=10),
        lambda t: 7 * max(0, 1 - 0.99 ** (t - 10)),
    ),
    "annealing at once": (Schedule("annealing", rate=0.5), lambda t: 1 - 0.5**t),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_weight_is_the_formula(name):
    schedule, formula = FORMULAS[name]
    times = [0, 0.5, 3, 10, 10.25, 39, N]
    np.testing.assert_allclose([schedule.at(t, N) for t in times], [formula(t) for t in times], rtol=1e-12)


def test_ends_are_met_and_the_way_between_tells_the_shapes_apart():
    shapes = {shape: Schedule(shape, 100.0, 1.0) for shape in ("linear", "exponential")}
    for schedule in shapes.values():
        assert (schedule.at(0, N), schedule.at(N, N)) == (100.0, 1.0)
    assert shapes["linear"].at(N / 2, N) == 50.5
    assert shapes["exponential"].at(N / 2, N) == pytest.approx(10.0)


def test_a_wait_that_is_long_does_not_overflow():
    assert Schedule("annealing", rate=1e-3, delay=1e6).at(0, 10) == 0.0


def test_it_is_a_plain_value():
    schedule = Schedule("inverse", 2.0, rate=0.1)
    assert schedule == Schedule(**dataclasses.asdict(schedule))
    assert hash(schedule) == hash(dataclasses.replace(schedule))
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.start = 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "cosine"}, "shape: expected one of constant, linear, .*got 'cosine'"),
        ({"shape": ["linear"]}, "shape: expected one of"),
        ({"start": -1.0}, "start: expected a finite number >= 0"),
        ({"start": math.nan}, "start: expected"),
        ({"start": True}, "start: expected"),
        ({"start": "1"}, "start: expected"),
        ({"end": 1.0}, "end: a 'constant' schedule takes none"),
        ({"shape": "linear"}, "end: expected a finite number >= 0 .*got None"),
        ({"shape": "linear", "end": 1.0, "rate": 0.5}, "rate: a 'linear' schedule takes none"),
        ({"shape": "exponential", "end": 0.0}, "end: expected a finite number > 0"),
        ({"shape": "exponential", "start": 0.0, "end": 1.0}, "start: expected a finite number > 0"),
        ({"shape": "inverse", "rate": -0.1}, "rate: expected a finite number >= 0"),
        ({"shape": "annealing"}, "rate: expected a finite number > 0 and < 1 .*got None"),
        ({"shape": "annealing", "rate": 1.0}, "rate: expected a finite number > 0 and < 1"),
        ({"shape": "annealing", "rate": 0.5, "delay": -1}, "delay: expected a finite number >= 0"),
    ],
)
def test_what_cannot_be_used_is_named(arguments, message):
    with pytest.raises(DataError, match=message):
        Schedule(**arguments)
