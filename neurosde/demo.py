"""The demonstration: a bridge and a forecaster on data that ships with the package and its dependencies."""

import time
from pathlib import Path

from neurosde import datasets
from neurosde.reports import Report, bridge_report, forecast_report


def run(out: Path, *, seed: int = 0, fast: bool = False) -> list[Report]:
    """Fit, score beside trivial baselines, draw and save.

    Parameters
    ----------
    out : Path
        Folder; the bridge goes into ``bridge``, the forecaster into ``forecast``.
    seed : int
        Fixes everything that is random.
    fast : bool
        Small sizes, for a look at what comes out.

    Returns
    -------
    list of Report
    """
    began = time.perf_counter()
    print("1. Snapshots: simulated myeloid differentiation (scanpy's krumsiek11)", flush=True)
    cells = datasets.load("krumsiek11", into="table", n_snapshots=10)
    # Principal components of genes on one scale: distances between cells are what they are, nothing is
    # rescaled.
    bridge = bridge_report(
        cells, out / "bridge", time_key="time", leave_out=[5.0] if fast else [3.0, 5.0, 7.0], seed=seed,
        epsilon=0.03, n_components=30, max_iter=50 if fast else 600, standardize=False, verbose=1,
    )  # fmt: skip
    print(bridge.text(), flush=True)
    print("\n2. Irregular series: simulated intensive care (icu_panel)", flush=True)
    stays = datasets.load("icu_panel", n_series=60 if fast else 400, seed=seed)
    forecast = forecast_report(
        stays, out / "forecast", history=24, horizon=24, start="zero", seed=seed,
        max_iter=2 if fast else 15, verbose=1,
    )  # fmt: skip
    print(forecast.text())
    print(f"\n{time.perf_counter() - began:.0f} s. Look at the pictures in {out}, and try")
    print(f"  neurosde info {forecast.files[-1]}")
    return [bridge, forecast]
