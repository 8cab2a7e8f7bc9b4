"""Where the files of a dataset are: in $NEUROSDE_DATA, in the cache, or still to be fetched."""

import contextlib
import os
import tempfile
from pathlib import Path

from neurosde.datasets import cards
from neurosde.errors import DataError
from neurosde.typing import Any

DATA = "NEUROSDE_DATA"


def cache(name: str) -> Path:
    """The folder in which downloaded and prepared files of a dataset are kept."""
    import pooch

    return Path(pooch.os_cache("neurosde")) / name


def find(name: str, part: str | None = None) -> Path:
    """Find the tidy file of a dataset, fetching and preparing it where that is possible.

    Looks in the folder named by ``$NEUROSDE_DATA``, then in the cache; then takes the original files from
    ``<cache>/<name>/raw`` (where a user can put them), downloads those that are missing and have an address,
    and prepares the tidy file from them. A download whose sha256 the card knows is checked against it, the
    rest by the digest of the prepared content when it is loaded.

    Parameters
    ----------
    name : str
        One of `names`, a dataset made of files.
    part : str, optional
        One of the parts on the card ("a" and "b" for PhysioNet 2012); by default the first.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    DataError
        If the dataset has no file, or it is not here and cannot be fetched: the message says how to get it.
    """
    facts = cards.card(name)
    tidy = entry(name, facts, part)
    folder = os.environ.get(DATA)
    for path in ([Path(folder) / tidy["file"]] if folder else []) + [cache(name) / Path(tidy["file"]).name]:
        if path.is_file():
            return path
    raw = cache(name) / "raw"
    needed = [r for r in facts.get("raw", []) if r.get("part", tidy.get("part")) == tidy.get("part")]
    try:
        for file in needed:
            _fetch(file, raw)
    except (OSError, ValueError) as error:
        raise DataError(_how_to_get(name, facts, tidy, raw, error)) from error
    if not needed:
        raise DataError(_how_to_get(name, facts, tidy, raw, None))
    target = cache(name) / Path(tidy["file"]).name
    with _whole_or_nothing(target) as unfinished:
        cards.recipe(name).prepare(raw, unfinished, **({"part": tidy["part"]} if "part" in tidy else {}))
    return target


def entry(name: str, facts: dict[str, Any], part: str | None) -> dict[str, Any]:
    """The card's entry of one tidy file."""
    if "tidy" not in facts:
        raise DataError(f"dataset {name!r} is made by a {facts['source']}, it has no file; load it")
    for tidy in facts["tidy"]:
        if part is None or tidy.get("part") == part:
            return tidy
    parts = [tidy["part"] for tidy in facts["tidy"] if "part" in tidy]
    raise DataError(f"part is {part!r}, dataset {name!r} has {', '.join(parts) if parts else 'no parts'}")


def _fetch(file: dict[str, Any], raw: Path) -> None:
    """Put one original file into ``raw`` unless it is there."""
    import pooch

    if (raw / file["file"]).is_file():
        return
    if "url" not in file:
        raise FileNotFoundError(f"{file['file']} has no address to download from")
    raw.mkdir(parents=True, exist_ok=True)
    known = f"sha256:{file['sha256']}" if "sha256" in file else None
    pooch.retrieve(file["url"], known_hash=known, fname=file["file"], path=raw, progressbar=False)


@contextlib.contextmanager
def _whole_or_nothing(target: Path):
    """A name in the same folder that becomes ``target`` when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / target.name
        yield unfinished
        os.replace(unfinished, target)


def _how_to_get(
    name: str, facts: dict[str, Any], tidy: dict[str, Any], raw: Path, error: Exception | None
) -> str:
    folder, file = os.environ.get(DATA), tidy["file"]
    given = str(Path(folder) / file) if folder else f"${DATA}/{file} (${DATA} is not set)"
    lines = [
        f"dataset {name!r} is not on this machine: looked for {given}",
        f"and {cache(name) / Path(file).name}.",
        facts["how_to_get"].strip(),
    ]
    if facts.get("raw"):
        lines.append(f"Originals that were downloaded by hand go into {raw}.")
    if error is not None:
        lines.append(f"Downloading failed: {error}")
    return "\n".join(lines)
