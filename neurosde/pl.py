"""Pictures of bridges on AnnData, with matplotlib."""

import numpy as np

from neurosde import tl
from neurosde.data import Snapshots
from neurosde.errors import DataError
from neurosde.io import snapshots_from_anndata
from neurosde.typing import Any, Array

INK, OURS, OTHERS = "#30343f", "#c1440e", "#9aa5b1"


def trajectories(
    adata: Any,
    *,
    key: str = "bridge",
    components: tuple[int, int] = (0, 1),
    n_paths: int = 60,
    n_times: int = 40,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """Draw sampled paths of a fitted bridge over the observed cells, coloured by time.

    Parameters
    ----------
    adata : anndata.AnnData
        With a bridge fitted by `neurosde.tl.bridge`.
    key : str
        The ``key_added`` of the fit.
    components : pair of int
        Columns of the representation on the axes.
    n_paths, n_times : int
        Number of paths, and of points on each.
    seed : int
        Fixes the paths.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import Normalize

    settings, model = adata.uns[tl.SPACE][key]["settings"], tl.fitted_bridge(adata, key)
    rep, time_key = str(settings["use_rep"]), str(settings["time_key"])
    snapshots = snapshots_from_anndata(adata, time_key, rep, int(settings["n_pcs"]))
    if max(components) >= snapshots.X.shape[1]:
        raise DataError(f"components: {components} are not among the {snapshots.X.shape[1]} columns of {rep}")
    ax = plt.subplots(figsize=(6.4, 4.8), layout="constrained")[1] if ax is None else ax
    times = np.linspace(model.times_[0], model.times_[-1], n_times)
    paths = _paths(model, snapshots, times, n_paths, seed)
    i, j = components
    colour = plt.get_cmap("viridis")
    norm = Normalize(times[0], times[-1])
    cells = ax.scatter(
        *snapshots.X[:, [i, j]].T,
        c=snapshots.time,
        cmap=colour,
        norm=norm,
        s=6,
        alpha=0.35,
        linewidths=0,
        zorder=1,
    )
    ax.plot(paths[..., i].T, paths[..., j].T, color=INK, lw=0.6, alpha=0.45, zorder=2)
    ax.scatter(*paths[:, 0, [i, j]].T, s=14, color="white", edgecolor=INK, lw=0.8, zorder=3, label="start")
    ax.scatter(*paths[:, -1, [i, j]].T, s=14, color=INK, zorder=3, label="end")
    names = [f"{rep.removeprefix('X_')} {k + 1}" for k in components]
    ax.set(
        xlabel=names[0],
        ylabel=names[1],
        title=f"{n_paths} paths of the bridge through {len(model.times_)} snapshots",
    )
    bar = ax.figure.colorbar(cells, ax=ax, label=time_key)
    bar.solids.set_alpha(1.0)
    ax.legend(frameon=False, loc="best")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _paths(model: Any, snapshots: Snapshots, times: Array, n_paths: int, seed: int) -> Array:
    """Paths (path, time, feature) from evenly spread cells of the first snapshot."""
    first = snapshots.at(float(times[0]))
    rows = np.random.default_rng(seed).permutation(len(first))[:n_paths]
    start = first[rows]
    path = model.sample(start, float(times[0]), times[1:], seed=seed)
    return np.concatenate((start[:, None], path), axis=1)


def validation(adata: Any, *, key: str = "validation", distance: str = "W1", ax: Any = None) -> Any:
    """Draw the errors at left-out times of the bridge and of what anybody would predict.

    Parameters
    ----------
    adata : anndata.AnnData
        With the table of `neurosde.tl.validate`.
    key : str
        The ``key_added`` of the table.
    distance : str
        "W1" or "W2".
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    import matplotlib.pyplot as plt

    results = adata.uns.get(tl.SPACE, {})
    if key not in results:
        raise DataError(f"key: adata.uns['neurosde'] has no table {key!r}; run neurosde.tl.validate")
    if distance not in ("W1", "W2"):
        raise DataError(f"distance: expected 'W1' or 'W2', got {distance!r}")
    table = {name: np.asarray(column) for name, column in results[key].items()}
    methods = list(dict.fromkeys(table["method"].tolist()))
    times = np.unique(table["time"])
    ax = plt.subplots(figsize=(6.8, 3.8), layout="constrained")[1] if ax is None else ax
    greys = iter(plt.get_cmap("Greys")(np.linspace(0.3, 0.75, max(len(methods) - 2, 1))))
    width = 0.8 / len(methods)
    for k, method in enumerate(methods):
        ours, scale = method == "light bridge", method == "split halves"
        heights = [table[distance][(table["method"] == method) & (table["time"] == t)][0] for t in times]
        style = (
            {"color": OURS}
            if ours
            else {"color": "none", "edgecolor": INK, "hatch": "///"}
            if scale
            else {"color": next(greys)}
        )
        ax.bar(
            np.arange(len(times)) + (k - (len(methods) - 1) / 2) * width,
            heights,
            width * 0.9,
            label=method,
            **style,
        )
    ax.set_xticks(np.arange(len(times)), [f"{t:g}" for t in times])
    ax.set(
        xlabel="left-out time",
        ylabel=f"{distance} to the left-out cells",
        title="Predictions of left-out snapshots",
    )
    ax.legend(frameon=False, ncols=2, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
    return ax
