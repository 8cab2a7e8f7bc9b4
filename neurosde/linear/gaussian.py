"""Multivariate normal laws, in batches: pushed through affine maps, scored, sampled."""

import math

import torch

from neurosde.arguments import as_numbers
from neurosde.errors import DataError, ShapeError
from neurosde.linear.transition import apply
from neurosde.noise import as_seed, chain, normals
from neurosde.typing import Any, NamedTuple, Tensor

_SINGULAR = 1e-14  # a pivot below this share of its variance is rounding


class Gaussian(NamedTuple):
    """Normal laws ``N(mean, covariance)``, float64.

    Parameters
    ----------
    mean
        ``(*batch, state)``.
    covariance
        ``(*batch, state, state)``, or any shape that broadcasts to it; may be singular.

    Examples
    --------
    >>> import torch
    >>> from neurosde.linear import Gaussian
    >>> law = Gaussian(torch.zeros(2).double(), torch.eye(2).double())
    >>> law.push(torch.tensor([[1.0, 1.0]]).double(), noise=torch.tensor([[0.5]]).double()).covariance
    tensor([[2.5000]], dtype=torch.float64)
    >>> law.log_density(torch.tensor([0.0, torch.nan])) * 2  # - log(2 pi)
    tensor(-1.8379, dtype=torch.float64)
    """

    mean: Tensor
    covariance: Tensor

    def push(self, matrix: Any, shift: Tensor | float = 0.0, noise: Tensor | float = 0.0) -> "Gaussian":
        """Law of ``matrix x + shift + e`` with ``e ~ N(0, noise)``.

        Parameters
        ----------
        matrix
            ``(..., out, state)``.
        shift
            ``(..., out)``.
        noise
            Covariance ``(..., out, out)``.

        Returns
        -------
        Gaussian
            Over ``out``.

        Raises
        ------
        DataError, ShapeError
            If the law or the matrix holds no numbers, or they do not fit.
        """
        mean, covariance = self._checked()
        matrix = as_numbers("matrix", matrix, "a matrix (..., out, state)", device=mean.device)
        if matrix.dim() < 2 or matrix.shape[-1] != mean.shape[-1]:
            raise ShapeError(
                f"matrix: expected (..., out, {mean.shape[-1]}) = (..., out, state), got "
                f"{tuple(matrix.shape)}."
            )
        pushed = symmetric(matrix @ covariance @ matrix.mT + noise)
        return Gaussian(apply(matrix, mean) + shift, pushed)

    def log_density(self, x: Any) -> Tensor:
        """Log-density in nats, ``(*batch)``, of ``x (*batch, state)``; entries that are NaN are left out.

        Raises
        ------
        DataError
            If a covariance is singular in the entries that count, or one of x is infinite.
        ShapeError
            If x does not have as many states as the law.
        """
        law = self._checked()
        x = as_numbers("x", x, "points (*batch, state)", device=law.mean.device)
        if x.dim() == 0 or x.shape[-1] != law.mean.shape[-1]:
            raise ShapeError(
                f"x: expected (*batch, {law.mean.shape[-1]}) = (*batch, state), got {tuple(x.shape)}."
            )
        if bool(x.isinf().any()):
            raise DataError(
                f"x{x.isinf().nonzero()[0].tolist()} is infinite; expected numbers, NaN if not seen."
            )
        seen = ~torch.isnan(x)
        score = standardise(law, x, seen)
        if bool(score.singular.any()):
            index = score.singular.nonzero()[0].tolist()
            raise DataError(f"covariance{index} is singular: the law has no density.")
        return score.log_density

    def sample(self, n: int, *, seed: int | None = None) -> Tensor:
        """Independent draws ``(n, *batch, state)``; draw i is a function of (seed, i) and of the batch index.

        Raises
        ------
        ShapeError
            If ``n`` is not a positive integer.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ShapeError(f"n: expected a positive number of draws, got {n!r}.")
        mean, covariance = self._checked()
        batch, device = mean.shape[:-1], mean.device
        draw = torch.arange(n, device=device).reshape(-1, *[1] * len(batch))
        place = torch.arange(math.prod(batch), device=device).reshape(batch)
        key = torch.as_tensor(chain(as_seed(seed), draw, place))
        z = normals(key, mean.shape[-1], torch.float64)
        return mean + apply(square_root(covariance), z)

    def _checked(self) -> "Gaussian":
        """The same law in float64, whose mean and covariance fit: a tuple takes anything."""
        mean = as_numbers("mean", self.mean, "numbers (*batch, state)")
        covariance = as_numbers("covariance", self.covariance, "numbers (*batch, state, state)")
        n = mean.shape[-1] if mean.dim() else 0
        if n == 0 or covariance.dim() < 2 or covariance.shape[-2:] != (n, n):
            raise ShapeError(
                "Gaussian: expected a mean (*batch, state) and a covariance (*batch, state, state), got "
                f"{tuple(mean.shape)} and {tuple(covariance.shape)}."
            )
        return Gaussian(mean, covariance)


class Score(NamedTuple):
    """A point beside a normal law.

    Parameters
    ----------
    residual
        ``x - mean``, zero where nothing was seen, ``(*batch, state)``.
    root
        Cholesky factor of the covariance of what was seen, completed by the identity.
    log_density
        ``(*batch)``, of what was seen.
    variance
        Diagonal of the covariance, one where nothing was seen.
    singular
        Whether the law has no density there, ``(*batch)``.
    """

    residual: Tensor
    root: Tensor
    log_density: Tensor
    variance: Tensor
    singular: Tensor


def standardise(law: Gaussian, x: Tensor, seen: Tensor) -> Score:
    """Score ``x (*batch, state)`` in the entries ``seen``; the others may hold anything.

    Where the covariance is singular the score is void: it is the caller who must look at ``singular``.
    """
    residual = torch.where(seen, x - law.mean, 0.0)
    covariance = restrict(law.covariance, seen)
    root, failed = torch.linalg.cholesky_ex(covariance)
    pivot, variance = root.diagonal(dim1=-2, dim2=-1), covariance.diagonal(dim1=-2, dim2=-1)
    singular = (failed > 0) | ~(pivot.square() > _SINGULAR * variance).all(-1)
    count = seen.to(residual).sum(-1)  # an integer times a float would be single precision
    white = torch.linalg.solve_triangular(root, residual.unsqueeze(-1), upper=False).squeeze(-1)
    log_density = -0.5 * white.square().sum(-1) - pivot.log().sum(-1) - 0.5 * math.log(2 * math.pi) * count
    return Score(residual, root, log_density, variance, singular)


def symmetric(matrix: Tensor) -> Tensor:
    """The symmetric part, which rounding leaves."""
    return 0.5 * (matrix + matrix.mT)


def restrict(matrix: Tensor, kept: Tensor) -> Tensor:
    """A matrix, or its root, in the entries ``kept (..., state)``; the identity stands for the others."""
    eye = torch.eye(matrix.shape[-1]).to(matrix)
    return torch.where(kept.unsqueeze(-1) & kept.unsqueeze(-2), matrix, eye)


def square_root(covariance: Tensor) -> Tensor:
    """Lower triangular ``R`` with ``R R'`` the covariance, which may be singular: then columns are zero.

    Cholesky's factor is unique, so samples depend smoothly on the covariance. A pivot counts as zero beside
    its own variance, whatever the units of the other states.

    Parameters
    ----------
    covariance
        Positive semidefinite, ``(..., state, state)``.

    Returns
    -------
    Tensor
        ``(..., state, state)``.
    """
    variance, rest, columns = covariance.diagonal(dim1=-2, dim2=-1), covariance, []
    for j in range(covariance.shape[-1]):
        pivot = rest[..., j, j]
        alive = pivot > _SINGULAR * variance[..., j]
        scale = torch.where(alive, pivot, 1.0).rsqrt() * alive
        column = rest[..., :, j] * scale.unsqueeze(-1)
        columns.append(column)
        rest = rest - column.unsqueeze(-1) * column.unsqueeze(-2)
    return torch.stack(columns, -1).tril()
