"""TrajectoryNet's preprocessed embryoid bodies into one AnnData file."""

from pathlib import Path

import numpy as np

from neurosde.data import Snapshots
from neurosde.typing import Any


def prepare(raw: Path, tidy: Path) -> None:
    """Write the raw components and the snapshot of every cell, in the order of the original file."""
    import anndata
    import pandas as pd

    # The file was saved with object arrays beside the two that are read; these two are plain numbers.
    with np.load(raw / "eb_velocity_v5.npz", allow_pickle=False) as arrays:
        pcs, label = arrays["pcs"], arrays["sample_labels"]
    cells = pd.Index([f"cell{i}" for i in range(len(pcs))])
    adata = anndata.AnnData(obs=pd.DataFrame({"time": label.astype(float)}, index=cells), obsm={"X_pca": pcs})
    adata.uns["time_unit"] = "snapshot index; 0..4 are days 0-3, 6-9, 12-15, 18-21, 24-27"
    adata.write_h5ad(tidy)


def read(tidy: Path, *, n_components: int | None = None) -> Snapshots:
    """Read the first ``n_components`` raw components."""
    adata = table(tidy)
    return Snapshots(
        np.asarray(adata.obsm["X_pca"], dtype=float)[:, :n_components], adata.obs["time"].to_numpy()
    )


def table(tidy: Path) -> Any:
    """The file as an AnnData."""
    import anndata

    return anndata.read_h5ad(tidy)
