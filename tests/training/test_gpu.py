"""The loop on an accelerator."""

import pytest
import torch

from neurosde.training import TrainingOptions, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


def weights(module):
    return torch.cat([p.detach().flatten().cpu() for p in module.parameters()])


def test_the_gpu_gives_the_weights_of_the_cpu(network, data, squares_class):
    X, y = data
    options = TrainingOptions(max_iter=20, batch_size=16, ema=0.9, early_stopping=True)
    here, there = network(), network().cuda()
    train(here, squares_class(X, y), options, seed=0)
    train(there, squares_class(X.cuda(), y.cuda()), options, seed=0)
    torch.testing.assert_close(weights(there), weights(here), rtol=1e-9, atol=1e-12)


def test_a_checkpoint_of_the_gpu_goes_on_on_the_cpu(network, data, squares_class, tmp_path):
    X, y = data
    options = TrainingOptions(max_iter=20, batch_size=16, checkpoint=tmp_path, checkpoint_every=0)
    there = network().cuda()
    train(there, squares_class(X.cuda(), y.cuda()), options, seed=0)
    here = network()
    record = train(here, squares_class(X, y), options, seed=0)
    assert torch.equal(weights(here), weights(there))
    assert record.n_iter == 20
