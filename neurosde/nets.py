"""Networks that the models are made of, initialised from an explicit generator."""

import itertools
import math

import torch
from torch import nn

from neurosde.errors import DataError
from neurosde.typing import Callable, Literal, Tensor

Activation = Literal["lipswish", "tanh", "silu", "softplus"]


def lipswish(x: Tensor) -> Tensor:
    """``0.909 x sigmoid(x)``: SiLU scaled so that its slope never exceeds 1 (Chen et al. 2019)."""
    return 0.909 * torch.nn.functional.silu(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "lipswish": lipswish,
    "tanh": torch.tanh,
    "silu": torch.nn.functional.silu,
    "softplus": torch.nn.functional.softplus,
}


def affine(
    in_size: int, out_size: int, generator: torch.Generator | None = None, scale: float = 1.0
) -> nn.Linear:
    """Linear layer with entries uniform in ``scale / sqrt(in_size)``, drawn from the generator alone.

    Parameters
    ----------
    in_size, out_size
        Number of inputs and outputs.
    generator
        Source of the initial weights; a fresh one with seed 0 by default.
    scale
        Multiplies the initial weights; 0 starts the layer at zero.

    Returns
    -------
    torch.nn.Linear
    """
    generator = generator or torch.Generator().manual_seed(0)
    layer = nn.Linear(in_size, out_size, device="meta")  # draws nothing
    layer = layer.to_empty(device=torch.get_default_device())  # meta where a file is checked
    bound = scale / math.sqrt(max(in_size, 1))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    return layer


class MLP(nn.Module):
    """Fully connected network of equal hidden layers.

    Parameters
    ----------
    in_size, out_size
        Number of inputs and outputs.
    hidden
        Width of the hidden layers.
    depth
        Number of hidden layers.
    activation
        "lipswish" (slope at most 1, as quick as a sigmoid), "tanh", "silu" or "softplus".
    generator
        Source of the initial weights.
    out_scale
        Multiplies the initial weights of the last layer; 0 makes the network start as zero.

    Examples
    --------
    >>> import torch
    >>> from neurosde.nets import MLP
    >>> MLP(3, 2, hidden=8)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        hidden: int = 64,
        depth: int = 2,
        *,
        activation: Activation = "lipswish",
        generator: torch.Generator | None = None,
        out_scale: float = 1.0,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise DataError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
        self.activation = ACTIVATIONS[activation]
        generator = generator or torch.Generator().manual_seed(0)
        sizes = itertools.chain([in_size], itertools.repeat(hidden, depth))
        self.layers = nn.ModuleList(affine(a, b, generator) for a, b in itertools.pairwise(sizes))
        self.last = affine(hidden if depth > 0 else in_size, out_size, generator, out_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(..., out_size)`` of inputs ``(..., in_size)``."""
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.last(x)


class TwinMLP(nn.Module):
    """Two networks of time and state in one pass: the drift and the diffusion of an SDE, say.

    Their first layers are one product, and time enters as a bias ``b + t w`` instead of a column of the
    input; from there on they are apart. What it saves shows in compiled steps above all.

    Parameters
    ----------
    in_size
        Number of states.
    out_sizes
        Number of outputs of each network.
    hidden
        Width of the hidden layers of each.
    depth
        Number of hidden layers, at least 1.
    activation
        As in :class:`MLP`.
    generator
        Source of the initial weights.

    Raises
    ------
    DataError
        If there is no hidden layer, or the activation is not known.

    Examples
    --------
    >>> import torch
    >>> from neurosde.nets import TwinMLP
    >>> drift, diffusion = TwinMLP(3, (3, 6), hidden=8)(torch.tensor(0.5), torch.zeros(5, 3))
    >>> drift.shape, diffusion.shape
    (torch.Size([5, 3]), torch.Size([5, 6]))
    """

    def __init__(
        self,
        in_size: int,
        out_sizes: tuple[int, int],
        hidden: int = 64,
        depth: int = 1,
        *,
        activation: Activation = "lipswish",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise DataError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}.")
        if depth < 1:
            raise DataError(f"depth: expected one hidden layer or more, got {depth}.")
        self.activation, self.hidden = ACTIVATIONS[activation], hidden
        generator = generator or torch.Generator().manual_seed(0)
        both = affine(in_size + 1, 2 * hidden, generator)  # drawn as if time were a column of the input
        weight = both.get_parameter("weight").detach()
        self.weight, self.pace = (nn.Parameter(part.clone()) for part in (weight[:, :-1], weight[:, -1]))
        self.bias = nn.Parameter(both.get_parameter("bias").detach().clone())
        sizes = [[*[hidden] * depth, out] for out in out_sizes]
        self.rest = nn.ModuleList(
            nn.ModuleList(affine(a, b, generator) for a, b in itertools.pairwise(own)) for own in sizes
        )

    def forward(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``(series, out)`` of both; times are ``()`` or ``(series, 1)``, states ``(series, in)``."""
        if t.dim() == 0:
            z = nn.functional.linear(y, self.weight, self.bias + t * self.pace)
        else:
            z = nn.functional.linear(y, self.weight, self.bias) + t * self.pace
        first, second = self.activation(z).split(self.hidden, dim=-1)
        return self._finish(0, first), self._finish(1, second)

    def _finish(self, twin: int, x: Tensor) -> Tensor:
        *inner, last = self.rest[twin]  # pyright: ignore[reportGeneralTypeIssues]
        for layer in inner:
            x = self.activation(layer(x))
        return last(x)


def spectral_norm(weight: Tensor) -> Tensor:
    """Largest singular value, differentiable: ``u' W v`` with the leading singular vectors held fixed."""
    with torch.no_grad():
        u, _, vh = torch.linalg.svd(weight, full_matrices=False)
    return u[:, 0] @ weight @ vh[0]


class LipschitzMLP(nn.Module):
    """Network whose dependence on its first input has a certified Lipschitz constant.

    ``s(z, x) = W_n a(... a(W_1 z + V x + b_1) ...) + b_n`` with slopes of ``a`` at most 1 and each ``W_i``
    shrunk to a spectral norm of at most ``lipschitz^(1/n)``, so that ``|s(z, x) - s(z', x)| <= lipschitz |z -
    z'|`` for every x. ``V`` is free.

    Parameters
    ----------
    in_size
        Size of z.
    out_size
        Number of outputs.
    side_size
        Size of x; 0 for none.
    lipschitz
        The certified constant.
    hidden, depth
        Width and number of the hidden layers.
    generator
        Source of the initial weights.

    Examples
    --------
    >>> import torch
    >>> from neurosde.nets import LipschitzMLP
    >>> net = LipschitzMLP(4, 4, lipschitz=0.5)
    >>> bool(net.certificate() <= 0.5 + 1e-6)
    True
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        side_size: int = 0,
        *,
        lipschitz: float = 1.0,
        hidden: int = 64,
        depth: int = 2,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
        sizes = itertools.chain([in_size], itertools.repeat(hidden, depth), [out_size])
        self.layers = nn.ModuleList(affine(a, b, generator) for a, b in itertools.pairwise(sizes))
        self.side = affine(side_size, hidden if depth > 0 else out_size, generator) if side_size else None
        self.layer_norm = lipschitz ** (1 / len(self.layers))

    def weights(self) -> list[Tensor]:
        """Shrunk weights; a solve takes them once and hands them to every call."""
        raw = [layer.get_parameter("weight") for layer in self.layers]
        return [weight * (self.layer_norm / spectral_norm(weight)).clamp(max=1.0) for weight in raw]

    def certificate(self) -> Tensor:
        """Product of the spectral norms in use: a Lipschitz constant of s in z."""
        norms = [torch.linalg.matrix_norm(weight, 2) for weight in self.weights()]
        return torch.stack(norms).prod()

    def forward(self, z: Tensor, x: Tensor | None = None, weights: list[Tensor] | None = None) -> Tensor:
        """Outputs ``(..., out_size)``; ``weights`` come from :meth:`weights`, or are computed here."""
        weights = self.weights() if weights is None else weights
        for i, (layer, weight) in enumerate(zip(self.layers, weights, strict=True)):
            z = torch.nn.functional.linear(z, weight, layer.get_parameter("bias"))
            if i == 0 and self.side is not None and x is not None:
                z = z + self.side(x)
            if i + 1 < len(weights):
                z = lipswish(z)
        return z
