"""SDEs with closed forms."""

import warnings

import pytest
import torch

from neurosde import SDE
from neurosde.noise import BrownianPath, compiled, keys
from neurosde.solve import compiling


class SinhSDE(SDE):
    """``dy = sqrt(1 + y^2) (a dt + b o dW)``, ``y(t) = sinh(a t + b W_t)`` from 0 (as in either calculus)."""

    a, b = 0.5, 0.8

    def __init__(self, sde_type):
        super().__init__()
        self.sde_type = sde_type

    def drift(self, t, y):
        correction = 0.5 * self.b**2 * y if self.sde_type == "ito" else 0.0
        return self.a * torch.sqrt(1 + y * y) + correction

    def diffusion(self, t, y):
        return self.b * torch.sqrt(1 + y * y)

    def exact(self, t, W):
        return torch.sinh(self.a * t + self.b * W)


class Relaxation(SDE):
    """``dy = (-k y + c + e sin 2y) dt + s (1 + m sin t) dW`` with its linear part declared."""

    additive = True

    def __init__(self, k=1.3, c=0.7, s=0.5, e=0.0, m=0.0):
        super().__init__()
        self.k, self.c, self.s, self.e, self.m = k, c, s, e, m
        self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def drift(self, t, y):
        return -self.k * y + self.gain.to(y) * (self.c + self.e * torch.sin(2 * y))

    def diffusion(self, t, y):
        return self.s * (1 + self.m * torch.sin(t)) * torch.ones_like(y)

    def decay(self, t):
        return torch.tensor([self.k], dtype=torch.float64)


@pytest.fixture
def sinh_sde():
    return SinhSDE


@pytest.fixture
def relaxation():
    return Relaxation


@pytest.fixture
def acted_compiler(monkeypatch):
    """Programs are the functions themselves, so that what is compiled runs, and quickly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import warns of its own future
        import torch._dynamo
        import torch._functorch.config  # noqa: F401
    monkeypatch.setattr(compiling, "_program", lambda kind, function: function)
    monkeypatch.setattr(BrownianPath, "compiled", lambda path: path)
    monkeypatch.setattr(compiled, "_compiled_pass", lambda: compiled._pass)
    monkeypatch.setattr(keys, "compiled_chain", lambda: compiled._chain_pass)
