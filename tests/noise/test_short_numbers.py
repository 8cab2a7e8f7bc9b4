"""Noise of 16 bits is that of 32, rounded: not NaN where a uniform is small."""

import pytest
import torch

import neurosde as nsde
from neurosde.noise import BrownianPath, FreshNoise, StepNoise, normals

SHORT = [torch.float16, torch.bfloat16]
TIMES = torch.linspace(0, 1, 17, dtype=torch.float64)


class Decay(nsde.SDE):
    def drift(self, t, y):
        return -y

    def diffusion(self, t, y):
        return 0.5 + 0 * y


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("kind", [StepNoise, BrownianPath])
@pytest.mark.parametrize("levy", ["none", "space-time-time"])
def test_increments_are_rounded(dtype, kind, levy):
    ends = () if kind is StepNoise else (0.0, 1.0)
    short, long = (kind(*ends, (300, 4), seed=1, levy=levy, dtype=d).increments(TIMES) for d in (dtype, None))
    for a, b in zip(short[1:4], long[1:4], strict=True):
        if b is not None:
            assert a.dtype == dtype
            assert float((a.float() - b).abs().max()) < 4 * torch.finfo(dtype).eps * float(b.abs().max())


@pytest.mark.parametrize("dtype", SHORT)
def test_normals_are_rounded(dtype):
    key = torch.arange(5000)
    assert torch.equal(normals(key, 3, dtype), normals(key, 3).to(dtype))


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("noise", [None, StepNoise, BrownianPath, FreshNoise])
def test_short_states_are_solved(dtype, noise):
    ends = (0.0, 1.0) if noise is BrownianPath else ()
    source = None if noise is None else noise(*ends, (50, 3), seed=2, dtype=dtype)
    how = {"seed": 2} if noise is None else {"noise": source}
    ys = nsde.solve(Decay(), torch.ones(50, 3, dtype=dtype), [0.0, 1.0], dt=1 / 16, compile="off", **how).ys
    assert ys.dtype == dtype
    assert bool(torch.isfinite(ys).all())
    assert float(ys[:, -1].float().std()) < 1
