"""The training loop of every estimator: mini-batches, held-back score, finite-guard, checkpoints."""

from neurosde.training.batches import hold_back
from neurosde.training.loop import train
from neurosde.training.objective import Objective, Penalised, TrainingRecord
from neurosde.training.options import TrainingOptions
from neurosde.training.schedules import Schedule

__all__ = [
    "Objective",
    "Penalised",
    "Schedule",
    "TrainingOptions",
    "TrainingRecord",
    "hold_back",
    "train",
]
