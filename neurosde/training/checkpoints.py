"""Checkpoints: one file a run, named by a digest of everything that the run's result depends on."""

import dataclasses
import os
from pathlib import Path

import torch

from neurosde.errors import CheckpointError, DataError
from neurosde.files import fingerprint, read_file, write_file
from neurosde.training.options import TrainingOptions
from neurosde.typing import Any, Array, Tensor

__all__ = ["Checkpoint", "load_optimizer", "optimizer_arrays"]

_SCHEMA = 1
_WITHOUT_EFFECT = ("verbose", "checkpoint", "checkpoint_every")


class Checkpoint:
    """The file of one run.

    Parallel runs on other data or with other settings have other names; two equal runs write equal states,
    each in one atomic step. So a directory can be shared by any number of fits.

    Parameters
    ----------
    directory
        Made where it is missing.
    options, *rest
        What the run depends on: its options (but for those without effect on the result), seed, groups,
        weights, data.

    Raises
    ------
    DataError
        If the directory cannot be made or written.
    """

    def __init__(self, directory: str | os.PathLike[str], options: TrainingOptions, *rest: Any):
        settings = {k: v for k, v in dataclasses.asdict(options).items() if k not in _WITHOUT_EFFECT}
        self.identity = fingerprint(_SCHEMA, settings, *rest)
        folder = Path(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"checkpoint='{folder}' is not a usable directory: {error.strerror}") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DataError(f"checkpoint='{folder}' is not a usable directory: it cannot be written")
        self.path = folder / f"{self.identity[:32]}.safetensors"

    def write(self, tensors: dict[str, Array], state: dict[str, Any]) -> None:
        """Replace the file by arrays and a JSON-able state."""
        head = {"kind": "checkpoint", "schema": _SCHEMA, "identity": self.identity}
        write_file(self.path, tensors, head | {"state": state})

    def read(self, path: Path | None = None) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Arrays and state of this run, from its own file (None where there is none) or from the given one.

        Raises
        ------
        CheckpointError
            If the file is damaged, or of a run that differs in data, settings, seed or initial weights.
        """
        if path is None and not self.path.exists():
            return None
        path = path or self.path
        tensors, document = read_file(path)
        if document.get("kind") != "checkpoint" or document.get("schema") != _SCHEMA:
            raise CheckpointError(
                f"'{path}' is no training checkpoint of schema {_SCHEMA}: kind {document.get('kind')!r}, "
                f"schema {document.get('schema')!r}"
            )
        if document.get("identity") != self.identity:
            raise CheckpointError(
                f"'{path}' is of another run: data, settings, seed or initial weights differ"
            )
        return tensors, document["state"]


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> dict[str, Array]:
    """State of an optimiser as arrays named by parameter number and slot."""
    slots = optimizer.state_dict()["state"]
    return {
        f"{i}/{name}": value.cpu().numpy().copy() for i, slot in slots.items() for name, value in slot.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, arrays: dict[str, Array]) -> None:
    """Give an optimiser the state that `optimizer_arrays` read."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        number, _, slot = name.partition("/")
        slots.setdefault(int(number), {})[slot] = torch.tensor(array)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
