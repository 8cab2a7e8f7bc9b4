"""A simulated intensive care panel: shared fluctuations, kinetics of four drugs, asynchronous charting."""

import dataclasses

import numpy as np

from neurosde.data import Series
from neurosde.datasets.simulators import ornstein_uhlenbeck
from neurosde.errors import DataError
from neurosde.typing import Array

CHANNELS = (
    "HR", "MAP", "RespRate", "Temp", "SpO2", "Lactate", "Creatinine", "Potassium", "Glucose", "WBC",
    "VancomycinLevel", "UrineRate", "Norepinephrine", "VancomycinDose", "ParacetamolDose", "InsulinDose",
)  # fmt: skip
VITALS = {"HR": 0.95, "MAP": 0.9, "RespRate": 0.85, "SpO2": 0.85, "Temp": 0.3, "UrineRate": 0.5}
PANEL = {"Creatinine": 0.95, "Potassium": 0.95, "Glucose": 0.95, "WBC": 0.8}
RESOLUTION = {"Temp": 0.1, "Lactate": 0.1, "Creatinine": 0.01, "Potassium": 0.1, "Glucose": 0.1, "WBC": 0.1,
              "VancomycinLevel": 0.1, "Norepinephrine": 0.01}  # fmt: skip
STATIC = ("Age", "Male", "Weight", "Sepsis")
HOURS = 48.0


@dataclasses.dataclass(frozen=True)
class Patient:
    """Covariates and set points of one patient; rates per hour."""

    age: float
    male: float
    weight: float
    sepsis: float
    severity: float
    onset: float
    peak: float
    renal: float
    set_point: Array
    stay: float


def simulate(*, seed: int = 0, n_series: int = 400) -> Series:
    """Draw a panel of patients.

    Parameters
    ----------
    seed : int
        Patient i is the same whatever ``n_series`` is.
    n_series : int

    Examples
    --------
    >>> simulate(n_series=2).channel_names[:3]
    ('HR', 'MAP', 'RespRate')
    """
    if n_series < 1:
        raise DataError(f"n_series is {n_series}, expected at least 1")
    rows, covariates, labels = [], [], []
    for i in range(n_series):
        rng = np.random.default_rng([seed, i])
        patient = admit(rng)
        time, channel, value, worse = chart(patient, rng)
        order = np.lexsort((channel, time))
        rows.append((time[order], channel[order], value[order]))
        weight = patient.weight if rng.random() > 0.08 else np.nan
        covariates.append([patient.age, patient.male, weight, patient.sepsis])
        labels.append(worse)
    time, channel, value = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Series(
        ids=np.arange(n_series),
        offsets=np.concatenate([[0], np.cumsum([len(row[0]) for row in rows])]),
        time=time,
        channel=channel,
        value=value,
        channel_names=CHANNELS,
        static=np.array(covariates),
        static_names=STATIC,
        labels=np.array(labels, dtype=int),
        time_unit="h",
    )


def admit(rng: np.random.Generator) -> Patient:
    """Draw one patient: the older and the septic are sicker and recover more slowly."""
    age = float(np.clip(rng.normal(64, 14), 18, 92).round())
    male, sepsis = float(rng.random() < 0.55), float(rng.random() < 0.45)
    severity = np.exp(rng.normal(0.3 + 0.5 * sepsis + 0.008 * (age - 64), 0.4))
    return Patient(
        age=age,
        male=male,
        weight=float(np.clip(rng.normal(74 + 12 * male, 14), 42, 150).round()),
        sepsis=sepsis,
        severity=float(severity),
        onset=float(-rng.uniform(1, 14)),
        peak=float(np.exp(rng.normal(2.3 + 0.3 * sepsis + 0.01 * (age - 64), 0.5))),
        renal=float(rng.normal(0.3 * sepsis + 0.012 * (age - 64), 0.5)),
        set_point=rng.standard_normal(len(CHANNELS)),
        stay=HOURS if rng.random() < 0.8 else float(rng.uniform(30, HOURS)),
    )


def chart(patient: Patient, rng: np.random.Generator) -> tuple[Array, Array, Array, bool]:
    """Times, channels and values of all that is charted about one patient; whether the illness got worse."""
    visits = times_of_visits(patient, rng)
    doses = times_and_amounts_of_doses(patient, rng)
    measured = np.unique(np.concatenate([*visits.values(), [24.0, patient.stay]]))
    truth, illness = physiology(measured, patient, doses, rng)
    times, channels, values = [], [], []
    for name, when in visits.items():
        column = CHANNELS.index(name)
        value = truth[name][np.searchsorted(measured, when)]
        times.append(when)
        channels.append(np.full(len(when), column))
        values.append(_round(value, RESOLUTION.get(name, 1.0)))
    for name, (when, amount) in doses.items():
        times.append(when)
        channels.append(np.full(len(when), CHANNELS.index(name)))
        values.append(amount)
    worse = illness[-1] > illness[np.searchsorted(measured, 24.0)]
    return np.concatenate(times), np.concatenate(channels), np.concatenate(values), bool(worse)


def times_of_visits(patient: Patient, rng: np.random.Generator) -> dict[str, Array]:
    """When each channel is measured, to the minute: rounds for vitals, panels, gases for the sick."""

    def rounds(every: float, jitter: float) -> Array:
        n = int(patient.stay / every) + 1
        when = rng.uniform(0, every) + every * np.arange(n) + rng.normal(0, jitter, n)
        return np.unique(np.round(when[(when > 0) & (when < patient.stay)] * 60) / 60)

    def some(when: Array, share: float) -> Array:
        return when[rng.random(len(when)) < share]

    vitals = rounds(2.2 / (1 + 0.4 * patient.severity), 0.15)
    panels, gases = rounds(rng.uniform(6, 10), 0.6), rounds(9 / (1 + 0.5 * patient.severity), 0.8)
    visits = {name: some(vitals, share) for name, share in VITALS.items()}
    visits |= {name: some(panels, share) for name, share in PANEL.items()}
    visits["Lactate"] = gases
    visits["Glucose"] = np.union1d(visits["Glucose"], some(gases, 0.7))
    visits["Potassium"] = np.union1d(visits["Potassium"], some(gases, 0.7))
    visits["VancomycinLevel"] = some(rounds(7.0, 1.5), 0.8) if patient.sepsis else np.empty(0)
    return visits


def times_and_amounts_of_doses(patient: Patient, rng: np.random.Generator) -> dict[str, tuple[Array, Array]]:
    """Drugs given: an antibiotic twice a day to the septic, a vasopressor to the sick, others as needed."""

    def given(when: Array, amount: Array | float) -> tuple[Array, Array]:
        when = np.round(when * 60) / 60
        inside = (when > 0) & (when < patient.stay)
        return when[inside], np.broadcast_to(amount, when.shape)[inside].astype(float)

    n = int(HOURS / 12)
    antibiotic = rng.uniform(0.5, 6) + 12 * np.arange(n) + rng.normal(0, 0.3, n)
    amount = 250 * np.round(patient.weight * rng.uniform(13, 19) / 250)
    # The infusion is set every few hours; its rate follows the illness that is left.
    settings = np.sort(rng.uniform(0, HOURS, 10))
    left = course(settings, patient)
    rate = np.round(np.clip(0.09 * (left - 1.4) + rng.normal(0, 0.03, 10), 0, 0.6), 2)
    fever = np.sort(rng.uniform(0, HOURS, rng.poisson(1.5 + 3 * patient.sepsis)))
    sugar = np.sort(rng.uniform(0, HOURS, rng.poisson(1.2 * patient.severity)))
    nothing = np.empty(0)
    return {
        "VancomycinDose": given(antibiotic if patient.sepsis else nothing, amount),
        "Norepinephrine": given(
            settings if patient.severity > 1.6 else nothing, rate if patient.severity > 1.6 else 0.0
        ),
        "ParacetamolDose": given(fever, 1000.0),
        "InsulinDose": given(sugar, np.round(rng.uniform(2, 10, len(sugar)))),
    }


def physiology(
    time: Array, patient: Patient, doses: dict[str, tuple[Array, Array]], rng: np.random.Generator
) -> tuple[dict[str, Array], Array]:
    """Every measured channel at every time, and the illness behind them.

    The illness is its `course` plus a shared Ornstein-Uhlenbeck fluctuation; each channel adds one of its own
    (correlation times from one to thirty hours), its set point and the effects of the drugs.
    """
    slow = course(time, patient)
    illness = slow + 0.3 * np.sqrt(patient.severity) * ornstein_uhlenbeck(time, 1 / 8, rng)[0]
    inflammation = 0.6 * patient.sepsis + 0.5 * illness + 0.5 * ornstein_uhlenbeck(time, 1 / 20, rng)[0]
    renal = patient.renal + 0.12 * slow + 0.25 * ornstein_uhlenbeck(time, 1 / 30, rng)[0]
    own = dict(zip(CHANNELS, ornstein_uhlenbeck(time, 1 / 2.5, rng, len(CHANNELS)), strict=True))
    lab = dict(zip(CHANNELS, ornstein_uhlenbeck(time, 1 / 12, rng, len(CHANNELS)), strict=True))
    base = dict(zip(CHANNELS, patient.set_point, strict=True))
    day = np.cos(2 * np.pi * (time - 16) / 24)

    volume, clearance = 0.7 * patient.weight, 4.5 * np.exp(-0.6 * renal.mean())
    level = concentration(time, *doses["VancomycinDose"], clearance / volume) / volume
    pressor = emax(infusion(time, *doses["Norepinephrine"], 3.0), 0.15)
    cooling = emax(concentration(time, *doses["ParacetamolDose"], np.log(2) / 3) / patient.weight, 6.0)
    insulin = emax(concentration(time, *doses["InsulinDose"], np.log(2) / 1.5), 6.0)
    strain = emax(np.maximum(illness, 0.0), 2.5)  # the heart compensates early
    shock = emax(np.maximum(illness, 0.0) ** 3, 2.2**3)  # the pressure gives way late
    truth = {
        "HR": 72 + 8 * base["HR"] + 62 * strain + 4 * inflammation + 5 * pressor + 3 * day + 4 * own["HR"],
        "MAP": 87 + 5 * base["MAP"] - 34 * shock * (1 - 0.7 * pressor) + 2 * day + 4 * own["MAP"],
        "RespRate": 14 + 2 * base["RespRate"] + 14 * strain + 1.5 * own["RespRate"],
        "Temp": 36.7
        + 0.2 * base["Temp"]
        + 0.6 * inflammation
        + 0.2 * day
        - 1.3 * cooling
        + 0.15 * own["Temp"],
        "SpO2": 100 - np.log1p(np.exp(2 + 0.5 * base["SpO2"] + 0.5 * illness + 0.7 * own["SpO2"])),
        "Lactate": np.exp(-0.1 + 0.2 * base["Lactate"] + 0.35 * illness + 0.12 * lab["Lactate"]),
        "Creatinine": 0.9 * np.exp(0.15 * patient.male + renal + 0.03 * lab["Creatinine"]),
        "Potassium": 4.1 + 0.25 * base["Potassium"] + 0.3 * renal - 0.35 * insulin + 0.15 * lab["Potassium"],
        "Glucose": 6.8 + base["Glucose"] + 1.1 * illness - 2.8 * insulin + 0.5 * day + 0.6 * lab["Glucose"],
        "WBC": 8.5 * np.exp(0.2 * base["WBC"] + 0.3 * inflammation + 0.05 * lab["WBC"]),
        "VancomycinLevel": level * np.exp(0.07 * rng.standard_normal(len(time))),
        "UrineRate": patient.weight * np.exp(-0.1 - 0.5 * renal - 0.12 * slow + 0.25 * own["UrineRate"]),
    }
    return truth, illness


def course(time: Array, patient: Patient) -> Array:
    r"""What the acute illness would be without fluctuation: it starts before admission, peaks and recedes.

    .. math:: s_0\, u\, e^{1 - u}, \qquad u = (t - t_{onset}) / t_{peak}
    """
    u = (time - patient.onset) / patient.peak
    return patient.severity * u * np.exp(1 - u)


def concentration(time: Array, given: Array, amount: Array, rate: float) -> Array:
    r"""Amount in one compartment after boluses: :math:`\sum_j d_j\, 1\{t \ge t_j\}\, e^{-k (t - t_j)}`."""
    since = time[:, None] - given
    return np.where(since >= 0, np.exp(-rate * np.maximum(since, 0.0)), 0.0) @ amount


def infusion(time: Array, changed: Array, rate: Array, elimination: float) -> Array:
    """Level of an infusion set at given times, in units of its rate, which follows changes with a delay."""
    steps = np.diff(rate, prepend=0.0)
    since = time[:, None] - changed
    return np.where(since >= 0, -np.expm1(-elimination * np.maximum(since, 0.0)), 0.0) @ steps


def emax(level: Array, half: float) -> Array:
    """Saturating effect between 0 and 1: level / (level + half)."""
    return level / (level + half)


def _round(value: Array, resolution: float) -> Array:
    return np.round(np.round(value / resolution) * resolution, 4)
