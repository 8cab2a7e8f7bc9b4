"""The steps that a search has accepted, side by side: what it takes to take them again."""

import torch

from neurosde.noise import BrownianIncrement
from neurosde.solve.compiling import loosen
from neurosde.typing import NamedTuple, Sequence, Tensor

_ROOM = 64  # steps of a clock that there is room for at first


class Kept(NamedTuple):
    """Accepted steps of every clock in its own column; the last row takes what is to be forgotten.

    Parameters
    ----------
    ends
        Fractions of the span at which steps end, float64 ``(step + 1, clock)``.
    parts
        Integrals (W, H, K) of the path over them, ``(step + 1, series, noise)``, as far as there are any.
    """

    ends: Tensor
    parts: tuple[Tensor, ...]

    @property
    def room(self) -> int:
        """Steps of a clock that there is room for."""
        return len(self.ends) - 1

    def put(self, row: Tensor, end: Tensor, increment: BrownianIncrement) -> None:
        """Write a step of each clock into its own row, ``(clock,)``, in place."""
        self.ends.index_put_((row, torch.arange(len(row), device=row.device)), end)
        series = torch.arange(self.parts[0].shape[1], device=row.device)
        for kept, part in zip(self.parts, _parts(increment), strict=True):
            kept.index_put_((row.expand(len(series)), series), part)

    def grown(self) -> "Kept":
        """The same with room for twice as many steps."""

        def longer(part: Tensor) -> Tensor:
            return torch.cat((part[:-1], part.new_zeros(self.room, *part.shape[1:]), part[-1:]))

        return Kept(longer(self.ends), tuple(map(longer, self.parts)))

    def loosen(self) -> None:
        """Let the sizes change without compiling again."""
        for axis in (0, 1):
            loosen(self.ends, *self.parts, axis=axis)


def room_for(n_clocks: int, record: Sequence[Tensor | None], y: Tensor) -> Kept:
    """Room for the steps of so many clocks, whose noise has the integrals of a record, in the dtype of y."""
    ends = torch.zeros(_ROOM + 1, n_clocks, dtype=torch.float64, device=y.device)
    parts = (y.new_zeros(_ROOM + 1, *part.shape) for part in record if part is not None)
    return Kept(ends, tuple(parts))


def gathered(taken: Sequence[tuple[Tensor, Tensor, BrownianIncrement]], n_steps: int) -> Kept:
    """Put attempts that were noted one by one (ends, which clocks took the step, its noise) into columns."""
    ends, masks = (torch.stack([attempt[i] for attempt in taken]) for i in (0, 1))  # pyright: ignore
    place = torch.where(masks, masks.cumsum(0) - 1, n_steps)

    def column(rows: Tensor, index: Tensor) -> Tensor:
        return rows.new_zeros(n_steps + 1, *rows.shape[1:]).scatter_(0, index, rows)

    parts = []
    for rows in zip(*(_parts(increment) for _, _, increment in taken), strict=True):
        stacked = torch.stack(rows)
        parts.append(column(stacked, place.unsqueeze(-1).expand(stacked.shape)))
    return Kept(column(ends, place), tuple(parts))


def _parts(increment: BrownianIncrement) -> tuple[Tensor, ...]:
    return tuple(part for part in increment[1:4] if part is not None)
