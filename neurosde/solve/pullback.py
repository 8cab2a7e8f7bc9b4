"""Gradients of compiled blocks of steps on a GPU: blocks are taken again on the way back, and recorded."""

import contextlib

import torch
from torch.autograd.function import once_differentiable

from neurosde.sde import SDE
from neurosde.solve.compiling import Compiler, loosen
from neurosde.solve.march import Block, Model, State, advance, march, state_of
from neurosde.solve.recording import Recorder
from neurosde.typing import Any, Callable, Iterator, Tensor


class Puller:
    """Takes blocks of steps without a graph of them, and pulls cotangents back through each at once.

    A graph of every operation costs a GPU's processor more than the operations cost the GPU. Here a block is
    one node: compiled and recorded forth, and compiled and recorded back, where it is taken again from the
    state before it, which is all that is kept.

    Parameters
    ----------
    model
        What is stepped; it depends on nothing but the tensors, see :func:`depends_on_parameters`.
    kind
        What counts as the same work.
    """

    def __init__(self, model: Model, kind: tuple):
        self.model = model
        self.tensors = dependencies_of(model.sde)
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
        return self.recorders[1](pulled_back, self.back, *given)


class _Pulled(torch.autograd.Function):
    """A block of steps as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, puller: Puller, block: Block, every: bool, n_parts: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        parts = tuple(part.detach() for part in tensors[:n_parts])
        for part in parts:
            loosen(part, axis=0)
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
    call: Callable[..., Any],
    model: Model,
    block: Block,
    parts: tuple[Tensor, ...],
    tensors: tuple[Tensor, ...],
    cotangents: tuple[Tensor, ...],
    every: bool,
) -> tuple[Tensor | None, ...]:
    """Take the steps of a block again by a call of ``march``, and pull cotangents of the result back."""
    with torch.enable_grad(), stand_ins(model.sde, tensors) as own:
        before = tuple(part.detach().requires_grad_() for part in parts)
        rows, after = call(march, model, block, state_of(before), every)
    pairs = zip((*rows, *after.flat()), cotangents, strict=True)
    outs, given = zip(*((x, a) for x, a in pairs if x.requires_grad and x.numel()), strict=True)
    return torch.autograd.grad(outs, (*before, *own), given, allow_unused=True)


def dependencies_of(sde: SDE) -> tuple[Tensor, ...]:
    """What a gradient may be asked for, beside the state."""
    return tuple(x for x in sde.dependencies() if x.requires_grad)


@contextlib.contextmanager
def stand_ins(sde: SDE, tensors: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Put other leaves of the same memory into the place of an SDE's parameters.

    A parameter has one node in the graph of whatever it is used for, on the stream of the first use, and a
    recording must not meet another stream.
    """
    own = {id(x): torch.nn.Parameter(x.detach()) for x in tensors}
    places = [
        (module._parameters, name, x)
        for module in sde.modules()
        for name, x in module._parameters.items()
        if id(x) in own
    ]
    try:
        for table, name, x in places:
            table[name] = own[id(x)]
        yield tuple(own[id(x)] for x in tensors)
    finally:
        for table, name, x in places:
            table[name] = x


def puller_of(model: Model, kind: tuple, block: Block, state: State) -> Puller | None:
    """What takes blocks as single nodes, if all that gradients reach is known beforehand."""
    noise = [part for part in (block.t, *block.noise, *block.weights) if part is not None]
    if model.absorbing is not None or any(part.requires_grad for part in noise):
        return None
    first = block.part(0, 1).steps()[0]

    def step(*parts: Tensor) -> tuple[Tensor, ...]:
        return advance(model, first, state_of(parts)).flat()

    return Puller(model, kind) if depends_on_parameters(model.sde, state.flat(), step) else None


def depends_on_parameters(
    sde: SDE, parts: tuple[Tensor, ...], function: Callable[..., tuple[Tensor, ...]]
) -> bool:
    """Whether gradients of a function reach its arguments and an SDE's parameters, and no other tensor."""
    with torch.enable_grad(), stand_ins(sde, dependencies_of(sde)) as own:
        before = tuple(part.detach().requires_grad_() for part in parts)
        ahead = [x.grad_fn for x in function(*before)]
    leaves, seen = {id(x) for x in (*before, *own)}, set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in leaves:
            return False
        ahead += [parent for parent, _ in node.next_functions]
    return True
