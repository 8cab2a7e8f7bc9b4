"""What an SDE is: drift, diffusion, a calculus and a noise type; and costs that run along its paths."""

import abc
import dataclasses

import torch
from torch import nn

from neurosde.errors import DataError
from neurosde.typing import Any, Callable, Mapping, NoiseType, SDEType, Tensor

SDE_TYPES = ("ito", "stratonovich")
Field = Callable[[Tensor, Tensor], Tensor]
Fields = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# what torchsde lets an object name otherwise; the last three are of no use here, or of use to sdeint alone
ROLES = (
    "drift", "diffusion", "drift_and_diffusion", "prior_drift", "diffusion_prod", "drift_and_diffusion_prod",
)  # fmt: skip
NOISE_TYPES = ("diagonal", "additive", "scalar", "general")


class SDE(nn.Module, abc.ABC):
    """A stochastic differential equation ``dy = drift(t, y) dt + diffusion(t, y) dW``.

    Subclasses set ``sde_type`` and ``noise_type`` and write ``drift`` and ``diffusion``. Every such object
    is also a torchsde SDE, through the aliases ``f`` and ``g``.

    Attributes
    ----------
    sde_type
        "ito" or "stratonovich": the calculus of the stochastic integral.
    noise_type
        "diagonal": diffusion ``(series, state)``, one Brownian motion a state. "additive", "scalar",
        "general": diffusion ``(series, state, noise)``; additive does not depend on y, scalar has one noise
        channel.
    additive
        Whether the diffusion does not depend on y; may be set with diagonal noise as well.

    Examples
    --------
    >>> import torch
    >>> from neurosde import SDE
    >>> class OrnsteinUhlenbeck(SDE):
    ...     sde_type, noise_type, additive = "ito", "diagonal", True
    ...     def drift(self, t, y):
    ...         return -y
    ...     def diffusion(self, t, y):
    ...         return torch.full_like(y, 0.5)
    >>> OrnsteinUhlenbeck().f(torch.tensor(0.0), torch.ones(1, 2))
    tensor([[-1., -1.]])
    """

    sde_type: SDEType = "ito"
    noise_type: NoiseType = "diagonal"
    additive: bool = False

    @abc.abstractmethod
    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Mean rate of change, ``(series, state)``; ``t`` is ``()`` or one a series ``(series, 1)``."""

    @abc.abstractmethod
    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Noise amplitude, ``(series, state)`` if diagonal, else ``(series, state, noise)``."""

    def drift_and_diffusion(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both fields at once; an SDE whose fields share work overrides this."""
        return self.drift(t, y), self.diffusion(t, y)

    def decay(self, t: Tensor) -> Tensor | None:
        """Declared linear part ``-D y`` of the drift: rates ``(state,)`` or a matrix; None declares none.

        Exponential steppers integrate this part exactly; ``drift`` still returns the whole drift.

        Parameters
        ----------
        t
            ``()``, or times with axes in front, ``(step, 1 or series, 1)``.

        Returns
        -------
        Tensor or None
            Rates ``a``, ``(state,)`` or ``(step, 1 or series, state)`` if they move in time, for ``-a y``; or
            a matrix ``D``, ``(state, state)`` at a single time, such as ``-A`` for a part ``A y``. A matrix
            that moves returns ``(step, ...)`` of any shape for many times, and is then asked time by time.
        """
        return None

    def prepared(self) -> "SDE":
        """What one solve steps: work that is the same for all its steps is done here, once."""
        return self

    def dependencies(self) -> tuple[Tensor, ...]:
        """Tensors that the fields depend on directly: what a gradient without a graph must be asked for."""
        return tuple(self.parameters())

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift under torchsde's name."""
        return self.drift(t, y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion under torchsde's name."""
        return self.diffusion(t, y)


class ForeignSDE(SDE):
    """A torchsde SDE seen through the names of this package; the object itself is left unchanged.

    Parameters
    ----------
    sde
        Object with ``sde_type``, ``noise_type`` and methods ``f`` and ``g`` (or ``f_and_g``).
    names
        Other method names, as torchsde's argument: ``{"drift": "h", "diffusion": "sigma"}``.
    tensors
        What its fields depend on, if not its parameters.
    """

    def __init__(
        self, sde: Any, names: Mapping[str, str] | None = None, tensors: tuple[Tensor, ...] | None = None
    ):
        super().__init__()
        self.tensors = tensors
        names = names or {}
        self.sde = sde  # a module registers itself, so its parameters are found
        self.sde_type, self.noise_type = sde.sde_type, sde.noise_type
        self.additive = self.noise_type == "additive"
        drift, diffusion, both = (  # a field that the object has in no other form comes from `f_and_g`
            getattr(sde, names.get(role, theirs), None)
            for role, theirs in (("drift", "f"), ("diffusion", "g"), ("drift_and_diffusion", "f_and_g"))
        )
        self._both: Fields = both or (lambda t, y: (self._drift(t, y), self._diffusion(t, y)))
        self._drift: Field = drift or (lambda t, y: self._both(t, y)[0])
        self._diffusion: Field = diffusion or (lambda t, y: self._both(t, y)[1])

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift of the wrapped object."""
        return self._drift(t, y)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """Diffusion of the wrapped object."""
        return self._diffusion(t, y)

    def dependencies(self) -> tuple[Tensor, ...]:
        """Tensors that were named, or the parameters of the wrapped object."""
        return super().dependencies() if self.tensors is None else self.tensors

    def drift_and_diffusion(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Both fields, in one call where the wrapped object offers one."""
        return self._both(t, y)


def as_names(names: Any) -> dict[str, str]:
    """Other names for the methods of an SDE, by their role.

    Raises
    ------
    DataError
        If they are no mapping from known roles to names.
    """
    pairs = dict(names) if isinstance(names, Mapping) else None if names else {}
    if pairs is None or not all(isinstance(name, str) for name in pairs.values()):
        raise DataError(f'names: expected a dict such as {{"drift": "mu"}}, got {names!r}.')
    for role in pairs:
        if role not in ROLES:
            raise DataError(f"names: expected roles among {', '.join(ROLES)}, got {role!r}.")
    return pairs


def as_sde(sde: Any, names: Mapping[str, str] | None = None) -> SDE:
    """Take any SDE: one of ours as it is, one written for torchsde behind its own protocol.

    Parameters
    ----------
    sde
        An :class:`SDE`, or an object with ``sde_type``, ``noise_type``, ``f`` and ``g`` (or ``f_and_g``).
    names
        Other method names for "drift", "diffusion" and "drift_and_diffusion".

    Returns
    -------
    SDE

    Raises
    ------
    DataError
        If a method or a declaration is missing or is not one of the known words.

    Examples
    --------
    >>> from neurosde import as_sde
    >>> class Theirs:
    ...     sde_type, noise_type = "ito", "diagonal"
    ...     def f(self, t, y):
    ...         return -y
    ...     def g(self, t, y):
    ...         return 0.1 * y
    >>> as_sde(Theirs()).noise_type
    'diagonal'
    """
    if isinstance(sde, type):
        raise DataError(f"sde: expected an instance such as {sde.__name__}(), got the class itself.")
    for attribute, words in (("sde_type", SDE_TYPES), ("noise_type", NOISE_TYPES)):
        word = getattr(sde, attribute, None)
        if word not in words:
            raise DataError(f"sde: expected {attribute} to be one of {', '.join(words)}, got {word!r}.")
    if isinstance(sde, SDE) and not names:
        return sde
    wanted = as_names(names)
    both = wanted.get("drift_and_diffusion", "f_and_g")
    for role, default in (("drift", "f"), ("diffusion", "g")):
        name = wanted.get(role, default)
        if not callable(getattr(sde, name, None)) and not callable(getattr(sde, both, None)):
            raise DataError(
                f"sde: {type(sde).__name__} has neither a method {name!r} ({role}) nor {both!r}; "
                "write one, or say under which name it stands with names={...}."
            )
    return ForeignSDE(sde, names)


def is_additive(sde: SDE) -> bool:
    """Whether the diffusion does not depend on y, by either way of declaring it."""
    return sde.additive or sde.noise_type == "additive"


def diffuse(noise_type: NoiseType, g: Tensor, W: Tensor) -> Tensor:
    """Product of a diffusion and noise, ``g W``: elementwise if diagonal, else over the noise axis.

    Parameters
    ----------
    noise_type
        As declared by the SDE.
    g
        ``(series, state)`` if diagonal, else ``(series, state, noise)``.
    W
        ``(series, noise)``.

    Returns
    -------
    Tensor
        ``(series, state)``.
    """
    return g * W if noise_type == "diagonal" else (g @ W.unsqueeze(-1)).squeeze(-1)


def move(noise_type: NoiseType, y: Tensor, h: Tensor, f: Tensor, g: Tensor, W: Tensor) -> Tensor:
    """Euler's move ``y + h f + g W`` in as few passes as there are products."""
    y = torch.addcmul(y, f, h)
    return torch.addcmul(y, g, W) if noise_type == "diagonal" else y + diffuse(noise_type, g, W)


@dataclasses.dataclass(frozen=True)
class RunningCost:
    """An integral along the path, ``C(t) = int_0^t c(s, y) ds + h(s, y)' dW``, accumulated in the same pass.

    One idea for many things: the Girsanov divergence of an evidence bound, the energy of a bridge, a
    discounted reward, a likelihood weight, a control variate. A series whose cost leaves the finite numbers
    has failed from that step on, like one whose state does.

    Parameters
    ----------
    c
        Rate ``(t, y) -> (series,)``, or None.
    h
        Integrand against the Brownian motion, ``(t, y) -> (series, noise)``, in Ito's sense, or None.
    name
        Key of the result in ``Solution.running``.

    Raises
    ------
    DataError
        If both integrands are None, or one is no function.

    Examples
    --------
    >>> from neurosde import RunningCost
    >>> RunningCost(lambda t, y: y.square().sum(-1), name="energy").name
    'energy'
    """

    c: Field | None = None
    h: Field | None = None
    name: str = "cost"

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise DataError(f"name: expected a word, the key in Solution.running, got {self.name!r}.")
        for name, field in (("c", self.c), ("h", self.h)):
            if field is not None and not callable(field):
                raise DataError(
                    f"RunningCost {self.name!r}: {name}: expected a function (t, y), got {field!r}."
                )
        if self.c is None and self.h is None:
            raise DataError(
                f"RunningCost {self.name!r}: expected a rate c, an integrand h or both, got neither."
            )


def divergence_cost(sde: Any, prior_drift: Field, name: str = "divergence") -> RunningCost:
    """Running cost whose mean is the divergence between two SDEs that share a diffusion.

    ``KL = E int 1/2 |g^-1 (f - h)|^2 dt`` by Girsanov's theorem (Li, Wong, Chen & Duvenaud 2020, section 5);
    the inverse of a non-square diffusion is its pseudo-inverse.

    Parameters
    ----------
    sde
        The SDE with drift f and diffusion g.
    prior_drift
        Drift h of the other SDE, ``(t, y) -> (series, state)``.
    name
        Key of the result.

    Returns
    -------
    RunningCost

    Examples
    --------
    >>> import torch
    >>> from neurosde import as_sde
    >>> from neurosde.sde import divergence_cost
    >>> class Shifted:
    ...     sde_type, noise_type = "ito", "diagonal"
    ...     def f(self, t, y):
    ...         return -y + 1.0
    ...     def g(self, t, y):
    ...         return torch.full_like(y, 0.5)
    >>> cost = divergence_cost(Shifted(), lambda t, y: -y)
    >>> cost.c(torch.tensor(0.0), torch.zeros(1, 1))
    tensor([2.])
    """
    sde = as_sde(sde)

    def rate(t: Tensor, y: Tensor) -> Tensor:
        f, g = sde.drift_and_diffusion(t, y)
        gap = f - prior_drift(t, y)
        if sde.noise_type == "diagonal":
            return 0.5 * (gap / g).square().sum(-1)
        return 0.5 * (torch.linalg.pinv(g) @ gap.unsqueeze(-1)).square().sum((-2, -1))

    return RunningCost(rate, name=name)
