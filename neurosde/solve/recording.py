"""Work that a GPU does over and over is recorded once, and replayed without the processor's help."""

import contextlib
import functools
import gc
import threading

import torch

from neurosde.solve.compiling import Compile
from neurosde.typing import Any, Callable, Iterator, Tensor

DEVICES = ("cuda",)
_unrecordable: set[tuple] = set()


class Graphs:
    """Recordings of the kernels that a function asks a GPU for: CUDA graphs."""

    def rehearse(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Call a function where it will be recorded, so that libraries have their workspace there."""
        with _place().aside():
            return function(*arguments)

    def record(self, function: Callable[..., Any], arguments: list[Any]) -> tuple[Any, Callable[[], None]]:
        """What the function returns, not yet computed, and what computes it, time and again."""
        place = _place()
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
            return self._graphs.rehearse(function, arguments)
        if not recording.fits(leaves):
            try:
                recording.make(function, arguments, leaves)
            except Exception:  # an error of its own comes again in the plain call
                _unrecordable.add(self.kind)
                self.on = False
                return function(*arguments)
        return recording.replay(leaves)


def recordable(y: Tensor, mode: Compile) -> bool:
    """Whether steps from these states are to be recorded: on a GPU, if no graph of them is kept."""
    return y.device.type in DEVICES and mode != "off"


class _Recording:
    """One function for arguments of one form.

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
        self.results: Any = None
        self.made: list[Tensor] = []  # where the recording writes
        self.run: Callable[[], None] | None = None

    def fits(self, leaves: list[Any]) -> bool:
        """Whether there is a recording that reads all that has moved from copies."""
        return self.run is not None and not self._moved(leaves)

    def _moved(self, leaves: list[Any]) -> list[int]:
        pairs = enumerate(zip(self.still, leaves, strict=True))
        return [i for i, (a, b) in pairs if a is not b and i not in self.moving and isinstance(b, Tensor)]

    def make(self, function: Callable[..., Any], arguments: tuple[Any, ...], leaves: list[Any]) -> None:
        """Record it."""
        self.run = None
        self.moving = {i: leaves[i].clone() for i in (*self.moving, *self._moved(leaves))}
        own = [self.moving.get(i, leaf) for i, leaf in enumerate(leaves)]
        results, run = self.graphs.record(function, _filled(list(arguments), iter(own)))
        places = {id(leaf): i for i, leaf in enumerate(own) if isinstance(leaf, Tensor)}
        self.results = _mapped(lambda leaf: _Given(places[id(leaf)]) if id(leaf) in places else leaf, results)
        self.made = [leaf for leaf in _leaves(self.results) if isinstance(leaf, Tensor)]
        self.run = run

    def replay(self, leaves: list[Any]) -> Any:
        """Results for these arguments; what is passed on as it came is the caller's own."""
        assert self.run is not None
        _copy(list(self.moving.values()), [leaves[i] for i in self.moving])
        self.run()
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
            torch._foreach_copy_([x for x, _ in pairs], [y for _, y in pairs])


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
    return tree._make(parts) if hasattr(tree, "_make") else tuple(parts)


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
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):
            yield
        usual.wait_stream(self.stream)

    def capture(self, function: Callable[..., Any], arguments: list[Any]) -> tuple[Any, torch.cuda.CUDAGraph]:
        """What a function returns, not yet computed, and the graph that computes it."""
        graph, collecting = torch.cuda.CUDAGraph(), gc.isenabled()
        gc.disable()  # an old recording that is thrown away during a new one spoils it
        try:
            graph.capture_begin(self.pool, capture_error_mode="thread_local")  # others may feed data
            try:
                results = function(*arguments)
            except Exception:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        finally:
            if collecting:
                gc.enable()
        return results, graph


def _place() -> _Place:
    return _place_of(torch.cuda.current_device(), threading.get_ident())


@functools.cache
def _place_of(device: int, thread: int) -> _Place:
    return _Place(device)
