"""Cards: what a dataset is, where it comes from, under which licence, and which traps it holds."""

import functools
import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

from neurosde.errors import DataError
from neurosde.typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]


@functools.cache
def catalogue() -> Path:
    """The folder of cards: inside the wheel, or at the top of the repository in an editable install."""
    for folder in (_PACKAGE / "_catalogue", _PACKAGE.parent / "datasets"):
        if any(folder.glob("*/card.toml")):
            return folder
    raise DataError(
        f"no dataset cards beside {_PACKAGE}: the installation is incomplete, install neurosde again"
    )


def names() -> tuple[str, ...]:
    """Names of all datasets, sorted.

    Examples
    --------
    >>> "icu_panel" in names()
    True
    """
    return tuple(sorted(path.parent.name for path in catalogue().glob("*/card.toml")))


def card(name: str) -> dict[str, Any]:
    """Read the card of a dataset.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    dict
        ``title``, ``kind`` ("series" or "snapshots"), ``source`` ("simulator", "package" or "file"),
        ``description``, ``licence``, ``citation``, ``time_unit``, ``shape``, ``split``, ``traps``; for files
        also ``tidy`` (the parts with the digest of their content), ``raw`` (the original files) and
        ``how_to_get``.

    Raises
    ------
    DataError
        If there is no such dataset.

    Examples
    --------
    >>> card("ornstein_uhlenbeck")["kind"]
    'series'
    """
    return tomllib.loads((_folder(name) / "card.toml").read_text(encoding="utf-8"))


def recipe(name: str) -> ModuleType:
    """The module ``prepare.py`` of a dataset.

    A simulator or a set inside a package has ``simulate(**options)``; a set of files has ``read(tidy,
    **options)`` and, where the originals can be had, ``prepare(raw, tidy)``. Snapshots that are not simulated
    here also have ``table``, with the same arguments, for the AnnData with all that the source holds.
    """
    path = _folder(name) / "prepare.py"
    spec = importlib.util.spec_from_file_location(f"neurosde_catalogue_{name}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"dataset {name!r} has no readable {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _folder(name: str) -> Path:
    if name not in names():
        raise DataError(f"name is {name!r}, expected one of {', '.join(names())}")
    return catalogue() / name
