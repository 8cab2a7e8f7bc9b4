"""Blocks of compiled steps are the steps, whatever is left over at the end; the compiler is acted."""

import pytest
import torch

import neurosde as nsde
from neurosde.solve import ExponentialEuler, Heun, ReversibleHeun, SlowRK
from neurosde.solve.blocks import CHUNK
from neurosde.solve.engine import LONG

pytestmark = pytest.mark.usefixtures("acted_compiler")


@pytest.mark.parametrize("n_steps", [1, 7, CHUNK, 16, LONG, 25, LONG + CHUNK, 47, 101])
@pytest.mark.parametrize("stepper", [None, ExponentialEuler(), Heun(), ReversibleHeun(), SlowRK()])
def test_what_is_left_over_is_taken_once(relaxation, sinh_sde, stepper, n_steps):
    sde = relaxation() if isinstance(stepper, ExponentialEuler) else sinh_sde("stratonovich")
    results = []
    for mode in ("off", "chunk"):
        y = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2).requires_grad_()
        solution = nsde.solve(sde, y, [0.0, 1.0], dt=1 / n_steps, seed=0, stepper=stepper, compile=mode)
        solution.ys.square().sum().backward()
        results.append((solution.ys.detach(), y.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-14)
