"""References, and bridges over several intervals: Fokker-Planck, the textbook linear drift, the joint law."""

import math

import pytest
import torch

from neurosde.bridge import BrownianReference, LightBridge, LightInterval, LightMixture, LinearReference
from neurosde.errors import DataError
from neurosde.linear import LinearSDE


def kinetic(tau=1.0):
    """Noise in the velocity only: L L' is singular, the transition's covariance is not."""
    sde = LinearSDE([[0.0, 1.0], [-0.5, -0.3]], [0.1, -0.2], [[0.0], [0.7]])
    return LinearReference(0.0, tau, sde, torch.tensor([0.2, -0.1]).double()), sde


def test_linear_drift_is_the_textbook_one(full_mixture, cells):
    """Posterior precision with Q_t inverted (exact where Q_t is well conditioned), in data units."""
    reference, sde = kinetic()
    R, centre = reference.root, reference.centre
    S = R @ full_mixture.covariance @ R.T
    r = full_mixture.location @ R.T
    Q_inv = torch.linalg.inv(reference.Q)
    drift = LightInterval(reference, full_mixture).drift
    for t in (0.0, 0.3, 0.7):
        Phi, m, Q_t = sde.transition(1.0 - t)
        z = cells @ Phi.T + m - centre
        precision = torch.linalg.inv(Q_t) - Q_inv + torch.linalg.inv(S)
        b = torch.linalg.solve(Q_t, z.T).T[:, None] + torch.linalg.solve(S, r[..., None])[..., 0]
        mean = torch.linalg.solve(precision, b[..., None])[..., 0]
        # log of the component's mass: v times exp(y'Q^-1 y/2) against the transition density
        log_w = full_mixture.logits - 0.5 * torch.logdet(S) - 0.5 * torch.logdet(precision)
        log_w = (
            log_w + 0.5 * (b * mean).sum(-1) - 0.5 * (r * torch.linalg.solve(S, r[..., None])[..., 0]).sum(-1)
        )
        w = torch.softmax(log_w, -1)
        end = torch.einsum("nk,nkd->nd", w, mean)
        pull = torch.linalg.solve(Q_t, (end - z).T).T
        expected = cells @ sde.A.T + sde.b + pull @ Phi @ sde.L @ sde.L.T
        actual = drift(torch.tensor(t, dtype=torch.float64), cells)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_linear_drift_holds_at_the_end(full_mixture, cells):
    reference, _ = kinetic()
    drift = LightInterval(reference, full_mixture).drift
    at_end = drift(torch.tensor(1.0).double(), cells)
    assert torch.isfinite(at_end).all()
    just_before = drift(torch.tensor(1 - 1e-7, dtype=torch.float64), cells)
    torch.testing.assert_close(at_end, just_before, rtol=1e-5, atol=1e-5)


def test_linear_reference_without_drift_is_brownian(full_mixture, cells):
    centre, sigma = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.8, 1.3]).double()
    sde = LinearSDE(torch.zeros(2, 2), None, torch.diag(sigma))
    first = LightInterval(BrownianReference(1.0, 3.0, sigma, centre), full_mixture)
    second = LightInterval(LinearReference(1.0, 3.0, sde, centre), full_mixture)
    for t in (1.0, 2.2, 3.0):
        clock = torch.tensor(t, dtype=torch.float64)
        torch.testing.assert_close(first.drift(clock, cells), second.drift(clock, cells))
    for before, after in ((1.0, 2.0), (2.0, 2.5), (1.0, 3.0)):
        a, b = first.reference.pinned(before, after), second.reference.pinned(before, after)
        torch.testing.assert_close(a.mean(cells, cells + 1), b.mean(cells, cells + 1))
        torch.testing.assert_close(torch.diag(a.root**2), b.root @ b.root.T, rtol=1e-9, atol=1e-12)


def line(kind):
    """Two components in one dimension, on an interval of length 2, from weighted cells."""
    mixture = LightMixture(
        torch.tensor([0.2, -0.3]).double(),
        torch.tensor([[-0.8], [1.1]]).double(),
        torch.tensor([[0.3], [0.7]]).double(),
    )
    zero, one = torch.zeros(1).double(), torch.ones(1).double()
    if kind == "brownian":
        reference = BrownianReference(0.0, 2.0, 0.6 * one, zero)
    else:
        reference = LinearReference(0.0, 2.0, LinearSDE([[-0.7]], [0.3], [[0.6]]), zero)
    cells = torch.tensor([[-0.5], [0.1], [0.9]]).double()
    weights = torch.tensor([0.5, 0.3, 0.2]).double()
    return LightBridge([LightInterval(reference, mixture)], [cells], [weights])


def fokker_planck_residual(bridge, clock=1.0, weights=None):
    """Largest relative residual of dp/dt = -(u p)' + sigma^2 p''/2, by differences on a grid."""
    if weights is not None:
        bridge.weights = [weights]
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
    dx, dt, worst = float(x[1] - x[0]), 1e-4, 0.0
    variance = float(bridge.diffusion() @ bridge.diffusion().T)
    for t in (0.5, 1.0, 1.6):
        now, before, after = (bridge.log_marginal(s, x).exp() for s in (t, t - dt, t + dt))
        flux = clock * bridge.drift(torch.tensor(t, dtype=torch.float64), x)[:, 0] * now
        rate = (
            -(flux[2:] - flux[:-2]) / (2 * dx) + 0.5 * variance * (now[2:] - 2 * now[1:-1] + now[:-2]) / dx**2
        )
        change = (after - before)[1:-1] / (2 * dt)
        worst = max(worst, float((rate - change).abs().max() / change.abs().max()))
    return worst


@pytest.mark.parametrize("kind", ["brownian", "linear"])
def test_marginal_density_obeys_fokker_planck(kind):
    assert fokker_planck_residual(line(kind)) < 1e-3
    assert fokker_planck_residual(line(kind), clock=2.0) > 0.1  # twin: drift per interval, not per unit time


@pytest.mark.parametrize("kind", ["brownian", "linear"])
def test_draws_follow_the_marginal_density(kind):
    """Kolmogorov-Smirnov distance of 20,000 draws at false-alarm rate 1e-5; a twin without weights fails."""
    bridge, n = line(kind), 20_000
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    cdf = bridge.log_marginal(1.0, x).exp().cumsum(0) * float(x[1] - x[0])
    limit = math.sqrt(0.5 * math.log(2 / 1e-5) / n)

    def distance(draws):
        ranks = torch.searchsorted(draws[:, 0].sort().values, x[:, 0].contiguous()).double() / n
        return float((ranks - cdf).abs().max())

    assert distance(bridge.marginal(1.0, n, seed=0)) < limit
    bridge.weights = [torch.ones(3).double()]
    assert distance(bridge.marginal(1.0, n, seed=0)) > limit


def composed():
    mixture = LightMixture(
        torch.zeros(2).double(), torch.tensor([[-0.5], [0.8]]).double(), torch.full((2, 1), 0.4).double()
    )
    one = torch.ones(1).double()
    references = [BrownianReference(a, b, 0.5 * one, 0 * one) for a, b in ((0.0, 1.0), (1.0, 4.0))]
    cells = [torch.zeros(3, 1).double(), torch.ones(2, 1).double()]
    return LightBridge([LightInterval(reference, mixture) for reference in references], cells)


def test_composition_switches_at_the_snapshots():
    bridge, x = composed(), torch.tensor([[0.3], [0.3], [0.3]]).double()
    t = torch.tensor([0.5, 1.0, 3.0]).double()
    expected = [bridge.intervals[i].drift(s, x[:1]) for i, s in ((0, t[0]), (1, t[1]), (1, t[2]))]
    torch.testing.assert_close(bridge.sde().drift(t[:, None], x), torch.cat(expected))
    assert bridge.times.tolist() == [0.0, 1.0, 4.0]
    assert bridge.marginal(1.0).tolist() == [[1.0], [1.0]]  # the cells that were observed
    assert len(bridge.marginal(0.5)) == 3
    paths = bridge.sample(torch.zeros(2, 1), 0.0, [0.0, 0.5, 1.0, 2.0, 4.0])
    assert paths.shape == (2, 5, 1)
    assert (paths[:, 0] == 0).all()


def test_the_end_of_one_interval_is_the_start_of_the_next():
    """A path drawn to 4 by way of 1 has the law of a path drawn straight to 4."""
    bridge, n = composed(), 50_000
    start = torch.zeros(n, 1).double()
    straight = bridge.sample(start, 0.0, 4.0, seed=0)
    by_way = bridge.sample(bridge.sample(start, 0.0, 1.0, seed=1), 1.0, 4.0, seed=2)
    error = float(straight.std() * (2 / n) ** 0.5)
    assert abs(float(straight.mean() - by_way.mean())) < 5 * error
    assert abs(float(straight.std() / by_way.std()) - 1) < 0.03


def test_sde_serves_both_precisions_and_declares_its_noise(cells, full_mixture, unit_reference):
    sde = LightBridge([LightInterval(unit_reference, full_mixture)], [cells]).sde()
    assert (sde.sde_type, sde.noise_type) == ("ito", "additive")
    assert sde.diffusion(torch.tensor(0.0), cells.float()).shape == (7, 2, 2)
    assert sde.drift(torch.tensor(0.0), cells.float()).dtype == torch.float32
    assert sde.g(torch.tensor(0.0), cells).dtype == torch.float64


def test_noise_that_leaves_a_direction_out_is_refused():
    sde = LinearSDE(torch.zeros(2, 2), None, [[1.0], [0.0]])
    with pytest.raises(DataError, match="noise does not reach all 2 directions"):
        LinearReference(0.0, 1.0, sde, torch.zeros(2).double())


def test_intervals_that_do_not_join_are_refused(full_mixture):
    one = torch.ones(2).double()
    apart = [LightInterval(BrownianReference(a, b, one, one), full_mixture) for a, b in ((0, 1), (2, 3))]
    with pytest.raises(DataError, match="begin where"):
        LightBridge(apart, [one[None], one[None]])
