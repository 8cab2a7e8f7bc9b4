"""Whatever is solved suits another device: no tensor in the wrong place, no waiting at steps, the same bits.

The device is a processor in disguise, see ``another_device.py``; a GPU is met in ``test_gpu.py``. All is one
test, for it takes a process of its own: a device stays registered.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "device_cases.py"
TAKEN_AS_THEY_ARE = ("auto looking", "auto backprop", "auto checkpoint", "chunk checkpoint")


@pytest.fixture
def outcomes():
    command = [sys.executable, str(CASES)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def complaints(name, got):
    """What is wrong with the outcome of a case."""
    if got["mistake"]:
        yield f"{name}: {got['mistake']}"
        return
    # what is pulled back block by block is summed in another order
    if not got["difference"] <= (1e-12 if name.startswith("chunk backprop") else 0.0):
        yield f"{name}: differs by {got['difference']}"
    if got["unrecordable"] != (name == "auto looking"):
        yield f"{name}: could not be recorded"
    records = name.startswith(("auto", "chunk")) and name not in TAKEN_AS_THEY_ARE
    if (got["recordings"] > 0) != records:
        yield f"{name}: {got['recordings']} recordings"


def test_another_device_gives_the_same_and_is_not_waited_for(outcomes):
    assert "aten.add" in outcomes.pop("mixing")["mistake"]  # a tensor in the wrong place is noticed
    assert len(outcomes) > 50
    assert [line for name, got in outcomes.items() for line in complaints(name, got)] == []
    for mode in ("off", "auto"):
        few, many = outcomes[f"{mode} 205 steps"], outcomes[f"{mode} 2005 steps"]
        assert many["waits"] - few["waits"] < 0.025 * (many["steps"] - few["steps"])
    for way in ("each series", "whole batch"):
        few, many = outcomes[f"auto {way}"], outcomes[f"auto {way}, longer"]
        assert many["steps"] - few["steps"] > 50
        assert many["waits"] - few["waits"] < 0.3 * (many["steps"] - few["steps"])
