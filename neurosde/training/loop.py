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

from neurosde.errors import CheckpointError, DataError, NotConvergedError, ShapeError, SolveError
from neurosde.files import fingerprint, read_file, write_file
from neurosde.training.objective import Objective, TrainingRecord
from neurosde.training.options import TrainingOptions
from neurosde.typing import Any, Array, Tensor

__all__ = ["hold_back", "train"]

_SCHEMA = 1
_SHUFFLE, _NOISE, _SPLIT = range(3)


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

    Parameters
    ----------
    module
        Trained in place; ends in evaluation mode with the best weights under early stopping, else the last finite.
    objective
        The loss and its data.
    options
        See `TrainingOptions`.
    seed
        Non-negative integer: fixes the split, the shuffles and the noise keys.
    groups
        (sample,) labels; samples of one group are never split between training and held-back part.
    record
        Record of an earlier run to go on from: iterations, history and optimiser state continue. None starts anew.
    resume
        True: go on from this run's own file in `options.checkpoint`, where there is one. False: start anew. A path:
        go on from that file, refused unless it was written by a run with equal data, settings and seed.

    Returns
    -------
    TrainingRecord
        `record`, filled in.

    Raises
    ------
    NotConvergedError
        After more than `max_failures` consecutive non-finite batches, or where no batch was finite. The module has its
        last finite weights.
    CheckpointError
        If the checkpoint is damaged or of another run.

    Examples
    --------
    >>> class Mean(Objective):
    ...     n_samples = 4
    ...     def loss(self, module, index, seed):
    ...         return (module.weight - index).square().mean()
    >>> line = nn.Linear(1, 1)
    >>> record = train(line, Mean(), TrainingOptions(max_iter=200, learning_rate=0.1), seed=0)
    >>> round(line.weight.item(), 2), record.stopped
    (1.5, 'max_iter')
    """
    run = _Run(module, objective, options, seed, groups, TrainingRecord() if record is None else record)
    run.resume(resume)
    bar = _bar(options, run)
    try:
        with torch.enable_grad():
            while run.record.n_iter < run.last and not run.stalled:
                run.iterate()
                if run.record.n_iter % options.reporting == 0 or run.record.n_iter == run.last:
                    run.report()
                    run.save_when_due()
                if bar is not None:
                    bar.update()
                    if run.record.history:
                        bar.set_postfix(run.shown(), refresh=False)
    except BaseException as error:
        run.settle("interrupted" if not isinstance(error, NotConvergedError) else "not converged")
        raise
    finally:
        if bar is not None:
            bar.close()
    run.settle("no improvement" if run.stalled else "max_iter")
    if run.record.n_skipped and not run.record.n_updates:
        raise NotConvergedError(
            f"no batch had a finite loss and gradient: {run.record.n_skipped} were skipped"
        )
    return run.record


def hold_back(
    n_samples: int, fraction: float, *, seed: int, groups: Array | None = None
) -> tuple[Array, Array]:
    """Split samples into a training part and a held-back part that share no group.

    Parameters
    ----------
    n_samples
        Number of samples.
    fraction
        Part to hold back, rounded up to whole groups; both parts get one group at least.
    seed
        Fixes the split.
    groups
        (sample,) labels; None makes every sample a group of its own.

    Returns
    -------
    training, held_back
        Sorted sample numbers.

    Raises
    ------
    DataError
        With fewer than two groups, or labels of another length.

    Examples
    --------
    >>> hold_back(6, 0.3, seed=0, groups=np.array([0, 0, 1, 1, 2, 2]))
    (array([0, 1, 4, 5]), array([2, 3]))
    """
    labels = np.arange(n_samples) if groups is None else np.asarray(groups)
    if labels.shape != (n_samples,):
        raise DataError(f"groups must have shape ({n_samples},), one label a sample, got {labels.shape}")
    _, member, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError(
            f"early_stopping needs 2 groups or more to hold one back, got {len(sizes)}; switch it off"
        )
    order = np.random.default_rng((seed, _SPLIT)).permutation(len(sizes))
    target = math.ceil(fraction * n_samples - 1e-9)
    n_held = min(int(np.searchsorted(sizes[order].cumsum(), target)) + 1, len(sizes) - 1)
    held = np.isin(member, order[:n_held])
    return np.flatnonzero(~held), np.flatnonzero(held)


class _Run:
    """State of one run: live weights, their last finite and best copies, optimiser, counters."""

    def __init__(self, module: nn.Module, objective: Objective, options: TrainingOptions, seed: int, groups: Array | None, record: TrainingRecord):  # fmt: skip
        self.module, self.objective, self.options, self.seed, self.record = (
            module,
            objective,
            options,
            seed,
            record,
        )
        self.last = record.n_iter + options.max_iter
        self.samples, self.held = np.arange(objective.n_samples), np.arange(0)
        if options.early_stopping:
            self.samples, self.held = hold_back(objective.n_samples, options.validation_fraction, seed=seed, groups=groups)  # fmt: skip
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters or not len(self.samples):
            raise DataError(
                f"nothing to train: {len(self.parameters)} parameters, {len(self.samples)} samples"
            )
        buffers = [b for b in module.buffers() if b.is_floating_point()]
        self.live = [tensor.detach() for tensor in self.parameters + buffers]
        self.good = [tensor.clone() for tensor in self.live]
        self.average = None if options.ema is None else [tensor.clone() for tensor in self.live]
        self.best: list[Tensor] | None = None
        self.best_value, self.n_flat, self.n_failed = math.inf, 0, 0
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        if record.optimizer:
            self._load_optimizer(record.optimizer)
        self._begin_report()
        self.saved_at = time.monotonic()
        self.file: Path | None = None
        self.identity = ""
        module.train()
        # What names the run, for its checkpoint: everything that its result depends on.
        self.groups = groups

    @property
    def stalled(self) -> bool:
        return self.n_flat >= self.options.n_iter_no_change

    def iterate(self) -> None:
        """One iteration: a pass over the samples, or one update."""
        iteration, n, options = self.record.n_iter, len(self.samples), self.options
        size = min(options.batch_size or n, n)
        rng = np.random.default_rng((self.seed, _SHUFFLE, iteration))
        if size == n:
            batches = [self.samples]
        elif options.unit == "step":
            batches = [self.samples[rng.choice(n, size, replace=False)]]
        else:
            batches = np.array_split(self.samples[rng.permutation(n)], math.ceil(n / size))
        left = self.last - iteration
        for number, batch in enumerate(batches):
            if options.schedule == "cosine":
                done = 1 - (left - number / len(batches)) / options.max_iter
                self._set_rate(options.learning_rate * 0.5 * (1 + math.cos(math.pi * done)))
            self._update(torch.from_numpy(batch), _key(self.seed, _NOISE, iteration, number))
        self.record.n_iter += 1

    def _update(self, index: Tensor, seed: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self.objective.loss(self.module, index, seed)
        except SolveError:
            return self._skip()
        if loss.ndim:
            raise ShapeError(f"the loss must be a scalar, got shape {tuple(loss.shape)}")
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm or math.inf)
        value, norm = torch.stack((loss.detach().double(), norm.double())).tolist()
        if not (math.isfinite(value) and math.isfinite(norm)):
            return self._skip()
        torch._foreach_copy_(self.good, self.live)
        self.optimizer.step()
        self.n_failed = 0
        self.record.n_updates += 1
        if self.average is not None and self.options.ema is not None:
            decay = min(self.options.ema, (1 + self.record.n_updates) / (10 + self.record.n_updates))
            torch._foreach_lerp_(self.average, self.live, 1 - decay)
        self.losses.append((value, len(index)))
        self.norms.append(norm)
        return None

    def _skip(self) -> None:
        """Leave a batch out; a forward pass may have spoilt the buffers (running means), so they go back."""
        n = len(self.parameters)
        if len(self.live) > n:
            torch._foreach_copy_(self.live[n:], self.good[n:])
        self.record.n_skipped += 1
        self.n_failed += 1
        self.n_skipped += 1
        if self.n_failed > self.options.max_failures:
            raise NotConvergedError(
                f"{self.n_failed} consecutive batches had a non-finite loss or gradient at iteration "
                f"{self.record.n_iter + 1} (max_failures={self.options.max_failures}); the last finite weights were "
                "restored. Look for extreme values in the data, or lower learning_rate"
            )

    def _begin_report(self) -> None:
        self.losses: list[tuple[float, int]] = []
        self.norms: list[float] = []
        self.n_skipped = 0

    def report(self) -> None:
        """Append a history row and count reports without improvement."""
        weight = sum(size for _, size in self.losses)
        loss = sum(value * size for value, size in self.losses) / weight if weight else None
        row = {
            "iteration": self.record.n_iter,
            "loss": loss,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "gradient_norm": max(self.norms, default=None),
            "skipped": self.n_skipped,
        }
        if len(self.held):
            row["score"] = self._score()
        self.record.history.append(row)
        self._begin_report()
        value = row.get("score", loss)
        value = math.inf if value is None else value
        if self.options.early_stopping or self.options.tol > 0:
            self.n_flat = 0 if value < self.best_value - self.options.tol else self.n_flat + 1
        self.best_value = min(value, self.best_value)

    def _score(self) -> float | None:
        """Score the held-back samples with the weights that would be kept, and keep those that score best."""
        current = [tensor.clone() for tensor in self.live] if self.average is not None else None
        if self.average is not None:
            torch._foreach_copy_(self.live, self.average)
        self.module.eval()
        try:
            with torch.no_grad():
                score = float(self.objective.score(self.module, torch.from_numpy(self.held)))
        except SolveError:
            score = math.inf
        self.module.train()
        if score < self.best_value:
            self.best = [tensor.clone() for tensor in self.live]
        if current is not None:
            torch._foreach_copy_(self.live, current)
        return score if math.isfinite(score) else None

    def settle(self, stopped: str) -> None:
        """Leave the module with its best, else its last finite weights, ready for use."""
        whole = all(bool(tensor.isfinite().all()) for tensor in self.live[: len(self.parameters)])
        if self.best is not None:
            torch._foreach_copy_(self.live, self.best)
        elif self.n_failed or not whole or stopped == "interrupted":
            torch._foreach_copy_(self.live, self.good)
        elif self.average is not None:
            torch._foreach_copy_(self.live, self.average)
        self.optimizer.zero_grad(set_to_none=True)
        self.module.eval()
        self.record.stopped = stopped
        self.record.optimizer = self._optimizer_arrays()

    def shown(self) -> dict[str, str]:
        """Figures of the last report, for the bar."""
        row = self.record.history[-1]
        return {name: f"{row[name]:.4g}" for name in ("loss", "score") if row.get(name) is not None}

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def resume(self, resume: bool | str | os.PathLike[str]) -> None:
        """Take up a checkpoint of this very run, where there is one."""
        explicit = None if isinstance(resume, bool) else Path(resume)
        if self.options.checkpoint is None and explicit is None:
            return
        settings = dataclasses.asdict(self.options)
        for name in ("verbose", "checkpoint", "checkpoint_every"):
            del settings[name]
        start = (self.record.n_iter, self.record.history, self.record.optimizer)
        self.identity = fingerprint(
            _SCHEMA, settings, self.seed, self.groups, start, self.module, self.objective.fingerprint()
        )
        if self.options.checkpoint is not None:
            directory = Path(self.options.checkpoint)
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DataError(
                    f"checkpoint='{directory}' is not a usable directory: {error.strerror}"
                ) from error
            self.file = directory / f"{self.identity[:32]}.safetensors"
        if explicit is not None or (resume and self.file is not None and self.file.exists()):
            self._load(explicit or self.file)

    def save_when_due(self) -> None:
        """Write the checkpoint, unless the last one is younger than `checkpoint_every`."""
        if self.file is None or time.monotonic() - self.saved_at < self.options.checkpoint_every:
            return
        weights = {"live": self.live, "good": self.good, "best": self.best, "average": self.average}
        tensors = {f"{kind}/{i}": tensor.cpu().numpy() for kind, copies in weights.items() for i, tensor in enumerate(copies or ())}  # fmt: skip
        document = {
            "kind": "checkpoint",
            "schema": _SCHEMA,
            "identity": self.identity,
            "history": self.record.history,
            "counters": [
                self.record.n_iter,
                self.record.n_skipped,
                self.record.n_updates,
                self.n_flat,
                self.n_failed,
            ],
            "best_value": self.best_value if math.isfinite(self.best_value) else None,
        }
        write_file(
            self.file, tensors | {f"optimizer/{k}": v for k, v in self._optimizer_arrays().items()}, document
        )
        self.saved_at = time.monotonic()

    def _load(self, path: Path) -> None:
        tensors, document = read_file(path)
        if document.get("kind") != "checkpoint" or document.get("schema") != _SCHEMA:
            raise CheckpointError(f"'{path}' is not a training checkpoint of schema {_SCHEMA}")
        if document["identity"] != self.identity:
            raise CheckpointError(
                f"'{path}' is a checkpoint of another run: data, settings, seed or weights differ"
            )
        kinds: dict[str, dict[str, Tensor]] = {}
        for name, array in tensors.items():
            kind, _, rest = name.partition("/")
            kinds.setdefault(kind, {})[rest] = torch.from_numpy(array)
        for kind, copies in (("live", self.live), ("good", self.good), ("average", self.average)):
            for i, tensor in enumerate(copies or ()):
                tensor.copy_(kinds[kind][str(i)])
        if "best" in kinds:
            self.best = [kinds["best"][str(i)].to(tensor.device) for i, tensor in enumerate(self.live)]
        self._load_optimizer({name: tensor.numpy() for name, tensor in kinds.get("optimizer", {}).items()})
        record = self.record
        record.history[:] = document["history"]
        record.n_iter, record.n_skipped, record.n_updates, self.n_flat, self.n_failed = document["counters"]
        self.best_value = math.inf if document["best_value"] is None else document["best_value"]

    def _optimizer_arrays(self) -> dict[str, Array]:
        state = self.optimizer.state_dict()["state"]
        return {
            f"{i}/{name}": tensor.cpu().numpy().copy()
            for i, slots in state.items()
            for name, tensor in slots.items()
        }

    def _load_optimizer(self, arrays: dict[str, Array]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, array in arrays.items():
            number, _, slot = name.partition("/")
            state.setdefault(int(number), {})[slot] = torch.tensor(array)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _key(seed: int, *fields: int) -> int:
    """Return a 63-bit key of a seed and integer fields."""
    return int(np.random.SeedSequence((seed, *fields)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _bar(options: TrainingOptions, run: _Run) -> Any:
    if not options.verbose:
        return None
    from tqdm.auto import tqdm

    done = options.max_iter - (run.last - run.record.n_iter)
    return tqdm(total=options.max_iter, initial=done, unit=options.unit, dynamic_ncols=True)
