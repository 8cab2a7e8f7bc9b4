"""Normals made by compiled code are those of eager code, but for the last bits."""

import pytest
import torch

from neurosde.noise import BrownianPath, StepNoise

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
