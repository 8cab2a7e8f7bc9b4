"""Makefile, pins and the check script agree with the build file."""

import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_direct_dependency_of_a_checked_extra_is_pinned():
    pinned = {canonical(name) for name in PINS}
    wanted = [*PROJECT["dependencies"]]
    for extra in ("sc", "plot", "test", "docs"):
        wanted += [r for r in PROJECT["optional-dependencies"][extra] if not r.startswith("neurosde")]
    missing = {canonical(re.split(r"[<>=\[;! ]", requirement)[0]) for requirement in wanted} - pinned
    assert not missing


def test_torch_is_pinned_without_a_build_tag():
    assert PINS["torch"] == "2.13.0"
    assert not any("+" in version for version in PINS.values())


def test_pins_lie_within_the_ranges():
    from packaging.requirements import Requirement

    version = {canonical(name): pin for name, pin in PINS.items()}
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        assert version[canonical(requirement.name)] in requirement.specifier, line


def test_the_named_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "lint", "docs", "bench", "clean"):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_the_check_script_runs_every_check():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "set -euo pipefail" in text
    for step in ("test", "format", "types", "contracts", "doctest"):
        assert re.search(rf"make\b.* {step}$", text, flags=re.M), step
