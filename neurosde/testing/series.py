"""Checks of estimators of irregular series: what may not matter, what must scale, what is refused."""

import functools

import numpy as np
from sklearn.base import is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold

from neurosde.data import Series
from neurosde.errors import DataError, NotConvergedError
from neurosde.testing.case import Case, Check, finite, numbered, refused, require, run_checks, same
from neurosde.testing.estimator import estimator_checks
from neurosde.typing import Any, Array, Callable, Sequence

__all__ = ["check_series_estimator", "forecast_answer", "series_case", "series_checks"]

_CHECKS: list[Check] = []
# Float32 networks round differently in another batch or unit; what must be equal is equal up to this.
_RTOL = 1e-4


def series_checks() -> list[Check]:
    """Checks 1 to 21 of any estimator, and 31 to 46 of estimators of series.

    Examples
    --------
    >>> print(series_checks()[3])
    4: Two fits with one seed are equal bit for bit, whatever was asked in between
    """
    return estimator_checks() + _CHECKS


def check_series_estimator(
    estimator: Any,
    make_series: Callable[[int], Series],
    answer: Callable[[Any, Series], Sequence[Array]] | None = None,
    *,
    expected_failures: dict[int, str] | None = None,
) -> dict[int, str]:
    """Run every check on an estimator of series.

    Parameters
    ----------
    estimator
        Unfitted, with an integer `random_state` and settings that make a fit quick.
    make_series
        Takes a seed, gives 8 series or more with 2 channels or more, in the same channels each time; with
        labels where the estimator needs a target.
    answer
        See `series_case`.
    expected_failures
        Reasons by number of the checks that must fail.

    Returns
    -------
    dict of int to str
        Reasons of the checks that did not apply or failed as expected.

    Raises
    ------
    ExceptionGroup
        Of every failure, each with a note that names its check.
    """
    return run_checks(series_checks(), series_case(estimator, make_series, answer), expected_failures)


def series_case(
    estimator: Any,
    make_series: Callable[[int], Series],
    answer: Callable[[Any, Series], Sequence[Array]] | None = None,
) -> Case:
    """Case of an estimator of series, for single checks.

    Parameters
    ----------
    estimator, make_series
        See `check_series_estimator`.
    answer
        Takes the fitted estimator and a Series, gives one array a series. By default the class probabilities
        of a classifier, the predictions of a regressor, and of anything else `forecast_answer(0.5)`.
    """
    supervised = is_classifier(estimator) or is_regressor(estimator)
    if answer is None:
        answer = _labels if supervised else forecast_answer(0.5)

    def data(seed: int) -> tuple[Any, ...]:
        series = make_series(seed)
        return (series, series.labels) if supervised else (series,)

    return Case(estimator, data, answer, scales=not supervised)


def forecast_answer(part: float) -> Callable[[Any, Series], list[Array]]:
    """Answer of a forecaster: the values after `part` of each series' own time span, from those before.

    Returns
    -------
    callable
        Takes the estimator and a Series, gives an array (row,) a series.
    """

    def answer(estimator: Any, series: Series) -> list[Array]:
        rows = np.repeat(np.arange(len(series)), series.counts)
        first = np.full(len(series), np.inf)
        last = np.full(len(series), -np.inf)
        np.minimum.at(first, rows, series.time)
        np.maximum.at(last, rows, series.time)
        seen = series.counts > 0
        at = np.zeros(len(series))
        at[seen] = first[seen] + part * (last[seen] - first[seen]) + 1e-9 * (last[seen] - first[seen])
        history, future = series.split(at)
        predicted = estimator.predict(history, future)
        return np.split(predicted.value, future.offsets[1:-1])

    return answer


def _labels(estimator: Any, series: Series) -> list[Array]:
    return list(estimator.predict_proba(series) if is_classifier(estimator) else estimator.predict(series))


def _fit(case: Case, change: Callable[[Series], Any], seed: int = 0) -> Any:
    series, *rest = case.data(seed)
    return case.make().fit(change(series), *rest)


@numbered(_CHECKS, 31)
def _kinds(case: Case) -> None:
    """A long table is fitted as the Series that it becomes."""
    series = case.data(1)[0]
    fitted = _fit(case, lambda s: Series.from_long(s.to_long()))
    same(case.answer(_fit(case, Series.to_long), series), case.answer(fitted, series))


@numbered(_CHECKS, 32)
def _permutation(case: Case) -> None:
    """Answers do not depend on the order of the series."""
    fitted, series = case.fit(), case.data(1)[0]
    order = np.random.default_rng(0).permutation(len(series))
    answers = case.answer(fitted, series)
    same(case.answer(fitted, series[order]), [answers[i] for i in order], rtol=_RTOL)


@numbered(_CHECKS, 33)
def _batch_of_one(case: Case) -> None:
    """A series alone is answered as in its batch."""
    fitted, series = case.fit(), case.data(1)[0]
    answers = case.answer(fitted, series)
    for i in range(len(series)):
        same(case.answer(fitted, series[i : i + 1]), answers[i : i + 1], rtol=_RTOL)


@numbered(_CHECKS, 34)
def _missing(case: Case) -> None:
    """A NaN value is an entry that is not there."""

    def with_nan(series: Series) -> Any:
        table = series.to_long()
        extra = table.iloc[::3].assign(value=np.nan, time=table["time"].iloc[::3] + 1e-3)
        return type(table)({name: np.concatenate([table[name], extra[name]]) for name in table})

    series = case.data(1)[0]
    expected = case.answer(_fit(case, lambda s: Series.from_long(s.to_long())), series)
    same(case.answer(_fit(case, with_nan), series), expected)


@numbered(_CHECKS, 35)
def _unsorted(case: Case) -> None:
    """The order of the rows of a long table does not matter."""
    series = case.data(1)[0]
    expected = case.answer(_fit(case, lambda s: Series.from_long(s.to_long())), series)
    same(case.answer(_fit(case, lambda s: s.to_long().sample(frac=1, random_state=0)), series), expected)


@numbered(_CHECKS, 36)
def _constant(case: Case) -> None:
    """A constant channel does no harm."""

    def flat(series: Series) -> Series:
        return series.with_values(np.where(series.channel == 0, 5.0, series.value))

    fitted = _fit(case, flat)
    finite(case.answer(fitted, flat(case.data(1)[0])))
    finite(case.ask(fitted))


@numbered(_CHECKS, 37)
def _huge(case: Case) -> None:
    """Data in units 1e12 times smaller give the same answers in those units."""

    def scaled(series: Series) -> Series:
        return series.with_values(1e12 * series.value)

    expected = [np.asarray(a) * (1e12 if case.scales else 1.0) for a in case.ask(case.fit())]
    same(case.answer(_fit(case, scaled), scaled(case.data(1)[0])), expected, rtol=_RTOL)


@numbered(_CHECKS, 38)
def _unix_seconds(case: Case) -> None:
    """Unix seconds are answered as seconds from zero."""

    def dated(series: Series) -> Series:
        return series.replace(time=series.time + 1.7e9)

    # The sum itself rounds times to 2e-7, which is the data's doing; both sides get the rounded times.
    def rounded(series: Series) -> Series:
        return series.replace(time=(series.time + 1.7e9) - 1.7e9)

    series = case.data(1)[0]
    expected = case.answer(_fit(case, rounded), rounded(series))
    same(case.answer(_fit(case, dated), dated(series)), expected, rtol=_RTOL)


@numbered(_CHECKS, 39)
def _outlier(case: Case) -> None:
    """One value of 1e30 gives finite answers or a typed error, never NaN weights."""

    def spoilt(series: Series) -> Series:
        value = series.value.copy()
        value[len(value) // 2] = 1e30
        return series.with_values(value)

    try:
        fitted = _fit(case, spoilt)
    except (DataError, NotConvergedError):
        return
    require(all(p.isfinite().all() for p in fitted.module_.parameters()), "a weight is not finite")
    finite(case.ask(fitted))


@numbered(_CHECKS, 40)
def _short(case: Case) -> None:
    """Series with one observation are answered; without any they are answered or refused with a DataError."""
    fitted, series = case.fit(), case.data(1)[0]
    ranks = np.arange(len(series.time)) - series.offsets[series.rows_of_series()]
    owner = series.rows_of_series()
    finite(case.answer(fitted, series.keep((owner != 0) | (ranks == 0))))
    try:
        finite(case.answer(fitted, series.keep(owner != 0)))
    except DataError:
        return


@numbered(_CHECKS, 41)
def _few(case: Case) -> None:
    """Fit on a single series gives finite answers or a ValueError."""
    series, *rest = case.data(0)
    try:
        fitted = case.make().fit(series[:1], *(part[:1] for part in rest))
    except ValueError:
        return
    finite(case.ask(fitted))


@numbered(_CHECKS, 42)
def _channels(case: Case) -> None:
    """Channels in another order are told by name, a missing one is allowed, an unknown one is refused."""
    fitted, series = case.fit(), case.data(1)[0]
    names = series.channel_names
    reverse = case.answer(fitted, series.select_channels(names[::-1]))
    # Rows at one time go by channel, so a forecast's rows may change places.
    a, b = ([np.sort(np.ravel(x)) for x in answers] for answers in (reverse, case.answer(fitted, series)))
    same(a, b, rtol=_RTOL)
    finite(case.answer(fitted, series.select_channels(names[:1])))
    unknown = series.replace(channel_names=("never seen", *names[1:]))
    refused(lambda: case.answer(fitted, unknown), naming="never seen")


@numbered(_CHECKS, 43)
def _other_kinds(case: Case) -> None:
    """What is no series is refused with a ValueError or TypeError."""
    _, *rest = case.data(0)
    for wrong in (np.zeros(5), np.zeros((5, 2)), "series", None, [1, 2], 3.0):
        refused(functools.partial(case.make().fit, wrong, *rest), error=(ValueError, TypeError))


@numbered(_CHECKS, 44)
def _search(case: Case) -> None:
    """GridSearchCV splits series, by KFold and by GroupKFold."""
    case.need("random_state")
    series, *rest = case.data(0)
    grid = {"random_state": [0, 1]}
    for folds, groups in ((KFold(2), None), (GroupKFold(2), series.ids)):
        search = GridSearchCV(case.make(), grid, cv=folds).fit(series, *rest, groups=groups)
        require(np.isfinite(search.cv_results_["mean_test_score"]).all(), "a score is not finite")
        finite(case.ask(search.best_estimator_))


@numbered(_CHECKS, 45)
def _ties(case: Case) -> None:
    """Observations repeated at one time do no harm."""

    def doubled(series: Series) -> Series:
        rows = np.repeat(np.arange(len(series.time)), 2)
        fields = {name: getattr(series, name)[rows] for name in ("time", "channel", "value")}
        return series.replace(offsets=2 * series.offsets, **fields)

    finite(case.answer(_fit(case, doubled), doubled(case.data(1)[0])))


@numbered(_CHECKS, 46)
def _negative_times(case: Case) -> None:
    """Negative times are times like any others."""

    def earlier(series: Series) -> Series:
        return series.replace(time=series.time - 1024.0)

    expected = case.ask(case.fit())
    same(case.answer(_fit(case, earlier), earlier(case.data(1)[0])), expected, rtol=_RTOL)
