"""The experiment runner: what it writes, what it refuses, where it continues."""

import csv
import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

HERE = Path(__file__).resolve().parents[2] / "experiments"
CLAIM = """
def rows(config, *, seed, device, fast):
    for method in ("ours", "baseline"):
        if method == config.get("breaks"):
            raise RuntimeError("broken half way")
        value = seed + config["shift"]
        yield {"dataset": "toy", "method": method, "metric": "W1", "value": value, "seconds": 0.5}
"""


@pytest.fixture
def runner(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("experiments_run", HERE / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "config.toml").write_text("shift = 0.25\n")
    (tmp_path / "toy" / "run.py").write_text(CLAIM)
    return module


def results(runner, name="results.csv"):
    with (runner.HERE / "toy" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def run(runner, seeds=(0,), **options):
    return runner.run("toy", seeds=list(seeds), **{"device": "cpu", "fast": False, "again": False, **options})


def test_rows_are_complete_and_sorted(runner):
    run(runner, seeds=(10, 2))
    table = results(runner)
    assert list(table[0]) == list(runner.COLUMNS)
    assert [(row["method"], row["seed"]) for row in table] == [
        ("baseline", "2"), ("baseline", "10"), ("ours", "2"), ("ours", "10"),
    ]  # fmt: skip
    assert table[0]["value"] == "2.25"
    assert "torch=" in table[0]["versions"]
    assert "config=" in table[0]["versions"]


def test_a_complete_seed_is_not_repeated_and_a_new_one_is_merged(runner, capsys):
    path = run(runner)
    before = path.read_bytes()
    run(runner)
    assert path.read_bytes() == before
    assert "complete" in capsys.readouterr().out
    run(runner, seeds=(0, 1))
    assert len(results(runner)) == 4


def test_a_changed_configuration_runs_again_and_replaces(runner):
    run(runner)
    (runner.HERE / "toy" / "config.toml").write_text("shift = 0.5\n")
    run(runner)
    assert {row["value"] for row in results(runner)} == {"0.5"}
    assert len(results(runner)) == 2


def test_a_seed_that_breaks_leaves_no_half_results(runner):
    run(runner, seeds=(7,))
    (runner.HERE / "toy" / "config.toml").write_text('shift = 0.25\nbreaks = "baseline"\n')
    with pytest.raises(RuntimeError, match="half way"):
        run(runner, seeds=(8,))
    assert {row["seed"] for row in results(runner)} == {"7"}


def test_fast_results_stay_apart(runner):
    run(runner, fast=True)
    assert not (runner.HERE / "toy" / "results.csv").exists()
    assert len(results(runner, "results.fast.csv")) == 2


def test_a_row_that_is_not_as_agreed_is_an_error(runner):
    (runner.HERE / "toy" / "run.py").write_text(CLAIM.replace('"metric": "W1", ', ""))
    with pytest.raises(ValueError, match="metric"):
        run(runner)


def test_an_unknown_claim_lists_the_known(runner):
    import typer

    app = typer.Typer()
    app.command()(runner.main)
    result = CliRunner().invoke(app, ["nothing"])
    assert result.exit_code == 2
    assert "toy" in result.output


@pytest.mark.parametrize("path", sorted(HERE.glob("*/config.toml")), ids=lambda path: path.parent.name)
def test_every_claim_has_its_question_its_results_and_its_baselines(path):
    folder = path.parent
    assert (folder / "README.md").is_file()
    assert (folder / "run.py").is_file()
    with (folder / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert table
    assert {row["claim"] for row in table} == {folder.name}
    assert all(float(row["value"]) == float(row["value"]) for row in table), "a result is NaN"
    for dataset in {row["dataset"] for row in table}:
        assert len({row["method"] for row in table if row["dataset"] == dataset}) >= 3, (
            "no baselines beside it"
        )
