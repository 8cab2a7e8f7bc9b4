"""Keyed random numbers: every draw is a pure function of its key, whatever was drawn before or beside it.

The fields of a key (seed, series, time, channel, ...) are chained one by one through the function of
:mod:`neurosde.noise.mixing`. Adding two fields before mixing would make streams overlap, so each field enters
on an already mixed word.
"""

import hashlib
import math
import reprlib
import secrets

import numpy as np
import torch

from neurosde.arguments import as_count
from neurosde.errors import DataError
from neurosde.noise.arguments import as_device, as_dtype, as_word
from neurosde.noise.compiled import BLOCK, compiled_chain, compiled_normals
from neurosde.noise.mixing import POSITIVE, ROUNDS, mix, mix_int, mixed, signed, spread, spread_tensor
from neurosde.typing import Any, Array, Tensor


def chain(key: int | Tensor, *fields: int | Tensor) -> int | Tensor:
    """Extend a key by more fields, in order.

    ``k <- mix(k ^ (golden * (field + 1)))`` for each field, starting from ``key``. Integers and int64 tensors
    mix freely and broadcast; the result is an integer as long as every part is one.

    Parameters
    ----------
    key
        A key, or the seed that starts one.
    *fields
        Integers, or int64 tensors that broadcast against each other.

    Returns
    -------
    int or Tensor
        The longer key.

    Examples
    --------
    >>> from neurosde.noise import chain
    >>> chain(0, 1, 2) == chain(0, 2, 1)
    False
    """
    key = as_word("key", key)
    for place, field in enumerate(fields):
        word = mixed(key) ^ spread(as_word(f"fields[{place}]", field))
        key = signed(mix_int(word)) if isinstance(word, int) else mix(word)
    return key


def normals(
    key: Tensor, n_channels: int, dtype: torch.dtype = torch.float32, *, compiled: bool = False
) -> Tensor:
    """Independent standard normals for each key and channel; two channels share one mixing.

    Box and Muller's transform of the two halves of a mixed key: 31 bits of the upper one are the radius, ``u
    = (bits + 1/2) 2^-31``, so that ``|z| <= 6.7``, and the 32 of the lower one are the angle. Integer mixing
    agrees on every device; logarithm and cosine may differ in the last bits.

    Parameters
    ----------
    key
        int64 keys of any shape ``(...)``.
    n_channels
        How many draws a key gives.
    dtype
        Of the result; float32 and float64 come from the same uniforms, shorter ones are rounded.
    compiled
        Make them in one compiled pass: quicker than ``torch.randn``, equal but for the last bits.

    Returns
    -------
    Tensor
        Shape ``(..., n_channels)``. Channel ``c`` does not depend on ``n_channels``.

    Examples
    --------
    >>> import torch
    >>> from neurosde.noise import normals
    >>> key = torch.arange(3)
    >>> torch.equal(normals(key, 4)[1:2, :2], normals(key[1:2], 2))
    True
    """
    n_channels = as_count("n_channels", n_channels)
    dtype = as_dtype(dtype)
    if not isinstance(key, Tensor) or key.dtype != torch.int64:
        raise DataError(f"key: expected an int64 tensor, as chain makes them, got {reprlib.repr(key)}.")
    if dtype.itemsize < 4:  # whose numbers are too coarse for the logarithm of a small one
        return normals(key, n_channels, compiled=compiled).to(dtype)
    n_pairs = (n_channels + 1) // 2
    pair = spread_tensor(torch.arange(n_pairs, device=key.device))
    flat = key.reshape(-1)
    if compiled:
        return compiled_normals(mix(flat), n_channels, dtype).view(*key.shape, n_channels)
    out = torch.empty(len(flat), n_pairs, 2, dtype=dtype, device=key.device)
    rows = max(1, BLOCK // n_pairs) if key.device.type == "cpu" else max(1, len(flat))
    for first in range(0, len(flat), rows):
        _fill(out[first : first + rows], mix(flat[first : first + rows]).unsqueeze(-1) ^ pair)
    return out.view(*key.shape, 2 * n_pairs)[..., :n_channels]


def step_normals(
    seed: int, series: Tensor, step: Tensor, n_channels: int, dtype: torch.dtype, *, compiled: bool
) -> tuple[Tensor, Tensor]:
    """Normals ``(step, series, channel)`` of the keys ``chain(seed, series, step)``, and these keys.

    Compiled, the chain is mixed in one pass too: eager passes over it would cost half of what the normals do.
    """
    if not compiled or dtype.itemsize < 4:
        key = torch.as_tensor(chain(chain(seed, series), step.unsqueeze(-1)))
        return normals(key, n_channels, dtype), key
    head = seed_word(seed, series.device)
    key, mixed = compiled_chain()(head, series, step.unsqueeze(-1))
    return compiled_normals(mixed.view(-1), n_channels, dtype).view(*key.shape, n_channels), key


def seed_word(seed: int, device: torch.device) -> Tensor:
    """A seed, mixed, as compiled code takes it, ``()``."""
    return torch.tensor(signed(mix_int(seed)), device=device)


def _fill(out: Tensor, word: Tensor) -> None:
    """Write the normals of unmixed words into ``out``; in place, for this is the hot loop of all noise."""
    spare = torch.empty_like(word)
    for shift, mask, multiplier in ROUNDS:
        torch.bitwise_right_shift(word, shift, out=spare)
        word.bitwise_xor_(spare.bitwise_and_(mask))
        if multiplier is not None:
            word.mul_(multiplier)
    upper, lower = spare.copy_(word).bitwise_right_shift_(32).to(torch.int32), word.to(torch.int32)
    radius = upper.bitwise_and_(POSITIVE).to(out.dtype).mul_(2.0**-31).add_(2.0**-32)
    radius = radius.log_().mul_(-2.0).sqrt_()
    angle = lower.to(out.dtype).mul_(math.pi * 2.0**-31)
    torch.mul(angle.cos(), radius, out=out[..., 0])
    torch.mul(angle.sin_(), radius, out=out[..., 1])


def normal(
    seed: int,
    *fields: int | Tensor,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """One standard normal for each combination of the fields.

    Parameters
    ----------
    seed
        The seed of the stream.
    *fields
        Integers or int64 tensors that broadcast.
    dtype, device
        Of the result.

    Returns
    -------
    Tensor
        Of the broadcast shape of the fields.

    Examples
    --------
    >>> import torch
    >>> from neurosde.noise import normal
    >>> series = torch.tensor([7, 3])
    >>> torch.equal(normal(0, series)[1], normal(0, torch.tensor(3)))
    True
    """
    word = chain(as_word("seed", seed), *fields)
    key = torch.as_tensor(word, dtype=torch.int64, device=as_device(device))
    return normals(key, 1, dtype).squeeze(-1)


def as_seed(seed: int | None) -> int:
    """Check a seed; ``None`` asks the operating system for a fresh one, never the global generator of torch.

    Raises
    ------
    DataError
        If the seed is neither ``None`` nor an integer.
    """
    if seed is None:
        return secrets.randbits(63)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise DataError(f"seed: expected an integer or None, got {seed!r} of type {type(seed).__name__}.")
    return int(seed)


def series_keys(ids: Any) -> Array:
    """Stable 63-bit integer keys of series ids: integers stand for themselves, other ids are hashed by value.

    Parameters
    ----------
    ids
        Sequence of integers, strings or other ids, shape ``(series,)``.

    Returns
    -------
    numpy.ndarray
        int64, shape ``(series,)``; the same id has the same key in every run and on every machine.

    Examples
    --------
    >>> from neurosde.noise import series_keys
    >>> series_keys([3, 12]).tolist()
    [3, 12]
    >>> bool(series_keys(["a"])[0] == series_keys(["b", "a"])[1])
    True
    """
    try:
        listed = np.asarray(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(_no_ids(ids)) from error
    if listed.ndim != 1:
        raise DataError(_no_ids(ids))
    ids = listed
    if ids.dtype.kind in "iu":
        return ids.astype(np.int64)
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids.tolist())
    return np.fromiter((int.from_bytes(d, "little") >> 1 for d in digests), dtype=np.int64, count=len(ids))


def _no_ids(ids: Any) -> str:
    return (
        "ids: expected a list or array of ids, integers or strings, one a series (series,), got "
        f"{reprlib.repr(ids)}."
    )
