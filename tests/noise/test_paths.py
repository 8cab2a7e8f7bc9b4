"""Control paths against torchcde."""

import pytest
import torch
import torchcde

from neurosde.errors import DataError, ShapeError
from neurosde.paths import ConstantPath, HermitePath, LinearPath, as_path


@pytest.fixture
def knots():
    generator = torch.Generator().manual_seed(0)
    times = torch.tensor([0.0, 0.4, 1.0, 1.3, 2.0], dtype=torch.float64)
    return times, torch.randn(3, 5, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["hermite", "linear"])
def test_paths_equal_torchcde(kind, knots):
    times, values = knots
    if kind == "hermite":
        theirs = torchcde.CubicSpline(
            torchcde.hermite_cubic_coefficients_with_backward_differences(values, times), times
        )
        ours = HermitePath(times, values)
    else:
        theirs = torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(values, times), times)
        ours = LinearPath(times, values)
    foreign = as_path(theirs)
    for t in (0.0, 0.2, 0.4, 0.77, 1.9, 2.0):
        t = torch.tensor(t, dtype=torch.float64)
        assert torch.allclose(ours.evaluate(t), theirs.evaluate(t), atol=1e-12)
        assert torch.allclose(foreign.evaluate(t), theirs.evaluate(t))
        if float(t) not in (0.4, 2.0):  # at a knot torchcde takes the slope from the left
            assert torch.allclose(ours.derivative(t), theirs.derivative(t), atol=1e-12)


def test_series_with_their_own_knots_equal_each_alone(knots):
    times, values = knots
    own = torch.stack([times, times * 2, times + 1])
    path = HermitePath(own, values)
    t = torch.tensor([[0.5], [1.1], [2.5]], dtype=torch.float64)
    alone = [HermitePath(own[i], values[i : i + 1]).evaluate(t[i, 0]) for i in range(3)]
    assert torch.allclose(path.evaluate(t), torch.cat(alone))


def test_the_hermite_path_does_not_look_ahead(knots):
    times, values = knots
    changed = values.clone()
    changed[:, 3:] += 10.0
    t = torch.tensor(0.9, dtype=torch.float64)
    assert torch.equal(HermitePath(times, values).evaluate(t), HermitePath(times, changed).evaluate(t))


def test_increment_is_the_difference(knots):
    path = LinearPath(*knots)
    a, b = torch.tensor(0.1), torch.tensor(1.1)
    assert torch.equal(path.increment(a, b), path.evaluate(b) - path.evaluate(a))


def test_what_cannot_be_a_path_is_refused(knots):
    times, values = knots
    with pytest.raises(ShapeError, match="value: expected"):
        ConstantPath(torch.zeros(3))
    with pytest.raises(DataError, match="not followed by a later one"):
        LinearPath(times.flip(0), values)
    with pytest.raises(ShapeError, match="times: expected"):
        LinearPath(times[:4], values)
    broken = values.clone()
    broken[1, 2, 0] = torch.nan
    with pytest.raises(DataError, match=r"values\[1, 2, 0\] is not finite"):
        HermitePath(times, broken)
    with pytest.raises(DataError, match="path: expected"):
        as_path("spline")
    spline = torchcde.LinearInterpolation(torchcde.linear_interpolation_coeffs(values, times), times)
    with pytest.raises(DataError, match="one time for all series"):
        as_path(spline).evaluate(torch.tensor([[0.1], [0.2], [0.3]]))
