"""The command line: what it prints and writes, and that mistakes are sentences."""

import csv

import pytest
from typer.testing import CliRunner

from neurosde import datasets
from neurosde.cli import app
from neurosde.errors import DataError


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def is_a_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 20_000


@pytest.fixture(scope="module")
def stays(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "stays.csv"
    table = datasets.load("icu_panel", n_series=24, seed=5, into="table")
    table.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def out(stays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecast")
    options = ("--history", 24, "--horizon", 24, "--start", "zero", "--max-iter", 1, "--out", folder)
    return folder, run("forecast", stays, *options)


class TestForecast:
    def test_prints_the_model_beside_its_baselines(self, out):
        _, text = out
        for name in (
            "LastValue",
            "PatientMean",
            "ShrunkForecaster",
            "RidgeForecaster",
            "NeuralSDEForecaster",
        ):
            assert name in text
        assert "24 to 48 h" in text

    def test_writes_scores_forecasts_a_picture_and_a_model(self, out):
        folder, _ = out
        scores = rows(folder / "scores.csv")
        assert scores[0] == ["method", "MSE", "macro MSE", "MAE", "CRPS", "90% coverage"]
        assert len(scores) == 6
        assert all(0 < float(x) < 50 for row in scores[1:] for x in row[1:])
        head, *body = rows(folder / "forecasts.csv")
        assert head == ["id", "time", "variable", "predicted", "lower", "upper", "observed"]
        assert all(24 <= float(row[1]) <= 48 for row in body)
        assert all(float(row[4]) <= float(row[5]) for row in body)
        assert is_a_picture(folder / "forecast.png")

    def test_the_model_can_be_asked_what_it_is(self, out):
        folder, _ = out
        text = run("info", folder / "forecaster.safetensors")
        assert text.startswith("NeuralSDEForecaster, written by neurosde")
        assert "history = 24" in text

    def test_clocks_that_start_at_the_first_observation_do_not_see_the_origin(self, stays, tmp_path):
        import pandas as pd

        shifted = pd.read_csv(stays)
        shifted["time"] += 1000 * (1 + shifted["id"] % 3)
        shifted.to_csv(tmp_path / "shifted.csv", index=False)
        scores = []
        for name, file in (("a", stays), ("b", tmp_path / "shifted.csv")):
            run("forecast", file, "--history", 20, "--horizon", 20, "--max-iter", 1, "--out", tmp_path / name)
            scores.append([[float(x) for x in row[1:]] for row in rows(tmp_path / name / "scores.csv")[1:]])
        for a, b in zip(*scores, strict=True):
            assert a == pytest.approx(b, rel=1e-3)


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    datasets.load("krumsiek11", into="table").write_h5ad(path)
    return path


class TestBridge:
    def test_prints_and_writes_the_bridge_beside_what_anybody_would_predict(self, cells, tmp_path):
        options = ("--time-key", "time", "--leave-out", "4,6", "--max-iter", 20, "--out", tmp_path)
        text = run("bridge", cells, *options)
        assert "time = 4, 6" in text
        head, *body = rows(tmp_path / "scores.csv")
        assert head == ["method", "W1", "W2"]
        names = [row[0] for row in body]
        assert names == ["copy previous", "copy next", "pool", "exact OT", "light bridge", "split halves"]
        assert all(name in text for name in names)
        assert all(0 < float(row[1]) <= float(row[2]) for row in body)
        assert len(rows(tmp_path / "validation.csv")) == 1 + 2 * len(names)
        assert is_a_picture(tmp_path / "trajectories.png")
        assert is_a_picture(tmp_path / "validation.png")
        assert "LightSchrodingerBridge" in run("info", tmp_path / "bridge.safetensors")

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            (("--time-key", "day"), ["day", "time"]),
            (("--time-key", "cell_type"), ["cell_type", "progenitor"]),
            (("--time-key", "time", "--use-rep", "X_umap"), ["X_umap", "X_pca"]),
            (("--time-key", "time", "--leave-out", "9"), ["9", "inner"]),
            (("--time-key", "time", "--leave-out", "soon"), ["soon", "numbers"]),
            (("--time-key", "time", "--max-iter", -1), ["max_iter"]),
        ],
    )
    def test_mistakes_name_what_is_wrong_and_what_there_is(self, cells, tmp_path, option, words):
        text = run("bridge", cells, *option, "--out", tmp_path / "out", code=2)
        assert all(word in text for word in words), text
        assert "Traceback" not in text
        assert not (tmp_path / "out").exists()


class TestDemo:
    def test_scores_pictures_and_models(self, tmp_path, capsys):
        from neurosde.demo import run as demo

        bridge, forecast = demo(tmp_path, fast=True)
        printed = capsys.readouterr().out
        assert bridge.text() in printed
        assert forecast.text() in printed
        assert [name for name, _ in bridge.rows][4] == "light bridge"
        assert [name for name, _ in forecast.rows][-1] == "NeuralSDEForecaster"
        pictures = [path for path in (*bridge.files, *forecast.files) if path.suffix == ".png"]
        assert len(pictures) == 3
        assert all(is_a_picture(path) for path in pictures)
        models = [path for path in (*bridge.files, *forecast.files) if path.suffix == ".safetensors"]
        assert all("written by neurosde" in run("info", path) for path in models)

    @pytest.mark.slow
    def test_beats_its_trivial_baselines(self, tmp_path):
        from neurosde.demo import run as demo

        bridge, forecast = (dict(report.rows) for report in demo(tmp_path))
        for name in ("copy previous", "copy next", "pool"):
            assert bridge["light bridge"][0] < bridge[name][0]
        assert bridge["light bridge"][0] < 1.05 * bridge["exact OT"][0]
        ours = forecast.pop("NeuralSDEForecaster")
        assert all(ours[k] < scores[k] for scores in forecast.values() for k in range(4))
        assert 0.88 < ours[4] < 0.92


class TestDatasets:
    def test_lists_every_dataset(self):
        text = run("datasets")
        assert all(name in text for name in datasets.names())

    @pytest.mark.parametrize("name", datasets.names())
    def test_prints_a_card(self, name):
        text = run("datasets", name)
        assert datasets.card(name)["title"] in text
        assert datasets.card(name)["licence"] in text


class TestMistakesAreSentences:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("datasets", "imagenet"), ["imagenet", "icu_panel"]),
            (("info", "nothing.safetensors"), ["nothing.safetensors", "No such file"]),
            (("info", __file__), ["test_commands.py"]),
            (("forecast", "nothing.csv", "--history", 1, "--horizon", 1), ["nothing.csv"]),
            (("forecast", __file__, "--history", 1, "--horizon", 1), [".csv"]),
        ],
    )
    def test_with_exit_code_two_and_no_traceback(self, arguments, words):
        text = run(*arguments, code=2)
        assert all(word in text for word in words)
        assert "Traceback" not in text
        assert text.startswith("error: ")

    def test_a_missing_column_is_named(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("id,when,variable,value\n1,0.0,HR,80\n")
        text = run("forecast", path, "--history", 1, "--horizon", 1, code=2)
        assert "'time'" in text
        assert "when" in text

    def test_too_few_series_are_counted(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("id,time,variable,value\n1,0.0,HR,80\n1,2.0,HR,81\n")
        assert "1 series cannot be divided" in run("forecast", path, "--history", 1, "--horizon", 1, code=2)

    def test_wrong_columns_are_a_usage_error(self, stays):
        text = run("forecast", stays, "--history", 1, "--horizon", 1, "--columns", "id,time", code=2)
        assert "four" in text

    def test_debug_lets_the_exception_through(self):
        result = CliRunner().invoke(app, ["--debug", "datasets", "imagenet"])
        assert isinstance(result.exception, DataError)

    def test_ctrl_c_stops_quietly(self, monkeypatch):
        def interrupted():
            raise KeyboardInterrupt

        monkeypatch.setattr("neurosde.datasets.names", interrupted)
        assert run("datasets", code=130).strip() == "stopped"


def test_version():
    import neurosde

    assert run("--version").strip() == f"neurosde {neurosde.__version__}"


def test_the_module_is_the_command():
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "neurosde", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("neurosde ")
