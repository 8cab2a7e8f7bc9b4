"""Guards that hold for every test."""

import math
import os

import numpy as np
import pytest
import torch

from neurosde.solve import compiling

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_warn_always(True)  # a warning that comes once a process would depend on the order of the tests


compiling.PATIENCE = math.inf  # only what asks for the compiler meets it, however slow the machine


def _globals() -> dict[str, object]:
    numpy_state = np.random.get_state(legacy=True)  # noqa: NPY002  the guard is about the legacy generator
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's global random state": (numpy_state[1].tobytes(), *numpy_state[2:]),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's thread count": torch.get_num_threads(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
    }


@pytest.fixture(autouse=True)
def global_state_is_left_alone():
    """Fail the test during which a process-wide setting changed: package code never touches one."""
    before = _globals()
    yield
    changed = [name for name, value in _globals().items() if value != before[name]]
    assert not changed, f"the test left {' and '.join(changed)} changed"
