"""Which rows of a solve are kept, and how they are laid out."""

import sys

import torch

from neurosde.solve.grid import TimeGrid
from neurosde.typing import Tensor


class Picker:
    """Collects the rows that were asked for as they come by, and lays them out at the end."""

    def __init__(self, grid: TimeGrid):
        self.shared, self.save = grid.save.dim() == 1, grid.save
        self.steps = grid.save.flatten()
        self.bounds = self.steps.tolist()
        self.order: Tensor | None = None  # None as it stands
        if not (self.shared and self.bounds[0] >= 0 and self.bounds == sorted(self.bounds)):
            order = torch.argsort(self.steps, stable=True)
            self.order = order[self.steps[order] >= 0]
            self.steps = self.steps[self.order]
            self.bounds = self.steps.tolist()
        self.taken = 0
        self.rows: list[Tensor] = []

    def next_stop(self) -> int:
        """Number of the next step whose row was asked for."""
        return self.bounds[self.taken] if self.taken < len(self.bounds) else sys.maxsize

    def take(self, rows: list[Tensor], first: int) -> None:
        """Keep what is asked for of the rows (series, column) after step ``first`` and the next."""
        end = self.taken
        while end < len(self.bounds) and self.bounds[end] < first + len(rows):
            end += 1
        if end == self.taken:
            return
        if self.shared or self.order is None:
            self.rows += [rows[step - first] for step in self.bounds[self.taken : end]]
        else:
            low = self.bounds[self.taken]
            some = torch.stack(rows[low - first : self.bounds[end - 1] - first + 1])
            series = self.order[self.taken : end] // self.save.shape[-1]
            self.rows.append(some[self.steps[self.taken : end] - low, series])
        self.taken = end

    def gather(self, failed_at: Tensor | None) -> Tensor:
        """Rows in the layout of the requested times, NaN for padding and after a failure."""
        rows = torch.stack(self.rows) if self.shared else torch.cat(self.rows)
        if self.order is not None:
            place = torch.zeros(self.save.numel(), dtype=torch.int64, device=rows.device)
            place[self.order] = torch.arange(len(self.order), device=rows.device)
            rows = rows[place]
        rows = rows.transpose(0, 1) if self.shared else rows.unflatten(0, tuple(self.save.shape))
        if failed_at is None and len(self.bounds) == self.save.numel():
            return rows
        lost = self.save < 0
        if failed_at is not None:
            lost = lost | (self.save >= failed_at[:, None])
        return torch.where(lost.unsqueeze(-1), torch.nan, rows) if bool(lost.any()) else rows
