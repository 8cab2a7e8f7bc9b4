"""What a training run minimises, and what it leaves behind."""

import abc
import dataclasses

from torch import nn

from neurosde.files import fingerprint
from neurosde.typing import Any, Array, NamedTuple, Tensor

__all__ = ["Objective", "Penalised", "TrainingRecord"]


class Penalised(NamedTuple):
    """A mean loss and a penalty on the same batch, both differentiable scalars.

    The loop minimises ``loss + weight * penalty`` with the `penalty_weight` of the options, and reports the
    two apart.
    """

    loss: Tensor
    penalty: Tensor


class Objective(abc.ABC):
    """What an estimator wants minimised; it holds its data.

    Attributes
    ----------
    n_samples : int
        Number of samples that an index may name.
    """

    n_samples: int

    @abc.abstractmethod
    def loss(self, module: nn.Module, index: Tensor, seed: int) -> Tensor | Penalised:
        """Mean loss over some samples.

        Parameters
        ----------
        module
            The module in training.
        index
            (sample,) int64 on the CPU: the samples of this batch.
        seed
            Key of any noise: the same seed gives the same loss.

        Returns
        -------
        Tensor or Penalised
            A differentiable scalar, with a penalty or without. A non-finite one (or a `SolveError`) makes the
            loop skip the batch.
        """

    def score(self, module: nn.Module, index: Tensor) -> float:
        """Held-back score, lower is better: the loss under one fixed seed unless a subclass knows better.

        A penalty is no part of it.
        """
        loss = self.loss(module, index, 0)
        return (loss.loss if isinstance(loss, Penalised) else loss).item()

    def fingerprint(self) -> str:
        """Digest of the data, by which a checkpoint knows its own run."""
        return fingerprint(type(self).__qualname__, vars(self))


@dataclasses.dataclass
class TrainingRecord:
    """What a run has done so far; `train` fills it in place, so that it also tells of a run that raised.

    Attributes
    ----------
    history : list of dict
        One JSON-able row a report: iteration, loss, learning_rate, gradient_norm, skipped; penalty and
        penalty_weight where there is a penalty (the loss is then without it); score where samples are held
        back.
    n_iter : int
        Iterations run.
    n_skipped : int
        Batches that were skipped for a non-finite loss or gradient.
    n_updates : int
        Updates of the weights.
    stopped : str
        "running", "max_iter", "no improvement", "interrupted" or "not converged".
    optimizer : dict of str to ndarray
        State of the optimiser, for a run that goes on (`partial_fit`).
    """

    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    n_iter: int = 0
    n_skipped: int = 0
    n_updates: int = 0
    stopped: str = "running"
    optimizer: dict[str, Array] = dataclasses.field(default_factory=dict)
