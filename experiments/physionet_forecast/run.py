"""Forecasts of ICU stays, 24 h from 24 h: trivial baselines and NeuralSDEForecaster on held-back patients."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from neurosde import NeuralSDEForecaster, scores
from neurosde.baselines import (
    Forecaster,
    LastValue,
    PatientMean,
    RidgeForecaster,
    ShrunkForecaster,
    TrainMean,
)
from neurosde.data import ChannelScaler, Series
from neurosde.io import read_physionet2012

BASELINES = {
    "train mean": TrainMean,
    "PatientMean": PatientMean,
    "LastValue": LastValue,
    "ShrunkForecaster": ShrunkForecaster,
    "RidgeForecaster": RidgeForecaster,
}


def parts(split: int, dataset: str) -> tuple[Series, Series, Series]:
    """Training, normalising and test stays of protocol Z (t-PatchGNN); of set a alone those that it holds.

    The test stays of set a are test stays of protocol Z too: nothing was ever chosen on them.
    """
    folder = Path(os.environ["NEUROSDE_DATA"]) / "series"
    sets = [read_physionet2012(folder / f"physionet2012_set_{name}.npz") for name in "ab"]
    stays = Series.concatenate(sets)
    seen, test = train_test_split(np.arange(len(stays)), train_size=0.8, random_state=split, shuffle=True)
    if dataset == "set a":
        in_a = len(sets[0])
        return stays[seen[seen < in_a]], stays[seen[seen < in_a]], stays[test[test < in_a]]
    return stays[seen[: int(0.75 * len(seen))]], stays[seen], stays[test]


def ranges(stays: Series) -> np.ndarray:
    """Range of each channel, which protocol Z divides errors by."""
    low, high = (np.full(len(stays.channel_names), fill) for fill in (np.inf, -np.inf))
    np.minimum.at(low, stays.channel, stays.value)
    np.maximum.at(high, stays.channel, stays.value)
    return np.where(high > low, high - low, 1e-8)


def measures(
    future: Series,
    span: np.ndarray,
    scale: np.ndarray,
    points: np.ndarray,
    quantiles: np.ndarray,
    draws: np.ndarray,
) -> dict[str, float]:
    """All scores of one method: in units of the range (protocol Z), "robust" in units of median/IQR."""
    channel = future.channel
    unit, robust = span[channel], scale[channel]
    y, p, median = (values / unit for values in (future.value, points, quantiles[:, 1]))
    lower, upper = quantiles[:, 0], quantiles[:, 2]
    macro: dict[str, Any] = {"channel": channel, "average": "macro"}
    inside = scores.coverage(future.value, lower, upper, channel=channel, average="channel")
    varied = (span > 1e-8) & ~np.isnan(inside)
    return {
        "micro MSE": scores.mse(y, p),
        "macro MSE": scores.mse(y, p, **macro),
        "macro MAE": scores.mae(y, p, **macro),
        "macro MAE of the median": scores.mae(y, median, **macro),
        "micro CRPS": scores.crps_ensemble(y, draws / unit),
        "macro CRPS": scores.crps_ensemble(y, draws / unit, **macro),
        "micro CRPS, robust": scores.crps_ensemble(future.value / robust, draws / robust),
        "macro CRPS, robust": scores.crps_ensemble(future.value / robust, draws / robust, **macro),
        "90 % coverage": scores.coverage(future.value, lower, upper),
        "channels covered .85 to .95": float(((inside >= 0.85) & (inside <= 0.95))[varied].sum()),
        "channels that vary": float(varied.sum()),
    }


def rows(config: dict[str, Any], *, seed: int, device: str, fast: bool) -> Iterator[dict[str, Any]]:
    end, horizon, n = config["history"], config["horizon"], config["n_samples"]
    options = config["model"] | ({"max_iter": 1, "n_cuts": 1} if fast else {})
    for dataset in config["datasets"]:
        train, known, test = parts(config["split"], dataset)
        if fast:
            train, test = train[:300], test[:100]
        history, future = test.split(end)
        span, scale = ranges(known), np.array(ChannelScaler.fit(train, "robust").scale)
        models: dict[str, Any] = {name: baseline() for name, baseline in BASELINES.items()}
        models["NeuralSDEForecaster"] = NeuralSDEForecaster(
            end, horizon, device=device, random_state=seed, verbose=1, **options
        )
        for name, model in models.items():
            started = time.perf_counter()
            if isinstance(model, Forecaster):
                points = model.fit(train, end).predict(history, future)
                seconds = time.perf_counter() - started
            else:
                model.fit(train)
                seconds = time.perf_counter() - started
                points = model.predict(history, future).value
            quantiles = model.predict_quantiles(history, future, [0.05, 0.5, 0.95])
            draws = model.sample(history, future, n, seed=seed)
            for metric, value in measures(future, span, scale, points, quantiles, draws).items():
                yield {
                    "dataset": f"PhysioNet 2012, {dataset}",
                    "method": name,
                    "metric": metric,
                    "value": value,
                    "seconds": seconds,
                }
