"""A device that is this machine's processor in disguise, to see without an accelerator that code suits one.

Its tensors say that they live elsewhere, refuse to meet tensors that live here, and count what would make the
processor wait for them. The arithmetic is the processor's own, so results are equal bit for bit. Registering
a device changes the process: run this file in one of its own, `python tests/solve/another_device.py`.
"""

import contextlib
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "elsewhere"
WAITING = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default")
# these take tensors of both places on real devices too
MIXING = ("aten.copy_.default", "aten._to_copy.default", "aten.index.Tensor", "aten.index_put_.default")


class Elsewhere(torch.Tensor):
    """A tensor of the other device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        plain = {"dtype": inner.dtype, "device": torch.device(DEVICE, 0)}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), **layout, **plain)
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self):
        Pretence.current.wait("tolist")
        return self.inner.tolist()

    def new_tensor(self, data, **plain):
        return torch.tensor(data, **{"dtype": self.dtype, **plain}).to(DEVICE)

    def __getitem__(self, index):
        return super().__getitem__(numbers_sent(index))

    def __setitem__(self, index, value):
        super().__setitem__(numbers_sent(index), value)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return Pretence.current.call(func, args, kwargs or {})


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of both places."""


def numbers_sent(index):
    parts = index if isinstance(index, tuple) else (index,)
    return tuple(torch.tensor(part).to(DEVICE) if isinstance(part, list) else part for part in parts)


def inside(tree):
    return tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, tree)


def sent(tree):
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, tree)


class Pretence(TorchDispatchMode):
    """Sends what is made for the other device there; ``waits`` counts looks at values."""

    current: "Pretence"

    def __init__(self):
        super().__init__()
        self.waits, self.recording = 0, False
        Pretence.current = self

    def wait(self, name):
        """Count an operation that waits; a recording does not allow it."""
        if self.recording:
            raise RuntimeError(f"{name}: not permitted while the stream is capturing")
        self.waits += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.call(func, args, kwargs or {})

    def call(self, func, args, kwargs):
        name, leaves = str(func), tree_leaves((args, kwargs))
        there = [x for x in leaves if isinstance(x, Elsewhere)]
        here = [x for x in leaves if isinstance(x, torch.Tensor) and not isinstance(x, Elsewhere)]
        if there and name not in MIXING and any(x.dim() for x in here):
            shapes = [tuple(x.shape) for x in here], [tuple(x.shape) for x in there]
            raise MixedDevicesError(f"{name}: {shapes[0]} here, {shapes[1]} elsewhere")
        if there and name in WAITING:
            self.wait(name)
        goes, device = bool(there), kwargs.get("device")
        if device is not None:
            goes, kwargs = torch.device(device).type == DEVICE, kwargs | {"device": torch.device("cpu")}
        if (there and not goes) or (goes and not there and name == "aten._to_copy.default"):
            self.wait(name)
        result = func(*inside(args), **inside(kwargs))
        if "out" in kwargs:
            return kwargs["out"]
        if func._schema.is_mutable:
            return args[0] if func._schema.returns else None
        return sent(result) if goes else result


def on_request(make):
    """A maker of tensors from numbers, which the dispatcher does not see, for both places."""

    def made(data, *, device=None, **plain):
        if device is None or torch.device(device).type != DEVICE:
            return make(data, **plain) if device is None else make(data, device=device, **plain)
        return data.to(**plain) if isinstance(data, Elsewhere) else make(data, **plain).to(DEVICE)

    return made


class Tape:
    """Recordings of a device that has none: the work is done again, and must not wait for anything."""

    made = 0

    def rehearse(self, function, arguments):
        before = Pretence.current.waits
        results = function(*arguments)
        return results, Pretence.current.waits == before

    def record(self, function, arguments):
        Tape.made += 1
        results = self.watched(function, arguments)

        def replay():
            again = [x for x in tree_leaves(self.watched(function, arguments)) if isinstance(x, torch.Tensor)]
            for place, x in zip(
                [x for x in tree_leaves(results) if isinstance(x, torch.Tensor)], again, strict=True
            ):
                place.copy_(x)

        return results, replay

    def watched(self, function, arguments):
        Pretence.current.recording = True
        try:
            return function(*arguments)
        finally:
            Pretence.current.recording = False


@contextlib.contextmanager
def pretending():
    """Make tensors of the device ``DEVICE`` possible."""
    from torch.utils import backend_registration as registration

    class Module(registration._DummyBackendModule):
        def get_amp_supported_dtype(self):
            return [torch.float32]

    if not hasattr(torch, DEVICE):
        registration._setup_privateuseone_for_python_backend(DEVICE, Module())
    # the way back runs in a thread of its own on other devices, to which modes do not reach
    makers = {name: on_request(getattr(torch, name)) for name in ("tensor", "as_tensor")}
    here = torch.autograd.set_multithreading_enabled(False)
    with here, Pretence() as pretence, mock.patch.multiple(torch, **makers):
        yield pretence
