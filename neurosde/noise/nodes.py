"""Normals of the nodes of a tree: the key of a row crossed with the key of a column, one product a pair.

Rows are the nodes, mixed keys of the seed, the level and the number; columns are the lanes of the series.
"""

import functools
import math

import torch

from neurosde.noise.compiled import box_muller
from neurosde.noise.keys import chain
from neurosde.noise.mixing import LIGHT, POSITIVE, mix, mix_int, signed, spread_tensor
from neurosde.typing import Callable, Tensor


@functools.lru_cache(maxsize=64)  # each path of a seed wants the same; nobody writes to them
def mixed_heads(seed: int, fields: tuple[int, ...]) -> Tensor:
    """Keys ``chain(seed, field)``, mixed once more as :func:`mixed_rows` takes them."""
    return torch.tensor([signed(mix_int(int(chain(seed, field)))) for field in fields])


def mixed_rows(heads: Tensor, index: Tensor) -> Tensor:
    """Keys ``chain(head, index)`` of heads that have been mixed; both broadcast."""
    return mix(heads ^ spread_tensor(index))


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
    if dtype.itemsize < 4:  # whose numbers are too coarse for the logarithm of a small one
        rounded = crossed(rows, columns, n_lanes, torch.float32, compiled=compiled).to(dtype)
        return rounded if out is None else out.copy_(rounded)
    inside = torch.compiler.is_compiling()  # of something larger
    if compiled or inside:
        polar = _polar_pass if inside else compiled_polar()
        words = [(rows ^ column).view(-1) for column in columns.unbind()]  # one long axis fills the lanes
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
    word.mul_(LIGHT[0])
    word.bitwise_xor_(word >> 27).mul_(LIGHT[1])
    radius = (word >> 32).to(torch.int32).bitwise_and_(POSITIVE).to(out.dtype)
    radius = radius.mul_(2.0**-31).add_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = word.to(torch.int32).to(out.dtype).mul_(math.pi * 2.0**-31)
    torch.mul(angle.cos(), radius, out=out[:, 0])
    if out.shape[1] > 1:
        torch.mul(angle.sin_(), radius, out=out[:, 1])


def _lanes(word: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same as expressions, for the compiler."""
    word = word * LIGHT[0]
    word = (word ^ (word >> 27)) * LIGHT[1]
    first, second = box_muller(word, torch.float32 if dtype.itemsize < 4 else dtype)
    return first.to(dtype), second.to(dtype)


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
