"""Tools on AnnData, in scanpy's manner: fit a bridge, draw cells at any time, check held-out snapshots."""

import tempfile
from pathlib import Path

import numpy as np

from neurosde.data import Snapshots
from neurosde.errors import DataError
from neurosde.estimators import LightSchrodingerBridge, load
from neurosde.io import snapshots_from_anndata, to_uns
from neurosde.scores import split_halves, trivial_predictions, wasserstein
from neurosde.typing import Any, Array, NamedTuple, Sequence

SPACE = "neurosde"  # the part of ``adata.uns`` that is ours


def bridge(
    adata: Any,
    time_key: str,
    *,
    use_rep: str = "X_pca",
    n_pcs: int | None = None,
    weight_key: str | None = None,
    key_added: str = "bridge",
    standardize: bool = False,
    random_state: int = 0,
    copy: bool = False,
    **settings: Any,
) -> Any:
    """Fit a light Schrödinger bridge through the snapshots of an annotated matrix.

    Parameters
    ----------
    adata : anndata.AnnData
        Cells of two snapshots or more.
    time_key : str
        Column of ``adata.obs`` with the time of each cell: numbers, text that reads as numbers, or an ordered
        categorical.
    use_rep : str
        Key of ``adata.obsm`` to work in, or "X".
    n_pcs : int, optional
        Number of its leading columns; all by default.
    weight_key : str, optional
        Column of ``adata.obs`` with positive weights (growth, sampling).
    key_added : str
        Name of the result in ``adata.uns["neurosde"]``.
    standardize : bool
        Scale each column to variance 1. Not by default: trailing principal components are mostly noise, and
        would count as much as the leading ones.
    random_state : int
        Fixes everything that is random.
    copy : bool
        Return a copy of ``adata`` with the result, instead of changing it in place.
    **settings
        Arguments of `LightSchrodingerBridge`, such as ``epsilon`` or ``n_components``.

    Returns
    -------
    None, or anndata.AnnData with ``copy=True``
        ``uns["neurosde"][key_added]`` holds the settings, times, noise and history as plain arrays, and the
        model itself as the bytes of its file, so that it survives ``write_h5ad``.

    Raises
    ------
    DataError
        If a key is missing or the times cannot be read.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> cells = anndata.AnnData(obs=pd.DataFrame({"day": np.repeat([0, 1], 50)}, index=map(str, range(100))))
    >>> cells.obsm["X_pca"] = rng.standard_normal((100, 2)) + 3 * cells.obs[["day"]].to_numpy()
    >>> bridge(cells, "day", n_pcs=2, max_iter=50)
    >>> cells.uns["neurosde"]["bridge"]["times"]
    array([0., 1.])
    """
    adata = adata.copy() if copy else adata
    snapshots = snapshots_from_anndata(adata, time_key, use_rep, n_pcs, weight_key)
    model = LightSchrodingerBridge(standardize=standardize, random_state=random_state, **settings)
    model.fit(snapshots.X, snapshots.time, sample_weight=snapshots.weights)
    asked = {
        "time_key": time_key,
        "use_rep": use_rep,
        "n_pcs": snapshots.shape[1],
        "weight_key": weight_key or "",
    }
    adata.uns.setdefault(SPACE, {})[key_added] = _plain(model, asked)
    return adata if copy else None


def fitted_bridge(adata: Any, key: str = "bridge") -> LightSchrodingerBridge:
    """The estimator that :func:`bridge` has fitted.

    Parameters
    ----------
    adata : anndata.AnnData
    key : str
        The ``key_added`` of the fit.

    Raises
    ------
    DataError
        If there is none under this key.
    """
    return _from_bytes(_result(adata, key)["model"])


def interpolate(
    adata: Any, t: float, n: int | None = None, *, key: str = "bridge", seed: int | None = None
) -> Any:
    """Draw cells of the population at any time between the first snapshot and the last.

    Parameters
    ----------
    adata : anndata.AnnData
        With a fitted bridge.
    t : float
        The time, on the scale of the snapshots' labels.
    n : int, optional
        Number of cells; as many as the snapshot before has by default.
    key : str
        The ``key_added`` of the fit.
    seed : int, optional
        Fixes the draws; the fit's ``random_state`` by default.

    Returns
    -------
    anndata.AnnData
        Generated cells: the representation in ``X`` and under its own key in ``obsm``, the time in ``obs``,
        and in ``uns`` whether they were drawn from the mixture or between observed cells.
    """
    import anndata
    import pandas as pd

    settings, model = _result(adata, key)["settings"], fitted_bridge(adata, key)
    points = model.interpolate(t, n, seed=seed)
    rep, time_key = str(settings["use_rep"]), str(settings["time_key"])
    index = [f"generated_{i}" for i in range(len(points))]
    names = [f"{rep.removeprefix('X_')}{i + 1}" for i in range(points.shape[1])]
    names = list(adata.var_names[: points.shape[1]]) if rep == "X" else names
    cells = anndata.AnnData(
        points,
        obs=pd.DataFrame({time_key: np.full(len(points), float(t))}, index=pd.Index(index)),
        var=pd.DataFrame(index=pd.Index(names)),
    )
    if rep != "X":
        cells.obsm[rep] = points
    cells.uns[SPACE] = {key: {"time": float(t), "road": model.road(t)}}
    return cells


def validate(
    adata: Any,
    time_key: str,
    *,
    leave_out: float | Sequence[float] | None = None,
    use_rep: str = "X_pca",
    n_pcs: int | None = None,
    max_cells: int | None = None,
    key_added: str = "validation",
    standardize: bool = False,
    random_state: int = 0,
    **settings: Any,
) -> Any:
    """Leave snapshots out, one after the other, and predict each from its neighbours.

    The bridge is fitted to the snapshot before and the one behind the one that is left out, and predicts as
    many cells as the former has. Beside it stand what anybody would predict (a copy of either neighbour,
    their pool, exact optimal transport between them) and the distance between two halves of the snapshot
    itself.

    Parameters
    ----------
    adata : anndata.AnnData
        Cells of three snapshots or more.
    time_key, use_rep, n_pcs, standardize
        As in :func:`bridge`.
    leave_out : float or sequence of float, optional
        Times to leave out; all but the first and the last by default.
    max_cells : int, optional
        Random cells of each snapshot to work with, because the exact distances take seconds for thousands of
        cells and minutes for tens of thousands. All of them by default.
    key_added : str
        Where the table goes in ``adata.uns["neurosde"]``.
    random_state : int
        Fixes everything that is random.
    **settings
        Arguments of `LightSchrodingerBridge`.

    Returns
    -------
    pandas.DataFrame
        A row for each left-out time and method, with the exact distances "W1" and "W2" to the cells of the
        snapshot, in the units of the representation, and with the "road" that the bridge took: "mixture", or
        "observed" where cells are too few for one (see `LightSchrodingerBridge.interpolate`).

    Raises
    ------
    DataError
        If a time to leave out is no inner snapshot.
    """
    import pandas as pd

    snapshots = snapshots_from_anndata(adata, time_key, use_rep, n_pcs)
    if max_cells is not None:
        snapshots = _thinned(snapshots, max_cells, random_state)
    times = snapshots.times[1:-1] if leave_out is None else np.atleast_1d(np.asarray(leave_out, dtype=float))
    settings = {"standardize": standardize, "random_state": random_state} | settings
    rows = []
    for t in times.tolist():
        truth = snapshots.at(t)
        for method, (cloud, weights, road) in held_out_predictions(snapshots, t, **settings).items():
            w1, w2 = (wasserstein(cloud, truth, p, x_weights=weights) for p in (1, 2))
            rows.append({"time": t, "method": method, "road": road, "W1": w1, "W2": w2})
        w1, w2 = (split_halves(truth, p=p, seed=random_state) for p in (1, 2))
        rows.append({"time": t, "method": "split halves", "road": "", "W1": w1, "W2": w2})
    table = pd.DataFrame(rows)
    adata.uns.setdefault(SPACE, {})[key_added] = to_uns({name: table[name].tolist() for name in table})
    return table


class Prediction(NamedTuple):
    """A weighted cloud ``(cell, feature)``, and how it was drawn where that may vary."""

    cloud: Array
    weights: Array | None
    road: str


def held_out_predictions(snapshots: Snapshots, t: float, **settings: Any) -> dict[str, Prediction]:
    """Predictions of a left-out snapshot from its neighbours, by method; ours is "light bridge".

    Parameters
    ----------
    snapshots : Snapshots
        Three snapshots or more.
    t : float
        One of the inner times.
    **settings
        Arguments of `LightSchrodingerBridge`.

    Raises
    ------
    DataError
        If the time is no inner snapshot.
    """
    inner = snapshots.times[1:-1]
    if t not in inner:
        raise DataError(f"leave_out: {t!r} is no inner snapshot; those are {inner.tolist()}")
    i = int(np.searchsorted(snapshots.times, t))
    before, behind = (float(snapshots.times[k]) for k in (i - 1, i + 1))
    neighbours = snapshots[np.isin(snapshots.time, (before, behind))]
    model = LightSchrodingerBridge(**settings).fit(neighbours.X, neighbours.time)
    bars = trivial_predictions(neighbours.at(before), neighbours.at(behind), (t - before) / (behind - before))
    return {
        **{method: Prediction(cloud, weights, "") for method, (cloud, weights) in bars.items()},
        "light bridge": Prediction(model.interpolate(t), None, model.road(t)),
    }


def _thinned(snapshots: Snapshots, max_cells: int, seed: int) -> Snapshots:
    """At most so many random cells of each snapshot."""
    if max_cells < 2:
        raise DataError(f"max_cells: expected at least 2, got {max_cells}")
    rng = np.random.default_rng(seed)
    kept = [rng.permutation(np.flatnonzero(snapshots.time == t))[:max_cells] for t in snapshots.times]
    return snapshots[np.sort(np.concatenate(kept))]


def _result(adata: Any, key: str) -> dict[str, Any]:
    results = adata.uns.get(SPACE, {})
    if key not in results or "model" not in results[key]:
        had = ", ".join(map(repr, results)) or "none"
        raise DataError(
            f"key: adata.uns['neurosde'] has no bridge {key!r} (results: {had}); run neurosde.tl.bridge"
        )
    return results[key]


def _plain(model: LightSchrodingerBridge, asked: dict[str, Any]) -> dict[str, Any]:
    """A fit as AnnData can write it; its model as the bytes of its file."""
    chosen = {
        name: value for name, value in model.get_params().items() if isinstance(value, int | float | str)
    }
    fit = {"times": model.times_, "sigma": model.sigma_, "roads": model.roads_, "history": model.history_}
    return to_uns({"settings": asked | chosen, **fit, "model": _to_bytes(model)})


def _to_bytes(model: LightSchrodingerBridge) -> Array:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        model.save(path)
        return np.frombuffer(path.read_bytes(), dtype=np.uint8)


def _from_bytes(content: Any) -> LightSchrodingerBridge:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(np.asarray(content, dtype=np.uint8).tobytes())
        return load(path)
