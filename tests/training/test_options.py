"""Settings are checked when they are made, and the message names the setting."""

import math

import numpy as np
import pytest

from neurosde.errors import DataError
from neurosde.training import TrainingOptions

WRONG = {
    "max_iter": [-1, 1.5, "10", None, True],
    "learning_rate": [0, -1e-3, math.nan, math.inf, "1e-3"],
    "batch_size": [0, -2, 3.5],
    "unit": ["batch", None],
    "weight_decay": [-1.0, math.nan],
    "tol": [-1e-4],
    "early_stopping": ["yes", 2.0, None],
    "validation_fraction": [0, 1, 1.5, math.nan],
    "n_iter_no_change": [0],
    "report_every": [0],
    "clip_norm": [0.0, -1.0],
    "max_failures": [-1],
    "schedule": ["linear"],
    "ema": [0.0, 1.0],
    "penalty_weight": [-1.0, math.nan, "linear", None],
    "verbose": [-1],
    "checkpoint": [7],
    "checkpoint_every": [-1.0],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(DataError, match=f"^{name} must be .*got"):
        TrainingOptions(**{name: value})


def test_every_setting_has_a_wrong_value_in_this_test():
    assert set(WRONG) == set(TrainingOptions.__dataclass_fields__)


def test_numpy_numbers_pass():
    options = TrainingOptions(
        max_iter=np.int64(3), learning_rate=np.float32(0.5), early_stopping=np.bool_(True)
    )
    assert options.max_iter == 3
