"""A bridge through an annotated matrix: left-out snapshots beside trivial predictions; pictures; a model."""

from pathlib import Path

from neurosde import pl, tl
from neurosde.reports.report import Report
from neurosde.typing import Any, Sequence


def bridge_report(
    adata: Any,
    out: Path,
    *,
    time_key: str,
    use_rep: str = "X_pca",
    n_pcs: int | None = None,
    leave_out: Sequence[float] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Report:
    """Fit a bridge to all snapshots, and judge it on snapshots that it is refitted without.

    Parameters
    ----------
    adata : anndata.AnnData
        Cells; the results go into ``uns["neurosde"]``.
    out : Path
        Folder for ``validation.csv``, ``scores.csv``, ``validation.png``, ``trajectories.png`` and
        ``bridge.safetensors``.
    time_key, use_rep, n_pcs, leave_out
        See `neurosde.tl.validate`.
    seed : int
        Fixes everything that is random.
    **settings
        Parameters of `LightSchrodingerBridge`.

    Returns
    -------
    Report
        Distances averaged over the left-out times.
    """
    chosen = {"use_rep": use_rep, "n_pcs": n_pcs, "random_state": seed, **settings}
    table = tl.validate(adata, time_key, leave_out=leave_out, **chosen)
    tl.bridge(adata, time_key, **chosen)
    out.mkdir(parents=True, exist_ok=True)
    names = ("scores.csv", "validation.csv", "validation.png", "trajectories.png", "bridge.safetensors")
    files = [out / name for name in names]
    means = table.groupby("method", sort=False)[["W1", "W2"]].mean()
    times = ", ".join(f"{t:g}" for t in table["time"].unique())
    report = Report(
        f"Light Schrödinger bridge, predictions of the left-out snapshots at {time_key} = {times}",
        f"exact distances to the left-out cells in {use_rep}; split halves: the scale of sampling noise",
        ("W1", "W2"),
        [(name, row.tolist()) for name, row in means.iterrows()],
        files,
    )
    report.write(files[0])
    table.to_csv(files[1], index=False)
    for draw, path in ((pl.validation, files[2]), (pl.trajectories, files[3])):
        draw_to(draw(adata), path)
    tl.fitted_bridge(adata).save(files[4])
    return report


def draw_to(axes: Any, path: Path) -> None:
    """Save the figure that holds these axes, and let go of it."""
    import matplotlib.pyplot as plt

    axes.figure.savefig(path, dpi=130, bbox_inches="tight")
    plt.close(axes.figure)
