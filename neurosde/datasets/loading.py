"""One call that turns a name into a record."""

import hashlib

import numpy as np

from neurosde.data import Series, Snapshots
from neurosde.datasets import cards, files
from neurosde.errors import DataError
from neurosde.typing import Any, Literal, Sequence


def load(
    name: str,
    *,
    into: Literal["record", "table"] = "record",
    parts: Sequence[str] | None = None,
    **options: Any,
) -> Any:
    """Load a dataset by name.

    Simulators run here and now, from ``seed``. Files are looked for in ``$NEUROSDE_DATA``, then in the cache,
    then downloaded where the original has an address; their content is checked against the digest on the
    card.

    Parameters
    ----------
    name : str
        One of `names`.
    into : "record" or "table"
        A `Series` or `Snapshots`; or what a table is to its users: a long DataFrame for series, an AnnData
        for snapshots (with all that the file or package holds, cell types for example).
    parts : sequence of str, optional
        Parts of a set that comes in several files, put together; by default all.
    **options
        Of the dataset's ``simulate`` (``seed=0`` and sizes) or ``read``; the card names them.

    Returns
    -------
    Series, Snapshots, pandas.DataFrame or anndata.AnnData

    Raises
    ------
    DataError
        An unknown name or option, a file that is not here and cannot be fetched (the message says how to get
        it), or content that is not what the card describes.

    Examples
    --------
    >>> load("ornstein_uhlenbeck", n_series=3, n_times=5, seed=1)
    Series(3 series, 15 observations, 1 channels, time ...
    """
    facts, recipe = cards.card(name), cards.recipe(name)
    if into not in ("record", "table"):
        raise DataError(f"into is {into!r}, expected 'record' or 'table'")
    make = recipe.read if facts["source"] == "file" else recipe.simulate
    known = make.__kwdefaults__ or {}
    if unknown := set(options) - set(known):
        raise DataError(
            f"dataset {name!r} has no option {min(unknown)!r}; it has {', '.join(known) if known else 'none'}"
        )
    if facts["source"] == "file":
        chosen = parts if parts is not None else [tidy.get("part") for tidy in facts["tidy"]]
        if not chosen:
            raise DataError("parts is empty, expected at least one part")
        pieces = [_read_checked(name, facts, part, make, options) for part in chosen]
        record = pieces[0] if len(pieces) == 1 else Series.concatenate(pieces)
    elif parts is not None:
        raise DataError(f"parts is {parts!r}, but dataset {name!r} comes whole")
    else:
        record = make(**options)
    if into == "record":
        return record
    if isinstance(record, Series):
        return record.to_long()
    if facts["source"] == "simulator":
        return _anndata(record)
    return recipe.table(files.find(name)) if facts["source"] == "file" else recipe.table(**options)


def digest(record: Series | Snapshots) -> str:
    """A sha256 over the content of a record, whatever file it came from: shapes and little-endian numbers."""
    if isinstance(record, Series):
        fields: dict[str, Any] = {
            name: getattr(record, name) for name in ("ids", "offsets", "time", "channel", "value")
        }
        fields |= {"static": record.static, "names": " ".join(record.channel_names)}
    else:
        fields = {"X": record.X, "time": record.time}
    total = hashlib.sha256()
    for name, field in fields.items():
        array = np.ascontiguousarray(field if field is not None else [])
        array = (
            array.astype(array.dtype.newbyteorder("<")) if array.dtype.kind in "iuf" else array.astype("S")
        )
        total.update(f"{name}{array.dtype.str}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def _read_checked(
    name: str, facts: dict[str, Any], part: str | None, read: Any, options: dict[str, Any]
) -> Any:
    """Read one tidy file and compare its content, as read without options, with the card."""
    path, expected = files.find(name, part), files.entry(name, facts, part)["digest"]
    record = read(path)
    if (found := digest(record)) != expected:
        raise DataError(
            f"{path} does not hold the {name!r} of the card: the digest of its content is {found}, expected"
            f" {expected}; another version or preprocessing, or a damaged file: move it away"
        )
    return read(path, **options) if options else record


def _anndata(record: Snapshots) -> Any:
    import anndata
    import pandas as pd

    cells = pd.Index([f"cell{i}" for i in range(len(record.X))])
    columns = (
        list(record.feature_names)
        if record.feature_names is not None
        else [str(j) for j in range(record.X.shape[1])]
    )
    return anndata.AnnData(
        X=record.X,
        obs=pd.DataFrame({"time": record.time}, index=cells),
        var=pd.DataFrame(index=pd.Index(columns)),
    )
