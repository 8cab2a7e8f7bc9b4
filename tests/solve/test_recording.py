"""What a recorder calls gives what it gives by itself; recordings are acted by running the function again."""

import pytest
import torch

from neurosde.solve import recording
from neurosde.solve.recording import Recorder


class Script:
    """Records by remembering what to do again, and into which tensors the results go."""

    def __init__(self, looks=()):
        self.looks, self.calls = list(looks), []

    def rehearse(self, function, arguments):
        self.calls.append("rehearse")
        return function(*arguments), not (self.looks and self.looks.pop(0))

    def record(self, function, arguments):
        self.calls.append("record")
        results = function(*arguments)
        tensors = [x for x in recording._leaves(results) if isinstance(x, torch.Tensor)]
        for x in tensors:
            if not any(x is y for y in recording._leaves(list(arguments))):
                x.fill_(-7.0)  # a recording is not yet computed

        def run():
            self.calls.append("run")
            again = [x for x in recording._leaves(function(*arguments)) if isinstance(x, torch.Tensor)]
            for x, y in zip(tensors, again, strict=True):
                x.copy_(y)

        return results, run


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    recording._unrecordable.clear()
    yield
    recording._unrecordable.clear()


def step(weight, pair, y, flag):
    """Of a tensor that stays, a tuple, one that moves, and what is no tensor."""
    a, b = pair
    return [torch.tanh(y * weight) + a - b, y], (weight, None, flag)


def test_results_are_those_of_the_plain_calls():
    script = Script()
    recorder, weight, y = Recorder(("k",), True, script), torch.tensor([2.0]), torch.ones(3)
    kept = []
    for i in range(6):
        pair = (torch.full((3,), 0.1 * i), torch.zeros(3))
        (y_next, passed), (same, none, flag) = recorder(step, weight, pair, y, "word")
        assert torch.equal(y_next, step(weight, pair, y, "word")[0][0])
        assert passed is y
        assert same is weight
        assert (none, flag) == (None, "word")
        kept.append((y_next, y_next.clone()))
        y = y_next
    assert script.calls == ["rehearse", "record", "run", "run", "run", "run"]
    assert all(torch.equal(x, was) for x, was in kept)  # results are nobody else's memory


def test_a_tensor_that_stays_is_read_where_it_is():
    recorder, weight = Recorder(("k",), True, Script()), torch.tensor([2.0])
    for i in range(5):
        weight.fill_(float(i))
        pair = (torch.zeros(3), torch.zeros(3))
        (y, _), _ = recorder(step, weight, pair, torch.ones(3), 1)
        assert torch.equal(y, torch.tanh(torch.full((3,), float(i))))


def test_a_tensor_that_moves_late_is_met():
    script = Script()
    recorder, weight = Recorder(("k",), True, script), torch.tensor([1.0])
    for i in range(8):
        weight = torch.tensor([5.0]) if i == 4 else weight
        y = torch.full((3,), 0.1 * i)
        (got, _), _ = recorder(step, weight, (y, y), y, 1)
        assert torch.allclose(got, torch.tanh(y * weight))
    assert script.calls.count("record") == 2


@pytest.mark.parametrize("other", [torch.ones(4), torch.ones(3, dtype=torch.float64)])
def test_another_form_has_a_recording_of_its_own(other):
    script = Script()
    recorder = Recorder(("k",), True, script)
    for _ in range(4):
        for y in (torch.ones(3), torch.ones_like(other)):
            (got, _), _ = recorder(step, torch.tensor(2.0, dtype=y.dtype), (y, y), y, 1)
            assert got.dtype == y.dtype
            torch.testing.assert_close(got, torch.tanh(2 * y))
    assert script.calls.count("record") == 2


def test_what_writes_into_a_tensor_that_stays():
    def add(total, x):
        total[0] = x.sum()
        return x + 1

    recorder, total = Recorder(("k",), True, Script()), torch.zeros(2)
    for i in range(5):
        x = torch.full((3,), float(i))
        assert torch.equal(recorder(add, total, x), x + 1)
        assert total[0] == 3 * i


def test_one_look_may_be_the_compilers():
    script = Script(looks=[True])
    recorder = Recorder(("k",), True, script)
    for i in range(5):
        y = torch.full((3,), 0.1 * i)
        recorder(step, torch.tensor([2.0]), (y, y), y, 1)
    assert script.calls[:3] == ["rehearse", "rehearse", "record"]


def test_what_looks_at_values_is_called_as_it_is_from_then_on():
    script = Script(looks=[True] * 9)
    recorder = Recorder(("k",), True, script)
    for i in range(6):
        y = torch.full((3,), 0.1 * i)
        (got, _), _ = recorder(step, torch.tensor([2.0]), (y, y), y, 1)
        torch.testing.assert_close(got, torch.tanh(2 * y))
    assert script.calls == ["rehearse", "rehearse"]
    assert not recorder.on
    assert not Recorder(("k",), True, script).on
    assert Recorder(("other",), True, script).on


def test_an_error_of_the_function_is_its_own():
    def fails(y):
        raise KeyError("mine")

    recorder = Recorder(("k",), True, Script())
    for _ in range(3):
        with pytest.raises(KeyError, match="mine"):
            recorder(fails, torch.ones(1))


def test_recordings_are_given_back():
    recorder = Recorder(("k",), True, Script())
    for i in range(4):
        y = torch.full((3,), 0.1 * i)
        recorder(step, torch.tensor([2.0]), (y, y), y, 1)
    recorder.close()
    assert not recorder._known
