"""Scores of forecasts and of snapshots."""

from neurosde.scores.series import (
    coverage,
    crps_ensemble,
    crps_gaussian,
    mae,
    mse,
    nll_gaussian,
    pinball,
    pit,
    pit_calibration,
    width,
    winkler,
)

__all__ = [
    "coverage",
    "crps_ensemble",
    "crps_gaussian",
    "mae",
    "mse",
    "nll_gaussian",
    "pinball",
    "pit",
    "pit_calibration",
    "width",
    "winkler",
]
