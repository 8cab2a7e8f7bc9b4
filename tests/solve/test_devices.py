"""Whatever is solved suits another device: no tensor in the wrong place, no waiting at steps, the same bits.

The device is a processor in disguise, see ``another_device.py``; a GPU is met in ``test_gpu.py``.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def names():
    spec = importlib.util.spec_from_file_location("device_cases", HERE / "device_cases.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return [name for name, _ in module.cases() if name != "mixing"]


@pytest.fixture(scope="module")
def outcomes():
    """In a process of its own, for a device stays registered."""
    command = [sys.executable, str(HERE / "device_cases.py")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.xdist_group("devices")
@pytest.mark.parametrize("name", names())
def test_another_device_gives_the_same(outcomes, name):
    got = outcomes[name]
    assert got["mistake"] == ""
    # what is pulled back block by block is summed in another order
    assert got["difference"] <= (1e-12 if name.startswith("chunk backprop") else 0.0)
    assert got["unrecordable"] == (name == "auto looking")
    recorded = (
        "chunk backprop" in name
        or "adaptive" in name
        or (name.startswith(("auto", "chunk")) and not name.endswith(("looking", "backprop", "checkpoint")))
    )
    assert (got["recordings"] > 0) == recorded


@pytest.mark.xdist_group("devices")
def test_a_tensor_in_the_wrong_place_is_noticed(outcomes):
    assert "aten.add" in outcomes["mixing"]["mistake"]


@pytest.mark.xdist_group("devices")
@pytest.mark.parametrize("mode", ["off", "auto"])
def test_fixed_steps_are_not_waited_for(outcomes, mode):
    few, many = outcomes[f"{mode} 205 steps"], outcomes[f"{mode} 2005 steps"]
    assert many["waits"] - few["waits"] < 0.025 * (many["steps"] - few["steps"])


@pytest.mark.xdist_group("devices")
@pytest.mark.parametrize("name", ["each series", "whole batch"])
def test_adaptive_steps_are_not_waited_for(outcomes, name):
    door = outcomes[f"auto {name}, jumps"]["waits"] - outcomes[f"auto {name}, jumps"]["steps"] / 4
    assert outcomes[f"auto {name}"]["waits"] < door + outcomes[f"auto {name}"]["steps"]
