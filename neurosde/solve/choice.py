"""Which stepper: the list of them, the defaults, and the check that one fits."""

from neurosde.errors import SolveError
from neurosde.sde import SDE
from neurosde.solve.euler import EulerMaruyama
from neurosde.solve.exponential import ExponentialEuler, ExponentialHeun, ExponentialShARK
from neurosde.solve.geometric import LieSplitting, LogEuler
from neurosde.solve.heun import EulerHeun, Heun, ReversibleHeun
from neurosde.solve.langevin import QUICSORT, ShOULD
from neurosde.solve.log_ode import LogODE, Midpoint
from neurosde.solve.milstein import Milstein
from neurosde.solve.rossler import SRK
from neurosde.solve.runge_kutta import SEA, SRA1, GeneralShARK, ShARK, SlowRK, SPaRK
from neurosde.solve.stepper import AbstractStepper
from neurosde.solve.transition import LinearTransition
from neurosde.typing import Any

STEPPERS: tuple[AbstractStepper, ...] = (
    EulerMaruyama(),
    Milstein(),
    SRK(),
    EulerHeun(),
    Heun(),
    Midpoint(),
    ReversibleHeun(),
    LogODE(),
    SEA(),
    SRA1(),
    ShARK(),
    GeneralShARK(),
    SPaRK(),
    SlowRK(),
    ExponentialEuler(),
    ExponentialHeun(),
    ExponentialShARK(),
    LieSplitting(),
    LogEuler(),
    ShOULD(),
    QUICSORT(),
    LinearTransition(),
)
# the first that fits is taken: those that know an SDE's form come before those that know its calculus
FIXED_DEFAULTS: tuple[AbstractStepper, ...] = (
    LinearTransition(),
    QUICSORT(),
    LogEuler(),
    LieSplitting(),
    ExponentialEuler(),
    EulerMaruyama(),
    Heun(),
)
# ExponentialShARK is not among these: its error is that of the drift beside the linear part, which a linear
# SDE has not, so that what long steps do to noise would not be seen, whatever the tolerance
ADAPTIVE_DEFAULTS: tuple[AbstractStepper, ...] = (QUICSORT(), ShARK(), Heun(), SRK())


def check_stepper(stepper: Any, sde: SDE, adaptive: bool) -> AbstractStepper:
    """Refuse a stepper that does not fit the SDE or the controller, and name those that do.

    Raises
    ------
    SolveError
        With the reason and the alternatives.
    """
    if not isinstance(stepper, AbstractStepper):
        raise SolveError(f"stepper: expected an instance such as EulerMaruyama(), got {stepper!r}.")
    reason = stepper.why_not(sde)
    if reason is None and adaptive and not stepper.embedded:
        reason = f"{type(stepper).__name__} does not estimate its error, which an adaptive controller needs"
    if reason is not None:
        fitting = [
            other for other in STEPPERS if other.why_not(sde) is None and (other.embedded or not adaptive)
        ]
        names = ", ".join(type(other).__name__ for other in fitting)
        raise SolveError(f"stepper: {reason}. For this SDE take one of: {names or 'none'}.")
    return stepper


def choose_stepper(sde: SDE, adaptive: bool) -> AbstractStepper:
    """Choose the default: the linear part exactly where one is declared, else by calculus.

    Raises
    ------
    SolveError
        If none fits.
    """
    for stepper in ADAPTIVE_DEFAULTS if adaptive else FIXED_DEFAULTS:
        if stepper.why_not(sde) is None:
            return stepper
    kind = "adaptive steps of " if adaptive else ""
    raise SolveError(f"stepper: none fits {kind}{sde.sde_type} SDEs with {sde.noise_type} noise.")
