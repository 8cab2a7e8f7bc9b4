"""The tensors of a module that training changes, and copies of them."""

import math

import torch
from torch import nn

from neurosde.typing import Tensor

__all__ = ["Weights"]


class Weights:
    """Parameters, then floating-point buffers, as views of the module's own memory.

    A copy is a list of tensors in the same order. Each transfer is one fused call, so that a signal never
    leaves half of it done.
    """

    def __init__(self, module: nn.Module):
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        self.live = [tensor.detach() for tensor in (*self.parameters, *buffers)]

    def copy(self) -> list[Tensor]:
        """Return a new copy."""
        return [tensor.clone() for tensor in self.live]

    def read_into(self, copies: list[Tensor]) -> None:
        """Overwrite a copy with the module's tensors."""
        _transfer(copies, self.live)

    def write_from(self, copies: list[Tensor]) -> None:
        """Overwrite the module's tensors with a copy."""
        _transfer(self.live, copies)

    def write_buffers_from(self, copies: list[Tensor]) -> None:
        """Overwrite the module's buffers alone."""
        n = len(self.parameters)
        if len(self.live) > n:
            _transfer(self.live[n:], copies[n:])

    def average_into(self, average: list[Tensor], decay: float) -> None:
        """Move an average towards the module's tensors: ``average = decay average + (1 - decay) live``."""
        torch._foreach_lerp_(average, self.live, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def gradient_norm(self, loss: Tensor) -> tuple[float, float]:
        """Value of the loss and Euclidean norm of its gradient, in one transfer from the device."""
        parts = torch._foreach_norm(self._gradients())  # pyright: ignore[reportPrivateImportUsage]
        value, *norms = torch.stack([loss.detach(), *parts]).tolist()
        return value, math.hypot(*norms)

    def scale_gradient(self, factor: float) -> None:
        """Multiply the gradient."""
        torch._foreach_mul_(self._gradients(), factor)  # pyright: ignore[reportPrivateImportUsage]

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def finite(self) -> bool:
        """Whether every parameter is finite."""
        return all(bool(tensor.isfinite().all()) for tensor in self.live[: len(self.parameters)])


def _transfer(to: list[Tensor], source: list[Tensor]) -> None:
    # The for-each calls are what torch.optim itself is made of; a loop over tensors costs ten times as much.
    torch._foreach_copy_(to, source)  # pyright: ignore[reportPrivateImportUsage]
