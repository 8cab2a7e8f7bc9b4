"""Normal laws against torch's distributions and against themselves."""

import math

import pytest
import torch

from neurosde.errors import DataError, ShapeError
from neurosde.linear import Gaussian
from neurosde.linear.gaussian import square_root


@pytest.fixture
def law():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 3, 3, generator=generator, dtype=torch.float64)
    return Gaussian(
        torch.randn(5, 3, generator=generator, dtype=torch.float64), root @ root.mT + 0.1 * torch.eye(3)
    )


def test_density_is_the_textbooks(law):
    x = torch.ones(5, 3, dtype=torch.float64)
    expected = torch.distributions.MultivariateNormal(law.mean, law.covariance).log_prob(x)
    assert torch.allclose(law.log_density(x), expected, atol=1e-12)


def test_entries_that_are_nan_are_marginalised(law):
    x = torch.tensor([0.3, math.nan, -0.2], dtype=torch.float64)
    kept = Gaussian(law.mean[:, [0, 2]], law.covariance[:, [0, 2]][:, :, [0, 2]])
    assert torch.allclose(law.log_density(x), kept.log_density(x[[0, 2]]), atol=1e-12)
    assert law.log_density(torch.full((3,), math.nan)).tolist() == [0.0] * 5


def test_a_singular_law_has_no_density():
    ones = torch.ones(2, 2, dtype=torch.float64)
    with pytest.raises(DataError, match=r"covariance\[1\] is singular"):
        Gaussian(torch.zeros(2, 2).double(), torch.stack([torch.eye(2).double(), ones])).log_density(ones)


def test_push_is_the_law_of_the_affine_map(law):
    C, R = torch.tensor([[1.0, 2.0, 0.0]]).double(), torch.tensor([[0.4]]).double()
    mean, covariance = law.push(C, 3.0, R)
    assert torch.allclose(mean[:, 0], law.mean[:, 0] + 2 * law.mean[:, 1] + 3)
    P = law.covariance
    assert torch.allclose(covariance[:, 0, 0], P[:, 0, 0] + 4 * P[:, 0, 1] + 4 * P[:, 1, 1] + 0.4)


def test_roots_of_singular_and_badly_scaled_covariances():
    B = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.5, 1e-9], [0.0, 0.0]], dtype=torch.float64)
    scale = torch.tensor([1e-12, 1.0, 1e9, 1.0], dtype=torch.float64)
    for P in (B @ B.T, (scale[:, None] * B) @ (scale[:, None] * B).T, torch.zeros(4, 4).double()):
        R = square_root(P)
        deviation = P.diagonal().sqrt()
        assert torch.equal(R, R.tril())
        assert bool(((R @ R.T - P).abs() <= 1e-14 * deviation[:, None] * deviation).all())


def test_roots_are_choleskys_where_that_exists(law):
    assert torch.allclose(square_root(law.covariance), torch.linalg.cholesky(law.covariance), atol=1e-14)
    assert torch.autograd.gradcheck(square_root, law.covariance[0].clone().requires_grad_())


def test_samples_have_the_law_and_are_keyed(law):
    n = 40_000
    x = law.sample(n, seed=3)
    z = torch.linalg.solve_triangular(
        torch.linalg.cholesky(law.covariance), (x - law.mean).unsqueeze(-1), upper=False
    )
    z = z.flatten(1)
    off = (z.T @ z / n - torch.eye(15)) * math.sqrt(n) / (1 + torch.eye(15)).sqrt()
    assert float(off.abs().max()) < 5.8  # 120 entries and 15 means, false alarm below 1e-5
    assert float(z.mean(0).abs().max()) * math.sqrt(n) < 5.8
    assert torch.equal(law.sample(7, seed=3), x[:7])
    assert not torch.equal(law.sample(7, seed=4), x[:7])


def test_the_number_of_draws_is_checked(law):
    with pytest.raises(ShapeError, match="n: expected a positive number"):
        law.sample(0)
