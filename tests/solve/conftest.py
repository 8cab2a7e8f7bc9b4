"""SDEs with closed forms."""

import pytest
import torch

from neurosde import SDE


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
