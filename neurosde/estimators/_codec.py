"""Typed encoding of parameters and fitted attributes as strict JSON plus named arrays.

JSON holds None, booleans, integers, finite floats, strings, lists and dictionaries as themselves. Everything
else is a one-key object ``{"$kind": ...}``; a kind outside this file is refused. Nothing is imported but the
records listed here.
"""

import importlib
import math

import numpy as np
import torch

from neurosde.errors import CheckpointError
from neurosde.typing import Any, Array

__all__ = ["decode", "encode"]

# Records by name: the module they live in, and the attributes that are also their constructor's arguments.
_RECORDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "LinearSDE": ("neurosde.linear", ("A", "b", "L")),
    "TimeMap": ("neurosde.data", ("origin", "scale")),
    "ChannelScaler": ("neurosde.data", ("location", "scale", "lower", "upper")),
    "StepPenalty": ("neurosde.solve", ("kind", "sample", "rtol", "atol", "seed")),
    "Schedule": ("neurosde.training", ("shape", "start", "end", "rate", "delay")),
}


def encode(value: Any, where: str, tensors: dict[str, Array]) -> Any:
    """Encode one value; arrays go to `tensors` under the name `where`.

    Raises
    ------
    CheckpointError
        If a value has no place in the format; the message says where it stands.
    """
    while where in tensors:
        where += "'"
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"$scalar": [value.dtype.name, encode(value.item(), where, tensors)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [encode(element, f"{where}/{i}", tensors) for i, element in enumerate(value)]
    if type(value) is tuple:
        return {"$tuple": encode(list(value), where, tensors)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode(element, f"{where}/{key}", tensors) for key, element in value.items()}
        return {"$dict": encode([list(pair) for pair in value.items()], where, tensors)}
    if type(value) is torch.Tensor:
        tensors[where] = value.detach().cpu().numpy()
        return {"$tensor": where}
    if isinstance(value, np.ndarray):
        return _encode_array(value, where, tensors)
    name = type(value).__name__
    if name in _RECORDS and type(value) is _record(name):
        fields = {field: getattr(value, field) for field in _RECORDS[name][1]}
        return {"$record": [name, encode(fields, where, tensors)]}
    raise CheckpointError(f"{where.replace('/', '.')} is a {name}, which a model file cannot hold")


def _encode_array(value: Array, where: str, tensors: dict[str, Array]) -> Any:
    if value.dtype.kind in "biuf":
        tensors[where] = value
        return {"$array": where}
    words = value.ravel().tolist()
    if value.dtype.kind in "OU" and all(isinstance(word, str) for word in words):
        return {"$strings": [value.dtype.str, list(value.shape), words]}
    raise CheckpointError(
        f"{where.replace('/', '.')} is an array of {value.dtype}, which a model file cannot hold"
    )


def decode(value: Any, tensors: dict[str, Array]) -> Any:
    """Decode what `encode` gave, taking the arrays out of `tensors`.

    Raises
    ------
    CheckpointError
        If the encoding is damaged or names a kind or record that is not known here.
    """
    if isinstance(value, list):
        return [decode(element, tensors) for element in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: decode(element, tensors) for key, element in value.items()}
    try:
        ((kind, inner),) = value.items()
        return _decode_kind(kind, inner, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"the encoding {str(value)[:80]!r} is damaged: {error!r}") from error


def _decode_kind(kind: str, inner: Any, tensors: dict[str, Array]) -> Any:
    if kind == "$float":
        return {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[inner]
    if kind == "$scalar":
        dtype = np.dtype(inner[0])
        if dtype.kind not in "biuf":
            raise ValueError(f"no number type: {dtype}")
        return dtype.type(decode(inner[1], tensors))
    if kind == "$tuple":
        return tuple(decode(inner, tensors))
    if kind == "$dict":
        return dict(decode(inner, tensors))
    if kind == "$array":
        return tensors.pop(inner)
    if kind == "$tensor":
        return torch.from_numpy(tensors.pop(inner).copy())
    if kind == "$strings":
        dtype, shape, words = inner
        if np.dtype(dtype).kind not in "OU" or not all(isinstance(word, str) for word in words):
            raise ValueError("no array of strings")
        return np.array(words, dtype=dtype).reshape(shape)
    if kind == "$record":
        name, fields = inner
        if set(fields) != set(_RECORDS[name][1]):
            raise ValueError(f"fields of {name} are {sorted(_RECORDS[name][1])}")
        return _record(name)(**decode(fields, tensors))
    raise ValueError(f"unknown kind {kind}")


def _record(name: str) -> type:
    return getattr(importlib.import_module(_RECORDS[name][0]), name)
