"""The loop: every random choice is a function of the seed and the iteration number.

So a run that was killed goes on from its checkpoint bit for bit, and no hidden generator state exists.
"""

import dataclasses
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from neurosde.errors import DataError, NotConvergedError, ShapeError, SolveError
from neurosde.training.batches import draw_batches, hold_back
from neurosde.training.checkpoints import Checkpoint, load_optimizer, optimizer_arrays
from neurosde.training.objective import Objective, Penalised, TrainingRecord
from neurosde.training.options import TrainingOptions
from neurosde.training.weights import Weights
from neurosde.typing import Any, Array, Tensor

__all__ = ["train"]


def train(
    module: nn.Module,
    objective: Objective,
    options: TrainingOptions,
    *,
    seed: int,
    groups: Array | None = None,
    record: TrainingRecord | None = None,
    resume: bool | str | os.PathLike[str] = True,
) -> TrainingRecord:
    """Minimise an objective over the weights of a module, in place.

    AdamW (Loshchilov and Hutter 2019, *Decoupled weight decay regularization*, algorithm 2). A batch whose
    loss or gradient is not finite is skipped and counted.

    Parameters
    ----------
    module
        Ends in evaluation mode, with the best weights under early stopping, else the last finite ones.
    objective, options
        The loss with its data; see `TrainingOptions`.
    seed
        Non-negative integer: fixes the split, the shuffles and the noise keys.
    groups
        (sample,) labels; samples of one group are never split between training and held-back part.
    record
        Record of an earlier run to go on from: iterations, history and optimiser state continue.
    resume
        True: go on from this run's own file in `options.checkpoint`, where there is one. False: start anew. A
        path: go on from that file, if it is of a run with equal data, settings, seed and initial weights.

    Returns
    -------
    TrainingRecord
        `record`, filled in; it also tells of a run that raised.

    Raises
    ------
    NotConvergedError
        After more than `max_failures` skipped batches in a row, or where all were skipped.
    CheckpointError
        If the checkpoint is damaged or of another run.

    Examples
    --------
    >>> class Mean(Objective):
    ...     n_samples = 4
    ...     def loss(self, module, index, seed):
    ...         return (module.weight - index).square().mean()
    >>> line = nn.Linear(1, 1, bias=False)
    >>> record = train(line, Mean(), TrainingOptions(max_iter=200, learning_rate=0.1), seed=0)
    >>> round(line.weight.item(), 2), record.stopped
    (1.5, 'max_iter')
    """
    run = _Run(module, objective, options, seed, groups, record or TrainingRecord())
    run.resume(resume)
    module.train()
    try:
        with torch.enable_grad(), _bar(options, run.n_done) as bar:
            while not run.finished:
                run.iterate()
                if run.report_due:
                    run.report()
                    bar.set_postfix(run.shown(), refresh=False)
                bar.update()
        if run.record.n_skipped and not run.record.n_updates:
            raise NotConvergedError(f"all {run.record.n_skipped} batches had a non-finite loss or gradient")
    except NotConvergedError:
        run.settle("not converged")
        raise
    except BaseException:
        run.settle("interrupted")
        raise
    run.settle("no improvement" if run.stalled else "max_iter")
    return run.record


@dataclasses.dataclass
class _Counters:
    """What the stopping rules remember from report to report."""

    best_value: float | None = None
    n_flat: int = 0
    n_failed: int = 0


class _Run:
    """State of one run: live weights with their last finite and best copies, optimiser, counters."""

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        options: TrainingOptions,
        seed: int,
        groups: Array | None,
        record: TrainingRecord,
    ):
        self.module, self.objective, self.options, self.seed = module, objective, options, seed
        self.groups, self.record, self.first = groups, record, record.n_iter
        record.n_skipped = record.n_updates = 0
        n = objective.n_samples
        self.samples, self.held = np.arange(n), np.arange(0)
        if options.early_stopping:
            self.samples, self.held = hold_back(n, options.validation_fraction, seed=seed, groups=groups)
        self.weights = Weights(module)
        if not self.weights.parameters or not n:
            raise DataError(f"nothing to train: {len(self.weights.parameters)} parameters, {n} samples")
        self.good = self.weights.copy()
        self.average = self.weights.copy() if options.ema is not None else None
        self.best: list[Tensor] | None = None
        self.counters = _Counters()
        self.optimizer = torch.optim.AdamW(
            self.weights.parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        load_optimizer(self.optimizer, record.optimizer)
        self.batches_done: list[tuple[float, float, int]] = []
        self.penalties_done: list[tuple[float, int]] = []
        self.penalty_weight = 0.0
        self.last_batch: tuple[Tensor, int] | None = None
        self.n_skipped_before = 0
        self.checkpoint: Checkpoint | None = None
        self.saved_at = time.monotonic()

    @property
    def n_done(self) -> int:
        return self.record.n_iter - self.first

    @property
    def stalled(self) -> bool:
        return self.counters.n_flat >= self.options.n_iter_no_change

    @property
    def finished(self) -> bool:
        return self.n_done >= self.options.max_iter or self.stalled

    @property
    def report_due(self) -> bool:
        every = self.options.report_every or (1 if self.options.unit == "epoch" else 20)
        return self.n_done % every == 0 or self.n_done == self.options.max_iter

    def iterate(self) -> None:
        """One iteration: a pass over the samples, or one update on a random mini-batch."""
        iteration, options = self.record.n_iter, self.options
        size = options.batch_size or len(self.samples)
        batches = draw_batches(self.samples, size, unit=options.unit, seed=self.seed, iteration=iteration)
        for number, (batch, key) in enumerate(batches):
            step = self.n_done + number / len(batches)
            if options.schedule == "cosine":
                done = step / options.max_iter
                for group in self.optimizer.param_groups:
                    group["lr"] = options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
            self.penalty_weight = options.weight_of_penalty(step)
            self._update(torch.from_numpy(batch), key)
        self.record.n_iter += 1

    def _update(self, index: Tensor, seed: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.last_batch = index, seed
        parts = self._loss()
        if parts is None:
            return self._skip()
        loss = self._minimised(parts)
        loss.backward()
        value, norm = self.weights.gradient_norm(loss)
        if not (math.isfinite(value) and math.isfinite(norm)):
            return self._skip()
        if isinstance(parts, Penalised):
            value, penalty = torch.stack([part.detach() for part in parts]).tolist()
            self.penalties_done.append((penalty, len(index)))
        self.weights.read_into(self.good)
        if self.options.clip_norm is not None and norm > self.options.clip_norm:
            self.weights.scale_gradient(self.options.clip_norm / norm)
        self.optimizer.step()
        self.counters.n_failed = 0
        self.record.n_updates += 1
        if self.average is not None and self.options.ema is not None:
            # A young average follows quickly, so that it does not remember the initial weights.
            young = (1 + self.record.n_updates) / (10 + self.record.n_updates)
            self.weights.average_into(self.average, min(self.options.ema, young))
        return self.batches_done.append((value, norm, len(index)))

    def _loss(self) -> Tensor | Penalised | None:
        """Loss of the last batch; None where the SDE could not be solved."""
        if self.last_batch is None:
            return None
        try:
            loss = self.objective.loss(self.module, *self.last_batch)
        except SolveError:
            return None
        for part in loss if isinstance(loss, Penalised) else (loss,):
            if part.ndim:
                raise ShapeError(f"the loss must be a scalar, got shape {tuple(part.shape)}")
        return loss

    def _minimised(self, parts: Tensor | Penalised) -> Tensor:
        """The loss, with its penalty where it has one."""
        if isinstance(parts, Penalised):
            return parts.loss + self.penalty_weight * parts.penalty
        return parts

    def _skip(self) -> None:
        """Leave a batch out; its forward pass may have spoilt buffers (running means), so they go back."""
        self.weights.write_buffers_from(self.good)
        self.record.n_skipped += 1
        self.counters.n_failed += 1
        if self.counters.n_failed > self.options.max_failures:
            raise NotConvergedError(
                f"{self.counters.n_failed} batches in a row had no finite loss and gradient at iteration "
                f"{self.record.n_iter + 1}, max_failures={self.options.max_failures}; the last finite "
                "weights were restored. Look for extreme values in the data, or lower learning_rate"
            )

    def report(self) -> None:
        """Append a history row, count reports without improvement, write the checkpoint when it is due."""
        size = sum(batch[2] for batch in self.batches_done)
        loss = sum(value * n for value, _, n in self.batches_done) / size if size else None
        row = {
            "iteration": self.record.n_iter,
            "loss": loss,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "gradient_norm": max((norm for _, norm, _ in self.batches_done), default=None),
            "skipped": self.record.n_skipped - self.n_skipped_before,
        }
        if self.penalties_done:
            size = sum(n for _, n in self.penalties_done)
            row["penalty"] = sum(value * n for value, n in self.penalties_done) / size
            row["penalty_weight"] = self.penalty_weight
        self.batches_done, self.penalties_done, self.n_skipped_before = [], [], self.record.n_skipped
        counters, watched = self.counters, loss
        if self.options.early_stopping:
            row["score"] = watched = self._score()
        self.record.history.append(row)
        best = math.inf if counters.best_value is None else counters.best_value
        better = watched is not None and watched < best - self.options.tol
        if self.options.early_stopping or self.options.tol > 0:
            counters.n_flat = 0 if better else counters.n_flat + 1
        if watched is not None:
            counters.best_value = min(watched, best)
        if self.checkpoint is not None and time.monotonic() - self.saved_at >= self.options.checkpoint_every:
            self.checkpoint.write(*self._state())
            self.saved_at = time.monotonic()

    def _score(self) -> float | None:
        """Score the held-back samples with the weights that would be kept, and keep those that score best."""
        current = None
        if self.average is not None:
            current = self.weights.copy()
            self.weights.write_from(self.average)
        self.module.eval()
        try:
            with torch.no_grad():
                score = float(self.objective.score(self.module, torch.from_numpy(self.held)))
        except SolveError:
            score = math.nan
        self.module.train()
        best = self.counters.best_value
        if math.isfinite(score) and (best is None or score < best):
            self.best = self.weights.copy()
        if current is not None:
            self.weights.write_from(current)
        return score if math.isfinite(score) else None

    def settle(self, stopped: str) -> None:
        """Leave the module with its best, else its last finite weights, in evaluation mode."""
        self.module.eval()
        if self.best is not None:
            self.weights.write_from(self.best)
        elif self.counters.n_failed or stopped == "interrupted" or not self._sound():
            self.weights.write_from(self.good)
        elif self.average is not None:
            self.weights.write_from(self.average)
        self.optimizer.zero_grad(set_to_none=True)
        self.record.stopped = stopped
        self.record.optimizer = optimizer_arrays(self.optimizer)

    def _sound(self) -> bool:
        """Whether the last update, which no batch has seen yet, left finite weights and a finite loss."""
        if not self.record.n_updates or self.last_batch is None:
            return True
        with torch.enable_grad():
            parts = self._loss() if self.weights.finite() else None
        return parts is not None and math.isfinite(self._minimised(parts).item())

    def shown(self) -> dict[str, str]:
        """Figures of the last report, for the bar."""
        row = self.record.history[-1]
        return {name: f"{row[name]:.4g}" for name in ("loss", "score") if row.get(name) is not None}

    def resume(self, resume: bool | str | os.PathLike[str]) -> None:
        """Name the run's checkpoint, and take it up where there is one."""
        given = None if isinstance(resume, bool) else Path(resume)
        directory = self.options.checkpoint or (given.parent if given else None)
        if directory is None:
            return
        record = self.record
        start = (record.n_iter, record.history, record.optimizer)
        depends = (self.seed, self.groups, start, self.module, self.objective.fingerprint())
        checkpoint = Checkpoint(directory, self.options, *depends)
        found = checkpoint.read(given) if resume else None
        if found is not None:
            self._restore(*found)
        if self.options.checkpoint is not None:
            self.checkpoint = checkpoint

    def _copies(self) -> dict[str, list[Tensor] | None]:
        return {"live": self.weights.live, "good": self.good, "best": self.best, "average": self.average}

    def _state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        tensors = {f"optimizer/{name}": array for name, array in optimizer_arrays(self.optimizer).items()}
        for kind, copies in self._copies().items():
            tensors |= {f"{kind}/{i}": tensor.cpu().numpy() for i, tensor in enumerate(copies or ())}
        record = {
            name: getattr(self.record, name) for name in ("history", "n_iter", "n_skipped", "n_updates")
        }
        return tensors, {"record": record, "counters": dataclasses.asdict(self.counters)}

    def _restore(self, tensors: dict[str, Array], state: dict[str, Any]) -> None:
        kinds: dict[str, dict[str, Array]] = {"optimizer": {}}
        for name, array in tensors.items():
            kind, _, rest = name.partition("/")
            kinds.setdefault(kind, {})[rest] = array
        self.best = self.weights.copy() if "best" in kinds else None
        for kind, copies in self._copies().items():
            for i, tensor in enumerate(copies or ()):
                tensor.copy_(torch.from_numpy(kinds[kind][str(i)]))
        load_optimizer(self.optimizer, kinds["optimizer"])
        for name, value in state["record"].items():
            setattr(self.record, name, value)
        self.counters = _Counters(**state["counters"])
        self.n_skipped_before = self.record.n_skipped


class _Silent:
    """A progress bar that shows nothing."""

    def __enter__(self) -> "_Silent":
        return self

    def __exit__(self, *error: object) -> None: ...

    def update(self) -> None: ...

    def set_postfix(self, figures: dict[str, str], refresh: bool = True) -> None: ...


def _bar(options: TrainingOptions, n_done: int) -> Any:
    if not options.verbose:
        return _Silent()
    from tqdm.auto import tqdm

    return tqdm(total=options.max_iter, initial=n_done, unit=options.unit, dynamic_ncols=True)
