"""Snapshots: what is read, and what is refused, by case number."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from neurosde.data import Snapshots
from neurosde.errors import DataError, ShapeError

X = np.arange(12.0).reshape(6, 2)
DAYS = [2.0, 0.0, 0.0, 7.0, 2.0, 0.0]


def test_snapshots_answer_by_label():
    cells = Snapshots(X, DAYS, weights=[1, 2, 2, 1, 3, 4])
    assert cells.times.tolist() == [0, 2, 7]
    np.testing.assert_array_equal(cells.at(2.0), X[[0, 4]])
    np.testing.assert_array_equal(cells.weights_at(0.0), [0.25, 0.25, 0.5])
    left = cells.leave_out(2.0)
    assert left.times.tolist() == [0, 7]
    assert len(left) == 4
    assert cells.shape == (6, 2)
    assert len(cells[cells.time > 0]) == 3
    with pytest.raises(DataError, match=r"t is 3.0, expected one of the labels 0, 2, 7"):
        cells.at(3.0)
    with pytest.raises(ValueError, match="read-only"):
        cells.X[:] = 0


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-1e6, 1e6)), min_size=2, max_size=20))
def test_snapshots_partition_the_cells(rows):
    days = [day for day, _ in rows]
    block = np.array([[value] for _, value in rows])
    if len(set(days)) < 2:
        with pytest.raises(DataError, match="1 distinct label"):
            Snapshots(block, days)
        return
    cells = Snapshots(block, days)
    assert sum(len(cells.at(t)) for t in cells.times) == len(cells)
    for t in cells.times:
        np.testing.assert_allclose(cells.weights_at(t).sum(), 1.0)
        if len(cells.times) > 2:
            assert len(cells.leave_out(t)) == len(cells) - len(cells.at(t))
    copied = pickle.loads(pickle.dumps(cells))
    np.testing.assert_array_equal(copied.X, cells.X)
    np.testing.assert_array_equal(copied.time, cells.time)


def test_case_2_and_3_missing_entries():
    with pytest.raises(DataError, match=r"X\[\(1, 0\)\] is nan|X\[1, 0\] is nan"):
        Snapshots([[1.0], [np.nan]], [0, 1])
    with pytest.raises(DataError, match=r"time\[1\] is inf"):
        Snapshots([[1.0], [2.0]], [0, np.inf])


def test_case_4_and_22_too_few_cells_or_labels():
    with pytest.raises(DataError, match=r"0 distinct label\(s\) in 0 sample\(s\)"):
        Snapshots(np.ones((0, 2)), [])
    with pytest.raises(DataError, match=r"1 distinct label\(s\) in 3 sample\(s\), expected two or more"):
        Snapshots(np.ones((3, 2)), [1, 1, 1])


def test_case_11_and_12_text_and_sparse_matrices():
    with pytest.raises(DataError, match="is text"):
        Snapshots([["a"], ["b"]], [0, 1])
    with pytest.raises(DataError, match=r"toarray\(\)"):
        Snapshots(sparse.csr_matrix(X), DAYS)


def test_case_15_series_in_place_of_cells():
    with pytest.raises(ShapeError, match=r"for series use Series.from_padded"):
        Snapshots(np.ones((2, 3, 4)), [0, 1])
    with pytest.raises(ShapeError, match=r"time has shape \(2,\), expected \(6,\)"):
        Snapshots(X, [0, 1])


def test_case_23_labels_as_text():
    cells = Snapshots(X, ["10", "2", "2", "10", "2.5", "1e1"])
    assert cells.times.tolist() == [2, 2.5, 10]
    for labels in (
        np.array(["2", "d10", "d2", "2", "2", "2"]),
        np.array(["2", "d10", None, 3, 3, 3], dtype=object),
    ):
        with pytest.raises(DataError, match=r"time\[1\] = 'd10' does not read as a number"):
            Snapshots(X, labels)


@pytest.mark.parametrize("bad", [-1.0, 0.0, np.nan])
def test_case_26_weights(bad):
    with pytest.raises(DataError, match=r"weights\[3\] is"):
        Snapshots(X, DAYS, weights=[1, 1, 1, bad, 1, 1])


def test_feature_names():
    assert Snapshots(X, DAYS, feature_names=["a", "b"]).feature_names == ("a", "b")
    with pytest.raises(ShapeError, match="feature_names has 1 names"):
        Snapshots(X, DAYS, feature_names=["a"])
