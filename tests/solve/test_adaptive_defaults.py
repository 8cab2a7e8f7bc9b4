"""The stepper that a controller is given by default heeds the tolerance, whatever the SDE declares."""

import pytest
import torch

import neurosde as nsde
from neurosde.solve import ExponentialShARK, LinearTransition, PIController, ShARK
from neurosde.solve.choice import choose_stepper

ENDS = [0.0, 2.0]


class Swelling(nsde.SDE):
    """``dy = -k y dt + s(t) dW`` with its linear part declared and an amplitude that moves."""

    additive, k = True, 2.0

    def drift(self, t, y):
        return -self.k * y

    def diffusion(self, t, y):
        return (1 + torch.sin(6 * t) ** 2) * torch.ones_like(y)

    def decay(self, t):
        return torch.tensor([self.k], dtype=torch.float64)


SDES = {"oscillator": nsde.LinearSDE([[0.0, 1.0], [-4.0, -0.5]], L=[[0.0], [1.0]]), "swelling": Swelling()}


def errors_and_steps(sde, stepper):
    n_state = 2 if isinstance(sde, nsde.LinearSDE) else 1
    start = torch.zeros(200, n_state, dtype=torch.float64)
    finest = nsde.solve(sde, start, ENDS, dt=2.0**-10, seed=0, stepper=ShARK()).ys[:, -1]
    errors, steps = [], []
    for tolerance in (1e-1, 1e-2, 1e-3):
        controller = PIController(tolerance, tolerance, whole_batch=True)
        solution = nsde.solve(sde, start, ENDS, seed=0, controller=controller, stepper=stepper)
        errors.append(float((solution.ys[:, -1] - finest).abs().mean()))
        steps.append(int(solution.stats["accepted"][0]))
    return errors, steps


@pytest.mark.parametrize("name", list(SDES))
def test_the_error_of_the_default_falls_with_the_tolerance(name):
    errors, steps = errors_and_steps(SDES[name], None)
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert steps[0] < steps[1] < steps[2]


@pytest.mark.parametrize("name", list(SDES))
def test_that_of_an_exponential_step_does_not(name):
    """Its estimate is of the drift beside the linear part, of which there is none: hence not a default."""
    errors, steps = errors_and_steps(SDES[name], ExponentialShARK())
    assert len(set(steps)) == 1
    assert errors[2] == errors[0] > 0.01


def test_defaults_of_a_declared_linear_part():
    assert isinstance(choose_stepper(SDES["oscillator"], adaptive=False), LinearTransition)
    for sde in SDES.values():
        assert isinstance(choose_stepper(sde, adaptive=True), ShARK)
