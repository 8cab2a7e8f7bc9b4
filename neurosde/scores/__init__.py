"""Scores of forecasts and of snapshots."""

from neurosde.scores.series import (
    coverage,
    crps_ensemble,
    crps_gaussian,
    crps_mixture,
    mae,
    mse,
    nll_gaussian,
    pinball,
    pit,
    pit_calibration,
    width,
    winkler,
)
from neurosde.scores.snapshots import (
    energy_distance,
    optimal_coupling,
    sliced_wasserstein,
    split_halves,
    trivial_predictions,
    wasserstein,
)

__all__ = [
    "coverage",
    "crps_ensemble",
    "crps_gaussian",
    "crps_mixture",
    "energy_distance",
    "mae",
    "mse",
    "nll_gaussian",
    "optimal_coupling",
    "pinball",
    "pit",
    "pit_calibration",
    "sliced_wasserstein",
    "split_halves",
    "trivial_predictions",
    "wasserstein",
    "width",
    "winkler",
]
