"""AnnData in, AnnData out: the bridge in uns survives a file, and the checks are honest."""

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from neurosde import pl, tl
from neurosde.errors import DataError
from neurosde.scores import wasserstein

QUICK = {"max_iter": 200, "n_components": 5, "random_state": 0}


def moving_cells(labels=("0", "2", "10"), n=150):
    """The first feature moves at unit speed. Labels are text that reads as numbers."""
    rng = np.random.default_rng(0)
    day = np.repeat(labels, n)
    cells = anndata.AnnData(
        rng.standard_normal((len(day), 4)).astype(np.float32),
        obs=pd.DataFrame({"day": day}, index=[f"c{i}" for i in range(len(day))]),
    )
    X = rng.standard_normal((len(day), 3)) * 0.5
    X[:, 0] += day.astype(float)
    cells.obsm["X_pca"] = X
    return cells


@pytest.fixture(scope="module")
def fitted():
    cells = moving_cells()
    assert tl.bridge(cells, "day", n_pcs=2, **QUICK) is None
    return cells


def test_the_result_is_plain_and_survives_a_file(fitted, tmp_path):
    result = fitted.uns["neurosde"]["bridge"]
    assert result["times"].tolist() == [0.0, 2.0, 10.0]
    assert result["settings"]["time_key"] == "day"
    fitted.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    ours, theirs = (tl.interpolate(x, 5.0, 50, seed=3) for x in (fitted, again))
    assert np.array_equal(ours.X, theirs.X)


def test_generated_cells_stand_where_the_population_is(fitted):
    cells = tl.interpolate(fitted, 6.0, 400, seed=0)
    assert cells.obs["day"].unique().tolist() == [6.0]
    assert cells.obsm["X_pca"].shape == (400, 2)
    assert cells.X[:, 0].mean() == pytest.approx(6.0, abs=0.4)
    assert cells.uns["neurosde"]["bridge"]["road"] in ("mixture", "observed")


def test_a_copy_leaves_the_original_alone():
    cells = moving_cells()
    copy = tl.bridge(cells, "day", copy=True, **QUICK)
    assert "neurosde" not in cells.uns
    assert "bridge" in copy.uns["neurosde"]


def test_validation_beats_copying_and_names_its_distances():
    cells = moving_cells(("0", "4", "8"))
    table = tl.validate(cells, "day", n_pcs=2, **QUICK)
    score = table.set_index("method")["W1"]
    assert set(table["method"]) == {
        "copy previous", "copy next", "pool", "exact OT", "light bridge", "split halves"
    }  # fmt: skip
    assert score["light bridge"] < 0.5 * min(score["copy previous"], score["copy next"], score["pool"])
    truth, previous = (cells.obsm["X_pca"][cells.obs["day"] == day, :2] for day in ("4", "0"))
    row = table[table["method"] == "copy previous"].iloc[0]
    assert row["W1"] == pytest.approx(wasserstein(previous, truth, 1))
    assert row["W2"] == pytest.approx(wasserstein(previous, truth, 2))
    assert (table["W2"] >= table["W1"]).all()
    assert list(cells.uns["neurosde"]["validation"]) == ["time", "method", "road", "W1", "W2"]


def test_the_left_out_cells_do_not_touch_the_prediction():
    cells, other = moving_cells(), moving_cells()
    other.obsm["X_pca"][other.obs["day"] == "2"] += 100.0
    clouds = [
        tl.held_out_predictions(tl.snapshots_from_anndata(x, "day", n_components=2), 2.0, **QUICK)[
            "light bridge"
        ][0]
        for x in (cells, other)
    ]
    assert np.array_equal(*clouds)


def test_pictures_show_what_was_fitted(fitted):
    ax = pl.trajectories(fitted, n_paths=7, n_times=9)
    paths = next(c for c in ax.collections if isinstance(c, LineCollection))
    assert len(paths.get_segments()) == 7 * 8  # coloured by time, piece by piece
    assert paths.get_clim() == (0.0, 10.0)
    assert ax.get_xlabel() == "pca 1"
    ax = pl.trajectories(fitted, n_paths=7, color="day")
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"0", "2", "10", "start", "end"}
    cells = moving_cells(("0", "4", "8"))
    tl.validate(cells, "day", n_pcs=2, **QUICK)
    ax = pl.validation(cells, distance="W2")
    assert len(ax.containers) == 6
    assert "W2" in ax.get_ylabel()
    plt.close("all")


def test_few_cells_are_named_and_thinning_is_asked_for():
    cells = moving_cells(("0", "4", "8"), n=30)
    settings = {**QUICK, "n_components": 40}
    table = tl.validate(cells, "day", leave_out=4.0, **settings).set_index("method")
    assert table.loc["light bridge", "road"] == "observed"
    thin = tl.validate(cells, "day", max_cells=10, **settings).set_index("method")
    assert thin.loc["copy next", "W1"] != table.loc["copy next", "W1"]
    with pytest.raises(DataError, match="max_cells"):
        tl.validate(cells, "day", max_cells=1, **settings)


def test_trailing_noise_components_do_not_steer_the_coupling():
    """Scaled to variance 1, noise counts as much as signal; the default keeps the geometry."""
    cells = moving_cells(("0", "4", "8"), n=60)
    noise = 1e-3 * np.random.default_rng(1).standard_normal((180, 10))
    cells.obsm["X_pca"] = np.hstack([cells.obsm["X_pca"], noise])
    kept, scaled = (
        tl.validate(cells, "day", standardize=flag, **{**QUICK, "n_components": 40}).set_index("method")["W1"]
        for flag in (False, True)
    )
    assert kept["light bridge"] < 1.05 * kept["exact OT"]
    assert scaled["light bridge"] > 1.05 * kept["light bridge"]


def test_what_is_missing_is_named(fitted):
    with pytest.raises(DataError, match=r"no bridge 'other' \(results: 'bridge'"):
        tl.interpolate(fitted, 1.0, key="other")
    with pytest.raises(DataError, match="time_key"):
        tl.bridge(moving_cells(), "week", **QUICK)
    with pytest.raises(DataError, match=r"leave_out: 0.0 is no inner snapshot; those are \[2.0\]"):
        tl.validate(moving_cells(), "day", leave_out=0.0, **QUICK)
    with pytest.raises(DataError, match=r"run neurosde\.tl\.validate"):
        pl.validation(fitted)
    with pytest.raises(DataError, match="color"):
        pl.trajectories(fitted, color="week")
    with pytest.raises(DataError, match="components"):
        pl.trajectories(fitted, components=(0, 5))
    bad = moving_cells()
    bad.obs["day"] = "d" + bad.obs["day"]
    with pytest.raises(DataError, match="d0"):
        tl.bridge(bad, "day", **QUICK)
