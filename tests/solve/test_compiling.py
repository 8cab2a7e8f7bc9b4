"""Compiled blocks of steps are the same steps. Slow: the compiler takes its time."""

import warnings

import pytest
import torch

import neurosde as nsde
from neurosde.errors import DataError
from neurosde.noise import BrownianPath
from neurosde.solve import Heun, compiling


class Network(nsde.SDE):
    def __init__(self, sde_type="ito"):
        super().__init__()
        self.sde_type = sde_type
        generator = torch.Generator().manual_seed(0)
        self.A = torch.nn.Parameter(torch.randn(3, 3, generator=generator, dtype=torch.float64))

    def drift(self, t, y):
        return torch.tanh(y @ self.A) * torch.cos(t)

    def diffusion(self, t, y):
        return 0.2 * torch.sigmoid(y)


class Unfriendly(Network):
    """Decides by the data, which a full graph cannot."""

    def drift(self, t, y):
        return -y if float(y.detach().sum()) > 0 else y


@pytest.fixture(autouse=True, scope="module")
def the_compiler_is_there():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of its own future
        import torch._dynamo
        import torch._inductor.compile_fx  # noqa: F401


@pytest.mark.slow
@pytest.mark.parametrize("sde_type", ["ito", "stratonovich"])
def test_compiled_steps_are_the_steps(sde_type):
    sde = Network(sde_type)
    path = BrownianPath(0.0, 1.0, (5, 3), seed=0, dtype=torch.float64)
    results = []
    for mode in ("off", "chunk"):
        sde.zero_grad()
        start = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3).requires_grad_()
        solution = nsde.solve(sde, start, [0.0, 0.37, 1.0], dt=0.03, noise=path, compile=mode)
        solution.ys.sum().backward()
        results.append((solution.ys.detach(), start.grad, sde.A.grad.clone()))
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_other_batches_and_steps_soon_need_no_more_compiling():
    sde, counts = Network(), []
    with torch.no_grad():
        for n, dt in ((8, 0.1), (16, 0.1), (24, 0.03), (33, 0.01), (40, 0.02)):
            nsde.solve(sde, torch.zeros(n, 3, dtype=torch.float64), [0.0, 1.0], dt=dt, compile="chunk")
            counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[2] == counts[3] == counts[4]


@pytest.mark.slow
def test_what_does_not_compile_is_stepped_as_it_is():
    start = torch.ones(2, 3, dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="this SDE did not compile"):
        first = nsde.solve(Unfriendly(), start, [0.0, 1.0], dt=0.1, seed=0, compile="chunk").ys
    second = nsde.solve(
        Unfriendly(), start, [0.0, 1.0], dt=0.1, seed=0, compile="chunk"
    ).ys  # and is not tried again
    assert torch.allclose(first, second)


def test_auto_waits_until_it_pays(monkeypatch):
    calls = []
    monkeypatch.setattr(compiling, "_program", lambda kind, f: lambda *a: calls.append(1) or f(*a))
    monkeypatch.setattr(compiling, "_spent", {})
    monkeypatch.setattr(compiling, "_failed", set())
    monkeypatch.setattr(nsde.noise.BrownianPath, "compiled", lambda self: self)
    sde, start = Network("stratonovich"), torch.zeros(2, 3, dtype=torch.float64)

    def solve(mode):
        return nsde.solve(sde, start, [0.0, 1.0], dt=0.1, seed=0, stepper=Heun(), compile=mode)

    solve("auto")
    assert not calls
    monkeypatch.setattr(compiling, "PATIENCE", 0.0)
    solve("off")
    assert not calls
    solve("auto")
    assert calls
    with pytest.raises(DataError, match="compile: expected one of auto, chunk, off"):
        solve("always")
