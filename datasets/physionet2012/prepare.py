"""The text files of the challenge, one a stay, into one array file a set."""

import tarfile
from pathlib import Path

import numpy as np

from neurosde.data import Series
from neurosde.errors import DataError
from neurosde.io import read_physionet2012

STATIC = ("Age", "Gender", "Height", "ICUType", "Weight")
PARAMETERS = (
    "Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP", "FiO2", "GCS",
    "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP", "MechVent", "Na", "NIDiasABP", "NIMAP",
    "NISysABP", "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI",
    "TroponinT", "Urine", "WBC", "Weight",
)  # fmt: skip
OUTCOMES = ("SAPS-I", "SOFA", "Length_of_stay", "Survival", "In-hospital_death")


def prepare(raw: Path, tidy: Path, *, part: str) -> None:
    """Parse the records of one set; rows without a parameter name are dropped, nothing else is changed.

    A record is a text file of lines ``HH:MM,parameter,value``; its first six lines at 00:00 are the record's
    number and the five descriptors (-1 where missing).
    """
    index = {name: k for k, name in enumerate(PARAMETERS)}
    stays: dict[int, tuple[list[float], list[tuple[int, int, float]]]] = {}
    with tarfile.open(raw / f"set-{part}.tar.gz", "r:gz") as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".txt") else None
            if file is None:
                continue
            lines = [line.split(",") for line in file.read().decode("ascii").split()[1:]]
            head, body = lines[:6], lines[6:]
            if [name for _, name, _ in head] != ["RecordID", *STATIC]:
                raise DataError(f"{member.name}: the first lines are not RecordID, {', '.join(STATIC)}")
            rows = [
                (60 * int(t[:2]) + int(t[3:]), index[name], float(value)) for t, name, value in body if name
            ]
            stays[int(head[0][2])] = [float(value) for *_, value in head[1:]], rows
    order = sorted(stays)
    table = np.loadtxt(raw / f"Outcomes-{part}.txt", delimiter=",", skiprows=1, dtype=int)
    outcome = {int(row[0]): row[1:] for row in table}
    rows = [row for stay in order for row in stays[stay][1]]
    minutes, parameter, value = zip(*rows, strict=True)
    np.savez_compressed(
        tidy,
        record_id=np.array(order, dtype=np.int32),
        static=np.array([stays[stay][0] for stay in order], dtype=np.float32),
        static_names=np.array(STATIC),
        offsets=np.concatenate([[0], np.cumsum([len(stays[stay][1]) for stay in order])]),
        time_min=np.array(minutes, dtype=np.int16),
        param=np.array(parameter, dtype=np.uint8),
        value=np.array(value, dtype=np.float32),
        param_names=np.array(PARAMETERS),
        outcomes=np.array([outcome[stay] for stay in order], dtype=np.int16),
        outcome_names=np.array(OUTCOMES),
    )


def read(tidy: Path, *, outcome: str = "In-hospital_death") -> Series:
    """Read one set, see `neurosde.io.read_physionet2012`."""
    return read_physionet2012(tidy, outcome=outcome)
