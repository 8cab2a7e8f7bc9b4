"""Simulated sets against closed forms, an independent integrator and the sets they imitate."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import norm

from neurosde import datasets
from neurosde.datasets.cards import recipe
from neurosde.datasets.simulators import ornstein_uhlenbeck
from neurosde.errors import DataError

FALSE_ALARM = 1e-5


def covariance_is(paths, expected) -> bool:
    """Two-sided z-tests of every second moment of zero-mean Gaussian rows, Bonferroni over the entries."""
    n = len(paths)
    found = paths.T @ paths / n
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / n)
    limit = norm.isf(FALSE_ALARM / (2 * expected.size))
    return bool((np.abs(found - expected) < limit * spread).all())


class TestOrnsteinUhlenbeck:
    time = np.array([0.0, 0.1, 0.15, 1.0, 4.0])

    def covariance(self, rate):
        return np.exp(-rate * np.abs(self.time[:, None] - self.time))

    def test_has_the_exact_covariance_at_irregular_times(self):
        paths = ornstein_uhlenbeck(self.time + 7.0, 0.8, np.random.default_rng(0), 20_000)
        assert covariance_is(paths, self.covariance(0.8))

    def test_a_wrong_rate_and_an_euler_scheme_are_rejected(self):
        rng = np.random.default_rng(0)
        paths = ornstein_uhlenbeck(self.time, 0.8, rng, 20_000)
        assert not covariance_is(paths, self.covariance(1.0))
        euler = np.empty_like(paths)
        euler[:, 0] = rng.standard_normal(len(paths))
        for k, gap in enumerate(np.diff(self.time)):
            noise = np.sqrt(2 * 0.8 * gap) * rng.standard_normal(len(paths))
            euler[:, k + 1] = euler[:, k] * (1 - 0.8 * gap) + noise
        assert not covariance_is(euler, self.covariance(0.8))

    def test_the_panel_is_that_process_seen_with_noise(self):
        series = datasets.load(
            "ornstein_uhlenbeck",
            n_series=4000,
            n_times=3,
            theta=2.0,
            mu=1.5,
            sigma=0.8,
            observation_sd=0.3,
            seed=3,
        )
        time, value = series.time.reshape(-1, 3), series.value.reshape(-1, 3) - 1.5
        variance = 0.8**2 / 4
        scaled = np.einsum("ni,nj->nij", value, value) - variance * np.exp(
            -2 * np.abs(time[:, :, None] - time[:, None])
        )
        scaled -= 0.09 * np.eye(3)
        z = scaled.mean(axis=0) / (scaled.std(axis=0) / np.sqrt(len(scaled)))
        assert np.abs(z).max() < norm.isf(FALSE_ALARM / 18)

    def test_an_overflowing_duration_is_refused(self):
        with pytest.raises(DataError, match="rate"):
            ornstein_uhlenbeck(np.array([0.0, 1e6]), 1.0, np.random.default_rng(0))

    def test_nonsense_is_refused(self):
        with pytest.raises(DataError, match="positive"):
            datasets.load("ornstein_uhlenbeck", theta=-1.0)


class TestKinetics:
    """The closed forms of the intensive-care panel against an integrator."""

    panel = recipe("icu_panel")

    def test_one_compartment_after_boluses(self):
        given, amount, rate = np.array([1.0, 5.0, 5.5]), np.array([10.0, 4.0, 6.0]), 0.3
        time = np.array([0.5, 1.0, 3.0, 5.2, 9.0])
        found = self.panel.concentration(time, given, amount, rate)
        level, now, expected = 0.0, 0.0, []
        for event in sorted(
            [*((t, "dose", a) for t, a in zip(given, amount, strict=True)), *((t, "look", 0) for t in time)]
        ):
            level, now = level * np.exp(-rate * (event[0] - now)), event[0]
            level += event[2]
            if event[1] == "look":
                expected.append(level)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert not np.allclose(self.panel.concentration(time, given, amount, 2 * rate), expected)

    def test_infusion_follows_its_settings(self):
        changed, rate = np.array([1.0, 4.0]), np.array([0.3, 0.1])
        time = np.linspace(0, 8, 30)

        def derivative(t, level):
            return 3.0 * ((0.3 if 1 <= t < 4 else 0.1 if t >= 4 else 0.0) - level)

        reference = solve_ivp(derivative, (0, 8), [0.0], t_eval=time, max_step=0.01, rtol=1e-8, atol=1e-10).y[
            0
        ]
        np.testing.assert_allclose(self.panel.infusion(time, changed, rate, 3.0), reference, atol=5e-3)


class TestIntensiveCarePanel:
    series = recipe("icu_panel").simulate(n_series=60, seed=1)

    def test_is_irregular_and_asynchronous(self):
        times = [set(self.series.time[self.series.channel == c]) for c in range(5)]
        assert all(a - b for a in times for b in times if a is not b)
        assert len(np.unique(self.series.counts)) > 20

    def test_values_are_in_their_ranges(self):
        for name, low, high in [("HR", 20, 220), ("Temp", 33, 42), ("SpO2", 80, 100), ("Potassium", 2, 8)]:
            value = self.series.value[self.series.channel == self.series.channel_names.index(name)]
            assert low <= value.min() <= value.max() <= high, name

    def test_some_weights_are_missing_and_both_labels_occur(self):
        weight = self.series.static[:, self.series.static_names.index("Weight")]
        assert 0 < np.isnan(weight).sum() < 20
        assert set(self.series.labels) == {0, 1}

    def test_a_patient_does_not_depend_on_the_number_of_patients(self):
        few = recipe("icu_panel").simulate(n_series=7, seed=1)
        assert few.equals(self.series[:7])
        assert not few.equals(recipe("icu_panel").simulate(n_series=7, seed=2))


@pytest.mark.parametrize(
    ("name", "start", "field"),
    [
        (
            "lotka_volterra",
            [5.05, 4.05],
            lambda t, x: [x[0] - 0.4 * x[0] * x[1], 0.1 * x[0] * x[1] - 0.4 * x[1]],
        ),
        (
            "repressilator",
            [1.05, 1.05, 2.05],
            lambda t, x: [10 / (1 + x[i - 1] ** 3) - x[i] for i in range(3)],
        ),
    ],
)
class TestSnapshotSimulators:
    def test_without_noise_it_is_the_flow(self, name, start, field):
        quiet = datasets.load(name, sd=0.0, n_cells=40, times=(0.0, 1.0, 2.5))
        flow = solve_ivp(field, (0, 2.5), start, t_eval=quiet.times, rtol=1e-9).y.T
        mean = np.array([quiet.at(t).mean(axis=0) for t in quiet.times])
        np.testing.assert_allclose(mean, flow, rtol=0.06)
        assert not np.allclose(mean[1:], flow[:-1], rtol=0.06)

    def test_is_repeatable_and_moves_with_the_seed(self, name, start, field):
        a, b, other = (datasets.load(name, n_cells=3, times=(0.0, 0.5), seed=s) for s in (0, 0, 1))
        np.testing.assert_array_equal(a.X, b.X)
        assert not np.allclose(a.X, other.X)

    def test_has_the_moments_of_the_published_set(self, name, start, field):
        folder = os.environ.get("NEUROSDE_DATA")
        if not folder:
            pytest.skip("needs $NEUROSDE_DATA")
        published = np.load(Path(folder) / "snapshots" / f"{name}.npy")
        ours = datasets.load(name, n_cells=400, seed=0)
        for k, t in enumerate(ours.times):
            theirs, mine = published[k], ours.at(t)
            error = np.sqrt(theirs.var(axis=0) / len(theirs) + mine.var(axis=0) / len(mine))
            gap = np.abs(theirs.mean(axis=0) - mine.mean(axis=0))
            # five standard errors, and two hundredths for the step of either simulator
            assert (gap < 5 * error + 0.02 * np.abs(mine.mean(axis=0))).all(), t


def test_krumsiek11_is_cut_along_its_runs(tmp_path):
    pytest.importorskip("scanpy")
    cells = datasets.load("krumsiek11", n_snapshots=10)
    assert cells.times.tolist() == list(range(10))
    assert cells.X.shape == (640, 11)
    assert all(len(cells.at(t)) == 64 for t in cells.times)
    table = datasets.load("krumsiek11", into="table")
    table.write_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(table.obs["time"], cells.time)
    assert set(table.obs["cell_type"]) == {"progenitor", "Ery", "Mk", "Mo", "Neu"}
    gram = cells.X - cells.X.mean(axis=0)
    np.testing.assert_allclose(table.obsm["X_pca"] @ table.obsm["X_pca"].T, gram @ gram.T, atol=1e-3)
    with pytest.raises(DataError, match="divisor"):
        datasets.load("krumsiek11", n_snapshots=7)
