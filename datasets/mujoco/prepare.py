"""The hopper trajectories as equally spaced series."""

from pathlib import Path

import numpy as np

from neurosde.data import Series
from neurosde.errors import ShapeError


def read(tidy: Path) -> Series:
    """Read all runs; time counts steps."""
    values = np.load(tidy, allow_pickle=False)
    if values.shape != (100, 100, 14):
        raise ShapeError(f"{tidy} has shape {values.shape}, expected (100, 100, 14): (series, time, channel)")
    return Series.from_padded(values, np.arange(100.0), time_unit="step")
