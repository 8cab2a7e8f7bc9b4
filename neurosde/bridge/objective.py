"""What training a light bridge minimises: cells of all snapshots, drawn alike from each."""

from typing import cast

import numpy as np
import torch
from torch import nn

from neurosde.bridge.light import LightPotential
from neurosde.bridge.reference import Affine, Reference
from neurosde.training import Objective
from neurosde.typing import Array, Sequence, Tensor


class LightObjective(Objective):
    """The light bridge's loss on mini-batches that hold equally many cells of every snapshot.

    A *sample* of the training loop is a slot: one cell of each snapshot, in a fixed random order. Snapshots
    with fewer cells fill their slots repeatedly, at weights that make up for it. Slots come in `groups` that
    share no cell, so that a held-back part is held back in every snapshot. Cells are whitened batch by batch,
    so that they are never copied.

    Parameters
    ----------
    references
        One an interval.
    cells
        All cells in order of time, ``(cell, state)``, in data units.
    weights
        Their positive weights, ``(cell,)``.
    sizes
        Number of cells of each snapshot; one more than intervals.
    seed
        Fixes the order of the cells.

    Attributes
    ----------
    groups
        Label of each slot, ``(sample,)``.
    """

    def __init__(
        self,
        references: Sequence[Reference],
        cells: Tensor,
        weights: Tensor,
        sizes: Sequence[int],
        *,
        seed: int,
    ):
        self.cells = cells
        self.to_start = _stack([reference.predict_from_start for reference in references])
        self.to_end = _stack([reference.whiten for reference in references])
        n_groups = min(sizes)
        length = -(-max(sizes) // n_groups)
        self.n_samples = n_groups * length
        self.groups = np.repeat(np.arange(n_groups), length)
        rng, mass = np.random.default_rng(seed), weights.cpu().numpy()
        slots = np.empty((len(sizes), self.n_samples), np.int64)
        slot_weights = np.empty((len(sizes), self.n_samples))
        for i, (size, first) in enumerate(zip(sizes, np.cumsum([0, *sizes[:-1]]), strict=True)):
            own = rng.permutation(size)[_fill(size, n_groups, length)]
            slots[i] = first + own
            slot_weights[i] = mass[slots[i]] / np.bincount(own, minlength=size)[own]
            slot_weights[i] *= self.n_samples / slot_weights[i].sum()
        self.slots, self.slot_weights = (torch.from_numpy(a).to(cells.device) for a in (slots, slot_weights))

    def loss(self, module: nn.Module, index: Tensor, seed: int) -> Tensor:
        """``E log c - E log v`` on the batch, summed over the intervals; nothing in it is random."""
        index = index.to(self.slots.device)
        weights, cells = self.slot_weights[:, index], self.cells[self.slots[:, index]]
        start, end = _map(self.to_start, cells[:-1]), _map(self.to_end, cells[1:])
        return cast(LightPotential, module).loss(start, end, weights[:-1], weights[1:])


def _stack(maps: Sequence[Affine]) -> Affine:
    """Maps of all intervals with an interval axis in front."""
    matrix, shift = (torch.stack(parts) for parts in zip(*maps, strict=True))
    return Affine(matrix, shift.unsqueeze(1))


def _map(maps: Affine, cells: Tensor) -> Tensor:
    """``(interval, cell, state)`` through the map of each interval."""
    if maps.matrix.dim() == 2:
        return cells * maps.matrix.unsqueeze(1) + maps.shift
    return cells @ maps.matrix.mT + maps.shift


def _fill(size: int, n_groups: int, length: int) -> Array:
    """Cell of each slot, by position: groups partition the cells and stretch them over `length` slots."""
    edges = np.arange(n_groups + 1) * size // n_groups
    first, count = edges[:-1, None], np.diff(edges)[:, None]
    return (first + np.arange(length)[None] * count // length).reshape(-1)
