"""torchsde as the oracle: the same increments through both engines."""

import itertools

import pytest
import torch
import torchsde

import neurosde as nsde
from neurosde.noise import AbstractNoise, BrownianIncrement
from neurosde.solve import SRA1, SRK, EulerHeun, Midpoint, Milstein

CASES = [
    ("milstein", Milstein(), "ito", False),
    ("milstein", Milstein(), "stratonovich", False),
    ("milstein", Milstein(derivative_free=True), "ito", True),
    ("midpoint", Midpoint(), "stratonovich", False),
    ("euler_heun", EulerHeun(), "stratonovich", False),
    ("srk", SRK(), "ito", False),
]


class Asked(AbstractNoise):
    """Increments of a torchsde Brownian motion with its space-time integral ``U = int (W_r - W_s) dr``."""

    levy = "space-time"

    def __init__(self, motion, shape):
        self.motion, self.shape = motion, shape

    def increments(self, times, first=0):
        dt = times.diff()
        pairs = [self.motion(a, b, return_U=True) for a, b in itertools.pairwise(times)]
        W = torch.stack([w for w, _ in pairs]) if pairs else dt.new_zeros(0, *self.shape)
        U = torch.stack([u for _, u in pairs]) if pairs else W
        return BrownianIncrement(dt, W, U / dt[:, None, None] - 0.5 * W)


class Theirs(torch.nn.Module):
    """A torchsde SDE with fields that move in time; each entry of the noise depends on its own state."""

    def __init__(self, sde_type, noise_type, speed=1.0):
        super().__init__()
        self.sde_type, self.noise_type, self.speed = sde_type, noise_type, speed

    def f(self, t, y):
        return torch.sin(3 * t) - 0.7 * y

    def g(self, t, y):
        g = (0.3 + 0.1 * torch.cos(2 * y)) * torch.cos(t)
        if self.noise_type == "additive":
            return torch.full((*y.shape, 2), 0.3, dtype=y.dtype) * torch.cos(self.speed * t)
        return g if self.noise_type == "diagonal" else g.unsqueeze(-1)


def both(method, stepper, sde, grad_free=False):
    noise_type, start = sde.noise_type, torch.ones(3, 2, dtype=torch.float64)
    n_noise, ts = 1 if noise_type == "scalar" else 2, torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    motion = torchsde.BrownianInterval(
        0.0,
        1.0,
        size=(3, n_noise),
        dtype=torch.float64,
        entropy=3,
        levy_area_approximation="space-time",
    )
    options = {"grad_free": True} if grad_free else {}
    with torch.no_grad():
        theirs = torchsde.sdeint(sde, start, ts, bm=motion, method=method, dt=2.0**-5, options=options)
        ours = nsde.solve(sde, start, ts, dt=2.0**-5, noise=Asked(motion, (3, n_noise)), stepper=stepper)
    return ours.ys.transpose(0, 1), theirs


@pytest.mark.parametrize("noise_type", ["diagonal", "scalar"])
@pytest.mark.parametrize(
    ("method", "stepper", "sde_type", "grad_free"), CASES, ids=lambda v: type(v).__name__ if v else v
)
def test_the_same_increments_give_the_same_path(method, stepper, sde_type, grad_free, noise_type):
    ours, theirs = both(method, stepper, Theirs(sde_type, noise_type), grad_free)
    assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "stepper", "sde_type"),
    [
        ("milstein", Milstein(), "ito"),
        ("midpoint", Midpoint(), "stratonovich"),
        ("euler_heun", EulerHeun(), "stratonovich"),
        ("srk", SRA1(), "ito"),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_the_same_increments_of_additive_noise(method, stepper, sde_type):
    """What torchsde calls srk is SRA1 there, with the noise of its second stage taken at the step's end."""
    speed = 0.0 if method == "srk" else 1.0
    ours, theirs = both(method, stepper, Theirs(sde_type, "additive", speed))
    assert torch.allclose(ours, theirs, atol=1e-12)
