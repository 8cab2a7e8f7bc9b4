"""Gradients of compiled blocks of steps on a GPU: blocks are taken again on the way back, and recorded."""

import torch
from torch.autograd.function import once_differentiable

from neurosde.solve.compiling import Compiler, loosen
from neurosde.solve.march import Block, Model, State, advance, march, state_of
from neurosde.solve.recording import Recorder
from neurosde.typing import Any, Tensor


class Puller:
    """Takes blocks of steps without a graph of them, and pulls cotangents back through each at once.

    A graph of every operation costs a GPU's processor more than the operations cost the GPU. Here a block is
    one node: compiled and recorded forth, and compiled and recorded back, where it is taken again from the
    state before it, which is all that is kept.

    Parameters
    ----------
    model
        What is stepped; it depends on nothing but the tensors, see :func:`depends_on_nothing_else`.
    kind
        What counts as the same work.
    """

    def __init__(self, model: Model, kind: tuple):
        self.model = model
        self.tensors = dependencies_of(model)
        self.forth, self.back = (Compiler((*kind, way), "chunk") for way in ("forth", "back"))
        self.recorders = tuple(Recorder((*kind, way), True) for way in ("forth", "back"))

    def __call__(self, block: Block, state: State, every: bool) -> tuple[list[Tensor], State]:
        """Take the steps of a block, as :func:`~neurosde.solve.march.march` does."""
        flat = state.flat()
        parts = _Pulled.apply(self, block, every, len(flat), *flat, *self.tensors)
        assert isinstance(parts, tuple)
        n_rows = len(parts) - len(flat)
        return list(parts[:n_rows]), state_of(parts[n_rows:])

    def take(self, block: Block, state: State, every: bool) -> tuple[list[Tensor], State]:
        """The steps alone."""
        return self.recorders[0](self.forth, march, self.model, block, state, every)

    def pull(
        self, block: Block, parts: tuple[Tensor, ...], every: bool, cotangents: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        """Cotangents of the parts of the state before the block, and of the tensors."""
        for part in (*parts, *cotangents):
            loosen(part, axis=0)
        given = (self.model, block, parts, self.tensors, cotangents, every)
        return self.recorders[1](self.back, pulled_back, *given)


class _Pulled(torch.autograd.Function):
    """A block of steps as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, puller: Puller, block: Block, every: bool, n_parts: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        parts = tensors[:n_parts]
        rows, after = puller.take(block, state_of(parts), every)
        ctx.puller, ctx.block, ctx.every = puller, block, every
        ctx.save_for_backward(*parts)
        return (*rows, *after.flat())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pulled = ctx.puller.pull(ctx.block, ctx.saved_tensors, ctx.every, cotangents)
        return (None, None, None, None, *pulled)


def pulled_back(
    model: Model,
    block: Block,
    parts: tuple[Tensor, ...],
    tensors: tuple[Tensor, ...],
    cotangents: tuple[Tensor, ...],
    every: bool,
) -> tuple[Tensor | None, ...]:
    """Take the steps of a block again, and pull cotangents of what comes of it back."""
    with torch.enable_grad():
        before = tuple(part.detach().requires_grad_() for part in parts)
        rows, after = march(model, block, state_of(before), every)
    pairs = [
        (x, a) for x, a in zip((*rows, *after.flat()), cotangents, strict=True) if x.requires_grad and x.numel()
    ]
    outs, given = zip(*pairs, strict=True)
    return torch.autograd.grad(outs, (*before, *tensors), given, allow_unused=True)


def dependencies_of(model: Model) -> tuple[Tensor, ...]:
    """What a gradient may be asked for, beside the state."""
    return tuple(x for x in model.sde.dependencies() if x.requires_grad)


def puller_of(model: Model, kind: tuple, block: Block, state: State) -> Puller | None:
    """What takes blocks as single nodes, if all that gradients reach is known beforehand."""
    if model.absorbing is not None or not depends_on_nothing_else(model, block, state):
        return None
    return Puller(model, kind)


def depends_on_nothing_else(model: Model, block: Block, state: State) -> bool:
    """Whether gradients of a step reach the state and what the SDE names, and no other tensor."""
    noise = [part for part in (block.t, *block.noise, *block.weights) if part is not None]
    if any(part.requires_grad for part in noise):
        return False
    with torch.enable_grad():
        before = state_of(tuple(part.detach().requires_grad_() for part in state.flat()))
        after = advance(model, block.part(0, 1).steps()[0], before)
    named = (*before.flat(), *dependencies_of(model))
    leaves = {id(x) for x in named if x.is_leaf}
    seen = {x.grad_fn for x in named if not x.is_leaf}
    ahead = [x.grad_fn for x in after.flat() if x.grad_fn is not None]
    while ahead:
        node = ahead.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in leaves:
            return False
        ahead += [parent for parent, _ in node.next_functions if parent is not None]
    return True
