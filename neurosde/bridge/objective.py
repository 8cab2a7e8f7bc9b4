"""What training a light bridge minimises: cells of all snapshots, drawn alike from each."""

from typing import cast

import numpy as np
import torch
from torch import nn

from neurosde.bridge.light import LightPotential
from neurosde.bridge.reference import Reference
from neurosde.training import Objective
from neurosde.typing import Array, Sequence, Tensor


class LightObjective(Objective):
    """The light bridge's loss on mini-batches that hold equally many cells of every snapshot.

    A *sample* of the training loop is a slot: one cell of each snapshot, in a fixed random order. Snapshots
    with fewer cells fill their slots repeatedly, at weights that make up for it. Slots come in `groups` that
    share no cell, so that a held-back part is held back in every snapshot.

    Parameters
    ----------
    references
        One an interval.
    snapshots
        Cells ``(cell, state)`` of each time in data units, float64; one more than intervals.
    weights
        Positive weights of these cells.
    seed
        Fixes the order of the cells.

    Attributes
    ----------
    groups
        Label of each slot, ``(sample,)``.
    start, end
        Whitened cells of each interval in the precision of training.
    """

    def __init__(
        self,
        references: Sequence[Reference],
        snapshots: Sequence[Tensor],
        weights: Sequence[Tensor],
        *,
        seed: int,
    ):
        self.start = [
            ref.predict(x.new_tensor(ref.start), x).float()
            for ref, x in zip(references, snapshots[:-1], strict=True)
        ]
        self.end = [ref.whiten(y).float() for ref, y in zip(references, snapshots[1:], strict=True)]
        sizes = [len(x) for x in snapshots]
        n_groups = min(sizes)
        length = -(-max(sizes) // n_groups)
        self.n_samples = n_groups * length
        self.groups = np.repeat(np.arange(n_groups), length)
        rng = np.random.default_rng(seed)
        slots, slot_weights = [], []
        for size, weight in zip(sizes, weights, strict=True):
            cells = rng.permutation(size)[_fill(size, n_groups, length)]
            mass = weight.cpu().numpy()[cells] / np.bincount(cells, minlength=size)[cells]
            slots.append(cells)
            slot_weights.append(mass * (len(cells) / mass.sum()))
        device = snapshots[0].device
        self.slots = torch.from_numpy(np.stack(slots))
        self.slot_weights = torch.from_numpy(np.stack(slot_weights)).float().to(device)

    def loss(self, module: nn.Module, index: Tensor, seed: int) -> Tensor:
        """``E log c - E log v`` on the batch, summed over the intervals; nothing in it is random."""
        slots = self.slots[:, index].to(self.slot_weights.device)
        weights = self.slot_weights[:, index.to(self.slot_weights.device)]
        start = torch.stack([cells[rows] for cells, rows in zip(self.start, slots[:-1], strict=True)])
        end = torch.stack([cells[rows] for cells, rows in zip(self.end, slots[1:], strict=True)])
        return cast(LightPotential, module).loss(start, end, weights[:-1], weights[1:])


def _fill(size: int, n_groups: int, length: int) -> Array:
    """Cell of each slot, by position: groups partition the cells and stretch them over `length` slots."""
    edges = np.arange(n_groups + 1) * size // n_groups
    first, count = edges[:-1, None], np.diff(edges)[:, None]
    return (first + np.arange(length)[None] * count // length).reshape(-1)
