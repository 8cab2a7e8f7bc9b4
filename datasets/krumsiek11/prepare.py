"""scanpy's in-package simulation of myeloid differentiation, cut into snapshots."""

import warnings

import numpy as np

from neurosde.data import Snapshots
from neurosde.errors import DataError
from neurosde.typing import Any

RUN = 160  # rows of one run, progenitor first


def simulate(*, n_snapshots: int = 10) -> Snapshots:
    """Cut each run into ``n_snapshots`` equal stretches and pool the k-th stretches of the four runs.

    Examples
    --------
    >>> simulate(n_snapshots=4).times.tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    adata = table(n_snapshots=n_snapshots)
    return Snapshots(
        np.asarray(adata.X, dtype=float), adata.obs["time"].to_numpy(), feature_names=tuple(adata.var_names)
    )


def table(*, n_snapshots: int = 10) -> Any:
    """The AnnData with time and cell type in ``obs``, genes in ``X`` and their PCA in ``obsm["X_pca"]``."""
    import scanpy

    if not 2 <= n_snapshots <= RUN or RUN % n_snapshots:
        raise DataError(f"n_snapshots is {n_snapshots}, expected a divisor of {RUN} that is at least 2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeated row names, which are replaced here
        adata = scanpy.datasets.krumsiek11()
    adata.obs_names = [f"cell{i}" for i in range(adata.n_obs)]
    adata.uns["highlights"] = {str(row): name for row, name in adata.uns["highlights"].items()}  # for h5ad
    adata.obs["time"] = (np.arange(adata.n_obs) % RUN // (RUN // n_snapshots)).astype(float)
    centred = np.asarray(adata.X, dtype=float) - np.asarray(adata.X, dtype=float).mean(axis=0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    adata.obsm["X_pca"] = (left * scale).astype(np.float32)
    return adata
