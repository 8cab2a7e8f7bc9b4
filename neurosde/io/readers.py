"""Series from files."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from neurosde.data import Series, columns
from neurosde.errors import DataError
from neurosde.typing import Array


def read_series(
    path: str | os.PathLike[str], id: str = "id", time: str = "time", variable: str = "variable",
    value: str = "value", static: Any = None, *, time_unit: str = "h",
) -> Series:  # fmt: skip
    r"""Read series from a table in a file.

    Parameters
    ----------
    path : str or path
        ``.csv``, ``.tsv``, ``.parquet``, each perhaps with a compression suffix that pandas knows
        (``.csv.gz``), or ``.ts``, see `read_ts`.
    id, time, variable, value, static
        Columns, see `Series.from_long`. A table with neither ``variable`` nor ``value`` is read as a wide
        one: every other column is a channel. Times that are text are read as dates.
    time_unit : str

    Raises
    ------
    DataError
        An unknown suffix, an empty file, a missing column (the message lists those that are there), text
        among the values.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "stays.csv"
    ...     _ = path.write_text("id,time,HR,pH\n7,0.5,80,7.4\n7,1.0,82,\n")
    ...     read_series(path)
    Series(1 series, 3 observations, 2 channels, time 0.5 to 1.0 h)
    """
    path = Path(path)
    if path.suffix == ".ts":
        return read_ts(path)
    df = _read_table(path)
    if time in df and df[time].dtype == object:
        df = df.assign(**{time: _dates(df[time], f"{path.name}: column {time!r}")})
    if id in df and time in df and variable not in df and value not in df:
        return Series.from_wide(df, id, time, static=static, time_unit=time_unit)
    return Series.from_long(df, id, time, variable, value, static, time_unit=time_unit)


def _read_table(path: Path) -> Any:
    import pandas as pd

    suffixes = [suffix for suffix in path.suffixes if suffix in (".csv", ".tsv", ".parquet", ".pq")]
    if not suffixes:
        raise DataError(f"path: {path.name} is none of .csv, .tsv, .parquet, .ts")
    try:
        if suffixes[-1] in (".parquet", ".pq"):
            return pd.read_parquet(path)
        return pd.read_csv(path, sep="\t" if suffixes[-1] == ".tsv" else ",")
    except ImportError as error:
        raise DataError(f"path: {path.name} needs pyarrow or fastparquet: pip install pyarrow") from error
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"path: {path.name} is not a table ({error})") from error


def _dates(column: Any, argument: str) -> Any:
    import pandas as pd

    dates = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    if dates.isna().any():
        row = columns.first(np.asarray(dates.isna()))
        raise DataError(
            f"{argument}, row {row}, is {column.iloc[row]!r}, expected a number or a date such as 2024-01-31"
        )
    return dates


def read_ts(path: str | os.PathLike[str]) -> Series:
    r"""Read a file of the UEA and UCR archives: equal or unequal lengths, with or without time stamps.

    A line is one series: channels between colons, values between commas (or ``(time,value)`` pairs), the
    label at the end, ``?`` or ``NaN`` for missing. Without time stamps steps are counted from 0.

    Returns
    -------
    Series
        Labels are integers if all of them read as integers, else strings.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "toy.ts"
    ...     _ = path.write_text("@classLabel true a b\n@data\n1,2,3:4,?,6:a\n7:8:b\n")
    ...     read_ts(path).labels.tolist()
    ['a', 'b']
    """
    header: dict[str, str] = {}
    blocks, labels, begun = [], [], False
    with open(path, encoding="utf-8") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.strip()
            if not line or line.startswith("#"):
                continue
            if not begun:
                key, _, rest = line.partition(" ")
                header[key.lower()] = rest.strip()
                begun = key.lower() == "@data"
                continue
            cells = line.split(":")
            if header.get("@classlabel", "false").lower().startswith("true"):
                labels.append(cells.pop())
            if blocks and len(cells) != len(blocks[0]):
                raise DataError(
                    f"{path}, line {number}: {len(cells)} channels, the first series has {len(blocks[0])}"
                )
            try:
                blocks.append([_channel(cell) for cell in cells])
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error
    if not blocks:
        raise DataError(f"{path} holds 0 series: there is no line after @data")
    counts = [len(time) for channels in blocks for time, _ in channels]
    width = len(blocks[0])
    owner = np.repeat(np.arange(len(blocks) * width), counts)
    table = {
        "id": owner // width,
        "time": np.concatenate([time for channels in blocks for time, _ in channels]),
        "variable": owner % width,
        "value": np.concatenate([value for channels in blocks for _, value in channels]),
    }
    series = Series.from_long(table, time_unit="step")
    return series.replace(labels=_labels(labels)) if labels else series


def _channel(cell: str) -> tuple[Array, Array]:
    """Times and values of one channel of one series."""
    if cell.startswith("("):
        pairs = [pair.split(",") for pair in cell.strip("()").split("),(")]
        return np.array([float(t) for t, _ in pairs]), np.array([_value(v) for _, v in pairs])
    values = np.array([_value(v) for v in cell.split(",")])
    return np.arange(len(values), dtype=np.float64), values


def _value(text: str) -> float:
    return np.nan if text.strip() == "?" else float(text)


def _labels(words: list[str]) -> Array:
    try:
        return np.array([int(word) for word in words])
    except ValueError:
        return np.array(words)


def read_physionet2012(path: str | os.PathLike[str], *, outcome: str = "In-hospital_death") -> Series:
    """Read a set of the PhysioNet/CinC Challenge 2012 from its tidy array file.

    Times are hours since admission, static covariates Age, Gender, Height, ICUType and Weight (-1 becomes
    NaN), and the label is one of the outcomes. Repeated readings and impossible values are kept as they were
    recorded; ten of the 8,000 stays have no observation.

    Parameters
    ----------
    path : str or path
    outcome : str
        SAPS-I, SOFA, Length_of_stay, Survival or In-hospital_death.

    References
    ----------
    Silva, Moody, Scott, Celi, Mark, "Predicting in-hospital mortality of ICU patients: the
    PhysioNet/Computing in Cardiology Challenge 2012", Computing in Cardiology 39, 2012.
    """
    with np.load(path, allow_pickle=False) as file:
        stays = {name: file[name] for name in file.files}
    outcomes = stays["outcome_names"].tolist()
    if outcome not in outcomes:
        raise DataError(f"outcome is {outcome!r}, expected one of {', '.join(outcomes)}")
    stay = np.repeat(np.arange(len(stays["record_id"])), np.diff(stays["offsets"]))
    order = np.lexsort((stays["param"], stays["time_min"], stay))
    return Series(
        ids=stays["record_id"],
        offsets=stays["offsets"],
        time=stays["time_min"][order] / 60.0,
        channel=stays["param"][order],
        value=stays["value"][order],
        channel_names=tuple(stays["param_names"].tolist()),
        static=np.where(stays["static"] == -1, np.nan, stays["static"]),
        static_names=tuple(stays["static_names"].tolist()),
        labels=stays["outcomes"][:, outcomes.index(outcome)],
    )
