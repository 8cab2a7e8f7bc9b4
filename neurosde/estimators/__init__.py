"""Estimators in scikit-learn manners; each is loaded when first used."""

import importlib
from typing import Any

# Every class that a model file may name, and the module it lives in.
CLASSES = {
    "LightSchrodingerBridge": "snapshots",
    "NeuralSDEForecaster": "forecaster",
}
_BASE = {
    "Estimator": "_base",
    "SeriesEstimator": "_base",
    "fitting": "_base",
    "load": "_persistence",
    "read_model_info": "_persistence",
}


def __getattr__(name: str) -> Any:
    home = CLASSES.get(name) or _BASE.get(name)
    if home is None:
        raise AttributeError(f"module 'neurosde.estimators' has no attribute {name!r}")
    return getattr(importlib.import_module(f"neurosde.estimators.{home}"), name)


def __dir__() -> list[str]:
    return sorted((*CLASSES, *_BASE))
