"""Filter, smoother and predictions against one dense Gaussian over all times, and twins that must fail."""

import math

import numpy as np
import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError, ShapeError
from neurosde.linear import Gaussian, Transition, kalman

A, b, L = [[-0.6, 0.4], [-0.3, -1.1]], [0.2, 0.5], [[0.5, 0.0], [0.2, 0.7]]
STIFF = [[-0.5, 0.3], [0.0, -800.0]], [0.1, 0.0], [[0.6, 0.0], [0.0, 30.0]]
KINETIC = [[0.0, 1.0], [-1.0, -0.8]], [0.5, 0.0], [[0.0], [0.7]]
OBSERVATION = [[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]], [[0.3, 0.1, 0.0], [0.1, 0.2, 0.0], [0.0, 0.0, 0.1]]


OBSERVATION_OF_TWO = [[1.0, 0.1], [0.5, -1.1]], [0.3, 0.7]


@pytest.fixture
def data():
    """Five series on their own times, a third of the entries and some ends missing."""
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 6, (5, 8)), axis=1)
    values = rng.normal(size=(5, 8, 3))
    values[rng.uniform(size=values.shape) < 0.3] = np.nan
    values[1, 3] = np.nan  # a time at which nothing was seen
    times[2, 5:], values[2, 5:] = np.nan, np.nan
    times[4, 1:], values[4, 1:] = np.nan, np.nan
    times[0, 4] = times[0, 3]  # two visits at one time
    return times, values


class TestOrnsteinUhlenbeck:
    """The scalar case with its own closed form, sigma^2 / (2 theta) exp(-theta |t - s|)."""

    theta, mu, sigma = 1.3, 0.7, 0.9

    def covariance(self, s, t):
        return self.sigma**2 / (2 * self.theta) * np.exp(-self.theta * np.abs(np.subtract.outer(s, t)))

    @pytest.mark.parametrize("noise", [0.0, 0.05, 3.0])
    def test_likelihood_and_smoother_on_irregular_times(self, noise, log_density):
        rng = np.random.default_rng(1)
        times = np.sort(rng.uniform(0, 30, 60))
        values = rng.normal(self.mu, 1, 60)
        sde = nsde.LinearSDE([[-self.theta]], [self.theta * self.mu], [[self.sigma]])
        data = times, values[:, None], ([[1.0]], noise)
        K = self.covariance(times, times)
        S = K + noise * np.eye(60)
        exact = log_density(values, np.full(60, self.mu), S)
        assert float(sde.log_likelihood(*data)) == pytest.approx(exact, abs=1e-8)
        mean, covariance = sde.smooth(*data)
        gain = np.linalg.solve(S, K).T
        assert np.allclose(mean[:, 0], self.mu + gain @ (values - self.mu), atol=1e-9)
        assert np.allclose(covariance[:, 0, 0], np.diag(K - gain @ K), atol=1e-9)
        query = np.array([40.0, -2.0, 7.77, times[5]])  # a forecast, the past, a gap, an observation
        mean, covariance = sde.predict(*data[:2], query, data[2])
        gain = np.linalg.solve(S, self.covariance(times, query)).T
        assert np.allclose(mean[:, 0], self.mu + gain @ (values - self.mu), atol=1e-9)
        left = self.covariance(query, query) - gain @ self.covariance(times, query)
        assert np.allclose(covariance[:, 0, 0], np.diag(left), atol=1e-9)

    def test_a_known_start_is_the_transition(self):
        sde = nsde.LinearSDE([[-self.theta]], [self.theta * self.mu], [[self.sigma]])
        known = [2.0], [[0.0]]
        law = sde.predict([0.0], [[math.nan]], [0.5, 3.0], initial=known)
        Phi, m, Q = sde.transition(torch.tensor([0.5, 3.0]))
        assert torch.allclose(law.mean, Phi[..., 0] * 2.0 + m)
        assert torch.allclose(law.covariance, Q)


@pytest.mark.parametrize("sde", [(A, b, L), STIFF, KINETIC], ids=["plain", "stiff", "kinetic"])
class TestAgainstTheDenseLaw:
    def conditioned(self, sde, dense_law, observe, times, values, query):
        """Law of the states at `query` given what was seen, and the log-density of that, of one series."""
        times, values = times[np.isfinite(times)], values[np.isfinite(times)]
        n = len(times)
        mean, covariance = dense_law(*sde, [*times, *query])
        seen_mean, S, cross = observe(mean[: 2 * n], covariance[: 2 * n, : 2 * n], *OBSERVATION, n)
        cross = covariance[2 * n :, : 2 * n] @ np.kron(np.eye(n), np.array(OBSERVATION[0])).T
        kept = np.isfinite(values.ravel())
        y, seen_mean, S, cross = values.ravel()[kept], seen_mean[kept], S[np.ix_(kept, kept)], cross[:, kept]
        gain = np.linalg.solve(S, cross.T).T
        left = covariance[2 * n :, 2 * n :] - gain @ cross.T
        blocks = left.reshape(len(query), 2, len(query), 2)
        blocks = np.stack([blocks[k, :, k] for k in range(len(query))])
        return (mean[2 * n :] + gain @ (y - seen_mean)).reshape(-1, 2), blocks, (y, seen_mean, S)

    def test_likelihood_of_each_series(self, sde, data, dense_law, observe, log_density):
        ours = nsde.LinearSDE(*sde).log_likelihood(*data, OBSERVATION)
        for i, (times, values) in enumerate(zip(*data, strict=True)):
            *_, seen = self.conditioned(sde, dense_law, observe, times, values, [0.0])
            assert float(ours[i]) == pytest.approx(log_density(*seen), abs=1e-8)

    def test_smoother_is_the_conditional_law(self, sde, data, dense_law, observe):
        ours = nsde.LinearSDE(*sde).smooth(*data, OBSERVATION)
        for i, (times, values) in enumerate(zip(*data, strict=True)):
            n = np.isfinite(times).sum()
            mean, blocks, _ = self.conditioned(sde, dense_law, observe, times, values, times[:n])
            assert np.allclose(ours.mean[i, :n], mean, atol=1e-9)
            assert np.allclose(ours.covariance[i, :n], blocks, atol=1e-9)
            assert torch.isnan(ours.mean[i, n:]).all()

    def test_filter_is_the_conditional_law_so_far(self, sde, data, dense_law, observe):
        ours = nsde.LinearSDE(*sde).filter(*data, OBSERVATION)
        times, values = data[0][3], data[1][3]
        for k in range(1, 8):
            past = times[:k], values[:k], times[k - 1 : k + 1]
            mean, blocks, _ = self.conditioned(sde, dense_law, observe, *past)
            assert np.allclose(ours.filtered.mean[3, k - 1], mean[0], atol=1e-9)
            assert np.allclose(ours.filtered.covariance[3, k - 1], blocks[0], atol=1e-9)
            assert np.allclose(ours.predicted.mean[3, k], mean[1], atol=1e-9)
            assert np.allclose(ours.predicted.covariance[3, k], blocks[1], atol=1e-9)

    @pytest.mark.parametrize("shared", [True, False])
    def test_predictions_at_any_time(self, sde, shared, data, dense_law, observe):
        rng = np.random.default_rng(2)
        query = rng.uniform(-1, 9, (5, 4))
        query = query[0] if shared else query
        ours = nsde.LinearSDE(*sde).predict(*data, query, OBSERVATION)
        for i, (times, values) in enumerate(zip(*data, strict=True)):
            asked = query if shared else query[i]
            mean, blocks, _ = self.conditioned(sde, dense_law, observe, times, values, asked)
            assert np.allclose(ours.mean[i], mean, atol=1e-9)
            assert np.allclose(ours.covariance[i], blocks, atol=1e-9)


def test_exact_observations_of_half_the_state(dense_law, observe, log_density):
    """Positions without noise, velocities unseen: filtered covariances are singular."""
    rng = np.random.default_rng(3)
    times = np.array([0.0, 0.01, 0.5, 0.51, 2.0])
    values, C = rng.normal(size=(5, 1)), [[1.0, 0.0]]
    sde = nsde.LinearSDE(*KINETIC)
    mean, covariance = dense_law(*KINETIC, times)
    seen_mean, S, cross = observe(mean, covariance, C, 0.0, 5)
    exact = log_density(values[:, 0], seen_mean, S)
    assert float(sde.log_likelihood(times, values, (C, 0.0))) == pytest.approx(exact, rel=1e-10)
    law = sde.smooth(times, values, (C, 0.0))
    gain = np.linalg.solve(S, cross.T).T
    assert np.allclose(law.mean[:, 0], values[:, 0], atol=1e-9)
    assert np.allclose(law.mean.flatten(), mean + gain @ (values[:, 0] - seen_mean), rtol=1e-7, atol=1e-7)
    left = np.diag(covariance - gain @ cross.T)[1::2]
    assert np.allclose(law.covariance[:, 1, 1], left, rtol=1e-6)
    assert float(law.covariance[:, 0, :].abs().max()) < 1e-9


def test_a_nearly_unknown_start_leaves_no_negative_variance():
    sde = nsde.LinearSDE([[0.0, 1.0], [0.0, 0.0]], L=[[0.0], [1e-3]])
    times = torch.linspace(0, 10, 50, dtype=torch.float64)
    vague = [0.0, 0.0], 1e12 * torch.eye(2)
    data = times, torch.sin(times)[:, None], ([[1.0, 0.0]], 1e-8)
    for law in (sde.smooth(*data, initial=vague), sde.filter(*data, initial=vague).filtered):
        assert float(torch.linalg.eigvalsh(law.covariance).min()) > 0


class TestTwins:
    """Mistakes that the comparison with the dense law must reject."""

    def steps(self):
        sde, times = nsde.LinearSDE(A, b, L), torch.tensor([[0.0, 0.3, 1.7, 2.0, 4.0]], dtype=torch.float64)
        durations = torch.diff(times, prepend=times[:, :1])
        return sde, times, durations

    @pytest.mark.parametrize("mistake", ["none", "interval", "Q twice", "R twice", "zeros"])
    def test_likelihood(self, mistake, dense_law, observe, log_density):
        sde, times, durations = self.steps()
        C, R = (torch.tensor(x, dtype=torch.float64) for x in OBSERVATION)
        values = torch.as_tensor(np.random.default_rng(4).normal(size=(1, 5, 3)))
        values[0, 2, 1] = math.nan
        seen = ~values.isnan()
        mean, S, _ = observe(*dense_law(A, b, L, times[0]), *OBSERVATION, 5)
        kept = seen.flatten().numpy()
        exact = log_density(values.flatten().numpy()[kept], mean[kept], S[np.ix_(kept, kept)])
        if mistake == "interval":
            durations = durations.roll(-1, 1)
        Phi, m, Q = sde.transition(durations)
        if mistake == "Q twice":
            Q = 2 * Q
        if mistake == "R twice":
            R = 2 * R
        if mistake == "zeros":
            seen, values = torch.ones_like(seen), values.nan_to_num()
        start = Gaussian(*(part.unsqueeze(0) for part in sde.stationary()))
        run = kalman.kalman_filter(start, Transition(Phi, m, Q), kalman.Observations(values, seen, C, R))
        error = abs(float(run.log_likelihood) - exact)
        assert error < 1e-10 if mistake == "none" else error > 1e-2

    def test_smoother_over_the_wrong_interval(self):
        sde, times, durations = self.steps()
        values = torch.as_tensor(np.random.default_rng(5).normal(size=(5, 3)))
        right = sde.smooth(times[0], values, OBSERVATION)
        filtered = kalman.Filtered(*(_batched(part) for part in sde.filter(times[0], values, OBSERVATION)))
        for shift, agrees in ((0, True), (1, False)):
            law = kalman.smooth(filtered, sde.transition(durations.roll(shift, 1)))
            assert torch.allclose(law.mean[0], right.mean, atol=1e-12) is agrees


def _batched(part):
    return Gaussian(*(x.unsqueeze(0) for x in part)) if isinstance(part, Gaussian) else part.unsqueeze(0)


class TestBatches:
    sde = nsde.LinearSDE(A, b, L)

    def test_one_by_one_and_in_any_order(self, data):
        together = self.sde.smooth(*data, OBSERVATION)
        scores = self.sde.log_likelihood(*data, OBSERVATION)
        for i in range(5):
            n = np.isfinite(data[0][i]).sum()
            alone = data[0][i, :n], data[1][i, :n]
            law = self.sde.smooth(*alone, OBSERVATION)
            assert torch.allclose(law.mean, together.mean[i, :n], atol=1e-12)
            assert torch.allclose(law.covariance, together.covariance[i, :n], atol=1e-12)
            assert torch.allclose(self.sde.log_likelihood(*alone, OBSERVATION), scores[i], atol=1e-11)
        order = [3, 1, 4, 0, 2]
        shuffled = self.sde.log_likelihood(data[0][order], data[1][order], OBSERVATION)
        assert torch.allclose(shuffled, scores[order], atol=1e-11)

    def test_missing_channels_are_dropped_rows(self, data):
        times, values = (torch.as_tensor(x[3:4]) for x in data)
        values = values.clone()
        values[..., 1] = math.nan
        C, R = (torch.tensor(x, dtype=torch.float64)[[0, 2]] for x in OBSERVATION)
        dropped = self.sde.log_likelihood(times, values[..., [0, 2]], (C, R[:, [0, 2]]))
        assert torch.allclose(self.sde.log_likelihood(times, values, OBSERVATION), dropped, atol=1e-12)

    def test_times_at_which_nothing_was_seen_change_nothing(self, data):
        times, values = data[0][3], data[1][3]
        late = np.concatenate([times, [6.5, 7.0]]), np.concatenate([values, np.full((2, 3), np.nan)])
        between = np.insert(times, 4, times[3:5].mean()), np.insert(values, 4, np.nan, axis=0)
        exact = self.sde.log_likelihood(times, values, OBSERVATION)
        for more in (late, between):
            assert torch.allclose(self.sde.log_likelihood(*more, OBSERVATION), exact, atol=1e-11)
        laws = self.sde.smooth(*late, OBSERVATION), self.sde.smooth(times, values, OBSERVATION)
        assert torch.allclose(laws[0].mean[:8], laws[1].mean, atol=1e-12)

    def test_shared_times_are_each_series_own_times(self, data):
        times, values = data[0][3], np.nan_to_num(data[1])
        own = np.tile(times, (5, 1))
        for y in (values, np.where(np.arange(5)[:, None, None] % 2, np.nan, values)):
            shared, each = (self.sde.filter(t, y, OBSERVATION) for t in (times, own))
            assert torch.allclose(shared.log_likelihood, each.log_likelihood, atol=1e-11)
            assert torch.allclose(shared.filtered.covariance, each.filtered.covariance, atol=1e-12)
            assert shared.filtered.covariance.shape == (5, 8, 2, 2)

    def test_batch_axes_come_back(self, data):
        times, values = (x[[0, 1, 2, 3]].reshape(2, 2, *x.shape[1:]) for x in data)
        run = self.sde.filter(times, values, OBSERVATION)
        assert run.log_density.shape == (2, 2, 8)
        assert run.predicted.covariance.shape == (2, 2, 8, 2, 2)
        law = self.sde.predict(times, values, np.zeros((2, 2, 3)), OBSERVATION)
        assert law.mean.shape == (2, 2, 3, 2)
        padded = self.sde.predict(times, values, [1.0, np.nan], OBSERVATION)
        assert torch.isnan(padded.mean).all(-1).tolist() == [[[False, True]] * 2] * 2

    def test_a_series_without_times_has_the_stationary_law(self, data):
        times, values = (np.concatenate([x, np.full_like(x[:1], np.nan)]) for x in data)
        scores = self.sde.log_likelihood(times, values, OBSERVATION)
        assert torch.allclose(scores[:5], self.sde.log_likelihood(*data, OBSERVATION), atol=1e-11)
        assert float(scores[5]) == 0.0
        law = self.sde.predict(times, values, [-3.0, 5.0], OBSERVATION)
        for part, exact in zip(law, self.sde.stationary(), strict=True):
            assert torch.allclose(part[5], exact.expand_as(part[5]), atol=1e-12)

    def test_lists_are_read_in_double_precision(self):
        lists = [0.1, 0.3, 0.7], [[0.1, 0.2], [0.3, 0.4], [0.6, 0.7]]
        exact = self.sde.log_likelihood(*map(np.array, lists), OBSERVATION_OF_TWO)
        assert torch.equal(self.sde.log_likelihood(*lists, OBSERVATION_OF_TWO), exact)

    def test_single_precision_buffers_do_not_matter(self, data):
        exact = self.sde.log_likelihood(*data, OBSERVATION)
        rounded = nsde.LinearSDE(A, b, L).float()
        assert rounded.log_likelihood(*data, OBSERVATION).dtype == torch.float64
        assert torch.allclose(rounded.log_likelihood(*data, OBSERVATION), exact, rtol=1e-5)
        assert rounded.smooth([0.0, 0.1], [[0.0, 1.0], [0.2, 0.3]]).mean.dtype == torch.float64

    def test_each_series_its_own_start(self, data):
        means = np.linspace(-1, 1, 10).reshape(5, 2)
        covariances = np.linspace(0, 1, 5)[:, None, None] * np.eye(2)
        together = self.sde.log_likelihood(*data, OBSERVATION, initial=(means, covariances))
        for i, start in enumerate(zip(means, covariances, strict=True)):
            alone = self.sde.log_likelihood(data[0][i], data[1][i], OBSERVATION, initial=start)
            assert torch.allclose(alone, together[i], atol=1e-11)


class TestBadInput:
    sde = nsde.LinearSDE(A, b, L)
    values = np.zeros((2, 3, 2))
    times = (0.0, 1.0, 2.0)

    @pytest.mark.parametrize(
        ("changed", "error", "message"),
        [
            (
                {"values": values[..., 0]},
                ShapeError,
                r"got \(2, 3\); .* its axis too: values\[",
            ),
            ({"observation": ([[1.0, 0.0]], 1.0)}, ShapeError, r"values: expected \(\*batch, time, 1\)"),
            ({"times": times[:2]}, ShapeError, "values: expected 2 times as in times, got 3"),
            ({"times": (0.0, 2.0, 1.0)}, DataError, r"times\[0, 2\] is 1.0 after 2.0"),
            ({"times": (0.0, math.nan, 1.0)}, DataError, r"times\[0, 2\] is 1.0 after nan"),
            ({"times": (0.0, 1.0, math.nan)}, DataError, r"values\[0, 2, 0\] is a number, but its time"),
            ({"times": (0.0, 1.0, math.inf)}, DataError, r"times\[2\] is inf"),
            ({"values": values + math.inf}, DataError, r"values\[0, 0, 0\] is inf"),
            ({"observation": ([1.0, 0.0], 1.0)}, ShapeError, r"C \(channel, 2\), got \(2,\)"),
            ({"observation": (np.eye(2), np.ones(3))}, ShapeError, "R a variance"),
            ({"observation": (np.eye(2), -1.0)}, DataError, "R: expected no negative eigenvalue"),
            ({"observation": (np.eye(2), [[1.0, 0.5], [0.0, 1.0]])}, DataError, "R: expected a symmetric"),
            ({"observation": (np.eye(2), math.nan)}, DataError, r"R\[0, 0\] is nan"),
            ({"observation": np.eye(2)[0]}, ShapeError, r"C \(channel, 2\)"),
            ({"observation": 1.0}, ShapeError, "observation: expected a pair"),
            ({"initial": np.eye(2)[:1]}, ShapeError, "initial: expected a pair"),
            ({"initial": ([0.0], np.eye(2))}, ShapeError, r"initial: expected mean \(2,\) or \(2, 2\)"),
            ({"initial": ([0.0, math.nan], np.eye(2))}, DataError, r"initial mean\[1\] is nan"),
            ({"initial": ([0.0, 0.0], -np.eye(2))}, DataError, "initial covariance: expected no negative"),
        ],
    )
    def test_is_named(self, changed, error, message):
        with pytest.raises(error, match=message):
            self.sde.log_likelihood(**{"times": self.times, "values": self.values} | changed)

    @pytest.mark.parametrize(
        ("times", "C"), [((0.0, 1.0, 1.0), np.eye(2)), ((0.0, 1.0, 2.0), [[1.0, 0.1], [3.0, 0.3]])]
    )
    def test_what_is_known_exactly_cannot_be_seen_again(self, times, C):
        with pytest.raises(DataError, match=r"values\[0, [02]\] has no density"):
            self.sde.log_likelihood(times, self.values, (C, 0.0))

    def test_query_before_a_given_start(self):
        with pytest.raises(DataError, match=r"query\[0, 1\] comes before"):
            self.sde.predict(self.times, self.values, [3.0, -1.0], initial=([0.0, 0.0], np.eye(2)))

    def test_no_stationary_start(self):
        with pytest.raises(DataError, match="give the law at the first time as `initial`"):
            nsde.LinearSDE([[0.0]]).log_likelihood([0.0], [[1.0]])
