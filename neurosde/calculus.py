"""From one stochastic calculus to the other."""

import torch

from neurosde.sde import SDE, as_sde, is_additive
from neurosde.typing import Any, Callable, NoiseType, SDEType, Tensor

Linear = Callable[[Tensor], Tensor]


def derivative(function: Callable[[Tensor], Tensor], y: Tensor) -> tuple[Tensor, Linear, Linear]:
    """Value, transposed derivative and derivative of a field at y, from one evaluation.

    The derivative is the transpose of the transposed one, which is linear: cheaper than torch's forward mode,
    and any field that can be trained can be differentiated so.
    """
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return _traced_derivative(function, y)
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        point = y.view_as(y) if y.requires_grad and keep else y.detach().requires_grad_()
        value = function(point)

    def transposed(cotangent: Tensor, keep: bool) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(y)
        options = {"create_graph": keep, "retain_graph": True, "materialize_grads": True}
        return torch.autograd.grad(value, point, cotangent, allow_unused=True, **options)[0]

    def pull(cotangent: Tensor) -> Tensor:
        return transposed(cotangent, keep)

    def push(direction: Tensor) -> Tensor:
        with torch.enable_grad():
            variable = torch.zeros_like(value, requires_grad=True)
            row = transposed(variable, True)
        if not row.requires_grad:
            return torch.zeros_like(value)
        options = {"create_graph": keep, "materialize_grads": True}
        return torch.autograd.grad(row, variable, direction, allow_unused=True, **options)[0]

    return value if keep else value.detach(), pull, push


def _traced_derivative(function: Callable[[Tensor], Tensor], y: Tensor) -> tuple[Tensor, Linear, Linear]:
    """The same by torch.func, which compiles and heeds no gradient mode, but refuses checkpoints."""
    value, transposed = torch.func.vjp(function, y)[:2]

    def pull(cotangent: Tensor) -> Tensor:
        return transposed(cotangent)[0]

    def push(direction: Tensor) -> Tensor:
        return torch.func.vjp(pull, torch.zeros_like(value))[1](direction)[0]

    return value, pull, push


def drift_correction(sde: SDE, t: Tensor, y: Tensor) -> Tensor:
    """Ito drift minus Stratonovich drift of one SDE.

    ``c_i = 1/2 sum_jk g_kj d_k g_ij`` (Kloeden & Platen 1992, section 4.9). Exact for every noise type:
    with diagonal noise it takes one directional derivative a state, for the entries of a network mix the
    states, with the others one a channel.

    Parameters
    ----------
    sde
        Any SDE; its calculus does not matter here.
    t, y
        Where: ``()`` or ``(series, 1)``, and ``(series, state)``.

    Returns
    -------
    Tensor
        ``(series, state)``.

    Examples
    --------
    >>> import torch
    >>> from neurosde import as_sde
    >>> from neurosde.calculus import drift_correction
    >>> class Geometric:
    ...     sde_type, noise_type = "ito", "diagonal"
    ...     def f(self, t, y):
    ...         return 0.0 * y
    ...     def g(self, t, y):
    ...         return 0.4 * y
    >>> drift_correction(as_sde(Geometric()), torch.tensor(0.0), torch.ones(1, 1)).detach()
    tensor([[0.0800]])
    """
    if is_additive(sde):
        return torch.zeros_like(y)
    g, pull, push = derivative(lambda x: sde.diffusion(t, x), y)
    if sde.noise_type == "diagonal":
        units = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        slopes = [pull(unit.expand_as(y))[..., k] for k, unit in enumerate(units)]
        return 0.5 * g * torch.stack(slopes, dim=-1)
    return 0.5 * torch.stack([push(g[..., j])[..., j] for j in range(g.shape[-1])]).sum(0)


class ConvertedSDE(SDE):
    """The same process, written in the other calculus.

    Parameters
    ----------
    sde
        The SDE to rewrite.
    """

    def __init__(self, sde: SDE):
        super().__init__()
        self.sde = sde
        self.sde_type: SDEType = "stratonovich" if sde.sde_type == "ito" else "ito"
        self.noise_type: NoiseType = sde.noise_type
        self.additive = sde.additive

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift with the correction between the calculi."""
        correction = drift_correction(self.sde, t, y)
        f = self.sde.drift(t, y)
        return f - correction if self.sde_type == "stratonovich" else f + correction

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion, which is the same in both."""
        return self.sde.diffusion(t, y)

    def decay(self, t: Tensor) -> Tensor | None:
        """Linear part, which is declared of the drift as it was written."""
        return self.sde.decay(t) if self.additive else None

    def dependencies(self) -> tuple[Tensor, ...]:
        """Those of the SDE."""
        return self.sde.dependencies()

    def prepared(self) -> SDE:
        """The SDE made ready, in the other calculus."""
        return ConvertedSDE(self.sde.prepared())


def to_stratonovich(sde: Any) -> SDE:
    """The same process as a Stratonovich SDE.

    Parameters
    ----------
    sde
        Any SDE.

    Returns
    -------
    SDE
        The SDE itself if it is one already.
    """
    sde = as_sde(sde)
    return sde if sde.sde_type == "stratonovich" else ConvertedSDE(sde)


def to_ito(sde: Any) -> SDE:
    """The same process as an Ito SDE; see :func:`to_stratonovich`."""
    sde = as_sde(sde)
    return sde if sde.sde_type == "ito" else ConvertedSDE(sde)
