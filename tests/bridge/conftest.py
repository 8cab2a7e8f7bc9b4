import pytest
import torch

from neurosde.bridge import BrownianReference, LightMixture

EPSILON = 0.7


@pytest.fixture
def epsilon():
    return EPSILON


@pytest.fixture
def full_mixture():
    """Three components with full covariances in two dimensions, in whitened coordinates."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3, 2, 2, generator=generator, dtype=torch.float64))[0]
    scale = torch.tensor([[0.3, 1.4], [0.8, 0.2], [0.5, 2.2]], dtype=torch.float64)
    location = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    return LightMixture(torch.tensor([0.1, -0.4, 0.3]).double(), location, scale, basis)


@pytest.fixture
def diagonal_mixture(full_mixture):
    return LightMixture(full_mixture.logits, full_mixture.location, full_mixture.scale)


@pytest.fixture
def unit_reference():
    """Standard Brownian motion on [0, 1]: data units are whitened units."""
    return BrownianReference(0.0, 1.0, sigma=torch.ones(2).double(), centre=torch.zeros(2).double())


@pytest.fixture
def cells():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 2, generator=generator, dtype=torch.float64)
