"""Neural SDE cells that are stable by construction."""

import torch
from torch import nn

from neurosde.errors import DataError, ShapeError
from neurosde.nets import MLP, LipschitzMLP
from neurosde.paths import AbstractPath, ConstantPath, as_path
from neurosde.sde import SDE
from neurosde.typing import Any, Tensor

_SIGMA_FLOOR = 1e-3


class LangevinCell(SDE):
    """Langevin neural SDE ``dz = (-kappa z + s(z, X(t))) dt + sigma(t) dW`` with a certified contraction.

    The Neural LSDE of Oh, Lim & Kim 2024 (arXiv 2402.14989, section 3) with its drift split into a linear
    restoring part and a network s of Lipschitz constant at most ``kappa - contraction`` in z. Two solutions
    on the same noise and control then approach each other at least as ``exp(-contraction t)``, path by path;
    the exponential step keeps this at every step length. The diffusion depends on time only and is bounded
    away from zero.

    Parameters
    ----------
    state_size
        Number of latent states.
    control_size
        Number of control channels; 0 for none.
    hidden, depth
        Width and number of hidden layers of s.
    kappa
        Restoring rate, per unit of time.
    contraction
        Certified rate K, ``0 < K <= kappa``.
    generator
        Source of the initial weights.

    Attributes
    ----------
    kappa
        As given.
    contraction_rate
        ``kappa`` minus the Lipschitz constant in use: what the present weights certify.

    Raises
    ------
    DataError
        If the rates do not satisfy ``0 < contraction <= kappa``.

    Examples
    --------
    >>> import torch
    >>> from neurosde.cells import LangevinCell
    >>> import neurosde as nsde
    >>> cell = LangevinCell(4, control_size=2)
    >>> cell.contraction_rate >= 0.1
    True
    >>> sde = cell.with_control(torch.zeros(8, 2))
    >>> nsde.solve(sde, torch.zeros(8, 4), [0.0, 1.0], dt=0.25).ys.shape
    torch.Size([8, 2, 4])
    """

    sde_type = "ito"
    noise_type = "diagonal"
    additive = True

    def __init__(
        self,
        state_size: int,
        control_size: int = 0,
        *,
        hidden: int = 64,
        depth: int = 2,
        kappa: float = 1.0,
        contraction: float = 0.1,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if not 0 < contraction <= kappa:
            raise DataError(f"contraction: expected 0 < contraction <= kappa = {kappa}, got {contraction}.")
        generator = generator or torch.Generator().manual_seed(0)
        self.state_size, self.control_size, self.kappa = state_size, control_size, float(kappa)
        self.pull = LipschitzMLP(
            state_size,
            state_size,
            control_size,
            lipschitz=kappa - contraction,
            hidden=hidden,
            depth=depth,
            generator=generator,
        )
        self.amplitude = MLP(1, state_size, hidden=16, depth=1, generator=generator)

    @property
    def contraction_rate(self) -> float:
        """Rate at which solutions on the same noise approach each other, certified by the present weights."""
        with torch.no_grad():
            return self.kappa - float(self.pull.certificate())

    def with_control(self, path: Any) -> SDE:
        """Return the cell driven by a control path: a new SDE, the cell itself keeps nothing of it.

        Parameters
        ----------
        path
            A path, a torchcde spline, or a constant ``(series, control)``.
        """
        return DrivenCell(self, as_path(path))

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """``-kappa y + s(y)``, of a cell without control."""
        return self.driven_drift(t, y, None, None)

    def driven_drift(
        self, t: Tensor, y: Tensor, path: AbstractPath | None, weights: list[Tensor] | None
    ) -> Tensor:
        """``-kappa y + s(y, X(t))``, with the weights of one solve.

        Raises
        ------
        ShapeError
            If the control does not have the cell's number of channels.
        """
        x = None if path is None else path.evaluate(t).to(y)
        given = 0 if x is None else x.shape[-1]
        if given != self.control_size:
            raise ShapeError(
                f"control: this cell takes {self.control_size} channels and got {given}; "
                "set the path with cell.with_control(path)."
            )
        return self.pull(y, x, weights) - self.kappa * y

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """``sigma(t)``, the same for every state of a series."""
        time = t.to(y).reshape(-1, 1)
        return (nn.functional.softplus(self.amplitude(time)) + _SIGMA_FLOOR).expand_as(y)

    def decay(self, t: Tensor) -> Tensor:
        """Restoring rates of the linear part, ``(state,)``."""
        return torch.full((self.state_size,), self.kappa, dtype=torch.float64, device=t.device)

    def prepared(self) -> SDE:
        """Fix the shrunk weights for one solve."""
        return DrivenCell(self, None, self.pull.weights())


class DrivenCell(SDE):
    """A cell together with the control and the weights of one solve.

    Parameters
    ----------
    cell
        The cell.
    path
        Its control, or None.
    weights
        Shrunk weights, or None to compute them at each call.
    """

    def __init__(self, cell: LangevinCell, path: AbstractPath | None, weights: list[Tensor] | None = None):
        super().__init__()
        self.cell, self.path, self.weights = cell, path, weights
        self.sde_type, self.noise_type, self.additive = cell.sde_type, cell.noise_type, cell.additive

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift of the cell under the control."""
        return self.cell.driven_drift(t, y, self.path, self.weights)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion of the cell."""
        return self.cell.diffusion(t, y)

    def decay(self, t: Tensor) -> Tensor | None:
        """Linear part of the cell."""
        return self.cell.decay(t)

    def dependencies(self) -> tuple[Tensor, ...]:
        """Shrunk weights in the place of the raw ones, and a constant control."""
        raw = {id(layer.get_parameter("weight")) for layer in self.cell.pull.layers}
        own = tuple(x for x in self.cell.parameters() if id(x) not in raw)
        control = (self.path.value,) if isinstance(self.path, ConstantPath) else ()
        return (*own, *(self.weights or ()), *control)

    def prepared(self) -> SDE:
        """Fix the shrunk weights for one solve."""
        return DrivenCell(self.cell, self.path, self.cell.pull.weights())
