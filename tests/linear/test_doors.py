"""Arguments of the wrong kind: one sentence each that names the argument."""

import math
import re

import pytest
import torch

from neurosde.errors import DataError, NeuroSDEError, ShapeError
from neurosde.linear import Gaussian, LinearSDE, linear_transition

SDE = LinearSDE([[-1.0]])
UNIT, SEEN = [0.0, 1.0], [[1.0], [2.0]]
NO_NUMBERS = [None, "a", ["a"], {}, [[1.0, 2.0], [3.0]], [1j], torch.tensor([1j]), True]


def says(sentence, call, error=NeuroSDEError):
    with pytest.raises(error, match=re.escape(sentence)):
        call()


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_refused_by_name(value):
    if value is not None:  # which is the default of these
        says("b: expected a vector (1,)", lambda: LinearSDE([[-1.0]], value), DataError)
        says("L: expected a matrix (1, noise)", lambda: LinearSDE([[-1.0]], None, value), DataError)
        says("series: expected", lambda: SDE.sample([[1.0]], UNIT, series=value))
    says("A: expected a matrix (state, state)", lambda: LinearSDE(value), DataError)
    says(
        "A: expected a matrix (state, state)",
        lambda: linear_transition(value, [0.0], [[1.0]], 1.0),
        DataError,
    )
    says("duration: expected lengths of time", lambda: SDE.transition(value), DataError)
    says("y0: expected states (*batch, 1)", lambda: SDE.sample(value, UNIT), DataError)
    says("ts: expected times (time,)", lambda: SDE.sample([[1.0]], value), DataError)
    says("query: expected times (time,)", lambda: SDE.predict(UNIT, SEEN, value), DataError)
    for method in (SDE.filter, SDE.smooth, SDE.log_likelihood):
        says("times: expected times (time,)", lambda method=method: method(value, SEEN), DataError)
        says("values: expected numbers", lambda method=method: method(UNIT, value), DataError)
    for pair in ((value, [[1.0]]), ([[1.0]], value)):
        says("observation: expected a pair (C, R)", lambda pair=pair: SDE.filter(UNIT, SEEN, pair), DataError)
    for pair in ((value, [[1.0]]), ([1.0], value)):
        says("initial: expected a pair", lambda pair=pair: SDE.filter(UNIT, SEEN, initial=pair), DataError)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_laws_of_what_is_no_number(value):
    law = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    says("matrix: expected a matrix (..., out, state)", lambda: law.push(value), DataError)
    says("x: expected points (*batch, state)", lambda: law.log_density(value), DataError)
    for call in (
        lambda law: law.sample(3),
        lambda law: law.push([[1.0]]),
        lambda law: law.log_density([0.0]),
    ):
        says("mean: expected numbers", lambda call=call: call(Gaussian(value, torch.eye(1))), DataError)
        says(
            "covariance: expected numbers", lambda call=call: call(Gaussian(torch.zeros(1), value)), DataError
        )


def test_shapes_that_do_not_fit():
    says("A: expected (state, state) of at least one state, got (0, 0)", lambda: LinearSDE(torch.zeros(0, 0)))
    fitting = {"A": torch.zeros(2, 2), "b": torch.zeros(2), "L": torch.ones(2, 1)}
    for name, odd in (("A", torch.zeros(2, 3)), ("b", torch.zeros(3)), ("L", torch.ones(3, 1))):
        given = {**fitting, name: odd}
        says(f"{name}: expected", lambda given=given: linear_transition(*given.values(), 1.0), ShapeError)
    law = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    says("matrix: expected (..., out, 2) = (..., out, state), got (1, 3)", lambda: law.push(torch.ones(1, 3)))
    says("x: expected (*batch, 2) = (*batch, state), got (3,)", lambda: law.log_density(torch.zeros(3)))
    says("x: expected (*batch, 2) = (*batch, state), got ()", lambda: law.log_density(0.0))
    says("Gaussian: expected a mean (*batch, state) and a covariance",
         lambda: Gaussian(torch.zeros(2), torch.eye(3)).sample(1), ShapeError)  # fmt: skip


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_entries_that_are_not_finite(bad):
    says(f"A: expected finite entries, entry [0, 0] is {bad}",
         lambda: linear_transition([[bad]], [0.0], [[1.0]], 1.0), DataError)  # fmt: skip
    if bad == math.inf:
        law = Gaussian(torch.zeros(2), torch.eye(2))
        says("x[1] is infinite", lambda: law.log_density([0.0, bad]), DataError)


def test_lists_and_single_precision_are_brought_to_double():
    law, exact = Gaussian([0.0], [[4.0]]), Gaussian(torch.zeros(1).double(), torch.full((1, 1), 4.0).double())
    assert torch.equal(law.sample(5, seed=0), exact.sample(5, seed=0))
    assert torch.equal(law.log_density([1.0]), exact.log_density(torch.ones(1).double()))
    assert torch.equal(law.push([[2.0]]).covariance, exact.push(torch.full((1, 1), 2.0)).covariance)
    listed = linear_transition([[-1.0]], [0.0], [[1.0]], 2.0)
    assert all(torch.equal(a, b) for a, b in zip(listed, SDE.transition(2.0), strict=True))
