"""Logged trajectories: round trips, what has to be stated, and what is refused."""

import dataclasses
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosde.data import Trajectories
from neurosde.errors import DataError, ShapeError

law = settings(derandomize=True, deadline=None, max_examples=40)


def logged(kind="increment", n=3, steps=5, actions=True, **change) -> Trajectories:
    rng = np.random.default_rng(0)
    lengths = np.array([steps, 1, 3, 2][:n])
    arguments: dict[str, Any] = {
        "times": np.cumsum(rng.uniform(0.1, 1, size=(n, steps)), axis=1),
        "states": rng.normal(size=(n, steps, 2)),
        "rewards": rng.normal(size=(n, steps if kind == "rate" else steps - 1)),
        "actions": rng.normal(size=(n, steps - 1, 1)) if actions else None,
        "lengths": lengths,
        "reward_kind": kind,
        "end": ["horizon", "terminated", "censored", "horizon"][:n],
    }
    arguments |= change
    if kind == "increment" and "rewards" not in change:
        rewards = np.full((n, steps), np.nan)
        for i, length in enumerate(lengths):
            rewards[i, : length - 1] = arguments["rewards"][i, : length - 1]
        arguments["rewards"] = rewards
    return Trajectories.from_arrays(**arguments)


@pytest.mark.parametrize("kind", ["rate", "increment"])
@pytest.mark.parametrize("actions", [True, False])
def test_padded_and_long_round_trips_are_exact(kind, actions):
    a = logged(kind, actions=actions)
    assert Trajectories.from_arrays(*a.to_padded(), reward_kind=kind, end=a.end).equals(a)
    df = a.to_long().rename(columns={"0": "s0", "1": "s1"}) if not actions else None
    if actions:
        a = dataclasses.replace(a, state_names=("x", "v"), action_names=("u",))
        df = a.to_long()
        back = Trajectories.from_long(
            df.sample(frac=1, random_state=0), ["x", "v"], ["u"], reward_kind=kind, end="end"
        )
        assert back.equals(a)
    else:
        assert (
            Trajectories.from_long(df, ["s0", "s1"], reward_kind=kind, end="end").states.tolist()
            == a.states.tolist()
        )


@law
@given(st.lists(st.integers(-3, 2), min_size=1, max_size=5))
def test_indexing_agrees_one_by_one(chosen):
    a = logged()
    part = a[chosen]
    assert part.shape == (len(chosen),)
    assert all(part[k].equals(a[i]) for k, i in enumerate(chosen))
    assert pickle.loads(pickle.dumps(part)).equals(part)


def test_one_end_stands_for_all():
    a = logged(end="censored")
    assert a.end.tolist() == ["censored"] * 3
    assert "3 censored" in repr(a)


def test_what_cannot_be_guessed_has_to_be_said():
    with pytest.raises(TypeError, match="reward_kind"):
        Trajectories.from_arrays([0.0], np.ones((1, 1, 1)), np.ones((1, 1)))  # pyright: ignore[reportCallIssue]
    with pytest.raises(DataError, match="reward_kind is 'reward'"):
        logged(reward_kind="reward")
    with pytest.raises(
        DataError, match=r"end\[1\] is 'truncated', expected one of horizon, terminated, censored"
    ):
        logged(end=["horizon", "truncated", "horizon"])


def test_rewards_of_the_wrong_length():
    with pytest.raises(
        DataError, match=r"rewards of trajectory 0, step 4 is .* none begins at the last state"
    ):
        logged(rewards=np.ones((3, 5)))
    with pytest.raises(DataError, match="a rate belongs to every state"):
        logged("rate", rewards=np.ones((3, 4)))
    with pytest.raises(ShapeError, match=r"rewards has shape \(3, 3\)"):
        logged(rewards=np.ones((3, 3)))
    with pytest.raises(DataError, match="rewards of trajectory 0, step 2 is nan, expected a finite number"):
        logged(rewards=[[1, 1, np.nan, 1, np.nan], [np.nan] * 5, [1, 1, np.nan, 0, 0]])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 1, np.nan, 2, 3], r"times\[0, 2\] is nan"),
        (
            [0, 1, 1, 2, 3],
            "time of trajectory 0, step 1 is 1.0, expected smaller than the time of the next row",
        ),
        ([0, 2, 1, 3, 4], "time of trajectory 0, step 1 is 2.0"),
    ],
)
def test_case_3_and_16_times_that_do_not_rise(times, message):
    with pytest.raises(DataError, match=message):
        logged(times=times)


def test_padding_is_told_by_lengths():
    a = logged()
    times, states, rewards, actions, lengths = a.to_padded()
    assert np.isnan(times[1, 1:]).all()
    with pytest.raises(DataError, match="padding is told by lengths"):
        Trajectories.from_arrays(times, states, rewards, actions, reward_kind="increment", end="horizon")
    with pytest.raises(DataError, match="at least one row"):
        logged(lengths=np.array([5, 0, 3]))
    states[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="states of trajectory 0, step 0"):
        Trajectories.from_arrays(
            times, states, rewards, actions, lengths, reward_kind="increment", end="horizon"
        )


def test_long_tables_name_what_is_wrong():
    df = pd.DataFrame(
        {"id": [1, 1, 2], "time": [0.0, 1.0, 0.0], "x": [1.0, 2.0, 3.0], "reward": [1.0, np.nan, np.nan]}
    )
    a = Trajectories.from_long(df, ["x"], reward_kind="increment", end="terminated")
    assert a.lengths.tolist() == [2, 1]
    with pytest.raises(DataError, match="no column 'y'"):
        Trajectories.from_long(df, ["y"], reward_kind="increment", end="horizon")
    with pytest.raises(DataError, match=r"end is none of .* no column 'done'"):
        Trajectories.from_long(df, ["x"], reward_kind="increment", end="done")
    with pytest.raises(DataError, match="column 'end' changes within id 1"):
        Trajectories.from_long(
            df.assign(end=["horizon", "censored", "horizon"]), ["x"], reward_kind="increment", end="end"
        )


@dataclasses.dataclass
class Episode:
    """The fields of a Minari episode that are read."""

    id: int
    observations: Any
    actions: Any
    rewards: Any
    terminations: Any
    truncations: Any


class Dataset:
    def __init__(self, episodes):
        self.episodes = episodes

    def iterate_episodes(self):
        return iter(self.episodes)


def test_minari_episodes():
    done = Episode(0, np.ones((4, 2)), np.zeros(3), np.arange(3.0), [False, False, True], [False] * 3)
    cut = Episode(1, np.ones((2, 2)), np.zeros(1), np.ones(1), [False], [True])
    a = Trajectories.from_minari(Dataset([done, cut]), 0.05, truncated="censored")
    assert a.end.tolist() == ["terminated", "censored"]
    assert a.reward_kind == "increment"
    np.testing.assert_allclose(a[0].time, [0, 0.05, 0.1, 0.15])
    np.testing.assert_array_equal(a[0].rewards, [0, 1, 2, np.nan])
    with pytest.raises(ShapeError, match=r"expected T \+ 1, T and T"):
        Trajectories.from_minari(
            Dataset([dataclasses.replace(done, observations=np.ones((3, 2)))]), 0.05, truncated="horizon"
        )
    with pytest.raises(DataError, match="0 series"):
        Trajectories.from_minari(Dataset([]), 0.05, truncated="horizon")
    with pytest.raises(DataError, match="dt is 0"):
        Trajectories.from_minari(Dataset([done]), 0, truncated="horizon")


def test_datasets_of_xarray():
    a = logged("rate", actions=False, lengths=None, end="horizon")
    times, states, rewards, _, _ = a.to_padded()
    ds = xr.Dataset(
        {
            "states": (("time", "series", "state"), np.swapaxes(states, 0, 1)),
            "rewards": (("series", "time"), rewards),
        },
        {"time": times[0]},
    )
    b = Trajectories.from_xarray(ds, reward_kind="rate", end="horizon")
    np.testing.assert_array_equal(b.states, a.states)
    with pytest.raises(DataError, match="no variable 'rewards'"):
        Trajectories.from_xarray(ds.drop_vars("rewards"), reward_kind="rate", end="horizon")
