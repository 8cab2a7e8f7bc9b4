"""What a stepper is, and the check at the door that it fits the SDE."""

import abc
from typing import ClassVar, NamedTuple

import torch

from neurosde.noise import BrownianIncrement, Levy
from neurosde.noise.records import RICHNESS
from neurosde.sde import SDE, is_additive
from neurosde.typing import NoiseType, SDEType, Tensor

ANY_NOISE: tuple[NoiseType, ...] = ("diagonal", "additive", "scalar", "general")
Carry = tuple[Tensor, ...]


class Step(NamedTuple):
    """What one step is given besides the state.

    Parameters
    ----------
    t
        Time at its start, ``()`` or ``(series, 1)``.
    h
        Its length, of the same shape.
    noise
        Increment of the driving motion over it.
    weights
        What :meth:`AbstractStepper.weights` has computed for it.
    """

    t: Tensor
    h: Tensor
    noise: BrownianIncrement
    weights: tuple[Tensor, ...] = ()


class Stepped(NamedTuple):
    """What one step gives back.

    Parameters
    ----------
    y
        State at its end, ``(series, state)``.
    carry
        What the next step is handed beside it.
    error
        Estimate of the local error, of the shape of y; None from a stepper that has none.
    """

    y: Tensor
    carry: Carry = ()
    error: Tensor | None = None


class AbstractStepper(abc.ABC):
    """One step of a numerical method; its capabilities are data, read once at the door.

    Attributes
    ----------
    sde_types, noise_types
        What it can step.
    form
        Class of SDEs whose form it exploits; any SDE by default.
    needs_additive, needs_decay
        Whether the diffusion must not depend on y; whether a linear part of the drift must be declared.
    levy
        Which integrals of the noise it uses.
    strong_order
        Order of the mean error of paths for (general, commutative, additive) noise; None where not claimed.
    weak_order
        Order of the error of expectations.
    evaluations
        New evaluations of (drift, diffusion) a step.
    embedded
        Whether a step comes with an estimate of its error, so that an adaptive controller can use it.
    """

    sde_types: ClassVar[tuple[SDEType, ...]]
    noise_types: ClassVar[tuple[NoiseType, ...]] = ANY_NOISE
    form: ClassVar[type[SDE]] = SDE
    needs_additive: ClassVar[bool] = False
    needs_decay: ClassVar[bool] = False
    levy: ClassVar[Levy] = "none"
    strong_order: ClassVar[tuple[float | None, float | None, float]]
    weak_order: ClassVar[float] = 1.0
    evaluations: ClassVar[tuple[int, int]]
    embedded: ClassVar[bool] = False

    def start(self, sde: SDE, t: Tensor, y: Tensor) -> Carry:
        """State that is handed from step to step beside y; none by default."""
        return ()

    def weights(self, sde: SDE, t: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """Weights of many steps at once, each with a leading step axis.

        ``t`` and ``h`` are ``(step, 1, 1)`` or ``(step, series, 1)``. None by default.
        """
        return ()

    @abc.abstractmethod
    def step(self, sde: SDE, step: Step, y: Tensor, carry: Carry) -> Stepped:
        """Take one step from the state ``(series, state)``."""

    def why_not(self, sde: SDE) -> str | None:
        """Say why this stepper does not fit an SDE; None if it does."""
        name = type(self).__name__
        if not isinstance(sde, self.form):
            return (
                f"{name} steps SDEs of the form of {self.form.__name__}, and this is a {type(sde).__name__}"
            )
        if self.needs_decay and sde.decay(torch.zeros(())) is None:
            return f"{name} needs a linear part, declared by the method decay(t)"
        additive_either = is_additive(sde) and sde.sde_type not in self.sde_types  # both calculi agree there
        if sde.sde_type not in self.sde_types and not additive_either:
            return f"{name} steps {' and '.join(self.sde_types)} SDEs, and this one is {sde.sde_type}"
        if sde.noise_type not in self.noise_types:
            return f"{name} steps {', '.join(self.noise_types)} noise, and this SDE declares {sde.noise_type}"
        if self.needs_additive and not is_additive(sde):
            return f"{name} needs noise that does not depend on y (additive = True)"
        return None


def carries(noise_levy: Levy, stepper: AbstractStepper) -> bool:
    """Whether noise of this richness has all the integrals that a stepper uses."""
    enough = RICHNESS[noise_levy] >= RICHNESS[stepper.levy]
    return noise_levy == "area" if stepper.levy == "area" else enough
