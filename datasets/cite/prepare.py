"""LightSB's copies of the CITE-seq components, one file a day, into one AnnData file."""

from pathlib import Path

import numpy as np

from neurosde.data import Snapshots
from neurosde.errors import DataError
from neurosde.typing import Any

DAYS = (2, 3, 4, 7)


def prepare(raw: Path, tidy: Path) -> None:
    """Stack the days; both component sets list the same cells in the same order."""
    import anndata
    import pandas as pd

    wide, narrow = (
        [np.load(raw / f"full_cite_pcas_{d}_day_{day}.npy", allow_pickle=False) for day in DAYS]
        for d in (100, 50)
    )
    day = np.repeat(np.array(DAYS, dtype=float), [len(x) for x in wide])
    obs = pd.DataFrame({"day": day}, index=pd.Index([f"cell{i}" for i in range(len(day))]))
    adata = anndata.AnnData(obs=obs)
    adata.obsm["X_pca"], adata.obsm["X_pca50"] = np.concatenate(wide), np.concatenate(narrow)
    adata.write_h5ad(tidy)


def read(tidy: Path, *, use_rep: str = "X_pca") -> Snapshots:
    """Read one of the two component sets."""
    adata = table(tidy)
    if use_rep not in adata.obsm:
        raise DataError(f"use_rep is {use_rep!r}, expected one of {', '.join(adata.obsm)}")
    return Snapshots(np.asarray(adata.obsm[use_rep], dtype=float), adata.obs["day"].to_numpy())


def table(tidy: Path) -> Any:
    """The file as an AnnData."""
    import anndata

    return anndata.read_h5ad(tidy)
