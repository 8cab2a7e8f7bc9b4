"""Pictures of bridges on AnnData, with matplotlib."""

import numpy as np

from neurosde import tl
from neurosde.data import columns
from neurosde.errors import DataError
from neurosde.io import snapshots_from_anndata
from neurosde.typing import Any, Array

INK, OURS, PALE = "#30343f", "#c1440e", "#aab2bf"


def trajectories(
    adata: Any,
    *,
    key: str = "bridge",
    components: tuple[int, int] = (0, 1),
    color: str | None = None,
    n_paths: int = 40,
    n_times: int = 60,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """Draw sampled paths of a fitted bridge over the observed cells.

    Parameters
    ----------
    adata : anndata.AnnData
        With a bridge fitted by `neurosde.tl.bridge`.
    key : str
        The ``key_added`` of the fit.
    components : pair of int
        Columns of the representation on the axes.
    color : str, optional
        Column of ``adata.obs``, categories or numbers, that colours the cells; the paths are then dark. By
        default the paths are coloured by time, over pale cells.
    n_paths, n_times : int
        Number of paths, each from a random cell of the first snapshot, and of points on each.
    seed : int
        Fixes the paths.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    DataError
        If there is no such fit, column or component.
    """
    import matplotlib.pyplot as plt
    from matplotlib.collections import LineCollection

    model, settings = tl.fitted_bridge(adata, key), adata.uns[tl.SPACE][key]["settings"]
    rep, time_key = str(settings["use_rep"]), str(settings["time_key"])
    snapshots = snapshots_from_anndata(adata, time_key, rep, int(settings["n_pcs"]))
    if not all(0 <= k < snapshots.shape[1] for k in components):
        raise DataError(f"components: {components} are not among the {snapshots.shape[1]} columns of {rep}")
    times = np.linspace(model.times_[0], model.times_[-1], n_times)
    first = snapshots.at(float(times[0]))
    start = first[np.random.default_rng(seed).permutation(len(first))[:n_paths]]
    paths = model.sample(start, float(times[0]), times, seed=seed)[..., list(components)]

    ax = plt.subplots(figsize=(6.6, 4.8), layout="constrained")[1] if ax is None else ax
    _draw_cells(ax, snapshots.X[:, list(components)], adata, color)
    steps = np.stack([paths[:, :-1], paths[:, 1:]], axis=2)
    if color is None:
        middle = np.tile(0.5 * (times[1:] + times[:-1]), len(paths))
        lines = LineCollection(
            list(steps.reshape(-1, 2, 2)), array=middle, cmap="viridis", lw=0.8, alpha=0.75
        )
        lines.set_clim(times[0], times[-1])
        ax.figure.colorbar(lines, ax=ax, label=time_key).solids.set_alpha(1.0)
    else:
        lines = LineCollection(list(paths), colors=INK, lw=0.6, alpha=0.45)
    ax.add_collection(lines)
    ax.scatter(*paths[:, 0].T, s=16, color="white", edgecolor=INK, lw=0.8, zorder=3, label="start")
    ax.scatter(*paths[:, -1].T, s=16, color=INK, zorder=3, label="end")
    names = [f"{rep.removeprefix('X_')} {k + 1}" for k in components]
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.set_title(f"{len(paths)} paths through {len(model.times_)} snapshots")
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if color is not None else {"loc": "best"}
    ax.legend(frameon=False, fontsize=8, **beside)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _draw_cells(ax: Any, points: Array, adata: Any, color: str | None) -> None:
    size = float(np.clip(12_000 / len(points), 3.0, 18.0))
    style = {"s": size, "linewidths": 0, "zorder": 1}
    if color is None:
        ax.scatter(*points.T, color=PALE, alpha=0.6, label="cells", **style)
        return
    values = columns.column(adata.obs, color, argument="color")
    if values.dtype.kind in "iuf":
        ax.figure.colorbar(ax.scatter(*points.T, c=values, cmap="viridis", **style), ax=ax, label=color)
        return
    words = np.asarray(values, dtype=str)
    colours = iter(_palette(len(np.unique(words))))
    for word in np.unique(words):
        ax.scatter(*points[words == word].T, color=next(colours), alpha=0.8, label=word, **style)


def _palette(n: int) -> Array:
    import matplotlib.pyplot as plt

    return plt.get_cmap("tab20")(np.arange(n) % 20)


def validation(adata: Any, *, key: str = "validation", distance: str = "W1", ax: Any = None) -> Any:
    """Draw the errors at left-out times: the bridge, and what anybody would predict.

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

    Raises
    ------
    DataError
        If there is no such table or distance.
    """
    import matplotlib.pyplot as plt

    results = adata.uns.get(tl.SPACE, {})
    if key not in results:
        raise DataError(f"key: adata.uns['neurosde'] has no table {key!r}; run neurosde.tl.validate")
    if distance not in ("W1", "W2"):
        raise DataError(f"distance: expected 'W1' or 'W2', got {distance!r}")
    table = {name: np.asarray(column) for name, column in results[key].items()}
    methods, times = list(dict.fromkeys(table["method"].tolist())), np.unique(table["time"])
    ax = plt.subplots(figsize=(7.2, 3.8), layout="constrained")[1] if ax is None else ax
    greys = plt.get_cmap("Greys")(np.linspace(0.25, 0.7, len(methods)))
    styles: dict[str, dict[str, Any]] = {
        "light bridge": {"color": OURS},
        "split halves": {"color": "none", "edgecolor": INK, "hatch": "///", "lw": 0.6},
    }
    width = 0.8 / len(methods)
    for k, method in enumerate(methods):
        heights = [table[distance][(table["method"] == method) & (table["time"] == t)].item() for t in times]
        place = np.arange(len(times)) + (k - (len(methods) - 1) / 2) * width
        style = styles.get(method, {"color": greys[k]})
        ax.bar(place, heights, 0.9 * width, label=method, **style)
    ax.set_xticks(np.arange(len(times)), [f"{t:g}" for t in times])
    ax.set(xlabel="left-out time", ylabel=f"{distance} to the left-out cells")
    ax.set_title("Predictions of left-out snapshots (lower is better)")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    ax.spines[["top", "right"]].set_visible(False)
    return ax
