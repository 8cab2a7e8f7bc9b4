"""Laws of the ragged record, on random tables."""

import copy
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosde.data import Series
from neurosde.errors import DataError, ShapeError

law = settings(derandomize=True, deadline=None, max_examples=60)

finite = st.floats(allow_nan=False, allow_infinity=False)
clock = st.one_of(
    st.sampled_from([-1.5, -0.0, 0.0, 1.0, 2.0, 1.7e9, 1.7e9 + 1e-6]), st.floats(-1e12, 1e12, width=64)
)
rates = st.one_of(st.sampled_from([0.3, 0.5, 0.7, 0.9]), st.floats(0, 0.99))
ids = st.one_of(st.just(st.integers(-5, 5)), st.just(st.sampled_from(["a", "b", "patient 10", "ü"])))


@st.composite
def tables(draw, repeats: bool = True):
    """A long table as a mapping of columns, its rows in any order, some values missing."""
    label = draw(ids)
    row = st.tuples(label, clock, st.sampled_from(["HR", "pH", "T"]), st.one_of(finite, st.just(np.nan)))
    unique = None if repeats else (lambda r: (r[0], r[1], r[2]))
    size = draw(st.sampled_from([1, 3, 15]))
    rows = draw(st.lists(row, min_size=size, max_size=2 * size, unique_by=unique))
    return {
        name: list(column)
        for name, column in zip(("id", "time", "variable", "value"), zip(*rows, strict=True), strict=True)
    }


@st.composite
def records(draw, **options):
    return Series.from_long(draw(tables(**options)))


def shuffled(table, order):
    return {name: [column[k] for k in order] for name, column in table.items()}


@law
@given(records())
def test_long_round_trip_is_exact(series):
    back = Series.from_long(series.to_long(), static=series.to_static())
    assert back.align_channels(series.channel_names).equals(series)


@law
@given(records())
def test_padded_round_trip_is_exact(series):
    values, times, lengths = series.to_padded(duplicates="keep")
    back = Series.from_padded(values, times, lengths, ids=series.ids, channel_names=series.channel_names)
    assert back.equals(series)


@law
@given(tables(), st.randoms(use_true_random=False), st.sampled_from(["mean", "keep"]))
def test_order_of_rows_does_not_matter(table, random, policy):
    order = random.sample(range(len(table["id"])), len(table["id"]))
    a, b = (Series.from_long(t, duplicates=policy) for t in (table, shuffled(table, order)))
    if policy == "keep":  # repeated readings stay in the order in which they came
        a, b = (
            s.with_values(s.value[np.lexsort((s.value, s.channel, s.time, s.rows_of_series()))])
            for s in (a, b)
        )
    assert a.equals(b)


def test_twin_plain_mean_depends_on_the_order_of_rows():
    values = [1.0, 1e16, -1e16, 3.0]
    means = {
        Series.from_long(
            {"id": [0] * 4, "time": [0.0] * 4, "variable": ["x"] * 4, "value": [values[k] for k in order]},
            duplicates="mean",
        ).value[0]
        for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 1, 0, 2])
    }
    twin = {
        float(np.mean([values[k] for k in order])) for order in ([0, 1, 2, 3], [1, 0, 2, 3], [3, 1, 0, 2])
    }
    assert len(means) == 1
    assert len(twin) > 1


@law
@given(records(), clock)
def test_split_and_concatenate_is_the_identity(series, time):
    history, future = series.split(time)
    assert Series.concatenate([history, future]).equals(series)
    assert len(history) == len(future) == len(series)
    assert (history.time < time).all()
    assert (future.time >= time).all()


def test_split_takes_a_time_for_each_series():
    series = Series.from_padded(np.ones((2, 4, 1)), np.arange(4.0))
    history, future = series.split([1.0, 3.0])
    assert history.counts.tolist() == [1, 3]
    assert future.counts.tolist() == [3, 1]
    with pytest.raises(ShapeError, match="one for each series"):
        series.split([1.0, 2.0, 3.0])


@law
@given(records(), st.data())
def test_indexing_agrees_with_reading_the_series_one_by_one(series, data):
    n = len(series)
    chosen = data.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=6))
    part = series[chosen]
    assert part.shape == (len(chosen),)
    for k, i in enumerate(chosen):
        one = series[i]
        where = slice(series.offsets[i % n], series.offsets[i % n + 1])
        assert one.equals(part[k])
        assert one.ids[0] == series.ids[i]
        np.testing.assert_array_equal(one.time, series.time[where])
        np.testing.assert_array_equal(one.value, series.value[where])
        np.testing.assert_array_equal(one.channel, series.channel[where])
    mask = np.isin(np.arange(n), chosen)
    if mask.any():
        assert series[mask].equals(series[np.flatnonzero(mask)])
    assert series[::-1][::-1].equals(series)


@law
@given(records(), rates, st.sampled_from(["points", "times"]), st.integers(0, 2**40))
def test_drop_keeps_the_promised_share_of_every_series(series, rate, how, seed):
    def units(s):
        return np.array(
            [len(np.unique(s[i].time)) if how == "times" else s[i].counts[0] for i in range(len(s))]
        )

    thinned = series.drop(rate, how, seed=seed)
    assert (units(thinned) == units(series) - np.floor(rate * units(series) + 1e-9)).all()
    assert ((thinned.counts > 0) == (series.counts > 0)).all()
    assert thinned.equals(series.drop(rate, how, seed=seed))
    alone = Series.concatenate([series[i].drop(rate, how, seed=seed) for i in range(len(series))])
    assert alone.equals(thinned)


@law
@given(records(), st.sampled_from(["points", "times"]))
def test_drop_at_a_higher_rate_drops_more_of_the_same(series, how):
    few, many = series.drop(0.3, how, seed=1), series.drop(0.7, how, seed=1)
    rows = [
        set(zip(s.rows_of_series(), s.time, s.channel, s.value, strict=True)) for s in (series, few, many)
    ]
    assert rows[2] <= rows[1] <= rows[0]


def test_drop_counts_as_people_do():
    """0.29 of 100 is 29, though 0.29 * 100 is 28.999999999999996 in float64."""
    series = Series.from_padded(np.ones((2, 100, 1)), np.arange(100.0))
    for percent in range(100):
        assert series.drop(percent / 100).counts.tolist() == [100 - percent] * 2


def test_drop_of_times_takes_all_channels_and_seeds_differ():
    series = Series.from_padded(np.ones((3, 40, 4)), np.arange(40.0))
    thinned = series.drop(0.5, "times", seed=3)
    assert set(np.unique(thinned.time[:80], return_counts=True)[1]) == {4}
    assert not thinned.equals(series.drop(0.5, "times", seed=4))
    first, second = (set(thinned[i].time) for i in (0, 1))
    assert first != second
    meeting = Series.from_padded(
        np.ones((2, 2, 1)), [[0.0, 1.0], [1.0, 2.0]]
    )  # one ends where the other begins
    assert all(meeting.drop(0.5, "times", seed=seed).counts.tolist() == [1, 1] for seed in range(20))
    for bad in (-0.1, 1.0, np.nan):
        with pytest.raises(DataError, match="rate is"):
            series.drop(bad)
    with pytest.raises(DataError, match="'points' or 'times'"):
        series.drop(0.5, "values")


def test_drop_is_uniform_over_rows():
    """Each of 20 rows stays in half of 4,000 series: chi-squared, 19 degrees of freedom, false alarm 1e-5."""

    def statistic(kept):
        # 10 of 20 without replacement: covariance of the counts n/4 * 20/19 * (I - J/20)
        return ((np.bincount(kept.astype(int), minlength=20) - 2000) ** 2).sum() / (4000 / 4 * 20 / 19)

    limit = stats.chi2.isf(1e-5, 19)
    series = Series.from_padded(np.ones((4000, 20, 1)), np.arange(20.0))
    assert statistic(series.drop(0.5, seed=0).time) < limit
    twin = np.repeat(np.random.default_rng(0).permutation(20)[:10], 4000)  # one choice for all series
    assert statistic(twin) > limit


@law
@given(records())
def test_copies_are_equal_and_read_only(series):
    for twin in (pickle.loads(pickle.dumps(series)), copy.deepcopy(series), series.replace()):
        assert twin.equals(series)
        with pytest.raises(ValueError, match="read-only"):
            twin.time[:] = 0.0
    assert not any(array.flags.writeable for array in (series.keys, series.ids, series.offsets, series.value))


def test_the_arrays_of_the_caller_stay_his():
    value = np.ones((1, 3, 1))
    times = np.arange(3.0)
    series = Series.from_padded(value, times)
    value[:], times[:] = 7.0, 7.0
    assert series.value.tolist() == [1, 1, 1]
    assert series.time.tolist() == [0, 1, 2]


@law
@given(tables(repeats=False))
def test_missing_values_are_absent_rows(table):
    """Case 1: NaN in values gives the record of the table without those rows, ids and variables kept."""
    seen = [k for k, v in enumerate(table["value"]) if not np.isnan(v)]
    assume(seen)
    series = Series.from_long(table)
    bare = Series.from_long(shuffled(table, seen), static={"id": series.ids})
    assert bare.align_channels(series.channel_names).equals(series)


@law
@given(records(), st.permutations(["HR", "pH", "T", "unseen"]))
def test_channels_are_numbered_as_asked(series, names):
    aligned = series.align_channels(names)
    assert aligned.channel_names == tuple(names)
    for old, name in enumerate(series.channel_names):
        was, now = series.channel == old, aligned.channel == names.index(name)
        assert sorted(zip(series.time[was], series.value[was], strict=True)) == sorted(
            zip(aligned.time[now], aligned.value[now], strict=True)
        )
    first = series.channel_names[0]
    only = series.select_channels([first])
    assert len(only.time) == int((series.channel == 0).sum())
    if len(series.time) > len(only.time):
        with pytest.raises(DataError, match="observed but not among"):
            series.align_channels([first])
    with pytest.raises(DataError, match="no channel 'Na'"):
        series.select_channels(["Na"])


@law
@given(records())
def test_merged_duplicates_are_means_or_last_values(series):
    key = list(zip(series.rows_of_series(), series.time, series.channel, strict=True))
    groups = {k: [v for q, v in zip(key, series.value, strict=True) if q == k] for k in key}
    last = series.merge_duplicates("last")
    assert last.value.tolist() == [values[-1] for values in groups.values()]
    assert series.merge_duplicates("keep").equals(series)
    mean = np.array([float(sum(map(Fraction, values)) / len(values)) for values in groups.values()])
    scale = np.array([max(map(abs, values)) for values in groups.values()])
    assert (np.abs(series.merge_duplicates("mean").value - mean) <= 1e-14 * scale + 1e-300).all()
    if len(last.time) < len(series.time):
        with pytest.raises(DataError, match="repeat an"):
            series.merge_duplicates("raise")


@law
@given(finite, st.integers(2, 9))
def test_mean_of_identical_readings_is_that_reading(value, n):
    table = {"id": [0] * n, "time": [0.0] * n, "variable": ["x"] * n, "value": [value] * n}
    assert Series.from_long(table, duplicates="mean").value.tolist() == [value]


@law
@given(st.lists(records(), min_size=2, max_size=3))
def test_concatenation_keeps_every_row(parts):
    assume(len({part.ids.dtype.kind for part in parts}) == 1)
    parts = [part.align_channels(["HR", "T", "pH"]) for part in parts]
    whole = Series.concatenate(parts)

    def rows(s):
        return list(zip(s.ids[s.rows_of_series()], s.time, s.channel, s.value, strict=True))

    assert sorted(rows(whole)) == sorted(row for part in parts for row in rows(part))
    assert whole.ids.tolist() == list(dict.fromkeys(name for part in parts for name in part.ids.tolist()))


def test_concatenation_of_parts_that_disagree_is_refused():
    a = Series.from_padded(np.ones((2, 1, 1)), [0.0])
    static = np.array([[1.0], [np.nan]])
    both = a.replace(static=static, labels=np.array([0, 1]))
    assert Series.concatenate([both, both]).static.tolist()[0] == [1.0]
    for other, message in (
        (a, "static_names: parts"),
        (both.replace(labels=None), "labels: 1 of 2 parts have it"),
        (
            both.replace(labels=np.array([0, 2])),
            "labels: the parts differ for id 1",
        ),
        (both.replace(static=static + 1), "static: the parts differ"),
        (both.replace(time_unit="D"), "time_unit"),
        (both.replace(channel_names=("x",)), "channel_names"),
        (both.replace(ids=np.array(["a", "b"])), "use one type"),
        (both[[0, 0]], "occurs twice"),
    ):
        with pytest.raises(DataError, match=message):
            Series.concatenate([both, other])


def test_keys_are_stable_and_do_not_depend_on_the_batch():
    series = Series.from_padded(np.ones((3, 1, 1)), [0.0], ids=["b", "a", "ü"])
    assert (series[[2, 0]].keys == series.keys[[2, 0]]).all()
    assert (series.keys >= 0).all()
    numbered = series.replace(ids=np.array([-4, 7, 2**40]))
    assert numbered.keys.tolist() == [-4, 7, 2**40]


def test_index_of_finds_series_or_names_the_first_that_is_missing():
    series = Series.from_padded(np.ones((3, 1, 1)), [0.0], ids=["b", "a", "c"])
    assert series.index_of(["c", "b"]).tolist() == [2, 0]
    with pytest.raises(DataError, match=r"ids\[1\] = 'x'"):
        series.index_of(["a", "x"])


def test_query_asks_for_every_channel_at_every_time():
    series = Series.from_padded(np.ones((2, 3, 2)), np.arange(3.0), channel_names=["HR", "pH"])
    query = series.query([5.0, 4.0], channels=["pH"])
    assert query.time.tolist() == [4, 5, 4, 5]
    assert query.channel.tolist() == [1, 1, 1, 1]
    assert np.isnan(query.value).all()
    own = series.query([[1.0], [2.0]])
    assert own.time.tolist() == [1, 1, 2, 2]
    with pytest.raises(ShapeError, match="expected"):
        series.query(np.ones((3, 1)))


def test_constructor_refuses_rows_out_of_order_and_fields_that_do_not_fit():
    good = Series.from_padded(np.ones((2, 3, 2)), np.arange(3.0))
    for change, message in (
        ({"time": good.time[::-1]}, r"time\[2\] is 1.0, expected the rows of a series to be sorted"),
        ({"channel": good.channel[::-1]}, r"time\[1\] is 0.0, expected the rows"),
        ({"time": np.full(12, np.nan)}, r"time\[0\] is nan"),
        ({"value": np.full(12, np.inf)}, r"value\[0\] is inf"),
        ({"channel": good.channel + 1}, r"channel\[1\] is 2, expected 0 to 1"),
        ({"value": np.ones(3)}, r"value has shape \(3,\), expected \(12,\)"),
        ({"offsets": np.array([0, 6, 11])}, "offsets must be"),
        ({"static": np.ones((3, 1))}, "static has shape"),
        ({"labels": np.ones(3)}, "labels has shape"),
        ({"channel_names": ("x", "x")}, "occurs twice"),
        ({"ids": np.array([1.5, 2.5])}, "integers or strings"),
    ):
        with pytest.raises((DataError, ShapeError), match=message):
            good.replace(**change)
    with pytest.raises(DataError, match="ragged"):
        np.asarray(good)


def test_series_without_observations_stay():
    """Case 5: an empty series is kept; what to do with it is the estimator's business."""
    series = Series.from_padded(np.ones((3, 2, 1)), [0.0, 1.0], lengths=[2, 0, 1])
    assert series.counts.tolist() == [2, 0, 1]
    assert series[1].drop(0.5).counts.tolist() == [0]
    values, _, lengths = series[[1]].to_padded()
    assert values.shape == (1, 0, 1)
    assert lengths.tolist() == [0]
    assert len(repr(series[1])) > 0
    assert series[1].split(0.5)[0].equals(series[1])
