"""What an adaptive controller must keep: the law of the path, the times to meet, its word on giving up."""

import math

import pytest
import torch
from scipy import stats

import neurosde as nsde
from neurosde.errors import DataError
from neurosde.solve import ExponentialShARK, Heun, PIController, ReversibleHeun, ShARK, Status

ALPHA = 1e-5


class Watched(nsde.SDE):
    """``dw = dW``, and ``dx = -x dt + 2 x o dW``, whose error decides which increments of w are rejected."""

    sde_type, noise_type = "stratonovich", "scalar"

    def drift(self, t, y):
        return torch.stack((torch.zeros_like(y[:, 0]), -y[:, 1]), dim=-1)

    def diffusion(self, t, y):
        return torch.stack((torch.ones_like(y[:, 0]), 2 * y[:, 1]), dim=-1).unsqueeze(-1)


def departures(motion, T):
    """How far the variance and the law of W(T) are from N(0, T): standard errors, and a p-value."""
    z = motion / math.sqrt(T)
    return abs(float(z.var()) - 1) / math.sqrt(2 / len(z)), stats.kstest(z.numpy(), "norm").pvalue


@pytest.mark.parametrize("whole_batch", [False, True], ids=["own clocks", "one clock"])
def test_rejections_that_look_at_the_path_leave_its_law(whole_batch):
    n = 3000
    start = torch.tensor([[0.0, 1.0]], dtype=torch.float64).expand(n, 2)
    controller = PIController(0.1, 0.02, whole_batch=whole_batch)
    solution = nsde.solve(Watched(), start, [0.0, 0.3, 1.0], seed=1, stepper=Heun(), controller=controller)
    solution.raise_if_failed()
    if not whole_batch:
        assert float(solution.stats["rejected"].double().mean()) > 2
    for T, column in ((0.3, 1), (1.0, 2)):
        sd, p = departures(solution.ys[:, column, 0], T)
        assert sd < stats.norm.isf(ALPHA / 8)
        assert p > ALPHA / 4


def test_a_controller_that_draws_afresh_after_a_rejection_does_not():
    """The twin of the test above: the same steps by the same rule, but no memory of what was rejected."""
    n, sde, controller = 3000, Watched(), PIController(0.1, 0.02)
    generator = torch.Generator().manual_seed(0)
    y = torch.tensor([[0.0, 1.0]], dtype=torch.float64).repeat(n, 1)
    t, h, zero = torch.zeros(n, 1, dtype=torch.float64), torch.full((n, 1), 2.0**-4), torch.zeros(())
    while bool((t < 1).any()):
        h = torch.minimum(h, 1 - t)
        W = torch.randn(n, 1, generator=generator, dtype=torch.float64) * h.sqrt()
        f, g = sde.drift_and_diffusion(zero, y)
        ahead = y + h * f + g.squeeze(-1) * W
        f_ahead, g_ahead = sde.drift_and_diffusion(zero, ahead)
        error = 0.5 * (h * (f_ahead - f) + (g_ahead - g).squeeze(-1) * W)
        size = controller.error(error, y, ahead + error).unsqueeze(-1)
        taken = size <= 1
        t, y = torch.where(taken, t + h, t), torch.where(taken, ahead + error, y)
        h = h * torch.where(taken, controller.factor(size, zero + 1, 1.0).clamp(max=2.0), 0.5)
    sd, p = departures(y[:, 0], 1.0)
    assert sd > 2 * stats.norm.isf(ALPHA / 8)
    assert p < ALPHA / 4


class Switched(nsde.SDE):
    """``y' = 5`` from t = .37 on and 0 before."""

    sde_type, additive = "stratonovich", True

    def drift(self, t, y):
        return torch.where(t >= 0.37, 5.0, 0.0) * torch.ones_like(y)

    def diffusion(self, t, y):
        return torch.zeros_like(y)

    def decay(self, t):
        return torch.zeros(1, dtype=torch.float64)


def solved(jump_times, stepper):
    controller = PIController(1e-2, 1e-2, first=0.5, jump_times=jump_times)
    start = torch.zeros(2, 1, dtype=torch.float64)
    return nsde.solve(Switched(), start, [0.0, 0.2, 1.0], seed=0, controller=controller, stepper=stepper)


@pytest.mark.parametrize(
    "stepper", [ReversibleHeun(), ShARK(), ExponentialShARK()], ids=lambda s: type(s).__name__
)
def test_a_jump_is_met_and_what_is_carried_is_made_anew(stepper):
    """The step that begins at the jump is the first that sees it; the one before ends there with one look."""
    told = solved((0.37,), stepper)
    blind = solved((), stepper)
    assert int(told.stats["rejected"].sum()) < int(blind.stats["rejected"].sum())
    assert float(told.ys[0, -1]) == pytest.approx(5 * 0.63, abs=0.05)


def test_jumps_that_cannot_be_met_are_refused_and_those_outside_ignored():
    for jump in (math.nan, math.inf, "soon"):
        with pytest.raises(DataError, match="jump_times"):
            PIController(0.1, 0.1, jump_times=(jump,))
    inside, outside = solved((), Heun()), solved((-3.0, 7.0, 1.0, 0.2), Heun())
    assert torch.equal(inside.ys, outside.ys)
    assert torch.equal(inside.stats["accepted"], outside.stats["accepted"])


class Growing(nsde.SDE):
    """``y' = r y`` with a rate for each series, kept beside the state."""

    sde_type = "stratonovich"

    def drift(self, t, y):
        return torch.stack((y[:, 0] * y[:, 1], torch.zeros_like(y[:, 1])), dim=-1)

    def diffusion(self, t, y):
        return torch.zeros_like(y)


def test_the_shortest_step_is_taken_whatever_its_error():
    y = torch.tensor([[1.0, -1.0], [1.0, -200.0]], dtype=torch.float64)
    strict, lenient = (
        nsde.solve(Growing(), y, [0.0, 0.5], seed=0, controller=PIController(1e-4, 1e-4, shortest=shortest))
        for shortest in (0.0, 2.0**-8)
    )
    assert lenient.succeeded
    assert lenient.stats["accepted"][1] <= 2**7 + 2
    assert strict.stats["accepted"][1] > 2 * lenient.stats["accepted"][1]
    assert torch.equal(strict.ys[0], lenient.ys[0])  # no step of the other series was ever so short


def test_giving_up_is_told_for_that_series_alone():
    y = torch.tensor([[1.0, -1.0], [1.0, -500.0], [1.0, -2.0]], dtype=torch.float64)
    controller = PIController(1e-3, 1e-3)
    with pytest.warns(
        RuntimeWarning, match="1 of 3 series failed; series 1 needed more steps than max_steps"
    ):
        some = nsde.solve(Growing(), y, [0.0, 1.0], seed=0, controller=controller, max_steps=100)
    assert some.status.tolist() == [Status.SUCCESS, Status.MAX_STEPS, Status.SUCCESS]
    assert some.ys[1, -1].isnan().all()
    others = nsde.solve(Growing(), y[[0, 2]], [0.0, 1.0], seed=0, controller=controller, series=[0, 2])
    assert torch.equal(some.ys[[0, 2]], others.ys)
    assert torch.equal(some.stats["accepted"][[0, 2]], others.stats["accepted"])


def test_an_error_of_nothing_is_no_error():
    """With atol = 0 a state of zero that stays there is measured against nothing, and is met all the same."""
    y = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    solution = nsde.solve(Growing(), y, [0.0, 1.0], seed=0, controller=PIController(1e-2, 0.0))
    assert solution.succeeded
    assert torch.equal(solution.ys[:, -1], y)
