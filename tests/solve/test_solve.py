"""The contract of solve: axes, clocks, seeds, failures, gradients, running costs."""

import math

import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError, ShapeError, SolveError
from neurosde.noise import BrownianPath, StepNoise
from neurosde.sde import divergence_cost
from neurosde.solve import EulerMaruyama, ReversibleHeun, Status, engine
from neurosde.solve.grid import make_grid
from neurosde.solve.march import Model


def zeros(*shape):
    return torch.zeros(*shape, dtype=torch.float64)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_axes(relaxation, batch):
    solution = nsde.solve(relaxation(), zeros(*batch, 2), [0.0, 0.5, 1.0], seed=0)
    assert solution.ys.shape == (*batch, 3, 2)
    assert solution.status.shape == batch
    assert all(count.shape == batch for count in solution.stats.values())


def test_the_module_is_the_function(relaxation):
    assert nsde.solve.solve is nsde.solve.__call__
    assert torch.equal(
        nsde.solve(relaxation(), zeros(1, 1), [0.0, 1.0], seed=0).ys,
        nsde.solve.solve(relaxation(), zeros(1, 1), [0.0, 1.0], seed=0).ys,
    )


def test_a_block_from_any_step_has_all_its_steps(relaxation):
    """Also one that begins between blocks, after a requested time, and meets the end of the noise drawn."""
    ts, noise = torch.tensor([0.0, 1.0], dtype=torch.float64), StepNoise((4, 2), seed=0, dtype=torch.float64)
    grid = make_grid(ts, torch.tensor(0.01, dtype=torch.float64))
    problem = engine.Problem(Model(relaxation(), EulerMaruyama(), ()), noise, grid)
    whole = noise.increments(grid.times).W
    source = engine.BlockSource(problem, torch.float64, length=10, section=4 * 2 * 30)
    for first in range(grid.length):
        block, last = source.block(first), source.end_of(first)
        assert first < last <= first + 10
        assert torch.equal(block.noise.W, whole[first:last])


def test_a_thousand_clocks_are_each_series_alone(relaxation):
    sde = relaxation(e=0.3)
    generator = torch.Generator().manual_seed(0)
    gaps = 0.01 + torch.rand(50, 4, generator=generator, dtype=torch.float64)
    ts = gaps.cumsum(-1)
    ts[::3, 3] = math.nan
    ts[::7, 2:] = math.nan
    batch = nsde.solve(sde, zeros(50, 1), ts, dt=0.05, seed=1)
    assert torch.isnan(batch.ys).squeeze(-1).equal(torch.isnan(ts))
    for i in (0, 3, 7, 11):
        own = ts[i][~torch.isnan(ts[i])]
        alone = nsde.solve(sde, zeros(1, 1), own, dt=0.05, seed=1, series=[i])
        assert torch.allclose(batch.ys[i, : len(own)], alone.ys[0], atol=1e-12)
        assert alone.stats["accepted"].item() == batch.stats["accepted"][i].item()


@pytest.mark.parametrize("source", ["seed", "steps"])
def test_a_batch_of_one_is_a_slice_bit_for_bit(relaxation, source):
    sde = relaxation(e=0.3)

    def run(keys):
        noise = (
            {"seed": 5}
            if source == "seed"
            else {
                "noise": StepNoise(
                    (len(keys), 1), seed=5, levy="space-time", series=keys, dtype=torch.float64
                )
            }
        )
        more = {"series": keys} if source == "seed" else {}
        return nsde.solve(sde, zeros(len(keys), 1), [0.0, 0.3, 1.0], dt=0.07, **noise, **more).ys

    keys = torch.tensor([3, 8, 1])
    assert torch.equal(run(keys)[1:2], run(keys[1:2]))


def test_a_seed_is_one_path_at_every_step(relaxation):
    sde = relaxation(e=0.3)
    with torch.no_grad():
        a, b = (nsde.solve(sde, zeros(500, 1), [0.0, 1.0], dt=dt, seed=2).ys[:, -1] for dt in (0.01, 0.0037))
        other = nsde.solve(sde, zeros(500, 1), [0.0, 1.0], dt=0.01, seed=3).ys[:, -1]
    assert float((a - b).abs().mean()) < 0.01 * float((a - other).abs().mean())


def test_no_seed_is_fresh_noise_and_leaves_the_global_generator_alone(relaxation):
    a, b = (nsde.solve(relaxation(), zeros(3, 1), [0.0, 1.0]).ys for _ in range(2))
    assert not torch.equal(a, b)


def test_padded_steps_change_nothing_and_have_no_nan_gradients(relaxation):
    sde = relaxation(e=0.3)
    ts = torch.tensor([[0.0, 0.1, math.nan], [0.0, 0.5, 3.0]], dtype=torch.float64)
    start = zeros(2, 1).requires_grad_()
    solution = nsde.solve(sde, start, ts, dt=0.05, seed=0)
    solution.ys[~torch.isnan(ts)].sum().backward()
    assert bool(torch.isfinite(start.grad).all())
    alone = nsde.solve(sde, zeros(1, 1), ts[:1, :2], dt=0.05, seed=0)
    assert torch.allclose(solution.ys[0, :2], alone.ys[0], atol=1e-12)


class Fragile(nsde.SDE):
    """Blows up above 5, decays below."""

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def drift(self, t, y):
        return torch.where(y > 5, 50 * y**3, -y) * self.rate

    def diffusion(self, t, y):
        return 0.1 * torch.ones_like(y)


def test_a_failed_series_harms_no_other():
    sde, start = Fragile(), torch.tensor([[1.0], [6.0], [0.5]], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="1 of 3 series failed; series 1 left the finite numbers"):
        solution = nsde.solve(sde, start, [0.0, 0.5, 1.0], dt=0.01, seed=0)
    assert solution.status.tolist() == [Status.SUCCESS, Status.NOT_FINITE, Status.SUCCESS]
    assert solution.ys[1].isnan().flatten().tolist() == [False, True, True]
    solution.ys[[0, 2], -1].sum().backward()
    gradient = sde.rate.grad.clone()
    sde.rate.grad = None
    good = nsde.solve(sde, start[[0, 2]], [0.0, 0.5, 1.0], dt=0.01, seed=0, series=[0, 2])
    good.ys[:, -1].sum().backward()
    assert torch.equal(solution.ys[[0, 2]], good.ys)
    assert torch.allclose(gradient, sde.rate.grad, rtol=1e-12)
    with pytest.raises(SolveError, match="series 1 left the finite numbers"):
        solution.raise_if_failed()
    assert good.raise_if_failed() is good
    assert good.succeeded
    assert not solution.succeeded


@pytest.mark.parametrize("stepper", [EulerMaruyama(), None, ReversibleHeun()])
def test_checkpointing_changes_no_gradient(relaxation, stepper):
    sde = relaxation(e=0.3, m=0.4)
    if isinstance(stepper, ReversibleHeun):
        sde.sde_type = "stratonovich"
    gradients = []
    for gradient in ("backprop", "checkpoint"):
        sde.zero_grad()
        start = zeros(5, 1).requires_grad_()
        solution = nsde.solve(
            sde, start, [0.0, 0.4, 1.0], dt=0.01, seed=0, stepper=stepper, gradient=gradient
        )
        solution.ys.square().sum().backward()
        gradients.append((solution.ys.detach(), start.grad, sde.gain.grad.clone()))
    for mine, theirs in zip(*gradients, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12)


def test_gradient_against_finite_differences(relaxation):
    sde = relaxation(e=0.3)

    def end(start):
        return nsde.solve(sde, start, [0.0, 0.5], dt=0.1, seed=0).ys[:, -1]

    assert torch.autograd.gradcheck(end, (zeros(2, 1).requires_grad_(),))


def test_running_cost_of_a_constant_shift_is_girsanovs(relaxation):
    class Shifted(relaxation):
        def drift(self, t, y):
            return super().drift(t, y) + 0.8

    sde = Shifted()
    cost = divergence_cost(sde, relaxation().drift)
    solution = nsde.solve(sde, zeros(3, 2), [0.0, 0.5, 2.0], dt=0.1, seed=0, running=[cost])
    expected = 0.5 * 2 * (0.8 / sde.s) ** 2 * torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    assert torch.allclose(solution.running["divergence"], expected.expand(3, 3), rtol=1e-12)


def test_running_costs_in_one_pass_on_own_clocks(relaxation):
    """int t dt, int dW and int W dW = (W^2 - t) / 2, the last to the order of the step."""
    sde = relaxation(k=0.0, c=0.0, s=1.0)
    costs = [
        nsde.RunningCost(lambda t, y: t.expand_as(y).squeeze(-1), name="time"),
        nsde.RunningCost(h=lambda t, y: torch.ones_like(y), name="motion"),
        nsde.RunningCost(h=lambda t, y: y, name="ito"),
    ]
    ts = torch.tensor([[0.0, 1.0, math.nan], [0.0, 0.3, 2.0]], dtype=torch.float64)
    solution = nsde.solve(sde, zeros(2, 1), ts, dt=2.0**-9, seed=0, running=costs, stepper=EulerMaruyama())
    known = ~torch.isnan(ts)
    y = solution.ys.squeeze(-1)
    assert torch.allclose(solution.running["time"][known], 0.5 * ts[known] ** 2, atol=1e-10)
    assert torch.allclose(solution.running["motion"][known], y[known], atol=1e-10)
    ito = 0.5 * (y**2 - ts)
    assert torch.allclose(solution.running["ito"][known], ito[known], atol=0.2)
    assert torch.isnan(solution.running["ito"][0, 2])


def test_a_list_of_times_is_not_rounded_to_float32(relaxation):
    ts = [0.0, 0.1, 0.7]
    assert nsde.solve(relaxation(), zeros(1, 1), ts, seed=0).ts.tolist() == ts


def test_given_increments(relaxation):
    W = zeros(10, 3, 1)
    solution = nsde.solve(relaxation(), zeros(3, 1), [0.0, 1.0], dt=0.1, noise=W, stepper=EulerMaruyama())
    assert torch.equal(solution.ys[:1].expand(3, 2, 1), solution.ys)
    with pytest.raises(ShapeError, match=r"expected an increment a step, \(20, 3, 1\), got \(10, 3, 1\)"):
        nsde.solve(relaxation(), zeros(3, 1), [0.0, 1.0], dt=0.05, noise=W, stepper=EulerMaruyama())


def test_evaluate_knows_the_requested_times_only(relaxation):
    solution = nsde.solve(relaxation(), zeros(3, 1), [0.0, 0.5, 1.0], seed=0)
    assert torch.equal(solution.evaluate(0.5), solution.ys[:, 1])
    assert torch.equal(solution.increment(0.0, 0.5), solution.ys[:, 1] - solution.ys[:, 0])
    with pytest.raises(SolveError, match="not one of the requested times"):
        solution.evaluate(0.25)


def test_one_time_gives_back_the_start(relaxation):
    start = torch.ones(2, 1, dtype=torch.float64)
    assert torch.equal(nsde.solve(relaxation(), start, [3.0], seed=0).ys[:, 0], start)


def test_unix_seconds_do_not_collapse(relaxation):
    ts = 1.7e9 + torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    far = nsde.solve(relaxation(), torch.zeros(2, 1), ts, dt=0.01, seed=0).ys
    near = nsde.solve(relaxation(), torch.zeros(2, 1), [0.0, 0.5, 1.0], dt=0.01, seed=0).ys
    assert torch.allclose(far, near, atol=1e-4)


def bad_calls(relaxation):
    sde, start, ts = relaxation(), zeros(2, 1), [0.0, 1.0]
    path = BrownianPath(0.0, 1.0, (2, 1), seed=0, dtype=torch.float64)
    return {
        "y0[1, 0] is nan": lambda: nsde.solve(sde, torch.tensor([[0.0], [math.nan]]), ts),
        "y0: expected (*batch, state)": lambda: nsde.solve(sde, torch.zeros(0, 1), ts),
        "y0: expected a floating point": lambda: nsde.solve(sde, torch.zeros(1, 1, dtype=torch.int64), ts),
        "dt: expected a positive": lambda: nsde.solve(sde, start, ts, dt=-0.1),
        "ts[0] = 1.0 is not followed": lambda: nsde.solve(sde, start, [1.0, 0.0]),
        "ts: expected (time,) or (2, 'time')": lambda: nsde.solve(sde, start, torch.zeros(3, 2)),
        "gradient: expected": lambda: nsde.solve(sde, start, ts, gradient="magic"),
        "controller: expected": lambda: nsde.solve(sde, start, ts, controller="pid"),
        "stepper: expected an instance": lambda: nsde.solve(sde, start, ts, stepper="euler"),
        "seed: a noise source carries": lambda: nsde.solve(sde, start, ts, noise=path, seed=1),
        "uses the space-time integrals": lambda: nsde.solve(sde, start, ts, noise=path),
        "noise: expected (series, noise) = (3, 1)": lambda: nsde.solve(sde, zeros(3, 1), ts, noise=path),
        "noise: expected a source": lambda: nsde.solve(sde, start, ts, noise=3),
        "running: expected distinct names": lambda: nsde.solve(
            sde, start, ts, running=[nsde.RunningCost(lambda t, y: y[:, 0])] * 2
        ),
        "sde: expected sde_type": lambda: nsde.solve(object(), start, ts),
        "series: expected 2 integer keys": lambda: nsde.solve(sde, start, ts, seed=0, series=[1, 2, 3]),
    }


def test_every_bad_argument_is_named(relaxation):
    for message, call in bad_calls(relaxation).items():
        with pytest.raises((DataError, ShapeError, SolveError)) as caught:
            call()
        assert message in str(caught.value)


def test_fields_of_the_wrong_shape_are_named():
    class Wrong(nsde.SDE):
        def drift(self, t, y):
            return y[:, :1]

        def diffusion(self, t, y):
            return y

    with pytest.raises(ShapeError, match=r"drift: expected \(series, state\) = \(2, 3\), got \(2, 1\)"):
        nsde.solve(Wrong(), zeros(2, 3), [0.0, 1.0])
