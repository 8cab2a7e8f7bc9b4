"""Kill and resume is bit-identical; a checkpoint of another run, or a damaged one, is refused."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neurosde.errors import CheckpointError, DataError
from neurosde.files import read_file, write_file
from neurosde.training import TrainingOptions, TrainingRecord, train

SCRIPT = Path(__file__).with_name("killed_run.py")


def start(directory, stop, out) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(SCRIPT), str(directory), str(stop), str(out)])


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.fixture
def options(tmp_path):
    return TrainingOptions(
        max_iter=6, batch_size=16, early_stopping=True, checkpoint=tmp_path / "runs", checkpoint_every=0
    )


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """Result of a run in a process that was never killed and kept no checkpoint."""
    out = tmp_path_factory.mktemp("plain") / "out.json"
    process = start("", 0, out)

    def result():
        assert process.wait() == 0
        return json.loads(out.read_text())

    yield result
    process.kill()


def test_killed_and_resumed_is_bit_identical_to_never_killed(plain_run, tmp_path):
    """SIGKILL in the middle of epoch 8 of 30; an epoch is 5 batches and a held-back score."""
    killed = start(tmp_path / "runs", 44, tmp_path / "never.json")
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "never.json").exists()
    assert start(tmp_path / "runs", 0, tmp_path / "resumed.json").wait() == 0
    plain, resumed = plain_run(), json.loads((tmp_path / "resumed.json").read_text())
    assert resumed["weights"] == plain["weights"]
    assert resumed["history"] == plain["history"]
    assert resumed["calls"] == plain["calls"] - 7 * 6  # it did go on, not start anew


def test_two_processes_share_a_directory(plain_run, tmp_path):
    """Equal runs write the same name at once; both end with the result of a run alone."""
    outs = [tmp_path / f"{i}.json" for i in range(2)]
    processes = [start(tmp_path / "runs", 0, out) for out in outs]
    assert [process.wait() for process in processes] == [0, 0]
    weights = [json.loads(out.read_text())["weights"] for out in outs]
    assert weights[0] == weights[1] == plain_run()["weights"]
    assert len(list((tmp_path / "runs").iterdir())) == 1  # and no temporary file is left


def test_runs_that_differ_in_anything_have_files_of_their_own(network, squares, squares_class, options, data):
    X, y = data
    train(network(), squares, options, seed=0)
    train(network(), squares, options, seed=1)
    train(network(1), squares, options, seed=0)
    train(network(), squares_class(X, y + 1e-12, noise=0.1), options, seed=0)
    train(network(), squares, dataclasses.replace(options, learning_rate=1e-4), seed=0)
    train(network(), squares, options, seed=0, groups=torch.arange(60).numpy() // 2)
    files = list(options.checkpoint.iterdir())
    assert len(files) == 6
    train(network(), squares, dataclasses.replace(options, verbose=0, checkpoint_every=1.0), seed=0)
    assert sorted(options.checkpoint.iterdir()) == sorted(files)


def test_a_finished_run_is_not_repeated(network, squares, options, monkeypatch):
    first, again = network(), network()
    record = train(first, squares, options, seed=0)
    monkeypatch.delattr(type(squares), "loss")
    repeated = train(again, squares, options, seed=0)
    assert torch.equal(weights(first), weights(again))
    assert repeated.history == record.history


def test_resume_false_starts_anew(network, squares, options):
    train(network(), squares, options, seed=0)
    record = train(network(), squares, options, seed=0, resume=False)
    assert record.n_updates == 4 * 6


def test_a_given_checkpoint_must_be_of_this_run(network, squares, options):
    train(network(), squares, options, seed=0)
    (path,) = options.checkpoint.iterdir()
    record = train(network(), squares, dataclasses.replace(options, checkpoint=None), seed=0, resume=path)
    assert record.n_iter == 6
    for seed, module in ((1, network()), (0, network(5))):
        with pytest.raises(CheckpointError, match="another run: data, settings, seed or initial weights"):
            train(module, squares, options, seed=seed, resume=path)


def test_a_renamed_checkpoint_does_not_pass_for_another_run(network, squares, options):
    train(network(), squares, options, seed=0)
    (mine,) = options.checkpoint.iterdir()
    train(network(), squares, options, seed=1)
    (other,) = set(options.checkpoint.iterdir()) - {mine}
    mine.rename(other)
    module = network()
    with pytest.raises(CheckpointError, match="another run"):
        train(module, squares, options, seed=1)
    assert torch.equal(weights(module), weights(network()))  # refused before anything was changed


def test_a_model_file_or_a_later_schema_is_no_checkpoint(network, squares, options):
    train(network(), squares, options, seed=0)
    (path,) = options.checkpoint.iterdir()
    tensors, document = read_file(path)
    for change in ({"kind": "model"}, {"schema": 99}):
        write_file(path, tensors, document | change)
        with pytest.raises(CheckpointError, match="no training checkpoint of schema 1"):
            train(network(), squares, options, seed=0)


def test_a_damaged_checkpoint_is_refused(network, squares, options):
    train(network(), squares, options, seed=0)
    (path,) = options.checkpoint.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        train(network(), squares, options, seed=0)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="digest"):
        train(network(), squares, options, seed=0)


def test_the_checkpoint_is_readable_without_pickle(network, squares, options):
    from safetensors import numpy as safetensors_numpy

    train(network(), squares, options, seed=0)
    (path,) = options.checkpoint.iterdir()
    names = {name.split("/")[0] for name in safetensors_numpy.load_file(path)}
    assert names == {"live", "good", "best", "optimizer"}


def test_a_directory_that_cannot_be_made_is_named(network, squares, tmp_path):
    (tmp_path / "file").write_text("")
    options = TrainingOptions(max_iter=1, checkpoint=tmp_path / "file" / "runs")
    with pytest.raises(DataError, match=r"checkpoint=.*not a usable directory"):
        train(network(), squares, options, seed=0)


def test_ctrl_c_leaves_the_checkpoint_intact(network, squares, options, monkeypatch):
    expected, module = network(), network()
    whole = train(expected, squares, dataclasses.replace(options, checkpoint=None), seed=0)
    original, calls = type(squares).loss, []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 23:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(type(squares), "loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(network(), squares, options, seed=0)
    monkeypatch.undo()
    record = train(module, squares, options, seed=0)
    assert torch.equal(weights(module), weights(expected))
    assert record.history == whole.history


def test_a_continued_run_has_checkpoints_of_its_own(network, squares, options):
    """`partial_fit` twice with one directory: the second run must not take up the first's file."""
    plain, kept = network(), network()
    expected = TrainingRecord()
    record = TrainingRecord()
    for _ in range(2):
        train(plain, squares, dataclasses.replace(options, checkpoint=None), seed=0, record=expected)
        train(kept, squares, options, seed=0, record=record)
    assert torch.equal(weights(plain), weights(kept))
    assert record.history == expected.history
    assert record.n_iter == 12
