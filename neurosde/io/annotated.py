"""AnnData: snapshots in, results out."""

from typing import Any

import numpy as np
import torch

from neurosde.data import Snapshots, columns
from neurosde.data.snapshots import time_labels
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array


def snapshots_from_anndata(
    adata: Any,
    time_key: str,
    use_rep: str = "X_pca",
    n_components: int | None = None,
    weight_key: str | None = None,
) -> Snapshots:
    """Read snapshots from an annotated matrix of cells.

    Parameters
    ----------
    adata : anndata.AnnData
    time_key : str
        Column of ``adata.obs``: numbers, or text that reads as numbers. An ordered categorical of other words
        gives the times 0, 1, ... in its own order.
    use_rep : str
        Key of ``adata.obsm``, or "X" for the matrix itself (made dense).
    n_components : int, optional
        Keep the first of its columns; by default all.
    weight_key : str, optional
        Column of ``adata.obs`` with positive weights.

    Returns
    -------
    Snapshots

    Raises
    ------
    DataError
        A key that is not there (the message lists those that are), labels such as "d10" without an order,
        fewer than two labels, NaN.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> cells = anndata.AnnData(np.eye(3), obs=pd.DataFrame({"day": ["2", "10", "2"]}, index=list("abc")))
    >>> snapshots_from_anndata(cells, "day", use_rep="X")
    Snapshots(3 cells, 3 features, 2 times: 2 (2), 10 (1))
    """
    obs = adata.obs
    time = _labels(columns.column(obs, time_key, argument="time_key"), time_key)
    if use_rep == "X":
        X, names = adata.X, [str(name) for name in adata.var_names]
        if X is None:
            raise DataError("use_rep is 'X', but adata.X is None")
    elif use_rep in adata.obsm:
        X = adata.obsm[use_rep]
        names = [f"{use_rep.removeprefix('X_')}{i + 1}" for i in range(X.shape[1])]
    else:
        had = ", ".join(map(repr, adata.obsm)) or "none"
        raise DataError(
            f"use_rep: adata.obsm has no {use_rep!r} (keys: {had}); compute it, or pass use_rep='X'"
        )
    if n_components is not None:
        if not 1 <= n_components <= X.shape[1]:
            raise ShapeError(
                f"n_components is {n_components}, expected 1 to {X.shape[1]}, the columns of {use_rep}"
            )
        X, names = X[:, :n_components], names[:n_components]
    weights = None
    if weight_key is not None:
        weights = columns.numbers(columns.column(obs, weight_key, argument="weight_key"), argument=weight_key)
    return Snapshots(_dense(X), time, weights, names)


def _labels(column: Any, key: str) -> Array:
    if str(column.dtype) == "category" and column.cat.ordered:
        words = [str(word) for word in column.cat.categories]
        try:
            values = time_labels(words)
        except DataError:
            values = np.arange(len(words), dtype=np.float64)
        codes = np.asarray(column.cat.codes)
        if (codes < 0).any():
            raise DataError(
                f"time_key: adata.obs[{key!r}][{columns.first(codes < 0)}] is missing, expected a label"
            )
        return values[codes]
    if np.asarray(column).dtype.kind in "OU":
        return time_labels(np.asarray(column.astype(object)), argument=f"adata.obs[{key!r}]")
    return columns.finite(column, argument=f"adata.obs[{key!r}]")


def _dense(X: Any) -> Array:
    from scipy import sparse

    return X.toarray() if sparse.issparse(X) else np.asarray(X)


def to_uns(value: Any, path: str = "uns") -> Any:
    """Turn a result into what AnnData can write: dictionaries, arrays, strings and numbers.

    Tuples and lists of numbers or strings become arrays, a list of dictionaries with the same keys (a
    training history) a dictionary of arrays, tensors numpy arrays. Entries that are None are left out.

    Parameters
    ----------
    value : dict, list, tuple, array, tensor, str, number, bool or None
    path : str
        Where the value stands, for the error message.

    Raises
    ------
    DataError
        Anything else, named by its place, now and not when the file is written.

    Examples
    --------
    >>> to_uns({"times": (0, 1), "history": [{"loss": 2.0}, {"loss": 1.0}], "note": None})
    {'times': array([0, 1]), 'history': {'loss': array([2., 1.])}}
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, str | bool | int | float | np.generic):
        return value
    if isinstance(value, dict):
        return {
            str(key).replace("/", "_"): to_uns(entry, f"{path}[{key!r}]")
            for key, entry in value.items()
            if entry is not None
        }
    if isinstance(value, list | tuple) and any(isinstance(entry, dict) for entry in value):
        if all(isinstance(entry, dict) and entry.keys() == value[0].keys() for entry in value):
            return to_uns({key: [entry[key] for entry in value] for key in value[0]}, path)
        return to_uns({str(i): entry for i, entry in enumerate(value)}, path)
    if isinstance(value, list | tuple):
        kinds = {type(entry) for entry in value}
        value = np.array(value, dtype=object if str in kinds and len(kinds) > 1 else None)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufcU":
        return value
    raise DataError(
        f"{path} is a {type(value).__name__} that AnnData cannot write; expected plain arrays and dicts"
    )
