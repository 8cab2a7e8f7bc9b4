"""SDEs of a declared form that some steppers exploit: proportional noise, underdamped Langevin dynamics."""

import abc

import torch

from neurosde.errors import DataError
from neurosde.sde import SDE
from neurosde.typing import Any, Callable, Tensor


class LinearNoiseSDE(SDE):
    """An SDE whose noise is in proportion to its state: ``dy_i = drift_i dt + y_i sigma_i dW``.

    Subclasses write ``drift`` and ``relative_diffusion`` (sigma); ``LieSplitting`` then keeps the sign of y.

    Examples
    --------
    >>> import torch
    >>> from neurosde.forms import LinearNoiseSDE
    >>> class Growth(LinearNoiseSDE):
    ...     def drift(self, t, y):
    ...         return 1.0 - y
    ...     def relative_diffusion(self, t, y):
    ...         return torch.full_like(y, 0.5)
    >>> Growth().diffusion(torch.tensor(0.0), torch.full((1, 1), 3.0))
    tensor([[1.5000]])
    """

    @abc.abstractmethod
    def relative_diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Amplitude of the noise of ``log y``, of the shape of a diffusion."""

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """``y sigma``."""
        return (y if self.noise_type == "diagonal" else y.unsqueeze(-1)) * self.relative_diffusion(t, y)


class GeometricSDE(LinearNoiseSDE):
    """An SDE that moves in proportion to its state: ``dy_i = y_i (gamma_i dt + sigma_i dW)``.

    Subclasses write ``relative_drift`` (gamma) and ``relative_diffusion`` (sigma); ``LogEuler`` then keeps
    the sign of y, whatever the step.

    Examples
    --------
    >>> import torch
    >>> from neurosde.forms import GeometricSDE
    >>> class BlackScholes(GeometricSDE):
    ...     def relative_drift(self, t, y):
    ...         return torch.full_like(y, 0.03)
    ...     def relative_diffusion(self, t, y):
    ...         return torch.full_like(y, 0.2)
    >>> BlackScholes().drift(torch.tensor(0.0), torch.full((1, 1), 100.0))
    tensor([[3.]])
    """

    @abc.abstractmethod
    def relative_drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Rate of growth, ``(series, state)``."""

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """``y gamma``."""
        return y * self.relative_drift(t, y)


class UnderdampedLangevin(SDE):
    """Underdamped Langevin dynamics: a position and its velocity, ``(x, v)`` side by side.

    ``dx = v dt``, ``dv = -(friction v + u grad U(x)) dt + sqrt(2 friction u) dW``; the law tends to
    ``exp(-U(x) - |v|^2 / 2u)``. ``QUICSORT`` and ``ShOULD`` step it with strong order 3.

    Parameters
    ----------
    gradient
        Gradient of the potential U, ``(series, position) -> (series, position)``; a module's parameters are
        found.
    friction
        Rate at which velocities are forgotten, at least 0: a number or one a position.
    u
        Inverse mass, positive: a number or one a position.

    Raises
    ------
    DataError
        If friction or inverse mass is out of range.

    Examples
    --------
    >>> import torch
    >>> from neurosde.forms import UnderdampedLangevin
    >>> sde = UnderdampedLangevin(lambda x: x, friction=0.5)
    >>> sde.drift(torch.tensor(0.0), torch.tensor([[1.0, 2.0]]))  # position 1, velocity 2
    tensor([[ 2., -2.]])
    """

    sde_type = "ito"
    noise_type = "additive"
    additive = True
    friction: Tensor
    u: Tensor

    def __init__(self, gradient: Callable[[Tensor], Tensor], friction: Any = 1.0, u: Any = 1.0):
        super().__init__()
        self.gradient = gradient  # a module registers itself, so its parameters are found
        for name, value, least in (("friction", friction, "at least 0"), ("u", u, "positive")):
            value = torch.as_tensor(value, dtype=torch.float64)
            good = torch.isfinite(value) & ((value > 0) | ((value == 0) & (name == "friction")))
            if value.dim() > 1 or not bool(good.all()):
                raise DataError(
                    f"{name}: expected a number or one a position, {least}, got {value.tolist()}."
                )
            self.register_buffer(name, value)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Velocity, and the friction and force on it."""
        x, v = y.chunk(2, dim=-1)
        return torch.cat((v, -self.friction.to(y) * v - self.u.to(y) * self.gradient(x)), dim=-1)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Zero on positions, ``sqrt(2 friction u)`` on velocities, ``(series, state, position)``."""
        d = y.shape[-1] // 2
        rows = torch.eye(d, dtype=y.dtype, device=y.device) * (2 * self.friction * self.u).sqrt().to(y)
        return torch.cat((torch.zeros_like(rows), rows)).expand(*y.shape[:-1], 2 * d, d)
