"""Keyed random numbers: every draw is a pure function of its key, whatever was drawn before or beside it.

The fields of a key (seed, series, time, channel, ...) are chained one by one through a 64-bit mixing function
(the finaliser of SplitMix64, Steele, Lea & Flood 2014, in the variant of Stafford). Adding two fields before
mixing would make streams overlap, so each field enters on an already mixed word.
"""

import functools
import hashlib
import math
import reprlib
import secrets

import numpy as np
import torch

from neurosde.arguments import as_count
from neurosde.errors import DataError
from neurosde.noise.arguments import as_device, as_dtype, as_word
from neurosde.typing import Any, Array, Callable, Tensor

_WORD, _POSITIVE = (1 << 64) - 1, (1 << 31) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # spreads small fields over the whole word
# shift, mask of the bits that an arithmetic shift would fill with the sign, multiplier as a signed word
_ROUNDS = (
    (30, 0x3FFFFFFFF, 0xBF58476D1CE4E5B9 - (1 << 64)),
    (27, 0x1FFFFFFFFF, 0x94D049BB133111EB - (1 << 64)),
    (31, 0x1FFFFFFFF, None),
)
_LIGHT = tuple(multiplier for _, _, multiplier in _ROUNDS if multiplier is not None)
_BLOCK = 32768  # pairs of normals that are made at a time on a processor, so that the passes meet its cache


def _mix(word: Tensor) -> Tensor:
    """Avalanche signed 64-bit words."""
    for shift, mask, multiplier in _ROUNDS:
        word = word ^ ((word >> shift) & mask)
        word = word if multiplier is None else word * multiplier
    return word


def _signed(word: int) -> int:
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def _mix_int(word: int) -> int:
    """Avalanche a Python integer like :func:`_mix`, so that scalar fields cost no tensor operation."""
    word &= _WORD
    for shift, _, multiplier in _ROUNDS:
        word ^= word >> shift
        word = word if multiplier is None else (word * multiplier) & _WORD
    return word


def _mixed(key: int | Tensor) -> int | Tensor:
    return _signed(_mix_int(key)) if isinstance(key, int) else _mix(key)


def _spread_tensor(field: Tensor) -> Tensor:
    return (field + 1) * _signed(_GOLDEN)


def _spread(field: int | Tensor) -> int | Tensor:
    return _signed((field + 1) * _GOLDEN) if isinstance(field, int) else _spread_tensor(field)


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
        word = _mixed(key) ^ _spread(as_word(f"fields[{place}]", field))
        key = _signed(_mix_int(word)) if isinstance(word, int) else _mix(word)
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
        Of the result; float32 and float64 come from the same uniforms.
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
    n_pairs = (n_channels + 1) // 2
    pair = _spread_tensor(torch.arange(n_pairs, device=key.device))
    flat = key.reshape(-1)
    if compiled:
        return _compiled_normals(_mix(flat), n_channels, dtype).view(*key.shape, n_channels)
    out = torch.empty(len(flat), n_pairs, 2, dtype=dtype, device=key.device)
    rows = max(1, _BLOCK // n_pairs) if key.device.type == "cpu" else max(1, len(flat))
    for first in range(0, len(flat), rows):
        _fill(out[first : first + rows], _mix(flat[first : first + rows]).unsqueeze(-1) ^ pair)
    return out.view(*key.shape, 2 * n_pairs)[..., :n_channels]


def step_normals(
    seed: int, series: Tensor, step: Tensor, n_channels: int, dtype: torch.dtype, *, compiled: bool
) -> tuple[Tensor, Tensor]:
    """Normals ``(step, series, channel)`` of the keys ``chain(seed, series, step)``, and these keys.

    Compiled, the chain is mixed in one pass too: eager passes over it would cost half of what the normals do.
    """
    if not compiled:
        key = torch.as_tensor(chain(chain(seed, series), step.unsqueeze(-1)))
        return normals(key, n_channels, dtype), key
    head = torch.tensor(_signed(_mix_int(seed)), device=series.device)
    key, mixed = _compiled_chain()(head, series, step.unsqueeze(-1))
    return _compiled_normals(mixed.view(-1), n_channels, dtype).view(*key.shape, n_channels), key


def _compiled_normals(mixed: Tensor, n_channels: int, dtype: torch.dtype) -> Tensor:
    """Normals ``(key, channel)`` of flat keys that have been mixed once more."""
    n_pairs = (n_channels + 1) // 2
    pair = _spread_tensor(torch.arange(n_pairs, device=mixed.device))
    out = torch.empty(len(mixed), n_pairs, 2, dtype=dtype, device=mixed.device)
    rows = max(1, 8 * _BLOCK // n_pairs) if mixed.device.type == "cpu" else max(1, len(mixed))
    word = torch.empty(min(rows, len(mixed)), n_pairs, dtype=torch.int64, device=mixed.device)
    for first in range(0, len(mixed), rows):
        some = mixed[first : first + rows].unsqueeze(-1)
        torch.bitwise_xor(some, pair, out=word[: len(some)])
        # one long axis, which fills the processor's lanes
        some_out = out[first : first + rows].view(-1, 2)
        some_out = some_out.view(torch.int64).view(-1) if dtype == torch.float32 else some_out
        _compiled_pass()(word[: len(some)].view(-1), some_out)
    return out.view(len(mixed), 2 * n_pairs)[:, :n_channels]


def _chain_pass(head: Tensor, series: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of series and steps on a seed that has been mixed, and the same mixed once more."""
    key = _mix(_mix(_mix(head ^ _spread_tensor(series))) ^ _spread_tensor(step))
    return key, _mix(key)


@functools.cache
def _compiled_chain() -> Callable[..., tuple[Tensor, Tensor]]:
    """Compiled form of :func:`_chain_pass`, made when first asked for."""
    return torch.compile(_chain_pass, dynamic=True, fullgraph=True)


def _pass(word: Tensor, out: Tensor) -> None:
    """Write the normals of unmixed words, for the compiler; eager code goes pass by pass.

    They go to float64 ``(word, 2)``, or, two float32 in each, to int64 ``(word,)``, to be stored as vectors.
    """
    dtype = torch.float64 if out.dtype == torch.float64 else torch.float32
    word = _mix(word)
    upper, lower = (word >> 32).to(torch.int32) & _POSITIVE, word.to(torch.int32)
    radius = torch.sqrt(-2.0 * torch.log(upper.to(dtype) * 2.0**-31 + 2.0**-32))
    angle = lower.to(dtype) * (math.pi * 2.0**-31)
    first, second = angle.cos() * radius, angle.sin() * radius
    if dtype == torch.float64:
        out.copy_(torch.stack((first, second), dim=-1))
    else:
        first, second = (part.view(torch.int32).to(torch.int64) for part in (first, second))
        out.copy_((second << 32) | (first & 0xFFFFFFFF))


@functools.cache
def _compiled_pass() -> Callable[[Tensor, Tensor], None]:
    """Compiled form of :func:`_pass`, made when first asked for: the compiler takes seconds to import."""
    return torch.compile(_pass, dynamic=True)


def _fill(out: Tensor, word: Tensor) -> None:
    """Write the normals of unmixed words into ``out``; in place, for this is the hot loop of all noise."""
    spare = torch.empty_like(word)
    for shift, mask, multiplier in _ROUNDS:
        torch.bitwise_right_shift(word, shift, out=spare)
        word.bitwise_xor_(spare.bitwise_and_(mask))
        if multiplier is not None:
            word.mul_(multiplier)
    upper, lower = spare.copy_(word).bitwise_right_shift_(32).to(torch.int32), word.to(torch.int32)
    radius = upper.bitwise_and_(_POSITIVE).to(out.dtype).mul_(2.0**-31).add_(2.0**-32)
    radius = radius.log_().mul_(-2.0).sqrt_()
    angle = lower.to(out.dtype).mul_(math.pi * 2.0**-31)
    torch.mul(angle.cos(), radius, out=out[..., 0])
    torch.mul(angle.sin_(), radius, out=out[..., 1])


def mixed_heads(seed: int, fields: list[int]) -> Tensor:
    """Keys ``chain(seed, field)``, mixed once more as :func:`mixed_rows` takes them."""
    return torch.tensor([_signed(_mix_int(int(chain(seed, field)))) for field in fields])


def mixed_rows(heads: Tensor, index: Tensor) -> Tensor:
    """Keys ``chain(head, index)`` of heads that have been mixed; both broadcast."""
    return _mix(heads ^ _spread_tensor(index))


def crossed(
    rows: Tensor,
    columns: Tensor,
    n_lanes: int,
    dtype: torch.dtype,
    *,
    compiled: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Normals of each pair of a row and a column, where both are keys already: one product mixes a pair.

    ``k = M2 f(M1 (row ^ column))`` with ``f(x) = x ^ (x >> 27)``: the fields have been mixed before, so a
    lighter function does. The shift is arithmetic, which leaves 63 exactly uniform bits; they are turned into
    normals as in :func:`normals`.

    Parameters
    ----------
    rows, columns
        int64 keys, ``(row, series or 1, 1)`` and ``(word, series, pair)``.
    n_lanes
        Normals of each pair: 2 from its first word; 3 with one of its second.
    dtype
        Of the result.
    compiled
        Make them in one compiled pass; equal but for the last bits.
    out
        Where eager code writes them.

    Returns
    -------
    Tensor
        ``(row, lane, series, pair)``.
    """
    inside = torch.compiler.is_compiling()  # of something larger
    if compiled or inside:
        polar = _polar_pass if inside else compiled_polar()
        words = [(rows ^ column).view(-1) for column in columns]  # one long axis fills the lanes
        parts = [polar(word, dtype) for word in words]
        flat = [part.view(2, len(rows), *columns.shape[1:]) for part in parts]
        return torch.cat(flat)[:n_lanes].transpose(0, 1).contiguous()
    if out is None:
        out = torch.empty(len(rows), n_lanes, *columns.shape[1:], dtype=dtype, device=rows.device)
    for word, column in enumerate(columns):
        _polar(rows ^ column, out[:, 2 * word : 2 * word + 2])
    return out


def _polar(word: Tensor, out: Tensor) -> None:
    """Write the normals of row and column keys into one or two lanes, by passes in place."""
    word.mul_(_LIGHT[0])
    word.bitwise_xor_(word >> 27).mul_(_LIGHT[1])
    radius = (word >> 32).to(torch.int32).bitwise_and_(_POSITIVE).to(out.dtype)
    radius = radius.mul_(2.0**-31).add_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = word.to(torch.int32).to(out.dtype).mul_(math.pi * 2.0**-31)
    torch.mul(angle.cos(), radius, out=out[:, 0])
    if out.shape[1] > 1:
        torch.mul(angle.sin_(), radius, out=out[:, 1])


def _lanes(word: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same as expressions, for the compiler."""
    word = word * _LIGHT[0]
    word = (word ^ (word >> 27)) * _LIGHT[1]
    upper, lower = (word >> 32).to(torch.int32) & _POSITIVE, word.to(torch.int32)
    radius = torch.sqrt(-2.0 * torch.log(upper.to(dtype) * 2.0**-31 + 2.0**-32))
    angle = lower.to(dtype) * (math.pi * 2.0**-31)
    return angle.cos() * radius, angle.sin() * radius


def _polar_pass(word: Tensor, dtype: torch.dtype) -> Tensor:
    """Both lanes of words."""
    return torch.stack(_lanes(word, dtype))


def _sum_pass(rows: Tensor, columns: Tensor, *tables: Tensor) -> list[Tensor]:
    """Weighted sums over nodes of normals that are never stored, ``(time, *columns)``.

    Rows are ``(node, time, ...)``, which broadcast against a word's columns ``(word, ...)``; each table
    ``(part, normal, node, time, ...)`` gives a sum a part; a table with one part and one normal gives one for
    each of a word's two normals.
    """
    z = [lane for column in columns for lane in _lanes(rows ^ column, tables[0].dtype)]
    if tables[0].shape[0] == 1:
        return [(tables[0][0, 0] * lane).sum(0) for lane in z]
    return [
        sum(share * lane for share, lane in zip(part, z, strict=False)).sum(0)  # pyright: ignore
        for table in tables
        for part in table
    ]


@functools.cache
def compiled_polar() -> Callable[[Tensor, torch.dtype], Tensor]:
    """Compiled form of :func:`_polar_pass`, made when first asked for."""
    return torch.compile(_polar_pass, dynamic=True, fullgraph=True)


@functools.cache
def compiled_sums(n_parts: int, own: bool) -> Callable[..., list[Tensor]]:
    """Compiled form of :func:`_sum_pass` for so many integrals and shared or own times, made on demand."""

    def sums(rows: Tensor, columns: Tensor, *tables: Tensor) -> list[Tensor]:
        return _sum_pass(rows, columns, *tables)

    del n_parts, own  # a program of its own, whatever the others are
    return torch.compile(sums, dynamic=True, fullgraph=True)


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
