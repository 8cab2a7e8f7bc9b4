"""AnnData in and out."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from neurosde.errors import DataError, ShapeError
from neurosde.io import snapshots_from_anndata, to_uns


def cells(**obs):
    n = len(next(iter(obs.values())))
    adata = anndata.AnnData(
        np.arange(3.0 * n).reshape(n, 3), obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=["g1", "g2", "g3"]),
    )  # fmt: skip
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)
    return adata


def test_representations_and_components():
    adata = cells(day=[0, 1, 1])
    a = snapshots_from_anndata(adata, "day", n_components=2)
    assert a.feature_names == ("pca1", "pca2")
    np.testing.assert_array_equal(a.X, adata.obsm["X_pca"][:, :2].astype(float))
    genes = snapshots_from_anndata(adata, "day", use_rep="X")
    assert genes.feature_names == ("g1", "g2", "g3")
    adata.X = sparse.csr_matrix(adata.X)
    np.testing.assert_array_equal(snapshots_from_anndata(adata, "day", use_rep="X").X, genes.X)
    with pytest.raises(DataError, match=r"no 'X_umap' \(keys: 'X_pca'\)"):
        snapshots_from_anndata(adata, "day", use_rep="X_umap")
    with pytest.raises(ShapeError, match="n_components is 6, expected 1 to 5"):
        snapshots_from_anndata(adata, "day", n_components=6)
    with pytest.raises(DataError, match=r"time_key: the table has no column 'time' \(columns: 'day'\)"):
        snapshots_from_anndata(adata, "time")
    adata.X = None
    with pytest.raises(DataError, match=r"adata.X is None"):
        snapshots_from_anndata(adata, "day", use_rep="X")


@pytest.mark.parametrize(
    ("labels", "times"),
    [
        ([3, 10, 3], [3, 10, 3]),
        ([3.5, 10.0, 3.5], [3.5, 10, 3.5]),
        (["3", "10", "3"], [3, 10, 3]),
        (pd.Categorical(["3", "10", "3"]), [3, 10, 3]),
        (pd.Categorical([3, 10, 3]), [3, 10, 3]),
        (pd.Categorical(["d2", "d10", "d2"], categories=["d2", "d10"], ordered=True), [0, 1, 0]),
        (pd.Categorical(["2", "10", "2"], categories=["10", "2"], ordered=True), [2, 10, 2]),
    ],
)
def test_case_23_labels_that_have_an_order(labels, times):
    assert snapshots_from_anndata(cells(day=labels), "day").time.tolist() == times


@pytest.mark.parametrize(
    "labels",
    [["d2", "d10", "d2"], pd.Categorical(["d2", "d10", "d2"]), np.array(["d2", "d10", "d2"], dtype=object)],
)
def test_case_23_labels_that_have_none(labels):
    with pytest.raises(DataError, match=r"\['day'\]\[0\] = 'd2' does not read as a number"):
        snapshots_from_anndata(cells(day=labels), "day")


def test_missing_labels():
    with pytest.raises(DataError, match=r"adata.obs\['day'\]\[1\] is nan"):
        snapshots_from_anndata(cells(day=[1.0, np.nan, 2.0]), "day")
    with pytest.raises(DataError, match=r"\[1\] is missing"):
        snapshots_from_anndata(cells(day=pd.Categorical(["a", None, "b"], ordered=True)), "day")
    with pytest.raises(DataError, match=r"\['day'\]\[1\]"):
        snapshots_from_anndata(cells(day=pd.Categorical(["1", None, "2"])), "day")


def test_weights():
    adata = cells(day=[0, 0, 1], w=[1.0, 3.0, 2.0])
    assert snapshots_from_anndata(adata, "day", weight_key="w").weights_at(0.0).tolist() == [0.25, 0.75]
    with pytest.raises(DataError, match="weight_key: the table has no column 'v'"):
        snapshots_from_anndata(adata, "day", weight_key="v")


plain = st.one_of(
    st.text(max_size=5), st.booleans(), st.integers(-(2**31), 2**31), st.floats(allow_nan=False), st.none()
)
nested = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(st.floats(allow_nan=False), max_size=3),
        st.lists(st.text("abc", min_size=1), min_size=1, max_size=3).map(tuple),
        st.dictionaries(st.text("abc/", min_size=1, max_size=4), inner, max_size=3),
    ),
    max_leaves=8,
)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.dictionaries(st.text("xyz", min_size=1, max_size=4), nested, max_size=4))
def test_whatever_is_cleaned_can_be_written(tmp_path_factory, result):
    path = tmp_path_factory.mktemp("uns") / "cells.h5ad"
    adata = anndata.AnnData(np.eye(2))
    adata.uns["bridge"] = to_uns(result)
    adata.write_h5ad(path)
    assert set(anndata.read_h5ad(path).uns["bridge"]) == {k for k, v in result.items() if v is not None}


def test_results_become_plain():
    history = [{"loss": 2.0, "score": 1}, {"loss": 1.0, "score": 2}]
    clean = to_uns({"history": history, "weights": torch.ones(2), "shape": (2, 3), "n": np.int64(3)})
    assert clean["history"]["loss"].tolist() == [2.0, 1.0]
    assert isinstance(clean["weights"], np.ndarray)
    assert clean["shape"].tolist() == [2, 3]
    for bad in (object(), np.array([object()]), [1, "a"], {1, 2}):
        with pytest.raises(DataError, match=r"uns\['x'\] is a"):
            to_uns({"x": bad})
