"""Run one claim and write its results: `python experiments/run.py CLAIM --seed 0 --seed 1 --device cpu`.

A claim is a folder with a `config.toml` and a `run.py` whose `rows(config, *, seed, device, fast)` yields
dictionaries `dataset, method, metric, value, seconds`. Everything else stands here: seeds, versions, merging,
resuming.
"""

import contextlib
import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
COLUMNS: tuple[str, ...] = (
    "claim",
    "dataset",
    "method",
    "seed",
    "metric",
    "value",
    "seconds",
    "device",
    "versions",
)
KEY = ("claim", "dataset", "method", "seed", "metric")
YIELDED = {"dataset", "method", "metric", "value", "seconds"}
Row = dict[str, str]


def claims() -> list[str]:
    """Folders that hold an experiment."""
    return sorted(path.parent.name for path in HERE.glob("*/config.toml"))


def load_claim(claim: str) -> tuple[dict[str, Any], Callable[..., Iterator[dict[str, Any]]]]:
    """The configuration of a claim and its `rows`."""
    folder = HERE / claim
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location(f"experiment_{claim}", folder / "run.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return config, module.rows


def versions(config: dict[str, Any]) -> str:
    """What the numbers depend on: versions of the packages, and a hash of the configuration."""
    packages = " ".join(
        f"{name}={importlib.metadata.version(name)}" for name in ("neurosde", "torch", "numpy")
    )
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    return f"{packages} python={platform.python_version()} config={digest}"


def read(path: Path) -> list[Row]:
    """Rows of a results file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[Row]) -> None:
    """Write rows sorted by key, all or nothing."""

    def order(row: Row) -> tuple[str | int, ...]:
        return tuple(int(row[k]) if k == "seed" else row[k] for k in KEY)

    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=order))
    os.replace(unfinished, path)


def merge(old: list[Row], new: list[Row]) -> list[Row]:
    """Old rows with those replaced that were measured again."""
    table = {tuple(row[k] for k in KEY): row for row in [*old, *new]}
    return list(table.values())


def complete(rows: list[Row], seed: int, stamp: str, device: str) -> bool:
    """Whether a seed has been run with these versions, this configuration and this device.

    A seed's rows reach the results file together, when it has ended: one of them stands for all.
    """
    return any((row["seed"], row["versions"], row["device"]) == (str(seed), stamp, device) for row in rows)


def measure(
    claim: str, rows: Iterator[dict[str, Any]], *, seed: int, device: str, stamp: str
) -> Iterator[Row]:
    """Add what the runner knows to what a claim yields; a row that is not as agreed is an error."""
    for row in rows:
        if set(row) != YIELDED:
            raise ValueError(f"{claim} yielded the fields {sorted(row)}, expected {sorted(YIELDED)}")
        yield {
            "claim": claim,
            "dataset": str(row["dataset"]),
            "method": str(row["method"]),
            "seed": str(seed),
            "metric": str(row["metric"]),
            "value": f"{float(row['value']):.6g}",
            "seconds": f"{float(row['seconds']):.2f}",
            "device": device,
            "versions": stamp,
        }


def run(
    claim: str, *, seeds: list[int], device: str, fast: bool, again: bool, out: Path | None = None
) -> Path:
    """Run the seeds that are not complete and merge their rows into the results file."""
    config, rows = load_claim(claim)
    stamp = versions(config)
    path = out or HERE / claim / ("results.fast.csv" if fast else "results.csv")
    for seed in seeds:
        if complete(read(path), seed, stamp, device) and not again:
            print(f"{claim} seed {seed}: complete, nothing to do (--again repeats it)")
            continue
        began, new = time.perf_counter(), []
        with contextlib.closing(tqdm(desc=f"{claim} seed {seed}", unit="row", file=sys.stderr)) as bar:
            for row in measure(
                claim,
                rows(config, seed=seed, device=device, fast=fast),
                seed=seed,
                device=device,
                stamp=stamp,
            ):
                new.append(row)
                bar.update()
                bar.set_postfix_str(f"{row['dataset']} {row['method']} {row['metric']}={row['value']}")
        write(path, merge(read(path), new))
        print(f"{claim} seed {seed}: {len(new)} rows in {time.perf_counter() - began:.0f} s -> {path}")
    return path


def main(
    claim: Annotated[str, typer.Argument(help="Folder of the claim, or 'list'.")],
    seed: Annotated[list[int], typer.Option(help="Repeat for several seeds.")] = [0],  # noqa: B006  typer copies it
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    fast: Annotated[bool, typer.Option("--fast", help="Small sizes, written to results.fast.csv.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Repeat seeds that are complete.")] = False,
) -> None:
    """Run a claim and write its results.csv."""
    if claim == "list":
        print("\n".join(claims()))
        return
    if claim not in claims():
        raise typer.BadParameter(f"no claim {claim!r}; there are {', '.join(claims()) or 'none yet'}")
    run(claim, seeds=seed, device=device, fast=fast, again=again)


if __name__ == "__main__":
    typer.run(main)
