"""The settings of a training run, checked when they are made."""

import dataclasses
import math
import numbers
import os

import numpy as np

from neurosde.errors import DataError
from neurosde.training.schedules import Schedule
from neurosde.typing import Any, Callable, Literal

__all__ = ["TrainingOptions"]


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How to train: plain values with scikit-learn's names, checked when the object is made.

    Parameters
    ----------
    max_iter
        Iterations to run: epochs or single updates, see `unit`. 0 leaves the initial weights.
    learning_rate
        Step of AdamW.
    batch_size
        Samples an update; None takes all of them. An epoch is cut into equal batches of at most this size.
    unit
        "epoch": an iteration is one pass over the shuffled samples. "step": it is one update on a new random
        mini-batch, for data of which a pass is long.
    weight_decay
        Decoupled weight decay of AdamW.
    tol
        Least improvement that counts: of the held-back score under early stopping, else of the training loss.
        With 0 and no early stopping all `max_iter` iterations run.
    early_stopping
        Hold back `validation_fraction` of the samples, stop when their score has not improved by `tol` for
        `n_iter_no_change` reports, and restore the best weights.
    validation_fraction
        Part of the samples that is held back; whole groups where `groups` are given.
    n_iter_no_change
        Patience, in reports.
    report_every
        Iterations between two reports (a history row, a held-back score); None means 1 epoch or 20 steps.
    clip_norm
        Largest gradient norm; None does not clip.
    max_failures
        Consecutive batches with a non-finite loss or gradient that are skipped before `NotConvergedError`.
    schedule
        "constant", or "cosine": the learning rate falls to zero over `max_iter` iterations.
    ema
        Decay of the exponential moving average of the weights that is scored and kept; None keeps the last
        weights.
    penalty_weight
        Weight of the penalty in the loss, where the objective has one: a number, or a `Schedule` over the
        iterations of the run.
    verbose
        0 is silent; 1 shows a progress bar with the loss, the held-back score and the time left.
    checkpoint
        Directory for the checkpoint. The file's name is a digest of data, settings, seed and initial weights,
        so that parallel fits never clash and an equal fit goes on where it was killed.
    checkpoint_every
        Least seconds between two checkpoints; 0 writes one at every report.

    Raises
    ------
    DataError
        If a setting is outside its range; the message names it.

    Examples
    --------
    >>> TrainingOptions(max_iter=-1)
    Traceback (most recent call last):
    neurosde.errors.DataError: max_iter must be an integer >= 0, got -1
    """

    max_iter: int = 100
    learning_rate: float = 1e-3
    batch_size: int | None = None
    unit: Literal["epoch", "step"] = "epoch"
    weight_decay: float = 0.0
    tol: float = 0.0
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    report_every: int | None = None
    clip_norm: float | None = 1.0
    max_failures: int = 10
    schedule: Literal["constant", "cosine"] = "constant"
    ema: float | None = None
    penalty_weight: float | Schedule = 1.0
    verbose: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    checkpoint_every: float = 10.0

    def __post_init__(self):
        whole, positive, fraction = _least(0), _least(1), _Expected("a number between 0 and 1", _is_fraction)
        weight = _Expected("a finite number >= 0", lambda value: _is_real(value) and value >= 0)
        step = _Expected("a finite number > 0", lambda value: _is_real(value) and value > 0)
        for name, expected in {
            "max_iter": whole,
            "learning_rate": step,
            "batch_size": positive.or_none(),
            "unit": _one_of("epoch", "step"),
            "weight_decay": weight,
            "tol": weight,
            "early_stopping": _one_of(True, False),
            "validation_fraction": fraction,
            "n_iter_no_change": positive,
            "report_every": positive.or_none(),
            "clip_norm": step.or_none(),
            "max_failures": whole,
            "schedule": _one_of("constant", "cosine"),
            "ema": fraction.or_none(),
            "penalty_weight": weight.or_a(Schedule),
            "verbose": whole,
            "checkpoint": _Expected("a path", lambda value: isinstance(value, str | os.PathLike)).or_none(),
            "checkpoint_every": weight,
        }.items():
            expected.check(name, getattr(self, name))

    def weight_of_penalty(self, step: float) -> float:
        """Weight of the penalty after so many iterations of the run."""
        weight = self.penalty_weight
        return weight.at(step, self.max_iter) if isinstance(weight, Schedule) else float(weight)


@dataclasses.dataclass(frozen=True)
class _Expected:
    """What a setting must be, in words and as a test."""

    words: str
    holds: Callable[[Any], Any]

    def or_none(self) -> "_Expected":
        return _Expected(f"None or {self.words}", lambda value: value is None or self.holds(value))

    def or_a(self, kind: type) -> "_Expected":
        words = f"{self.words} or a {kind.__name__}"
        return _Expected(words, lambda value: isinstance(value, kind) or self.holds(value))

    def check(self, name: str, value: Any) -> None:
        if not self.holds(value):
            raise DataError(f"{name} must be {self.words}, got {value!r}")


def _one_of(*choices: str | bool) -> _Expected:
    return _Expected(
        f"one of {list(choices)}", lambda value: isinstance(value, str | bool | np.bool_) and value in choices
    )


def _least(bound: int) -> _Expected:
    return _Expected(
        f"an integer >= {bound}",
        lambda value: isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= bound,
    )


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_fraction(value: Any) -> bool:
    return _is_real(value) and 0 < value < 1
