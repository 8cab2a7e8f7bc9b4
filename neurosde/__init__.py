"""Neural stochastic differential equations on irregular series, snapshots and logged trajectories.

Names are loaded when first used, so that ``import neurosde`` costs ``import torch`` and little more.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "SDE": "sde",
    "as_sde": "sde",
    "RunningCost": "sde",
    "LinearSDE": "linear",
    "BrownianPath": "noise",
    "Series": "data",
    "Snapshots": "data",
    "Trajectories": "data",
    "solve": "solve",
    "Solution": "solve",
    "sdeint": "solve",
    "sdeint_adjoint": "solve",
    "LightSchrodingerBridge": "estimators",
    "NeuralSDEForecaster": "estimators",
    "load": "estimators",
}
_MODULES = (
    "baselines", "bridge", "calculus", "cells", "data", "datasets", "errors", "estimators", "forms", "io",
    "linear", "nets", "noise", "paths", "pl", "scores", "sde", "solve", "testing", "tl", "training",
)  # fmt: skip

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"neurosde.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"neurosde.{name}")
    raise AttributeError(f"module 'neurosde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
