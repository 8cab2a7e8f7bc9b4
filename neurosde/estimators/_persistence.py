"""Model files: one safetensors file with strict JSON metadata, opened without running anything in it."""

import math
import os

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

import neurosde
from neurosde import estimators
from neurosde.errors import CheckpointError
from neurosde.estimators._base import Estimator, is_fitted_name, module_arrays
from neurosde.estimators._codec import decode, encode
from neurosde.files import MAX_BYTES, read_document, read_file, write_file
from neurosde.typing import Any, Array

__all__ = ["load", "read_model_info", "save"]

SCHEMA = 1
_MODULE = "module/"
_FIELDS = {"kind": str, "schema": int, "version": str, "class": str, "params": dict, "attributes": dict}


def save(estimator: Estimator, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator (see `Estimator.save`)."""
    tensors: dict[str, Array] = {}
    state = vars(estimator)
    if "module_" not in state:
        raise CheckpointError(f"this {type(estimator).__name__} is not fitted; call fit before save")
    fitted = {name: value for name, value in state.items() if is_fitted_name(name) and name != "module_"}
    for name, array in module_arrays(estimator.module_).items():
        tensors[_MODULE + name] = array
    document = {
        "kind": "model",
        "schema": SCHEMA,
        "version": neurosde.__version__,
        "class": type(estimator).__name__,
        "params": encode(estimator.get_params(deep=False), "params", tensors),
        "attributes": encode(fitted, "attributes", tensors),
    }
    write_file(path, tensors, document)


def load(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES, expected: type[Estimator] = Estimator
) -> Any:
    """Open a saved estimator of any class of this package.

    Parameters
    ----------
    path
        A file that `Estimator.save` wrote.
    max_bytes
        Largest file, and largest declared size, that is accepted.
    expected
        Class that the file must hold; `Estimator` stands for every class in `neurosde.estimators`.

    Returns
    -------
    Estimator
        Fitted, with equal weights bit for bit.

    Raises
    ------
    UnsafeFileError
        If the file is no safetensors file of ours, or is or claims to be larger than `max_bytes`.
    CheckpointError
        If the file is damaged, of another class, or of a later version.
    """
    tensors, document = read_file(path, max_bytes=max_bytes)
    _check_document(document, path)
    cls = _class_of(document["class"], expected, path)
    of_module = [name for name in tensors if name.startswith(_MODULE)]
    module = {name.removeprefix(_MODULE): tensors.pop(name) for name in of_module}
    params, attributes = decode(document["params"], tensors), decode(document["attributes"], tensors)
    if tensors:
        raise CheckpointError(f"'{path}' holds arrays that nothing refers to: {sorted(tensors)}")
    unknown = set(params) - set(cls._get_param_names())
    if unknown:
        raise CheckpointError(f"'{path}': {cls.__name__} has no parameters {sorted(unknown)}")
    wrong = [name for name in attributes if not is_fitted_name(name)]
    if wrong:
        raise CheckpointError(f"'{path}': {wrong[0]!r} is no name of a fitted attribute")
    estimator = cls(**params)
    vars(estimator).update(attributes)
    _check_weights(estimator, module, path)
    estimator._set_module(module)
    return estimator


def read_model_info(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Metadata of a model file without its arrays; their digest is not checked, `load` checks it.

    Returns
    -------
    dict
        class, version, schema, params, attributes (arrays as they are encoded, by name), shapes (of every
        array by name), n_weights, bytes.
    """
    shapes, document = read_document(path, max_bytes=max_bytes)
    _check_document(document, path)
    n_weights = sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(_MODULE))
    told = {name: document[name] for name in ("class", "version", "schema", "params", "attributes")}
    return told | {"shapes": shapes, "n_weights": n_weights, "bytes": os.stat(path).st_size}


def _check_document(document: dict[str, Any], path: Any) -> None:
    if document.get("kind") != "model":
        raise CheckpointError(f"'{path}' is no model file; its kind is {document.get('kind')!r}")
    schema = document.get("schema")
    if type(schema) is not int or schema != SCHEMA:
        raise CheckpointError(
            f"'{path}' has schema version {schema!r}, this neurosde {neurosde.__version__} reads {SCHEMA}; "
            f"it was written by neurosde {document.get('version')!r}"
        )
    found = {name: type(value) for name, value in document.items()}
    if found != _FIELDS:
        raise CheckpointError(f"'{path}' is damaged: its fields are {sorted(found)} or of wrong types")


def _class_of(name: str, expected: type[Estimator], path: Any) -> type[Estimator]:
    if expected is not Estimator:
        if name != expected.__name__:
            raise CheckpointError(f"'{path}' holds a {name!r}, not a {expected.__name__}; see neurosde.load")
        return expected
    if name not in estimators.CLASSES:
        raise CheckpointError(f"'{path}' holds a {name!r}, no estimator of neurosde {neurosde.__version__}")
    return getattr(estimators, name)


class _Allowance(TorchFunctionMode):
    """Stops a module that is laid out with far more tensors than its weights explain."""

    def __init__(self, n_weights: int):
        super().__init__()
        self.left = 10_000 + 1_000 * n_weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):  # leaving no_grad is a call too, and must not fail
            self.left -= 1
            if self.left < 0:
                raise ValueError("they ask for more layers than the file has")
        return result


def _check_weights(estimator: Estimator, stored: dict[str, Array], path: Any) -> None:
    """Compare names, shapes and dtypes on the meta device, so that a lying parameter allocates nothing."""
    try:
        with torch.device("meta"), _Allowance(len(stored)):
            planned = estimator._build_module().state_dict()
    except (RuntimeError, MemoryError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"'{path}': no module fits its parameters and attributes: {error}") from error
    if set(planned) != set(stored):
        raise CheckpointError(f"'{path}': weights {sorted(set(planned) ^ set(stored))} are missing or over")
    for name, tensor in planned.items():
        array = stored[name]
        if tuple(tensor.shape) != array.shape or str(tensor.dtype) != f"torch.{array.dtype}":
            raise CheckpointError(
                f"'{path}': weight {name} is {array.dtype} {array.shape}, "
                f"expected {tensor.dtype} {tuple(tensor.shape)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckpointError(f"'{path}': weight {name} is not finite")
