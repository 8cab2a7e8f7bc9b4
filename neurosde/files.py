"""Safetensors files with a JSON document: written atomically, checked before anything is allocated.

Model files and training checkpoints are both of this form: arrays, one strict JSON document, and a digest
over every byte of the file. Nothing here unpickles, evaluates or imports what a file says.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
import types
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy

from neurosde.errors import CheckpointError, UnsafeFileError
from neurosde.typing import Any, Array

__all__ = ["MAX_BYTES", "fingerprint", "read_document", "read_file", "write_file"]

MAX_BYTES = 2**30
_MAX_HEADER_BYTES = 2**26
_DTYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_BLANK = b"0" * 64
_DIGEST = re.compile(rb'"neurosde":"([0-9a-f]{64}) ')
_FOREIGN = {
    b"\x80": "a pickle",
    b"PK": "a zip archive (as torch.save and numpy.savez write)",
    b"\x89HDF": "an HDF5 file",
}


def write_file(path: str | os.PathLike[str], tensors: dict[str, Array], document: dict[str, Any]) -> None:
    """Write arrays and a JSON document to one file: all of it, or nothing.

    The bytes go to a temporary name in the same directory, are flushed to the disk and then renamed, so that
    a reader (or a kill) meets the old file or the new one, never a part.

    Parameters
    ----------
    path
        Where to write; an existing file is replaced.
    tensors
        Arrays of numbers or booleans by name.
    document
        Strict JSON: no NaN, no infinity.

    Raises
    ------
    CheckpointError
        If an array has a dtype outside the format, or the document is not strict JSON.
    """
    for name, array in tensors.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise CheckpointError(
                f"array {name!r} of dtype {array.dtype} cannot be written; expected bool, int or float"
            )
    try:
        text = json.dumps(document, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the document of {os.fspath(path)!r} is not strict JSON: {error}") from error
    ordered = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    data = safetensors_numpy.save(ordered, {"neurosde": f"{_BLANK.decode()} {text}"})
    start, stop = _digest_span(data)
    digest = hashlib.sha256(data).hexdigest().encode()
    _replace(Path(path), data[:start] + digest + data[stop:])


def read_file(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read the arrays and the document that `write_file` wrote.

    Parameters
    ----------
    path
        The file.
    max_bytes
        Largest file, and largest declared size, that is accepted.

    Returns
    -------
    tensors, document
        As given to `write_file`.

    Raises
    ------
    UnsafeFileError
        If the file is no safetensors file of ours, or is or claims to be larger than `max_bytes`.
    CheckpointError
        If the file is missing, truncated, or its digest does not fit its bytes.
    """
    path = Path(path)
    size = _size(path, max_bytes)
    with path.open("rb") as file:
        data = file.read(size)
    _, document = _document(io.BytesIO(data), len(data), max_bytes, path)
    start, stop = _digest_span(data)
    if hashlib.sha256(data[:start] + _BLANK + data[stop:]).hexdigest().encode() != data[start:stop]:
        raise CheckpointError(f"'{path}' was altered or damaged: its digest does not fit its bytes")
    try:
        return safetensors_numpy.load(data), document
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"'{path}' cannot be read: {error}") from error


def read_document(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Read the JSON document alone: every declared size is checked, the arrays and the digest are not.

    Returns
    -------
    shapes, document
        Shapes of the arrays by name, and the document.

    Raises
    ------
    UnsafeFileError, CheckpointError
        As `read_file`, but for the digest.
    """
    path = Path(path)
    size = _size(path, max_bytes)
    with path.open("rb") as file:
        return _document(file, size, max_bytes, path)


def fingerprint(*values: Any) -> str:
    """Digest of data and settings: equal for equal contents, in any process.

    Arrays and tensors count by dtype, shape and bytes; containers by their elements; modules by their
    weights; other objects by their class and state (dataclasses: their fields).

    Examples
    --------
    >>> fingerprint(np.arange(3), {"a": 1}) == fingerprint(np.arange(3), {"a": 1})
    True
    >>> fingerprint(np.arange(3)) == fingerprint(np.arange(3.0))
    False
    """
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    name = type(value).__qualname__
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        digest.update(f"{name}{value.dtype.str}{value.shape}".encode())
        digest.update(np.asarray(value, order="C").tobytes())
    elif isinstance(value, np.ndarray):
        _feed(digest, (value.shape, value.ravel().tolist()))
    elif isinstance(value, torch.Tensor):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, torch.nn.Module):
        _feed(digest, (name, dict(value.state_dict())))
    elif isinstance(value, dict):
        digest.update(f"{name}{len(value)}".encode())
        for key in sorted(value, key=repr):
            _feed(digest, key)
            _feed(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"{name}{len(value)}".encode())
        for element in value:
            _feed(digest, element)
    elif value is None or isinstance(
        value,
        str
        | bytes
        | int
        | float
        | complex
        | np.generic
        | os.PathLike
        | torch.device
        | torch.dtype
        | np.dtype,
    ):
        digest.update(f"{name}:{value!r};".encode())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _feed(digest, (name, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}))
    elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    else:
        _feed(digest, (name, value.__getstate__()))


def _size(path: Path, max_bytes: int) -> int:
    try:
        status = path.stat()
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(f"'{path}' is not a regular file")
    if status.st_size > max_bytes:
        raise UnsafeFileError(f"'{path}' has {status.st_size} bytes, more than max_bytes={max_bytes}")
    return status.st_size


def _document(
    file: BinaryIO, size: int, max_bytes: int, path: Path
) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    head = file.read(8)
    if len(head) < 8:
        raise CheckpointError(f"'{path}' is truncated: {len(head)} bytes, fewer than declare the header")
    declared = int.from_bytes(head, "little")
    if declared > min(max_bytes, _MAX_HEADER_BYTES):
        for magic, what in _FOREIGN.items():
            if head.startswith(magic):
                raise UnsafeFileError(f"'{path}' is {what}, not a neurosde file; it was not opened")
        raise UnsafeFileError(f"'{path}' declares a header of {declared} bytes; refused before allocating")
    if declared > size - 8:
        raise CheckpointError(
            f"'{path}' is truncated: a header of {declared} bytes declared, {size - 8} there"
        )
    header = _json(file.read(declared), f"the header of '{path}'")
    metadata = header.pop("__metadata__", None)
    _check_layout(header, size - 8 - declared, max_bytes, path)
    text = metadata.get("neurosde") if isinstance(metadata, dict) and len(metadata) == 1 else None
    if not isinstance(text, str):
        raise CheckpointError(
            f"'{path}' is not a neurosde file: its metadata are not a digest and a document"
        )
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    return shapes, _json(text[len(_BLANK) + 1 :], f"the document of '{path}'")


def _json(text: bytes | str, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{what} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} is a {type(value).__name__}; expected an object")
    return value


def _check_layout(header: dict[str, Any], size: int, max_bytes: int, path: Path) -> None:
    """Check that each array's bytes equal its shape times its dtype, and that together they tile the file."""
    spans = []
    for name, entry in header.items():
        try:
            dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
            whole = all(type(n) is int and n >= 0 for n in (*shape, start, stop))
            fits = whole and stop - start == _DTYPES[dtype] * math.prod(shape)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"'{path}': the header entry of array {name!r} is damaged") from error
        if not fits:
            raise CheckpointError(
                f"'{path}': array {name!r} declares bytes {start}:{stop} for shape {shape} of {dtype}"
            )
        spans.append((start, stop))
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise CheckpointError(f"'{path}': the arrays overlap or leave a gap at byte {end}")
        end = stop
    if end > max_bytes:
        raise UnsafeFileError(f"'{path}' declares arrays of {end} bytes, more than max_bytes={max_bytes}")
    if end != size:
        raise CheckpointError(
            f"'{path}' is truncated or padded: {end} bytes of arrays declared, {size} there"
        )


def _digest_span(data: bytes) -> tuple[int, int]:
    """Place of the digest in the file; quotes inside the document are escaped, so the match is unique."""
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    found = [match.span(1) for match in _DIGEST.finditer(header)]
    if len(found) != 1:
        raise CheckpointError(f"a file must hold one digest, this one holds {len(found)}")
    return found[0][0] + 8, found[0][1] + 8


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
