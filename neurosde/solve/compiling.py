"""When to compile: not before the time spent without it would have paid for it."""

import functools
import time
import warnings

import torch

from neurosde.solve.march import Block, Model, State, march
from neurosde.typing import Callable, Literal, Tensor

Compile = Literal["auto", "chunk", "off"]
MODES: tuple[Compile, ...] = ("auto", "chunk", "off")
PATIENCE = 60.0  # seconds of eager steps of one kind before "auto" compiles: about twice what compiling costs

_spent: dict[tuple, float] = {}
_failed: set[tuple] = set()


def marcher(model: Model, state: State, compile: Compile) -> "Marcher":
    """Choose how a solve takes its steps."""
    inner = getattr(model.sde, "sde", model.sde)
    kind = (
        type(inner),
        type(model.stepper),
        tuple(type(cost) for cost in model.running),
        state.y.dtype,
        state.y.device.type,
        torch.is_grad_enabled(),
    )
    wanted = compile == "chunk" or (compile == "auto" and _spent.get(kind, 0.0) > PATIENCE)
    return Marcher(kind, wanted and kind not in _failed, counting=compile == "auto")


class Marcher:
    """Takes blocks of steps, compiled or not, and keeps account of the time.

    Parameters
    ----------
    kind
        What counts as the same work.
    compiled
        Whether to compile.
    counting
        Whether eager time counts towards compiling later.
    """

    def __init__(self, kind: tuple, compiled: bool, counting: bool):
        self.kind, self.compiled, self.counting = kind, compiled, counting

    def __call__(self, model: Model, block: Block, state: State) -> tuple[Tensor, State]:
        """Take the steps of a block."""
        if self.compiled:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of the compiler's own inner workings
                    return _compiled()(model, block, state)
            except Exception as error:  # whatever the compiler cannot do, eager steps can
                _failed.add(self.kind)
                self.compiled = False
                warnings.warn(
                    f"compile: this SDE did not compile and is stepped as it is ({type(error).__name__}: "
                    f"{str(error).partition(chr(10))[0]}).",
                    RuntimeWarning,
                    stacklevel=2,
                )
        begin = time.perf_counter()
        result = march(model, block, state)
        if self.counting:
            _spent[self.kind] = _spent.get(self.kind, 0.0) + time.perf_counter() - begin
        return result


@functools.cache
def _compiled() -> Callable[[Model, Block, State], tuple[Tensor, State]]:
    """Compile the march once for the process; torch keeps one program for each kind of work."""
    return torch.compile(march, fullgraph=True)
