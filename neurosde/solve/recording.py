"""Work that a GPU does over and over is recorded once, and replayed without the processor's help."""

import contextlib
import functools
import gc
import threading
import warnings

import torch

from neurosde.solve.compiling import Compile, loosened_as
from neurosde.typing import Any, Callable, Iterator, Tensor

DEVICES = ("cuda",)
_MOST = 2**20  # entries of the states: with more, a kernel takes the GPU longer than to ask for it
_LOOKED = "called a synchronizing CUDA operation"  # torch's words where one waits for the device
_NEW = "Synchronization debug mode is a prototype"  # and where it is asked to say so
_unrecordable: set[tuple] = set()


class Graphs:
    """Recordings of the kernels that a function asks a GPU for: CUDA graphs."""

    def rehearse(self, function: Callable[..., Any], arguments: list[Any]) -> tuple[Any, bool]:
        """Call a function where it will be recorded; tell whether it did without looking at values.

        Libraries have their workspace there from then on, and a recording that fails does harm.
        """
        with _place(arguments).aside(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("warn")
            try:
                results = function(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        looked = False
        for warning in caught:
            looked |= _LOOKED in str(warning.message)
            if not any(word in str(warning.message) for word in (_LOOKED, _NEW)):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return results, not looked

    def record(self, function: Callable[..., Any], arguments: list[Any]) -> tuple[Any, Callable[[], None]]:
        """What the function returns, not yet computed, and what computes it, time and again."""
        place = _place(arguments)
        with place.aside():
            results, graph = place.capture(function, arguments)
        return results, graph.replay


class Recorder:
    """Calls functions of tensors: once as they are, then as recordings of what they ask of the device.

    To ask for a kernel takes the processor several microseconds, and a GPU one or two to do it if the batch
    is small; a graph of hundreds is asked for in ten. Tensors that are the same object in every call are read
    where they are; all others are copied to where the recording expects them, and the results from there. A
    function must depend on its arguments alone, and must not look at values: one that does is called as it
    is from then on.

    Parameters
    ----------
    kind
        What counts as the same work; what could not be recorded once is not tried again.
    on
        Whether anything is recorded.
    graphs
        What records.

    Attributes
    ----------
    on
        Whether functions are recorded.
    """

    def __init__(self, kind: tuple, on: bool, graphs: Graphs | None = None):
        self.kind, self.on = kind, on and kind not in _unrecordable
        self._graphs = graphs or Graphs()
        self._known: dict[tuple, _Recording] = {}

    def close(self) -> None:
        """Give the recordings back."""
        self._known.clear()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call it with tensors, tuples and lists of them, and whatever is the same object in every call."""
        if not self.on:
            return function(*arguments)
        leaves = list(_leaves(arguments))
        key = (function, *map(_form, leaves))
        recording = self._known.get(key)
        if recording is None:
            self._known[key] = _Recording(self._graphs, leaves)
            return function(*arguments)
        try:
            return recording(function, arguments, leaves)
        except Exception:  # an error of the function's own comes again in the plain call
            _unrecordable.add(self.kind)
            self.on = False
            self.close()
            return function(*arguments)


def recordable(y: Tensor, mode: Compile) -> bool:
    """Whether steps from these states are worth a recording: on a GPU, if they are not too many."""
    return y.device.type in DEVICES and mode != "off" and y.numel() <= _MOST


class _Recording:
    """One function for arguments of one form: rehearsed with tensors of its own, recorded, and replayed.

    Parameters
    ----------
    graphs
        What records.
    leaves
        Of the first call's arguments.
    """

    def __init__(self, graphs: Graphs, leaves: list[Any]):
        self.graphs, self.still = graphs, leaves
        self.moving: dict[int, Tensor] = {}  # place among the leaves, and where the recording reads them
        self.own: list[Any] | None = None
        self.noisy = 0  # rehearsals in which somebody looked at values: the compiler may, the first time
        self.ready = False
        self.run: Callable[[], None] | None = None

    def __call__(self, function: Callable[..., Any], arguments: tuple[Any, ...], leaves: list[Any]) -> Any:
        """Results for these arguments; what is passed on as it came is the caller's own."""
        moved = self._moved(leaves)
        if moved or self.own is None:
            self._lay_out(arguments, leaves, moved)
        _copy(list(self.moving.values()), [leaves[i] for i in self.moving])
        assert self.own is not None
        if self.run is not None:
            self.run()
        elif self.ready:
            results, self.run = self.graphs.record(function, self.own)
            self._keep(results)
            self.run()
        else:
            results, self.ready = self.graphs.rehearse(function, self.own)
            self._keep(results)
            self.noisy += not self.ready
            if self.noisy > 1:
                raise RuntimeError("it looks at values")
        return self._handed_out(leaves)

    def _moved(self, leaves: list[Any]) -> list[int]:
        pairs = enumerate(zip(self.still, leaves, strict=True))
        return [i for i, (a, b) in pairs if a is not b and i not in self.moving and isinstance(b, Tensor)]

    def _lay_out(self, arguments: tuple[Any, ...], leaves: list[Any], moved: list[int]) -> None:
        """Make tensors for whatever moves; the next call is a rehearsal with them."""
        self.ready, self.run = False, None
        self.moving = {i: loosened_as(leaves[i].clone(), leaves[i]) for i in (*self.moving, *moved)}
        self.leaves = [self.moving.get(i, leaf) for i, leaf in enumerate(leaves)]
        self.own = _filled(list(arguments), iter(self.leaves))

    def _keep(self, results: Any) -> None:
        places = {id(leaf): i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor)}
        self.results = _mapped(lambda leaf: _Given(places[id(leaf)]) if id(leaf) in places else leaf, results)
        self.made = [leaf for leaf in _leaves(self.results) if isinstance(leaf, Tensor)]

    def _handed_out(self, leaves: list[Any]) -> Any:
        copies = [torch.empty_like(part) for part in self.made]
        _copy(copies, self.made)
        fresh = iter(copies)

        def result(leaf: Any) -> Any:
            if isinstance(leaf, _Given):
                return leaves[leaf]
            return next(fresh) if isinstance(leaf, Tensor) else leaf

        return _mapped(result, self.results)


class _Given(int):
    """Place of an argument that is passed on as it came."""


def _copy(to: list[Tensor], since: list[Tensor]) -> None:
    """Copy tensors, those of one dtype at once."""
    for dtype in dict.fromkeys(x.dtype for x in to):
        pairs = [(x, y) for x, y in zip(to, since, strict=True) if x.dtype == dtype and x.numel()]
        if pairs:
            torch._foreach_copy_([x for x, _ in pairs], [y for _, y in pairs])  # pyright: ignore[reportPrivateImportUsage]


def _form(leaf: Any) -> Any:
    """What must be equal for a recording to be used again."""
    if isinstance(leaf, Tensor):
        return (leaf.dtype, leaf.shape, leaf.requires_grad)
    return leaf if isinstance(leaf, bool | int | float | str) else id(leaf)


def _leaves(tree: Any) -> Iterator[Any]:
    """Whatever is no tuple or list, in order, and their lengths, which tell trees of equal leaves apart."""
    if isinstance(tree, tuple | list):
        yield len(tree)
        for part in tree:
            yield from _leaves(part)
    else:
        yield tree


def _mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree of other leaves."""
    if not isinstance(tree, tuple | list):
        return function(tree)
    return _like(tree, [_mapped(function, part) for part in tree])


def _filled(tree: Any, leaves: Iterator[Any]) -> Any:
    """The same tree of the leaves that :func:`_leaves` gives."""
    if not isinstance(tree, tuple | list):
        return next(leaves)
    next(leaves)  # its length
    return _like(tree, [_filled(part, leaves) for part in tree])


def _like(tree: Any, parts: list[Any]) -> Any:
    """Parts in a list or tuple of the kind that the tree is."""
    if isinstance(tree, list):
        return parts
    return tuple(parts) if type(tree) is tuple else type(tree)(*parts)


class _Place:
    """Where one thread records: a stream of its own, for the usual one cannot be recorded, and its memory.

    All recordings share the memory, for they are replayed one after another and their results are copied.
    """

    def __init__(self, device: int):
        self.stream, self.pool = torch.cuda.Stream(device), None
        with self.aside():
            # memory is shared for as long as one recording holds it
            _, self.keeper = self.capture(lambda: torch.zeros(1, device=self.stream.device), [])
        self.pool = self.keeper.pool()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Work here after all that was asked for before, and before all that is asked for later."""
        usual = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            yield
        usual.wait_stream(self.stream)

    def capture(self, function: Callable[..., Any], arguments: list[Any]) -> tuple[Any, torch.cuda.CUDAGraph]:
        """What a function returns, not yet computed, and the graph that computes it."""
        graph, collecting = torch.cuda.CUDAGraph(), gc.isenabled()
        generator = torch.cuda.default_generators[self.stream.device_index]
        state = generator.clone_state()
        gc.disable()  # an old recording that is thrown away during a new one spoils it
        try:
            graph.capture_begin(self.pool, capture_error_mode="thread_local")  # others may feed data
            try:
                results = function(*arguments)
                graph.capture_end()  # which may tell of what went wrong before
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                generator.graphsafe_set_state(state)  # which the recording has not let go of
                raise
        finally:
            if collecting:
                gc.enable()
        return results, graph


def _place(arguments: list[Any]) -> _Place:
    """Where this thread records on the device of the arguments."""
    tensors = (leaf for leaf in _leaves(arguments) if isinstance(leaf, Tensor))
    device = next(x.device.index for x in tensors if x.is_cuda)
    return _place_of(device, threading.get_ident())


@functools.cache
def _place_of(device: int, thread: int) -> _Place:
    return _Place(device)
