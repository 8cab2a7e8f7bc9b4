"""Gradients of every mode against autograd of a loop written by hand, over the same increments."""

import math

import pytest
import torch

import neurosde as nsde
from neurosde.noise import BrownianPath
from neurosde.sde import diffuse
from neurosde.solve import EulerMaruyama, Heun, PIController, ReversibleHeun
from neurosde.solve.grid import check_times, make_grid

NOISE_TYPES = ["diagonal", "additive", "scalar", "general"]
SHARED = torch.tensor([0.0, 0.31, 1.0], dtype=torch.float64)
OWN = torch.tensor([[0.0, 0.4, 1.0], [0.0, 0.7, math.nan], [0.2, 0.33, 0.9]], dtype=torch.float64)
EXACT = ["backprop", "checkpoint", "reversible"]


class Network(nsde.SDE):
    """Fields of every noise type; notes the times at which it is asked while a graph is made."""

    def __init__(self, sde_type, noise_type):
        super().__init__()
        self.sde_type, self.noise_type, self.times = sde_type, noise_type, []
        generator = torch.Generator().manual_seed(0)
        self.A = torch.nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))
        self.B = torch.nn.Parameter(torch.randn(2, 6, generator=generator, dtype=torch.float64))

    def drift(self, t, y):
        if torch.is_grad_enabled():
            self.times.append(t.detach().expand(len(y), 1).squeeze(-1).double())
        return torch.tanh(y @ self.A.to(y)) * torch.cos(t) - 0.5 * y

    def diffusion(self, t, y):
        if self.noise_type == "additive":
            g = (0.3 * torch.sigmoid(self.B.to(y)) * (1 + torch.as_tensor(t)).unsqueeze(-1)).unflatten(
                -1, (2, 3)
            )
            return g[..., 0, :, :].expand(len(y), 2, 3) if g.dim() == 4 else g[0].expand(len(y), 2, 3)
        g = 0.4 * torch.sigmoid(y @ self.B.to(y)) * torch.cos(0.5 * t)
        if self.noise_type == "diagonal":
            return g[:, :2]
        return g[:, :2, None] if self.noise_type == "scalar" else g.unflatten(-1, (2, 3))


def channels(noise_type):
    return {"diagonal": 2, "scalar": 1}.get(noise_type, 3)


def the_path(noise_type, t0=0.0, t1=1.0, dtype=torch.float64):
    return BrownianPath(t0, t1, (3, channels(noise_type)), seed=5, dtype=dtype)


def start(dtype=torch.float64):
    return torch.linspace(-1, 1, 6, dtype=dtype).view(3, 2).requires_grad_()


def ends_of_steps(ts, dt):
    """Ends of equal steps, ``(series, step + 1)``, and which of them are asked for."""
    grid = make_grid(check_times(ts, 3, torch.device("cpu")), torch.tensor(dt, dtype=torch.float64))
    save = grid.save.expand(3, -1) if grid.save.dim() == 1 else grid.save
    return grid.times.expand(3, -1), save


def loop(sde, y, times, save, W, stepper, rate=None):
    """The states asked for, and the cost up to there, by a loop over the steps."""
    rows, costs = [y], [y.new_zeros(len(y))]
    t = times.to(y.dtype)
    z, fields = y, sde.drift_and_diffusion(t[:, :1], y)
    for i in range(times.shape[1] - 1):
        now, ahead = t[:, i : i + 1], t[:, i + 1 : i + 2]
        h = (times[:, i + 1 : i + 2] - times[:, i : i + 1]).to(y.dtype)

        def move(fields, h=h, W=W[i]):
            return h * fields[0] + diffuse(sde.noise_type, fields[1], W)

        before = y
        if isinstance(stepper, ReversibleHeun):
            z = 2 * y - z + move(fields)
            last, fields = fields, sde.drift_and_diffusion(ahead, z)
            y = y + 0.5 * (move(last) + move(fields))
        else:
            first = move(sde.drift_and_diffusion(now, y))
            euler = y + first
            trapezium = y + 0.5 * (first + move(sde.drift_and_diffusion(ahead, euler)))
            y = euler if isinstance(stepper, EulerMaruyama) else trapezium
        rows.append(y)
        if rate is not None:
            costs.append(costs[-1] + 0.5 * h.squeeze(-1) * (rate(now, before) + rate(ahead, y)))
    rows, costs = torch.stack(rows, dim=1), torch.stack(costs, dim=1) if rate is not None else None
    place = save.clamp(min=0)
    picked = rows.gather(1, place.unsqueeze(-1).expand(-1, -1, 2))
    picked = torch.where((save < 0).unsqueeze(-1), torch.nan, picked)
    return picked, None if costs is None else costs.gather(1, place)


def gradients(sde, y, ys, cost=None):
    """Gradient of a function of the states, and of the cost, in the start and in the parameters."""
    value = (torch.nan_to_num(ys).square() * torch.arange(1, ys.shape[1] + 1).view(-1, 1)).sum()
    value = value if cost is None else value + torch.nan_to_num(cost).square().sum()
    grads = torch.autograd.grad(value, (y, *sde.parameters()), allow_unused=True)
    return [torch.nan_to_num(ys).detach(), *(grad for grad in grads if grad is not None)]


def assert_close(mine, theirs, tolerance):
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        assert float((a - b).norm()) <= tolerance * float(b.norm()) + 1e-15


def modes_of(stepper):
    return EXACT if isinstance(stepper, ReversibleHeun) else EXACT[:2]


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
@pytest.mark.parametrize("ts", [SHARED, OWN], ids=["shared", "own"])
@pytest.mark.parametrize(
    "stepper", [EulerMaruyama(), Heun(), ReversibleHeun()], ids=lambda s: type(s).__name__
)
def test_equal_steps(stepper, ts, noise_type):
    sde = Network(stepper.sde_types[0], noise_type)
    times, save = ends_of_steps(ts, 0.11)
    t0, t1 = (0.0, 1.0) if ts.dim() == 1 else (times[:, 0], times[:, -1])
    path = the_path(noise_type, t0, t1)
    y = start()
    exact = gradients(sde, y, loop(sde, y, times, save, path.increments(times).W, stepper)[0])
    for mode in modes_of(stepper):
        ys = nsde.solve(sde, y, ts, dt=0.11, noise=path, stepper=stepper, gradient=mode, compile="off").ys
        assert_close(gradients(sde, y, ys), exact, 1e-8)


@pytest.mark.parametrize("stepper", [Heun(), ReversibleHeun()], ids=lambda s: type(s).__name__)
def test_in_float32(stepper):
    """Against the same loop in float64, on the same increments."""
    sde = Network("stratonovich", "general")
    times, save = ends_of_steps(SHARED, 0.11)
    y64, y32 = start(), start(torch.float32)
    path = the_path("general", dtype=torch.float32)
    W = path.increments(times).W.double()
    exact = gradients(sde, y64, loop(sde, y64, times, save, W, stepper)[0])
    for mode in modes_of(stepper):
        ys = nsde.solve(
            sde, y32, SHARED, dt=0.11, noise=path, stepper=stepper, gradient=mode, compile="off"
        ).ys
        assert ys.dtype == torch.float32
        assert_close([x.double() for x in gradients(sde, y32, ys)], exact, 1e-5)


@pytest.mark.parametrize("ts", [SHARED, OWN], ids=["shared", "own"])
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_running_costs(gradient, ts):
    sde, stepper = Network("stratonovich", "general"), Heun()
    times, save = ends_of_steps(ts, 0.11)
    path = the_path("general", *((0.0, 1.0) if ts.dim() == 1 else (times[:, 0], times[:, -1])))
    y = start()

    def rate(t, y):
        return torch.sin(y).sum(-1) * torch.exp(t).expand(len(y), 1).squeeze(-1)

    exact = gradients(sde, y, *loop(sde, y, times, save, path.increments(times).W, stepper, rate))
    solution = nsde.solve(
        sde, y, ts, dt=0.11, noise=path, stepper=stepper, gradient=gradient, compile="off",
        running=[nsde.RunningCost(rate, name="cost")],
    )  # fmt: skip
    assert_close(gradients(sde, y, solution.ys, solution.running["cost"]), exact, 1e-8)


def accepted_steps(sde, solution):
    """Ends of the steps that a Heun solve took, from the times at which it asked for the drift."""
    n = int(solution.stats["accepted"].max())
    asked = torch.stack(sde.times[-2 * n :], dim=1)
    times = torch.cat((asked[:, ::2], asked[:, -1:]), dim=1)
    save = torch.stack(
        [torch.isclose(times, t, rtol=0.0, atol=1e-9).to(torch.uint8).argmax(1) for t in SHARED], dim=1
    )
    return times, save


@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_adaptive_steps(noise_type):
    """The gradient is that of the accepted steps, taken as they are."""
    sde, controller, path = (
        Network("stratonovich", noise_type),
        PIController(1e-2, 1e-2),
        the_path(noise_type),
    )
    y = start()
    options = {"noise": path, "stepper": Heun(), "controller": controller, "compile": "off"}
    times, save = accepted_steps(sde, nsde.solve(sde, y, SHARED, **options).raise_if_failed())
    exact = gradients(sde, y, loop(sde, y, times, save, path.increments(times).W, Heun())[0])
    for mode in ("backprop", "checkpoint"):
        ys = nsde.solve(sde, y, SHARED, gradient=mode, **options).ys
        assert_close(gradients(sde, y, ys), exact, 1e-8)
    equal = ends_of_steps(SHARED, 1 / times.shape[1])  # the twin: as many steps of equal length
    other = gradients(sde, y, loop(sde, y, *equal, path.increments(equal[0]).W, Heun())[0])
    with pytest.raises(AssertionError):
        assert_close(other, exact, 1e-4)


def test_adaptive_reversible_steps():
    """Undone or kept, the same steps have the same gradient."""
    sde, path, y = Network("stratonovich", "general"), the_path("general"), start()
    options = {"noise": path, "stepper": ReversibleHeun(), "controller": PIController(1e-2, 1e-2)}
    kept, undone = (
        gradients(sde, y, nsde.solve(sde, y, SHARED, gradient=mode, **options).ys)
        for mode in ("backprop", "reversible")
    )
    assert_close(undone, kept, 1e-8)


@pytest.mark.parametrize(("sde_type", "order"), [("ito", 0.5), ("stratonovich", 1.0)])
@pytest.mark.parametrize("noise_type", NOISE_TYPES)
def test_the_adjoint_converges_at_the_order_of_its_steps(noise_type, sde_type, order):
    """At least: 1/2 for Ito's steps forth, 1 for Heun's; this noise nearly commutes."""
    sde, path, y = Network(sde_type, noise_type), the_path(noise_type), start()
    gaps = []
    for k in (4, 7):
        both = [
            gradients(sde, y, nsde.solve(sde, y, SHARED, dt=2.0**-k, noise=path, gradient=mode).ys)[1:]
            for mode in ("adjoint", "backprop")
        ]
        adjoint, exact = (torch.cat([x.flatten() for x in grads]) for grads in both)
        gaps.append(float((adjoint - exact).norm() / exact.norm()))
    assert math.log2(gaps[0] / gaps[1]) / 3 > order - 0.15
    assert gaps[1] < 0.01


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
@pytest.mark.parametrize("adaptive", [False, True], ids=["equal", "adaptive"])
def test_second_derivatives(mode, adaptive):
    """Of the sum of squares of the first ones, against those of the loop."""
    sde, path, y = Network("stratonovich", "general"), the_path("general"), start()
    steps = {"controller": PIController(3e-2, 3e-2)} if adaptive else {"dt": 0.1}
    options = {"noise": path, "stepper": Heun(), "compile": "off", **steps}
    solution = nsde.solve(sde, y, SHARED, gradient=mode, **options)
    times, save = accepted_steps(sde, solution) if adaptive else ends_of_steps(SHARED, 0.1)
    results = []
    for ys in (solution.ys, loop(sde, y, times, save, path.increments(times).W, Heun())[0]):
        inputs = (y, *sde.parameters())
        first = torch.autograd.grad(ys.square().sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(x.square().sum() for x in first), inputs))
    assert_close(*results, 1e-8)


@pytest.mark.parametrize("mode", ["reversible", "adjoint"])
def test_modes_that_have_no_second_derivatives_say_so(mode):
    """Better an error than the derivative of a part of the gradient."""
    sde, y = Network("stratonovich", "diagonal"), start()
    ys = nsde.solve(sde, y, SHARED, dt=0.1, seed=0, stepper=ReversibleHeun(), gradient=mode).ys
    first = torch.autograd.grad(ys.square().sum(), (y, sde.A), create_graph=True)
    with pytest.raises((RuntimeError, nsde.errors.SolveError)):
        torch.autograd.grad(first[0].square().sum(), (y, sde.A))
