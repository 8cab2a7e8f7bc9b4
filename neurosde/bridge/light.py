"""Mixture potentials of the light Schrödinger bridge: closed forms, and the module that is trained.

Everything here lives in the coordinates of a reference (:mod:`neurosde.bridge.reference`): the start cell
``x`` is replaced by the whitened prediction ``z`` of its end point, the end cell ``y`` is whitened alike, so
that under every linear reference SDE ``Y | z ~ N(z, I)``. The entropy weight epsilon is 1 in these units.
"""

import dataclasses
import math

import torch
from torch import nn

from neurosde.typing import Literal, NamedTuple, Tensor

Covariance = Literal["diag", "full"]
_LOG_2PI = math.log(2.0 * math.pi)
CHUNK_BYTES = 2**27  # largest temporary of one chunk of cells
NARROWEST = 1e-4  # least S_k in units of the reference's variance: one lone cell must not draw it to zero


class Quadratics(NamedTuple):
    """One quadratic a component, ``f_k(z) = constant_k + linear_k' z - z' curvature_k z / 2``.

    The normaliser of the plan, the potential and the drift between them are log-sum-exps of these.

    Attributes
    ----------
    constant
        ``(..., component)``.
    linear
        ``(..., component, state)``.
    curvature
        ``(..., component, state)`` if diagonal, else ``(..., component, state, state)``.
    """

    constant: Tensor
    linear: Tensor
    curvature: Tensor

    @property
    def diagonal(self) -> bool:
        """Whether the curvatures are diagonal."""
        return self.curvature.dim() == self.linear.dim()

    def values(self, z: Tensor) -> Tensor:
        """``f_k(z)``, ``(..., cell, component)`` of ``z (..., cell, state)``, as one matrix product."""
        squares, curvature = z * z, self.curvature
        if not self.diagonal:
            squares = (z.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)
            curvature = curvature.flatten(-2)
        features = torch.cat([squares, z], -1)
        coefficients = torch.cat([-0.5 * curvature, self.linear], -1)
        return self.constant.unsqueeze(-2) + features @ coefficients.mT

    def log_sum(self, z: Tensor) -> Tensor:
        """``log sum_k exp f_k(z)``, ``(..., cell)``."""
        return torch.logsumexp(self.values(z), -1)

    def gradient(self, z: Tensor) -> Tensor:
        """Gradient of :meth:`log_sum`, ``(..., cell, state)``, without automatic differentiation."""
        q = torch.softmax(self.values(z), -1)
        if self.diagonal:
            return q @ self.linear - (q @ self.curvature) * z
        curvature = (q @ self.curvature.flatten(-2)).unflatten(-1, self.linear.shape[-1:] * 2)
        return q @ self.linear - (curvature @ z.unsqueeze(-1)).squeeze(-1)


class Plan(NamedTuple):
    """Law of the end point given the state now: ``sum_k w_k(z) N(intercept_k + slope_k z, C_k)``.

    Attributes
    ----------
    potential
        ``w(z)`` is the softmax of its values.
    intercept
        ``(component, state)``.
    slope, root
        ``(component, state)`` if diagonal, else ``(component, state, state)``; ``C_k = root root'``.
    """

    potential: Quadratics
    intercept: Tensor
    slope: Tensor
    root: Tensor

    def log_weights(self, z: Tensor) -> Tensor:
        """``log w_k(z)``, ``(cell, component)``."""
        return torch.log_softmax(self.potential.values(z), -1)

    def mean(self, z: Tensor) -> Tensor:
        """Mean end point, ``(cell, state)``."""
        w = self.log_weights(z).exp()
        if self.slope.dim() == self.intercept.dim():
            return w @ self.intercept + (w @ self.slope) * z
        slope = (w @ self.slope.flatten(-2)).unflatten(-1, self.intercept.shape[-1:] * 2)
        return w @ self.intercept + (slope @ z.unsqueeze(-1)).squeeze(-1)

    def sample(self, z: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """One end point a cell, by inverse transform.

        Parameters
        ----------
        z
            ``(cell, state)``.
        uniform
            ``(cell,)`` in [0, 1): picks the component.
        normal
            ``(cell, state)`` standard normals.
        """
        cumulative = self.log_weights(z).exp().cumsum(-1)
        k = (cumulative < uniform.unsqueeze(-1)).sum(-1).clamp(max=cumulative.shape[-1] - 1)
        slope, root = self.slope[k], self.root[k]
        if self.slope.dim() == self.intercept.dim():
            return self.intercept[k] + slope * z + root * normal
        moved = slope @ z.unsqueeze(-1) + root @ normal.unsqueeze(-1)
        return self.intercept[k] + moved.squeeze(-1)


@dataclasses.dataclass(frozen=True)
class LightMixture:
    """Potential ``v(y) = sum_k alpha_k N(y | r_k, S_k)`` of one interval, and its closed forms.

    With the reference's whitened variance still to come, ``u`` (1 at the start, 0 at the end of the interval)
    and ``B_k = u I + (1 - u) S_k``, the process at ``z`` moves along the gradient of

    ``log h(z) = logsumexp_k [log alpha_k - log|B_k|/2 + z'B_k^-1 r_k - (1-u) r_k'B_k^-1 r_k / 2
    - z'(I - S_k) B_k^-1 z / 2]``

    which needs neither automatic differentiation nor a division by ``u``, and so holds on the closed
    interval. It is the drift of the light Schrödinger bridge (Korotin, Gushchin & Burnaev, ICLR 2024,
    Proposition 3.3) carried out. A linear reference has a matrix ``Q`` in the place of ``u I`` and
    ``B_k = S_k + (I - S_k) Q``.

    Parameters
    ----------
    logits
        ``log alpha_k``, ``(component,)``; need not be normalised.
    location
        ``r_k``, ``(component, state)``.
    scale
        Eigenvalues of ``S_k > 0``, ``(component, state)``.
    basis
        Eigenvectors ``U_k`` in columns, ``(component, state, state)``, of ``S_k = U_k diag(scale_k) U_k'``;
        None if every S_k is diagonal.

    Examples
    --------
    >>> import torch
    >>> mixture = LightMixture(torch.zeros(1), torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    >>> plan = mixture.plan(torch.tensor(1.0))  # of Y at the start: N(r + S z, S)
    >>> float(plan.mean(torch.tensor([[2.0]])))
    2.0
    """

    logits: Tensor
    location: Tensor
    scale: Tensor
    basis: Tensor | None = None

    @property
    def covariance(self) -> Tensor:
        """``S_k`` as matrices, ``(component, state, state)``."""
        return self._matrix(self.scale, True)

    def _matrix(self, eigenvalues: Tensor, full: bool = False) -> Tensor:
        """``U_k diag(eigenvalues_k) U_k'``; stays a vector of diagonals where there is no basis."""
        if self.basis is not None:
            return (self.basis * eigenvalues.unsqueeze(-2)) @ self.basis.mT
        return torch.diag_embed(eigenvalues) if full else eigenvalues

    def potential(self, remaining: Tensor) -> Quadratics:
        """The quadratics of ``log h`` when some of the reference's variance is still to come.

        Parameters
        ----------
        remaining
            ``u ()``; or a matrix ``Q (state, state)`` between 0 and I.
        """
        if remaining.dim() == 2:
            B, inverse = self._dense(remaining)
            r, eye = self.location, torch.eye(remaining.shape[0]).to(remaining)
            linear = (inverse @ r.unsqueeze(-1)).squeeze(-1)
            bend = inverse @ (eye - self.covariance)
            constant = self.logits - 0.5 * torch.linalg.slogdet(B)[1]
            constant = constant - 0.5 * (r * (linear @ (eye - remaining).T)).sum(-1)
            return Quadratics(constant, linear, 0.5 * (bend + bend.mT))
        b, r = remaining + (1 - remaining) * self.scale, self._rotated_location()
        constant = self.logits - 0.5 * b.log().sum(-1) - 0.5 * (1 - remaining) * (r * r / b).sum(-1)
        return Quadratics(constant, self._rotated_back(r / b), self._matrix((1 - self.scale) / b))

    def plan(self, remaining: Tensor) -> Plan:
        """Law of the end point given ``z`` now; with nothing passed, ``sum_k w_k(z) N(r_k + S_k z, S_k)``.

        Parameters
        ----------
        remaining
            ``u ()`` or ``Q (state, state)``, as in :meth:`potential`.
        """
        if remaining.dim() == 2:
            _, inverse = self._dense(remaining)
            S = self.covariance
            intercept = (remaining @ inverse @ self.location.unsqueeze(-1)).squeeze(-1)
            C = remaining @ inverse @ S
            variance, axes = torch.linalg.eigh(0.5 * (C + C.mT))
            root = axes * variance.clamp(min=0).sqrt().unsqueeze(-2)
            return Plan(self.potential(remaining), intercept, S @ inverse.mT, root)
        share = self.scale / (remaining + (1 - remaining) * self.scale)
        intercept = self._rotated_back(self._rotated_location() * (remaining * share / self.scale))
        root = (remaining * share).sqrt()
        if self.basis is not None:
            root = self.basis * root.unsqueeze(-2)
        return Plan(self.potential(remaining), intercept, self._matrix(share), root)

    def log_normaliser(self, z: Tensor) -> Tensor:
        """``log c(z) = log int exp(z'y) v(y) dy``, ``(cell,)``."""
        return self.potential(z.new_ones(())).log_sum(z) + 0.5 * z.square().sum(-1)

    def log_density(self, y: Tensor) -> Tensor:
        """``log v(y)``, ``(cell,)``."""
        h = self.potential(y.new_zeros(())).log_sum(y)
        return h - 0.5 * y.square().sum(-1) - 0.5 * _LOG_2PI * y.shape[-1]

    def _rotated_location(self) -> Tensor:
        if self.basis is None:
            return self.location
        return (self.basis.mT @ self.location.unsqueeze(-1)).squeeze(-1)

    def _rotated_back(self, vectors: Tensor) -> Tensor:
        return vectors if self.basis is None else (self.basis @ vectors.unsqueeze(-1)).squeeze(-1)

    def _dense(self, Q: Tensor) -> tuple[Tensor, Tensor]:
        S = self.covariance
        B = S + Q - S @ Q
        return B, torch.linalg.inv(B)


class LightPotential(nn.Module):
    """Trainable mixture potentials, one an interval, all in one program.

    Minimises ``E log c(z) - E log v(y)``, the divergence of the bridge from the true one up to a constant
    (Korotin, Gushchin & Burnaev, ICLR 2024, Proposition 3.1). The logits are free parameters: published code
    divides a parameter by epsilon, which stalls where epsilon is large.

    Parameters
    ----------
    n_intervals, n_components, state_size
        Sizes of the axes ``(interval, component, state)``.
    covariance
        "diag", or "full": ``S_k = C_k C_k'`` with a lower triangular ``C_k``.

    Examples
    --------
    >>> import torch
    >>> potential = LightPotential(n_intervals=2, n_components=4, state_size=3)
    >>> z = torch.zeros(2, 5, 3, dtype=torch.float64)
    >>> potential.loss(z, z).shape
    torch.Size([])
    """

    unit: Tensor
    narrowest: Tensor

    def __init__(self, n_intervals: int, n_components: int, state_size: int, covariance: Covariance = "diag"):
        super().__init__()
        shape = (n_intervals, n_components, state_size)
        zeros = torch.zeros(shape, dtype=torch.float64)  # exponents grow like 1 / epsilon
        self.logits = nn.Parameter(zeros[..., 0] - math.log(n_components))
        self.location = nn.Parameter(zeros.clone())  # in units of the end cells' spread
        self.log_scale = nn.Parameter(zeros.clone())
        self.lower = nn.Parameter(torch.diag_embed(zeros)) if covariance == "full" else None
        self.register_buffer("unit", torch.ones_like(zeros[:, :1, :1]))
        self.register_buffer("narrowest", torch.full_like(zeros[:, :1, :1], math.log(NARROWEST)))

    @torch.no_grad()
    def initialise(self, interval: int, start: Tensor, end: Tensor, generator: torch.Generator) -> None:
        """Put locations on random end cells, and covariances on that of the Gaussian bridge.

        Parameters
        ----------
        interval
            Number of the interval.
        start, end
            Its whitened cells, ``(cell, state)``.
        generator
            Picks the end cells.
        """
        n_components = self.logits.shape[1]
        picks = [torch.randperm(len(end), generator=generator) for _ in range(-(-n_components // len(end)))]
        v_start, v_end = start.var(0, correction=0), end.var(0, correction=0)
        spread = v_end.mean().sqrt()
        self.unit[interval] = unit = spread if spread > 0 else torch.ones_like(spread)
        self.narrowest[interval] = math.log(NARROWEST) + 2 * unit.log().clamp(max=0)
        self.location[interval] = end[torch.cat(picks)[:n_components].to(end.device)] / unit
        scale = 2 * v_end / (1 + (1 + 4 * v_start * v_end).sqrt())  # one component's S, per coordinate
        self.log_scale[interval] = scale.log().clamp(min=self.narrowest[interval])

    def normaliser(self) -> Quadratics:
        """``log c`` is the log-sum of these: ``log alpha_k + r_k'z + z'S_k z / 2``."""
        if self.lower is None:
            S = self._log_scale().exp()
        else:
            C = self._factor(self.lower)
            S = C @ C.mT
        return Quadratics(self.logits, self.location * self.unit, -S)

    def density(self) -> Quadratics:
        """``log v`` is the log-sum of these: the components' Gaussian log-densities plus ``log alpha_k``."""
        r, log_scale = self.location * self.unit, self._log_scale()
        if self.lower is None:
            P = (-log_scale).exp()
            Pr, quadratic = P * r, (P * r * r).sum(-1)
        else:
            C = self._factor(self.lower)
            root = torch.linalg.solve_triangular(C, torch.eye(r.shape[-1]).to(C), upper=False)
            P, Rr = root.mT @ root, (root @ r.unsqueeze(-1)).squeeze(-1)
            Pr, quadratic = (root.mT @ Rr.unsqueeze(-1)).squeeze(-1), Rr.square().sum(-1)
        norm = log_scale.sum(-1) + _LOG_2PI * r.shape[-1]
        return Quadratics(self.logits - 0.5 * (quadratic + norm), Pr, P)

    def loss(
        self, start: Tensor, end: Tensor, start_weight: Tensor | None = None, end_weight: Tensor | None = None
    ) -> Tensor:
        """``E log c(z) - E log v(y)``, summed over the intervals.

        Parameters
        ----------
        start, end
            ``(interval, cell, state)``.
        start_weight, end_weight
            ``(interval, cell)`` of mean 1; None weighs all cells alike.
        """
        log_c, log_v = self.normaliser().log_sum(start), self.density().log_sum(end)
        if start_weight is not None:
            log_c = log_c * start_weight
        if end_weight is not None:
            log_v = log_v * end_weight
        return (log_c.mean(-1) - log_v.mean(-1)).sum()

    @torch.no_grad()
    def mixtures(self) -> list[LightMixture]:
        """The trained potentials, one an interval."""
        parts = [self.logits.detach().clone(), self.location * self.unit, self._log_scale().exp()]
        if self.lower is not None:
            C = self._factor(self.lower)
            parts[2:] = torch.linalg.eigh(C @ C.mT)
        return [LightMixture(*own) for own in zip(*parts, strict=True)]

    def _log_scale(self) -> Tensor:
        return torch.maximum(self.log_scale, self.narrowest)

    def _factor(self, lower: Tensor) -> Tensor:
        return torch.tril(lower, -1) + torch.diag_embed((0.5 * self._log_scale()).exp())


def chunk_length(n_components: int, state_size: int, full: bool) -> int:
    """Cells of one chunk, so that its temporaries keep below :data:`CHUNK_BYTES`."""
    per_cell = 8 * (2 * n_components + state_size * (2 * state_size + 2 if full else 6))
    return max(1, CHUNK_BYTES // per_cell)
