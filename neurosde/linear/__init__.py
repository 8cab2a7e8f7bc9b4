"""Linear SDEs: exact transitions, exact sampling, exact inference from noisy observations (floor 2)."""

from neurosde.linear.gaussian import Gaussian
from neurosde.linear.kalman import Filtered
from neurosde.linear.process import LinearSDE
from neurosde.linear.transition import Transition, linear_transition

__all__ = ["Filtered", "Gaussian", "LinearSDE", "Transition", "linear_transition"]
