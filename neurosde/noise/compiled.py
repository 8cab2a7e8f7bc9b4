"""Keyed normals for the compiler, which makes in one pass what eager code makes pass by pass.

They are those of :mod:`neurosde.noise.keys`, but for the last bits.
"""

import functools
import math

import torch

from neurosde.noise.mixing import POSITIVE, mix, spread_tensor
from neurosde.typing import Callable, Tensor

BLOCK = 32768  # pairs of normals that are made at a time on a processor, so that the passes meet its cache


def compiled_normals(mixed: Tensor, n_channels: int, dtype: torch.dtype) -> Tensor:
    """Normals ``(key, channel)`` of flat keys that have been mixed once more."""
    n_pairs = (n_channels + 1) // 2
    pair = spread_tensor(torch.arange(n_pairs, device=mixed.device))
    size, single = len(mixed) * n_pairs, dtype == torch.float32
    shape, kind = ((size,), torch.int64) if single else ((size, 2), dtype)
    out = torch.empty(shape, dtype=kind, device=mixed.device)
    rows = max(1, 8 * BLOCK // n_pairs) if mixed.device.type == "cpu" else max(1, len(mixed))
    # one long axis, which fills the processor's lanes; no views where one pass will do, for they cost a call
    word = torch.empty(min(rows * n_pairs, size), dtype=torch.int64, device=mixed.device)
    for first in range(0, size, len(word)):
        part = out if len(word) == size else out[first : first + len(word)]
        some = word if len(part) == len(word) else word[: len(part)]
        keys = mixed[first // n_pairs : (first + len(part)) // n_pairs].unsqueeze(-1)
        torch.bitwise_xor(keys, pair, out=some.view(-1, n_pairs))
        _compiled_pass()(some, part)
    return out.view(dtype).view(len(mixed), 2 * n_pairs)[:, :n_channels]


def series_heads(head: Tensor, series: Tensor) -> Tensor:
    """Mixed keys of series on a seed that has been mixed."""
    return mix(mix(head ^ spread_tensor(series)))


def step_keys(heads: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Keys of steps on the mixed keys of series, and the same mixed once more."""
    key = mix(heads ^ spread_tensor(step))
    return key, mix(key)


def _chain_pass(head: Tensor, series: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Both at once."""
    return step_keys(series_heads(head, series), step)


def box_muller(word: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Both normals of mixed words: the radius is in the upper half, the angle in the lower."""
    upper, lower = (word >> 32).to(torch.int32) & POSITIVE, word.to(torch.int32)
    radius = torch.sqrt(-2.0 * torch.log(upper.to(dtype) * 2.0**-31 + 2.0**-32))
    angle = lower.to(dtype) * (math.acos(-1.0) * 2.0**-31)  # the compiler would hand pi in at every call
    return angle.cos() * radius, angle.sin() * radius


def _pass(word: Tensor, out: Tensor) -> None:
    """Write the normals of words that have yet to be mixed.

    They go to float64 ``(word, 2)``, or, two float32 in each, to int64 ``(word,)``, to be stored as vectors.
    """
    dtype = torch.float64 if out.dtype == torch.float64 else torch.float32
    first, second = box_muller(mix(word), dtype)
    if dtype == torch.float64:
        out.copy_(torch.stack((first, second), dim=-1))
    else:
        first, second = (part.view(torch.int32).to(torch.int64) for part in (first, second))
        out.copy_((second << 32) | (first & 0xFFFFFFFF))


@functools.cache
def compiled_chain() -> Callable[..., tuple[Tensor, Tensor]]:
    """Compiled form of :func:`_chain_pass`, made when first asked for: the import takes seconds."""
    return torch.compile(_chain_pass, dynamic=True, fullgraph=True)


@functools.cache
def _compiled_pass() -> Callable[[Tensor, Tensor], None]:
    """Compiled form of :func:`_pass`."""
    return torch.compile(_pass, dynamic=True)
