"""Error estimates of the Langevin steppers: what they are, how they shrink, and that they steer a solve."""

import math

import pytest
import torch

import neurosde as nsde
from neurosde.forms import UnderdampedLangevin
from neurosde.noise import BrownianIncrement, BrownianPath
from neurosde.solve import QUICSORT, PIController, ShOULD, Step, Stepped, capabilities

LANGEVIN = [QUICSORT(), ShOULD()]
both = pytest.mark.parametrize("stepper", LANGEVIN, ids=lambda s: type(s).__name__)
ORDERS = {QUICSORT: (3.0, 2.0), ShOULD: (3.0, 2.5)}  # of the position's error and the velocity's


def well(friction=1.2, u=0.8):
    return UnderdampedLangevin(lambda x: x + torch.sin(2 * x), friction, u)


def one_step(stepper, sde, h, normals, y):
    """One step of length h whose W, H and K are these normals in units of their law."""
    scale = torch.tensor([1.0, 12.0**-0.5, 720.0**-0.5], dtype=torch.float64) * math.sqrt(h)
    t, length = torch.zeros((), dtype=torch.float64), torch.tensor(h, dtype=torch.float64)
    weights = tuple(w[0] for w in stepper.weights(sde, t.reshape(1, 1, 1), length.reshape(1, 1, 1)))
    step = Step(t, length, BrownianIncrement(length, *(normals * scale).unbind(-1)), weights)
    return stepper.step(sde, step, y, stepper.start(sde, t, y))


def drawn(n, channels):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, channels, 3, generator=generator, dtype=torch.float64)


def slopes(stepper, sde):
    """Fitted powers of h of both halves of the error, the normals held."""
    y, sizes = torch.full((2000, 2), 0.7, dtype=torch.float64), []
    for h in (1e-1, 1e-3):
        error = one_step(stepper, sde, h, drawn(2000, 1), y).error
        assert error.shape == y.shape
        assert bool(torch.isfinite(error).all())
        sizes.append(error.abs().mean(0).log10())
    return ((sizes[0] - sizes[1]) / 2).tolist()


class Careless(QUICSORT):
    """The twin that gives the position the error of the velocity."""

    def step(self, sde, step, y, carry):
        stepped = super().step(sde, step, y, carry)
        v = stepped.error.chunk(2, dim=-1)[1]
        return Stepped(stepped.y, (), torch.cat((v, v), dim=-1))


@both
def test_errors_shrink_with_their_powers_of_the_step(stepper):
    assert slopes(stepper, well()) == pytest.approx(ORDERS[type(stepper)], abs=0.1)


def test_a_careless_error_has_the_wrong_power():
    assert abs(slopes(Careless(), well())[0] - ORDERS[QUICSORT][0]) > 0.5


class Stuck:
    """A gradient that answers as it did at the first of the points it is asked about in a step."""

    def __init__(self, gradient):
        self.gradient, self.answer = gradient, None

    def __call__(self, x):
        self.answer = self.gradient(x) if self.answer is None else self.answer
        return self.answer


@pytest.mark.parametrize("friction", [0.0, 0.5, [0.3, 40.0]])
def test_the_error_is_the_difference_from_a_step_with_one_gradient(friction):
    """The second road takes the very step with a gradient that is stuck at the first node."""
    sde, stuck = well(friction), UnderdampedLangevin(Stuck(well().gradient), friction, 0.8)
    y, normals = torch.tensor([[0.7, -0.4, 1.0, 0.2]], dtype=torch.float64), drawn(1, 2)
    stepped, low = (one_step(QUICSORT(), problem, 0.3, normals, y) for problem in (sde, stuck))
    assert torch.allclose(stepped.error, stepped.y - low.y, rtol=1e-10, atol=1e-14)
    assert float(stepped.error.abs().min()) > 1e-6


def test_the_error_by_hand():
    """No friction, no noise, grad U = x, h = 1/2, x = 1, v = 2: Simpson's rule beside lower ones."""
    sde = UnderdampedLangevin(lambda x: x, friction=0.0)
    y = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    still = torch.zeros(1, 1, 3, dtype=torch.float64)
    half = 1 + 0.25 * 2 - 0.5 * 0.25**2
    end = 1 + 0.5 * 2 - 0.5**2 / 2 * (1 + 2 * half) / 3
    position = 0.5**2 / 2 * (1 - (1 + 2 * half) / 3)
    velocity = 0.5 * ((1 + end) / 2 - (1 + 4 * half + end) / 6)
    error = one_step(ShOULD(), sde, 0.5, still, y).error
    assert error.flatten().tolist() == pytest.approx([position, velocity], rel=1e-12)
    left, right = 0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6
    first = 0.5 * (1 + left * 0.5 * 2)
    second = 0.5 * (1 + right * 0.5 * 2 - 0.5 / 3 * first)
    error = one_step(QUICSORT(), sde, 0.5, still, y).error
    by_hand = [0.5 * left * 0.5 * (first - second), 0.5 * (first - second)]
    assert error.flatten().tolist() == pytest.approx(by_hand, rel=1e-12)


@both
def test_tolerances_are_reached_on_the_path(stepper):
    """The error against fine steps on the same paths stays below the tolerance and falls with it."""
    n, sde = 100, well()
    start = torch.tensor([[0.5, 0.0]], dtype=torch.float64).expand(n, -1)
    path = BrownianPath(0.0, 2.0, (n, 1), seed=3, levy="space-time-time", dtype=torch.float64)
    fine = nsde.solve(sde, start, [0.0, 2.0], dt=2.0**-8, noise=path, stepper=stepper, compile="off").ys
    errors, steps = [], []
    for tolerance in (1e-1, 1e-2, 1e-3):
        controller = PIController(rtol=0.0, atol=tolerance)
        own = nsde.solve(sde, start, [0.0, 2.0], noise=path, stepper=stepper, controller=controller)
        errors.append(float((own.raise_if_failed().ys - fine)[:, -1].abs().mean()))
        steps.append(float(own.stats["accepted"].double().mean()))
        assert errors[-1] < tolerance
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
    assert steps[0] < steps[1] < steps[2]


def test_a_stiff_spell_gets_the_short_steps():
    """A potential that is a thousand times as steep on one side: each series pays for its own side only."""

    def gradient(x):
        return torch.where(x > 0, 1000.0, 1.0) * (x - torch.sign(x))

    start = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    path = BrownianPath(0.0, 1.0, (2, 1), seed=0, levy="space-time-time", dtype=torch.float64)
    controller = PIController(rtol=0.0, atol=1e-2)
    solution = nsde.solve(
        UnderdampedLangevin(gradient, u=0.1), start, [0.0, 1.0], noise=path, controller=controller
    )
    steep, flat = solution.stats["accepted"].tolist()
    assert solution.succeeded
    assert steep > 4 * flat


def test_adaptive_solves_of_langevin_dynamics_take_it_by_default():
    start, controller = torch.full((3, 4), 0.3, dtype=torch.float64), PIController(rtol=1e-2, atol=1e-2)
    default, named, other = (
        nsde.solve(well(), start, [0.0, 1.0], seed=0, controller=controller, stepper=stepper).ys
        for stepper in (None, QUICSORT(), ShOULD())
    )
    assert torch.equal(default, named)
    assert not torch.equal(default, other)
    adaptive = {row["stepper"]: row["adaptive"] for row in capabilities()}
    assert adaptive["QUICSORT"]
    assert adaptive["ShOULD"]
