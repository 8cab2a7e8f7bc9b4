"""The backend: ``neurosde.solve(sde, y0, ts)``, its steppers and controllers (floor 4).

The module can be called, so that ``neurosde.solve`` is both the function and the place where its parts live.
"""

import sys
import types

from neurosde.solve.absorbing import AbsorbingSet
from neurosde.solve.capabilities import capabilities
from neurosde.solve.choice import STEPPERS
from neurosde.solve.controller import ConstantStep, PIController
from neurosde.solve.entry import solve
from neurosde.solve.euler import EulerMaruyama
from neurosde.solve.exponential import ExponentialEuler, ExponentialHeun, ExponentialShARK
from neurosde.solve.geometric import LieSplitting, LogEuler
from neurosde.solve.heun import EulerHeun, Heun, ReversibleHeun
from neurosde.solve.langevin import QUICSORT, ShOULD
from neurosde.solve.log_ode import LogODE, Midpoint
from neurosde.solve.milstein import Milstein
from neurosde.solve.penalty import StepPenalty
from neurosde.solve.rossler import SRK
from neurosde.solve.runge_kutta import SEA, SRA1, GeneralShARK, ShARK, SlowRK, SPaRK
from neurosde.solve.solution import Solution, Status
from neurosde.solve.stepper import AbstractStepper, Step, Stepped
from neurosde.solve.torchsde import sdeint, sdeint_adjoint
from neurosde.solve.transition import LinearTransition

__all__ = [
    "QUICSORT",
    "SEA",
    "SRA1",
    "SRK",
    "STEPPERS",
    "AbsorbingSet",
    "AbstractStepper",
    "ConstantStep",
    "EulerHeun",
    "EulerMaruyama",
    "ExponentialEuler",
    "ExponentialHeun",
    "ExponentialShARK",
    "GeneralShARK",
    "Heun",
    "LieSplitting",
    "LinearTransition",
    "LogEuler",
    "LogODE",
    "Midpoint",
    "Milstein",
    "PIController",
    "ReversibleHeun",
    "SPaRK",
    "ShARK",
    "ShOULD",
    "SlowRK",
    "Solution",
    "Status",
    "Step",
    "StepPenalty",
    "Stepped",
    "capabilities",
    "sdeint",
    "sdeint_adjoint",
    "solve",
]


class _CallableModule(types.ModuleType):
    __call__ = staticmethod(solve)


sys.modules[__name__].__class__ = _CallableModule
