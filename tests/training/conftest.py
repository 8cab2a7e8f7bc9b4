"""A small network on fixed data: the training loop's test bench."""

import pytest
import torch
from torch import nn

from neurosde.nets import MLP
from neurosde.training import Objective


class Squares(Objective):
    """Mean squared error on (X, y), with noise of a given size keyed by the seed."""

    def __init__(self, X, y, noise=0.0):
        self.X, self.y, self.noise, self.n_samples = X, y, noise, len(X)

    def loss(self, module, index, seed):
        generator = torch.Generator().manual_seed(seed % 2**63)
        x = self.X[index]
        x = x + self.noise * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return (module(x).squeeze(-1) - self.y[index]).square().mean()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    return X, torch.sin(X[:, 0]) + 0.1 * X[:, 1]


@pytest.fixture
def squares(data):
    return Squares(*data, noise=0.1)


@pytest.fixture
def squares_class():
    return Squares


@pytest.fixture
def network():
    def make(seed: int = 0) -> nn.Module:
        return MLP(3, 1, hidden=8, generator=torch.Generator().manual_seed(seed)).double()

    return make
