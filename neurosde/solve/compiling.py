"""When and how to compile: not before the time spent without it would have paid for it."""

import contextlib
import time
import types
import warnings

import torch

from neurosde.solve.march import Model
from neurosde.typing import Any, Callable, Iterator, Literal, Tensor

Compile = Literal["auto", "chunk", "off"]
MODES: tuple[Compile, ...] = ("auto", "chunk", "off")
PATIENCE = 40.0  # seconds of eager steps of one kind before "auto" compiles: about twice what compiling costs
# `autograd.grad` is traced as it stands; floats are a method's weights, and constants of its program
_SETTINGS = {"trace_autograd_ops": True, "specialize_float": True, "record_runtime_overhead": False}
# an activation is cheaper to take again than to fetch from the memory, also where a product follows it
_KEEP_LESS = {"ban_recompute_materialized_backward": False}

_Parts = tuple[Tensor, ...]

_spent: dict[tuple, float] = {}
_failed: set[tuple] = set()
_programs: dict[tuple, Callable[..., Any]] = {}


def kind_of(model: Model, y: Tensor, gradient: bool) -> tuple:
    """What counts as the same work: the classes of all that is stepped, the dtype and the device."""
    inner = getattr(model.sde, "sde", model.sde)
    costs = tuple(type(cost) for cost in model.running)
    return (type(inner), type(model.stepper), costs, model.penalty, y.dtype, y.device.type, gradient)


class Compiler:
    """Runs functions of one kind of work, compiled or not, and keeps account of the time.

    Parameters
    ----------
    kind
        What counts as the same work.
    mode
        As :func:`neurosde.solve` is asked for.

    Attributes
    ----------
    on
        Whether functions are compiled.
    """

    def __init__(self, kind: tuple, mode: Compile):
        self.kind, self.counting = kind, mode == "auto"
        wanted = mode == "chunk" or (self.counting and _spent.get(kind, 0.0) > PATIENCE)
        self.on = wanted and kind not in _failed
        self._settings = contextlib.ExitStack()

    def for_form(self, form: str) -> "Compiler":
        """A compiler for another form of the same work, which may fail alone."""
        return Compiler((*self.kind, form), "chunk" if self.on else "off")

    def __call__(self, function: Callable[..., Any], *arguments: Any, size: int = 0) -> Any:
        """Run a function; what does not compile is run as it is, and so is all of its kind from then on.

        Each ``size`` has a program of its own.
        """
        with self.open() as call:
            return call(function, *arguments, size=size)

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[..., Any]]:
        """The same for many calls, whose compiler is set up once."""
        with contextlib.ExitStack() as self._settings:
            if self.on:
                self._settings.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")  # of the compiler's own inner workings
                self._settings.enter_context(_settings(torch._dynamo.config, _SETTINGS))
                if _on_cpu(self.kind):
                    from torch._functorch import config

                    self._settings.enter_context(_settings(config, _KEEP_LESS))
            yield self._run

    def knows(self, function: Callable[..., Any]) -> bool:
        """Whether a function is compiled, and has been before."""
        return self.on and (function.__code__, *self.kind, 0) in _programs

    def _run(self, function: Callable[..., Any], *arguments: Any, size: int = 0) -> Any:
        failure: Exception | None = None
        if self.on:
            from torch._dynamo.exc import TorchDynamoException  # imports the compiler, which takes seconds

            try:
                return _program((*self.kind, size), function)(*arguments)
            except (TorchDynamoException, AssertionError) as error:  # the compiler's own assertions fail too
                failure = error
            self._settings.close()
            # which a field's derivative forbids, and leaves so
            torch._C._autograd._saved_tensors_hooks_enable()  # pyright: ignore[reportAttributeAccessIssue]
        begin = time.perf_counter()
        result = function(*arguments)  # what fails here as well is no fault of the compiler
        if failure is not None:
            self._give_up(failure)
        elif self.counting:
            _spent[self.kind] = _spent.get(self.kind, 0.0) + time.perf_counter() - begin
        return result

    def _give_up(self, error: Exception) -> None:
        _failed.add(self.kind)
        self.on = False
        warnings.warn(
            f"compile: this SDE did not compile and is stepped as it is ({type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}).",
            RuntimeWarning,
            stacklevel=3,
        )


@contextlib.contextmanager
def _settings(config: Any, values: dict[str, Any]) -> Iterator[None]:
    """Settings of a part of the compiler for a while; its own patch makes a class at every call."""
    before: dict[str, Any] = {}
    for name in values:
        with contextlib.suppress(AttributeError):  # which an older compiler does not have
            before[name] = getattr(config, name)
    try:
        for name in before:
            setattr(config, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def while_loop(going: Callable[..., Tensor], body: Callable[..., _Parts], parts: _Parts) -> _Parts:
    """Call the body on its own results while it goes on: a loop of the program where one is being compiled.

    Torch's own compiles what it meets in eager code as well.
    """
    if torch.compiler.is_compiling():
        loop: Callable[..., _Parts] = torch.while_loop
        return loop(going, body, parts)
    while bool(going(*parts)):
        parts = body(*parts)
    return parts


def either(
    which: Tensor, first: Callable[..., _Parts], second: Callable[..., _Parts], parts: _Parts
) -> _Parts:
    """The first function where ``which`` is true, else the second: a branch of the program, likewise."""
    if torch.compiler.is_compiling():
        return torch.cond(which, first, second, parts)
    return first(*parts) if bool(which) else second(*parts)


def _program(kind: tuple, function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled form of a function for one kind of work.

    The compiler keeps its programs, and a limit on their number, by code object, and what it has seen to vary
    by the code's name: each kind has a copy with a name of its own.
    """
    key = (function.__code__, *kind)
    if key not in _programs:
        name = f"{function.__name__}_{len(_programs)}"
        twin = types.FunctionType(function.__code__.replace(co_name=name), function.__globals__, name)
        twin.__defaults__, twin.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
        _programs[key] = torch.compile(twin, fullgraph=True, options=_options(kind))
    return _programs[key]


def _options(kind: tuple) -> dict[str, Any]:
    """Settings of the compiler on a processor: a wrapper in C++, fused multiply-add, rewritten graphs."""
    if not _on_cpu(kind):
        return {}
    from torch._inductor import list_options

    from neurosde.solve.rewrites import Rewrites  # imports the compiler, which takes seconds

    wanted = {"cpp_wrapper": True, "post_grad_custom_pre_pass": Rewrites()}
    wanted["cpp.enable_floating_point_contract_flag"] = "fast"  # which an older compiler does not have
    known = list_options()
    return {name: value for name, value in wanted.items() if name in known}


def _on_cpu(kind: tuple) -> bool:
    return kind[5] == "cpu"


def loosen(*tensors: Tensor | None, axis: int) -> None:
    """Let the length of an axis change without compiling again."""
    for tensor in tensors:
        if tensor is not None and tensor.dim() > axis and tensor.shape[axis] > 1:
            torch._dynamo.maybe_mark_dynamic(tensor, axis)


def loosened_as(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A tensor whose axes may change as another's may."""
    for axis in getattr(pattern, "_dynamo_weak_dynamic_indices", ()):
        torch._dynamo.maybe_mark_dynamic(tensor, axis)
    return tensor
