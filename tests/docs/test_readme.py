"""What the README and the pages tell a newcomer to type is what works."""

import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neurosde import datasets
from neurosde.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "experiments" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """Lines of the shell blocks, without their comments."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs_from_top_to_bottom(folder):
    python = blocks(ROOT / "README.md", "python")
    assert len(python) >= 3
    namespace: dict[str, object] = {}
    for block in python:
        exec(compile(block, "README.md", "exec"), namespace)
    assert (folder / "forecaster.safetensors").is_file()
    assert namespace["solution"].ys.shape == (1000, 3, 1)
    assert namespace["intervals"].shape == (len(namespace["future"].time), 2)


def test_the_commands_of_the_readme_run_one_after_the_other(folder):
    datasets.load("icu_panel", n_series=24, into="table").to_csv("stays.csv", index=False)
    datasets.load("krumsiek11", into="table").write_h5ad("cells.h5ad")
    ours = [words[1:] for words in commands(ROOT / "README.md") if words[0] == "neurosde"]
    assert {words[0] for words in ours} == {"datasets", "bridge", "forecast", "info"}
    for words in ours:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, (words, result.output)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_exists_with_its_options(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for words in commands(page):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, flags=re.M), words
        elif words[0] == "neurosde":
            text = CliRunner().invoke(app, [words[1], "--help"]).output
            assert all(word in text for word in words if word.startswith("--")), words
        elif words[:2] == ["pip", "install"]:
            extras = re.findall(r"\[(.*?)\]", " ".join(words))
            assert all(e in project["optional-dependencies"] for group in extras for e in group.split(",")), (
                words
            )
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), words
        else:
            assert words[0] == ".ci/run", words
            assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_the_changelog_names_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    import neurosde

    assert neurosde.__version__ == version
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^## \[", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.M)
