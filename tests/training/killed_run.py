"""A training run in a process of its own: `killed_run.py DIRECTORY STOP OUT` (see test_checkpoints).

STOP is the call of the loss at which the process kills itself with SIGKILL, or 0. OUT gets the final weights
and the history.
"""

import json
import os
import signal
import sys

import torch

from neurosde.nets import MLP
from neurosde.training import Objective, TrainingOptions, train


class Noisy(Objective):
    """Mean squared error with keyed input noise."""

    n_samples = 40

    def __init__(self, stop):
        generator = torch.Generator().manual_seed(1)
        self.X = torch.randn(40, 3, generator=generator)
        self.y = torch.sin(self.X[:, 0])
        self.stop, self.calls = stop, 0

    def loss(self, module, index, seed):
        self.calls += 1
        if self.calls == self.stop:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(seed)
        x = self.X[index] + 0.1 * torch.randn(len(index), 3, generator=generator)
        return (module(x).squeeze(-1) - self.y[index]).square().mean()

    def fingerprint(self):
        return "noisy"  # the stop is no part of the run


def main():
    directory, stop, out = sys.argv[1:]
    module = MLP(3, 1, hidden=8, generator=torch.Generator().manual_seed(0))
    options = TrainingOptions(
        max_iter=30, learning_rate=0.02, batch_size=8, early_stopping=True, n_iter_no_change=30,
        schedule="cosine", ema=0.9, checkpoint=directory or None, checkpoint_every=0,
    )  # fmt: skip
    objective = Noisy(int(stop))
    record = train(module, objective, options, seed=11)
    weights = {name: tensor.double().flatten().tolist() for name, tensor in module.state_dict().items()}
    with open(out, "w") as file:
        json.dump({"weights": weights, "history": record.history, "calls": objective.calls}, file)


if __name__ == "__main__":
    main()
