"""Normals made by compiled code are those of eager code, but for the last bits."""

import pytest
import torch

from neurosde.noise import BrownianPath, FreshNoise, StepNoise

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler warns of its own future


def close(one, two, dtype):
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    pairs = [(a, b) for a, b in zip(one, two, strict=True) if a is not None]
    return all(a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=0.0) for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps(dtype):
    """Of batches that fit one block and that do not, an odd number of channels, and steps begun later."""
    times = torch.linspace(0, 1, 18, dtype=torch.float64)
    for levy, shape in (("none", (7, 3)), ("area", (2, 4)), ("none", (3000, 5))):
        noise = StepNoise(shape, seed=-3, levy=levy, dtype=dtype)
        drawn, again = noise.increments(times, first=5), noise.compiled().increments(times, first=5)
        assert close(drawn, again, dtype)
        assert drawn.W.is_contiguous()
        assert again.W.is_contiguous()
        late = noise.compiled().increments(times, first=6)
        assert not close(drawn, late, dtype)


@pytest.mark.parametrize("own", [False, True])
def test_paths(own):
    times = torch.cat((torch.linspace(0, 0.5, 9, dtype=torch.float64), torch.tensor([0.61, 0.7, 0.71, 1.0])))
    for levy in ("none", "space-time"):
        path = BrownianPath(0.0, 1.0, (5, 3), seed=1, levy=levy)
        grid = times.expand(5, -1) if own else times
        assert close(path.increments(grid), path.compiled().increments(grid), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levy", ["none", "space-time", "space-time-time"])
@pytest.mark.parametrize("own", [False, True])
def test_a_loop_that_draws_for_itself_meets_the_same_noise(levy, dtype, own):
    """One step at a time, as a compiled loop does; a twin that takes the step beside it does not."""
    n_series, n_noise, n_steps = 6, 3, 5
    times = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64) ** 2
    grid = times * torch.linspace(0.5, 1, n_series, dtype=torch.float64).unsqueeze(-1) if own else times
    noise = StepNoise((n_series, n_noise), seed=-7, levy=levy, dtype=dtype, series=torch.arange(6) * 3 - 4)
    drawn, draws = noise.increments(grid, first=2), noise.compiled().draws()
    heads = draws.heads()
    for step in range(n_steps):
        one = draws.increment(draws.key(heads, torch.tensor(step + 2)), drawn.dt[step], dtype)
        assert torch.equal(one.dt, drawn.dt[step])
        assert close(drawn.at(step), one, dtype)
        late = draws.increment(draws.key(heads, torch.tensor(step + 3)), drawn.dt[step], dtype)
        assert not close(drawn.at(step), late, dtype)


def test_what_a_loop_cannot_draw_is_tabled():
    assert StepNoise((4, 2), levy="area").draws() is None
    assert StepNoise((4, 2), dtype=torch.bfloat16).draws() is None
    assert StepNoise((1, 2)).draws() is None  # one pair of normals
    assert StepNoise((1, 3)).draws() is not None
    assert BrownianPath(0.0, 1.0, (4, 2), seed=0).compiled().draws() is None
    assert FreshNoise((4, 2)).draws() is None  # torch's own normals
    assert FreshNoise((4, 2)).compiled().draws() is not None
