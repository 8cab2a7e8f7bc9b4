"""Keyed random numbers: every draw is a pure function of its key, whatever was drawn before or beside it.

The fields of a key (seed, series, time, channel, ...) are chained one by one through a 64-bit mixing function
(the finaliser of SplitMix64, Steele, Lea & Flood 2014, in the variant of Stafford). Adding two fields before
mixing would make streams overlap, so each field enters on an already mixed word.
"""

import hashlib
import math
import secrets

import numpy as np
import torch

from neurosde.errors import DataError
from neurosde.typing import Any, Array, Tensor

_MULTIPLIER_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as a signed word
_MULTIPLIER_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15, spreads small fields over the whole word
_WORD = (1 << 64) - 1


def _mix(word: Tensor) -> Tensor:
    """Avalanche a signed 64-bit word; ``>>`` is arithmetic in torch, so the sign bits are masked away."""
    word = (word ^ ((word >> 30) & 0x3FFFFFFFF)) * _MULTIPLIER_1
    word = (word ^ ((word >> 27) & 0x1FFFFFFFFF)) * _MULTIPLIER_2
    return word ^ ((word >> 31) & 0x1FFFFFFFF)


def _signed(word: int) -> int:
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def _mix_int(word: int) -> int:
    """Do the same as :func:`_mix` on a Python integer, so that scalar fields cost no tensor operation."""
    word &= _WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _WORD
    return word ^ (word >> 31)


def _mixed(key: int | Tensor) -> int | Tensor:
    return _signed(_mix_int(key)) if isinstance(key, int) else _mix(key)


def _spread(field: int | Tensor) -> int | Tensor:
    return _signed((field + 1) * (_GOLDEN & _WORD)) if isinstance(field, int) else (field + 1) * _GOLDEN


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
    for field in fields:
        word = _mixed(key) ^ _spread(field)
        key = _signed(_mix_int(word)) if isinstance(word, int) else _mix(word)
    return key


def normal_pair(key: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Two independent standard normals for each key.

    Box and Muller's transform of the two 32-bit halves of the mixed key, ``u = (half + 1/2) 2^-32``, so that
    ``|z| <= 6.8``. Integer mixing agrees on every device; the logarithm and cosine may differ in the last
    bits.

    Parameters
    ----------
    key
        int64 keys of any shape.
    dtype
        Of the result; float32 and float64 come from the same uniforms.

    Returns
    -------
    tuple of Tensor
        Both of the shape of ``key``.
    """
    word = _mix(key)
    scale = 2.0**-32
    first = ((word >> 32) & 0xFFFFFFFF).to(dtype).mul_(scale).add_(0.5 * scale)
    angle = (word & 0xFFFFFFFF).to(dtype).mul_(2 * math.pi * scale).add_(math.pi * scale)
    radius = first.clamp_(max=1.0).log_().mul_(-2.0).sqrt_()
    return radius * torch.cos(angle), radius * torch.sin(angle)


def normals(key: Tensor, n_channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Independent standard normals for each key and channel; two channels share one mixing.

    Parameters
    ----------
    key
        int64 keys of any shape ``(...)``.
    n_channels
        How many draws a key gives.
    dtype
        Of the result.

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
    n_pairs = (n_channels + 1) // 2
    pair = torch.arange(n_pairs, device=key.device)
    cos, sin = normal_pair(_as_tensor(chain(key.unsqueeze(-1), pair)), dtype)
    return torch.stack((cos, sin), dim=-1).flatten(-2)[..., :n_channels]


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
    key = chain(seed, *fields)
    return normal_pair(torch.as_tensor(key, dtype=torch.int64, device=device), dtype)[0]


def _as_tensor(key: int | Tensor) -> Tensor:
    return torch.as_tensor(key, dtype=torch.int64)


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
    ids = np.asarray(ids)
    if ids.dtype.kind in "iu":
        return ids.astype(np.int64)
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids.tolist())
    return np.fromiter((int.from_bytes(d, "little") >> 1 for d in digests), dtype=np.int64, count=len(ids))
