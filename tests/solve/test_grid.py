"""Steps are counted in integers and land on the requested times."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosde.errors import DataError, ShapeError
from neurosde.solve.grid import check_dt, check_times, make_grid

CPU = torch.device("cpu")


def grid_of(ts, dt, n_series=1):
    ts = check_times(ts, n_series, CPU)
    return make_grid(ts, check_dt(dt, ts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dt", "count"), [(0.01, 100), (0.001, 1000), (0.1, 10), (1 / 3, 3), (0.3, 4)])
def test_the_count_is_the_one_a_person_would_give(dtype, dt, count):
    assert grid_of(torch.tensor([0.0, 1.0], dtype=dtype), torch.tensor(dt, dtype=dtype)).length == count


@pytest.mark.parametrize("ts", [[0.5, 1.7], [0.5, 1.1, 1.7]], ids=["one interval", "two"])
def test_step_ends_have_all_digits_on_every_road(ts):
    """Quotients of integers are float32 in torch: ends were 3e-8 off. Each road has the same bits."""
    shared = grid_of(torch.tensor(ts, dtype=torch.float64), 0.07)
    own = grid_of(torch.tensor([ts, [0.0, *ts[1:]]], dtype=torch.float64), 0.07, 2)
    known = math.nan if len(ts) == 2 else ts[2]
    padded = grid_of(torch.tensor([[*ts[:2], known], [*ts[:2], known]], dtype=torch.float64), 0.07, 2)
    per_interval = shared.length // (len(ts) - 1)
    exact = [ts[0] + 1.2 * i / (per_interval * (len(ts) - 1)) for i in range(shared.length + 1)]
    assert torch.allclose(shared.times, torch.tensor(exact, dtype=torch.float64), rtol=1e-15, atol=0)
    assert torch.equal(shared.times, own.times[0, : len(exact)])
    assert torch.equal(shared.times, padded.times[1])


def test_a_running_sum_of_steps_would_take_one_too_many():
    t, steps = torch.zeros(()), 0
    while t < 1.0:
        t, steps = t + 0.01, steps + 1
    assert steps == 101


def test_a_fine_float32_grid_takes_one_step_an_interval():
    assert grid_of(torch.linspace(0, 1, 101), 0.01).length == 100


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    gaps=st.lists(st.lists(st.floats(1e-3, 5.0), min_size=0, max_size=5), min_size=1, max_size=4),
    dt=st.floats(0.01, 1.0),
    start=st.floats(-100.0, 100.0),
)
def test_every_requested_time_is_the_end_of_a_step(gaps, dt, start):
    width = max(map(len, gaps)) + 1
    ts = torch.full((len(gaps), width), math.nan, dtype=torch.float64)
    for i, row in enumerate(gaps):
        ts[i, : len(row) + 1] = start + torch.tensor([0.0, *row], dtype=torch.float64).cumsum(0)
    ts = check_times(ts, len(gaps), CPU)
    grid = make_grid(ts, torch.tensor(dt, dtype=torch.float64))
    known = ~torch.isnan(ts)
    assert bool((grid.save[~known] == -1).all())
    reached = grid.times.gather(1, grid.save.clamp(min=0))
    assert torch.equal(reached[known], ts[known])
    steps = grid.times.diff()
    assert float(steps.min() if steps.numel() else 0.0) >= 0
    assert float(steps.max() if steps.numel() else 0.0) <= dt + 2e-4 * dt + 1e-9
    assert grid.n_steps.tolist() == [int((row > 0).sum()) for row in steps]


@pytest.mark.parametrize(
    ("ts", "message"),
    [
        ([0.0, 0.0, 1.0], r"ts\[0\] = 0.0 is not followed by a later one"),
        ([0.0, 2.0, 1.0], r"ts\[1\] = 2.0 is not followed by a later one"),
        ([0.0, math.inf], r"ts\[1\] = inf is infinite"),
        ([0.0, math.nan, 1.0], r"ts\[2\] = 1.0 follows a missing time"),
        ([0.0, 1.0, math.nan], r"ts\[2\] is missing"),
        ([math.nan, 1.0], r"ts\[0\] = nan is missing"),
    ],
)
def test_unusable_times_are_named(ts, message):
    with pytest.raises(DataError, match=message):
        check_times(ts, 1, CPU)


def test_the_shape_of_times_is_checked():
    for bad in (torch.zeros(0), torch.zeros(3, 2), torch.zeros(1, 1, 2)):
        with pytest.raises(ShapeError, match="ts: expected"):
            check_times(bad, 2, CPU)


@pytest.mark.parametrize("dt", [0.0, -1.0, math.nan, math.inf])
def test_an_unusable_step_is_refused(dt):
    with pytest.raises(DataError, match="dt: expected a positive finite step"):
        check_dt(dt, torch.tensor([0.0, 1.0], dtype=torch.float64))


def test_a_step_longer_than_the_solve_is_refused():
    with pytest.raises(DataError, match="longer than the whole solve"):
        check_dt(2.0, torch.tensor([0.0, 1.0], dtype=torch.float64))
    with pytest.raises(ShapeError, match="dt: expected a number or one a series"):
        check_dt(torch.ones(3), torch.tensor([[0.0, 1.0]], dtype=torch.float64))
