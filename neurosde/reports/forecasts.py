"""Forecasts of held-back series beside the trivial forecasters, with a picture and a saved model."""

import csv
from pathlib import Path

import numpy as np

from neurosde import baselines, scores
from neurosde.data import ChannelScaler, Series
from neurosde.errors import DataError
from neurosde.estimators.forecaster import NeuralSDEForecaster
from neurosde.reports.report import Report
from neurosde.typing import Any, Array, Literal

LEVELS = tuple((np.arange(20) + 0.5) / 20)  # twice the mean pinball loss over these is nearly the CRPS
INTERVAL = (0.05, 0.95)
SCORES = ("MSE", "macro MSE", "MAE", "CRPS", "90% coverage")
TRIVIAL = (baselines.LastValue, baselines.PatientMean, baselines.ShrunkForecaster, baselines.RidgeForecaster)


def forecast_report(
    series: Series,
    out: Path,
    *,
    history: float,
    horizon: float,
    start: Literal["first", "zero"] = "first",
    held_back: float = 0.25,
    seed: int = 0,
    **settings: Any,
) -> Report:
    """Fit on most series, forecast the others, and compare with what anybody would have forecast.

    Parameters
    ----------
    series : Series
        Whole series.
    out : Path
        Folder for ``scores.csv``, ``forecasts.csv``, ``forecast.png`` and ``forecaster.safetensors``.
    history, horizon, start
        See `NeuralSDEForecaster`.
    held_back : float
        Share of the series that are forecast and not trained on.
    seed : int
        Of the split and of the fit.
    **settings
        Further parameters of `NeuralSDEForecaster`.

    Returns
    -------
    Report
        Errors in units of each channel's robust spread in training, averaged over all held-back entries.

    Raises
    ------
    DataError
        If there are too few series, or nothing to forecast in the held-back ones.
    """
    train, test = _divide(series, held_back, seed)
    model = NeuralSDEForecaster(history, horizon, start=start, random_state=seed, **settings).fit(train)
    trivial = [cls().fit(_clocked(train, _starts(train, start)), history) for cls in TRIVIAL]
    starts = _starts(test, start)
    own = _clocked(test, starts)
    asked = (
        (own.time >= history) & (own.time <= history + horizon) & np.isfinite(trivial[0].mean_)[own.channel]
    )
    if not asked.any():
        raise DataError(f"series: no held-back series has an entry between {history} and {history + horizon}")
    past, future = test.keep(own.time < history), test.keep(asked)
    own_past, own_future = own.keep(own.time < history), own.keep(asked)
    unit = np.array(ChannelScaler.fit(train, "robust").scale)[future.channel]
    rows, levels = [], [*LEVELS, *INTERVAL]
    for f in trivial:
        points, quantiles = f.predict(own_past, own_future), f.predict_quantiles(own_past, own_future, levels)
        rows.append((type(f).__name__, _scores(future, points, quantiles, unit)))
    points, quantiles = model.predict(past, future).value, model.predict_quantiles(past, future, levels)
    rows.append((type(model).__name__, _scores(future, points, quantiles, unit)))
    out.mkdir(parents=True, exist_ok=True)
    files = [out / name for name in ("scores.csv", "forecasts.csv", "forecast.png", "forecaster.safetensors")]
    report = Report(
        f"Forecasts of {len(test)} held-back series, {history:g} to {history + horizon:g} {series.time_unit}",
        f"{len(future.time)} entries, in units of each channel's spread; macro: mean over channels;"
        " 90% intervals should hold 0.9",
        SCORES,
        rows,
        files,
    )
    report.write(files[0])
    _write_forecasts(future, points, quantiles, files[1])
    draw_forecasts(model, past, future, starts + history, files[2])
    model.save(files[3])
    return report


def draw_forecasts(model: NeuralSDEForecaster, past: Series, future: Series, made: Array, path: Path) -> None:
    """Draw fans of forecasts: three series and the four channels with the most entries asked for.

    Parameters
    ----------
    model : NeuralSDEForecaster
    past, future : Series
        Histories, and what followed them.
    made : (series,) array
        When each forecast is made.
    path : Path
        Where the picture goes; its suffix says its kind.
    """
    import matplotlib.pyplot as plt

    varied = np.bincount(future.channel, minlength=len(future.channel_names)) * (model.residual_scale_ > 0)
    channels = np.sort(np.argsort(-varied, kind="stable")[:4])
    shown = future.keep(np.isin(future.channel, channels))
    chosen = np.argsort(-np.minimum(past.counts, shown.counts), kind="stable")[:3]
    names = [future.channel_names[c] for c in channels]
    size = (4.2 * len(chosen), 2.1 * len(channels))
    figure, axes = plt.subplots(
        len(channels), len(chosen), figsize=size, sharex="col", sharey="row", squeeze=False
    )
    for i, column in zip(chosen, axes.T, strict=True):
        seen, after = past[[i]], shown[[i]]
        grid = np.linspace(made[i], after.time.max(), 60)
        fan = _fan(model, seen, grid, names)
        for c, name, axis in zip(channels, names, column, strict=True):
            _draw_fan(axis, grid, fan[name])
            for side, colour, word in ((seen, "0.35", "history"), (after, "#c8102e", "held back")):
                mine = side.channel == c
                axis.plot(side.time[mine], side.value[mine], "o", ms=2.8, color=colour, label=word)
        column[0].set_title(f"series {future.ids[i]}", fontsize=10)
        column[-1].set_xlabel(f"time [{future.time_unit}]")
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.96))
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw_fan(axis: Any, grid: Array, fan: Array) -> None:
    low, inner_low, middle, inner_high, high = fan
    axis.fill_between(grid, low, high, color="#3b76af", alpha=0.18, lw=0, label="90 %")
    axis.fill_between(grid, inner_low, inner_high, color="#3b76af", alpha=0.35, lw=0, label="50 %")
    axis.plot(grid, middle, color="#1f4e79", lw=1.5, label="median")
    axis.axvline(grid[0], color="0.6", lw=0.8, ls=":")
    axis.spines[["top", "right"]].set_visible(False)


def _fan(model: NeuralSDEForecaster, seen: Series, grid: Array, names: list[str]) -> dict[str, Array]:
    """Five quantiles of each named channel on a grid of times, ``(level, time)``."""
    asked = {
        "id": np.repeat(seen.ids, len(grid) * len(names)),
        "time": np.tile(grid, len(names)),
        "variable": np.repeat(names, len(grid)),
    }
    query = Series.from_long(asked, value=None, time_unit=seen.time_unit)
    quantiles = model.predict_quantiles(seen, query, [0.05, 0.25, 0.5, 0.75, 0.95])
    return {name: quantiles[query.channel == query.channel_names.index(name)].T for name in names}


def _divide(series: Series, held_back: float, seed: int) -> tuple[Series, Series]:
    n_test = round(held_back * len(series))
    if not 0 < n_test < len(series):
        raise DataError(
            f"{len(series)} series cannot be divided: {held_back:.0%} are held back to be forecast"
        )
    order = np.random.default_rng(seed).permutation(len(series))
    return series[np.sort(order[n_test:])], series[np.sort(order[:n_test])]


def _starts(series: Series, start: str) -> Array:
    """Where the clock of each series starts, as `NeuralSDEForecaster` has it, ``(series,)``."""
    first = np.zeros(len(series))
    if start == "first":
        some = series.counts > 0
        first[some] = series.time[series.offsets[:-1][some]]
    return first


def _clocked(series: Series, starts: Array) -> Series:
    """Times counted from each series' start, as the trivial forecasters need them."""
    return series.replace(time=series.time - starts[series.rows_of_series()], origin=None)


def _scores(future: Series, points: Array, quantiles: Array, unit: Array) -> list[float]:
    truth, points, (*levels, lower, upper) = future.value / unit, points / unit, (quantiles / unit[:, None]).T
    losses = [scores.pinball(truth, q, level) for q, level in zip(levels, LEVELS, strict=True)]
    return [
        scores.mse(truth, points),
        scores.mse(truth, points, channel=future.channel, average="macro"),
        scores.mae(truth, points),
        2 * float(np.mean(losses)),
        scores.coverage(truth, lower, upper),
    ]


def _write_forecasts(future: Series, points: Array, quantiles: Array, path: Path) -> None:
    """One row for each entry asked for: what was predicted, a 90 % interval, and what came."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "time", "variable", "predicted", "lower", "upper", "observed"])
        ids, names = future.ids[future.rows_of_series()], np.array(future.channel_names)[future.channel]
        for row in zip(
            ids, future.time, names, points, quantiles[:, -2], quantiles[:, -1], future.value, strict=True
        ):
            writer.writerow([row[0], row[1], row[2], *(f"{x:.6g}" for x in row[3:])])
