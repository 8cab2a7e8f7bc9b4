"""A GPU gives what the processor gives, whether its steps are recorded or not, and is not waited for."""

import warnings

import pytest
import torch

import neurosde as nsde
from neurosde.noise import BrownianPath, FreshNoise, StepNoise
from neurosde.solve import Heun, PIController, ReversibleHeun, ShARK, SlowRK, recording

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
MODES = ("off", "auto", pytest.param("chunk", marks=pytest.mark.slow))
TS = torch.tensor([0.0, 0.37, 1.0], dtype=torch.float64)


def named(stepper):
    return "default" if stepper is None else type(stepper).__name__


class Network(nsde.SDE):
    def __init__(self, sde_type="stratonovich", additive=False):
        super().__init__()
        self.sde_type, self.additive = sde_type, additive
        generator = torch.Generator().manual_seed(0)
        self.A = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))

    def drift(self, t, y):
        return torch.tanh(y @ self.A) * torch.cos(t)

    def diffusion(self, t, y):
        return 0.2 * torch.ones_like(y) if self.additive else 0.2 * torch.sigmoid(y)


class Looking(Network):
    """Looks at the values, which nobody can record."""

    def drift(self, t, y):
        return super().drift(t, y) if float(y.detach().sum()) > -1e9 else y


def states(device, n=7):
    return torch.linspace(-1, 1, 3 * n, dtype=torch.float64).view(n, 3).to(device)


def solved(sde, device, **options):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # the compiler's, of its own parts
        solution = nsde.solve(sde.to(device), states(device), options.pop("ts", TS).to(device), **options)
    assert solution.ys.device.type == device
    return solution.ys.cpu()


def both(sde, mode, **options):
    here = solved(sde, "cpu", compile="off", **options)
    there = solved(sde, "cuda", compile=mode, **options)
    torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-11)


@pytest.fixture(autouse=True)
def all_can_be_recorded(request):
    recording._unrecordable.clear()
    yield
    assert bool(recording._unrecordable) == ("looks_at_values" in request.node.name)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stepper", [None, Heun(), ReversibleHeun(), SlowRK()], ids=named)
@pytest.mark.parametrize("n_steps", [7, 205, 2005])
def test_fixed_steps(mode, stepper, n_steps):
    both(Network(), mode, dt=1 / n_steps, stepper=stepper, seed=3)


@pytest.mark.parametrize("mode", MODES)
def test_every_step_is_asked_for(mode):
    both(Network(), mode, ts=torch.linspace(0, 1, 206, dtype=torch.float64), dt=1 / 205, seed=3)


@pytest.mark.parametrize("mode", MODES)
def test_a_grid_for_each_series(mode):
    own = torch.linspace(0.5, 1, 7, dtype=torch.float64)[:, None] * TS
    both(Network(), mode, ts=own, dt=0.003, seed=3)


@pytest.mark.parametrize("mode", MODES)
def test_additive_noise_of_high_order(mode):
    both(Network(additive=True), mode, dt=0.01, stepper=ShARK(), seed=3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("stepper", [Heun(), SlowRK()], ids=named)
def test_adaptive_steps(mode, whole, stepper):
    controller = PIController(rtol=1e-3, atol=1e-3, whole_batch=whole, jump_times=(0.5,))
    both(Network(), mode, controller=controller, stepper=stepper, seed=3)


def test_adaptive_steps_of_own_times():
    own = torch.linspace(0.5, 1, 7, dtype=torch.float64)[:, None] * TS
    both(Network(), "auto", ts=own, controller=PIController(rtol=1e-3, atol=1e-3), seed=3)


@pytest.mark.parametrize("kind", [StepNoise, BrownianPath])
@pytest.mark.parametrize("levy", ["none", "space-time", "space-time-time"])
def test_noise_is_the_same(kind, levy):
    times = torch.linspace(0, 1, 65, dtype=torch.float64)
    ends = () if kind is StepNoise else (0.0, 1.0)
    plain = {"seed": 5, "levy": levy, "dtype": torch.float64}
    here = kind(*ends, (4, 3), **plain).increments(times)
    for compiled in (False, True):
        noise = kind(*ends, (4, 3), device="cuda", **plain)
        there = (noise.compiled() if compiled else noise).increments(times.cuda())
        for a, b in zip(there, here, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a.cpu(), b, rtol=1e-11, atol=1e-13)


def test_fresh_noise_can_be_met_again():
    times, noise = (
        torch.linspace(0, 1, 41, dtype=torch.float64).cuda(),
        FreshNoise((5, 2), seed=0, device="cuda"),
    )
    assert torch.equal(noise.increments(times).W[30:], noise.increments(times[30:], first=30).W)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint", "reversible", "adjoint"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_gradients(mode, gradient, adaptive):
    results = []
    for device, way in (("cpu", "off"), ("cuda", mode)):
        sde = Network().to(device)
        y = states(device).requires_grad_()
        how = {"controller": PIController(rtol=1e-2, atol=1e-2)} if adaptive else {"dt": 0.005}
        solution = nsde.solve(sde, y, TS.to(device), seed=3, gradient=gradient, compile=way, **how)
        solution.ys.square().sum().backward()
        results.append((solution.ys.detach().cpu(), y.grad.cpu(), sde.A.grad.cpu()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-9)


def test_what_looks_at_values_is_taken_as_it_is():
    both(Looking(), "auto", dt=0.005, seed=3)
    both(Network(), "auto", dt=0.005, seed=4)  # and does no harm to what comes next


def test_weights_that_change_between_solves_are_met():
    sde = Network().cuda()
    first = solved(sde, "cuda", dt=0.005, seed=3)
    with torch.no_grad():
        sde.A.mul_(0.5)
    second = solved(sde, "cuda", dt=0.005, seed=3)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, solved(sde, "cpu", dt=0.005, seed=3, compile="off"))


def test_memory_does_not_grow_from_solve_to_solve():
    sde = Network().cuda()
    for n in (5, 20):
        for _ in range(n):
            solved(sde, "cuda", dt=0.005, seed=3)
        held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        if n == 5:
            before = held
    assert held[0] <= before[0] + 2**20
    assert held[1] <= before[1] + 2**24
