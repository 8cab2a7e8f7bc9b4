"""Logged trajectories with rewards, and how each of them ended."""

import dataclasses
from typing import Any, Literal, Self, TypeAlias

import numpy as np

from neurosde.data import columns, grids, rows
from neurosde.errors import DataError, ShapeError
from neurosde.typing import Array, Sequence

RewardKind: TypeAlias = Literal["rate", "increment"]
ENDS = ("horizon", "terminated", "censored")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trajectories:
    """States, rewards and perhaps actions of many trajectories, each at its own times.

    Row k holds the state at ``time[k]``; trajectory i owns the rows ``offsets[i]:offsets[i + 1]``, at least
    one, at strictly rising times. What cannot be read off the numbers has to be stated: whether rewards are
    rates or increments, and how each trajectory ended. Build one with `from_arrays`, `from_long`,
    `from_minari` or `from_xarray`.

    Parameters
    ----------
    ids : (series,) integers or strings
    offsets : (series + 1,) int64
    time : (row,) float64
    states : (row, state) float64
    rewards : (row,) float64
        Of kind "rate": the rate r at ``time[k]``. Of kind "increment": what was earned from ``time[k]`` to
        ``time[k + 1]``, and NaN in the last row of each trajectory.
    reward_kind : "rate" or "increment"
        Gymnasium logs increments; the theory of continuous time is written with rates.
    end : (series,) strings
        "horizon": observed up to the horizon of the problem, where a terminal payoff may be due.
        "terminated": absorbed, nothing is earned afterwards. "censored": observation stopped and the process
        went on.
    actions : (row, action) float64, optional
        NaN in the last row of a trajectory if no action was taken there.
    state_names, action_names : tuple of str
    time_unit : str

    Examples
    --------
    >>> times, states = [0.0, 0.5, 2.0], [[[1.0], [0.8], [0.1]]]
    >>> kinds = {"reward_kind": "increment", "end": "censored"}
    >>> logged = Trajectories.from_arrays(times, states, [[1.0, 0.6]], **kinds)
    >>> logged
    Trajectories(1 series, 2 steps, 1 states, rewards as increment; 1 censored)
    """

    ids: Array
    offsets: Array
    time: Array
    states: Array
    rewards: Array
    reward_kind: RewardKind
    end: Array
    actions: Array | None = None
    state_names: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    time_unit: str = "h"

    def __post_init__(self) -> None:
        kinds = {"offsets": np.int64, "time": float, "states": float, "rewards": float, "actions": float}
        for name in ("ids", "end", *kinds):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, columns.frozen(getattr(self, name), kinds.get(name)))
        for name, block in (("state_names", self.states), ("action_names", self.actions)):
            width = 0 if block is None else block.shape[-1]
            names = columns.names(getattr(self, name) or None, width, argument=name)
            object.__setattr__(self, name, names)
        self._check()

    def _check(self) -> None:
        n, m = len(self.ids), len(self.time)
        if n == 0:
            raise DataError("0 series: a record holds at least one trajectory")
        if self.reward_kind not in ("rate", "increment"):
            raise DataError(f"reward_kind is {self.reward_kind!r}, expected 'rate' or 'increment'")
        wrong = ~np.isin(self.end, ENDS)
        if wrong.any():
            i = columns.first(wrong)
            raise DataError(f"end[{i}] is {columns.told(self.end[i])}, expected one of {', '.join(ENDS)}")
        shapes = {
            "offsets": (n + 1,),
            "end": (n,),
            "time": (m,),
            "rewards": (m,),
            "states": (m, len(self.state_names)),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ShapeError(f"{name} has shape {getattr(self, name).shape}, expected {shape}")
        if self.actions is not None and self.actions.shape != (m, len(self.action_names)):
            raise ShapeError(
                f"actions has shape {self.actions.shape}, expected {(m, len(self.action_names))}"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != m or (self.lengths < 1).any():
            raise DataError(
                f"offsets must rise from 0 to {m} with at least one row for each of {n} trajectories"
            )
        last = np.zeros(m, dtype=bool)
        last[self.offsets[1:] - 1] = True
        rising = np.append(np.diff(self.time) > 0, True)
        earned = np.isnan(self.rewards) if self.reward_kind == "increment" else np.isfinite(self.rewards)
        verdicts = [
            ("time", np.isfinite(self.time), "a finite number"),
            (
                "time",
                rising | last,
                "smaller than the time of the next row: times of a trajectory rise strictly",
            ),
            ("states", np.isfinite(self.states).all(axis=1), "finite numbers"),
            ("rewards", np.isfinite(self.rewards) | last, "a finite number"),
            ("rewards", earned | ~last, _LAST_REWARD[self.reward_kind]),
        ]
        if self.actions is not None:
            verdicts.append(("actions", np.isfinite(self.actions).all(axis=1) | last, "finite numbers"))
        for name, good, expected in verdicts:
            if not good.all():
                row = int(np.argmin(good))
                i = int(np.searchsorted(self.offsets, row, side="right")) - 1
                where = f"trajectory {columns.told(self.ids[i])}, step {row - self.offsets[i]}"
                raise DataError(f"{name} of {where} is {getattr(self, name)[row]}, expected {expected}")

    @classmethod
    def from_arrays(
        cls, times: Any, states: Any, rewards: Any, actions: Any = None, lengths: Any = None, *,
        reward_kind: RewardKind, end: str | Sequence[str], ids: Any = None, time_unit: str = "h",
    ) -> Self:  # fmt: skip
        """Read padded arrays.

        Parameters
        ----------
        times : (time,) or (series, time)
        states : (series, time, state)
        rewards : (series, time) rates, or (series, time - 1) increments
            Increments may also fill (series, time) with NaN at the last state of each trajectory.
        actions : (series, time or time - 1, action), optional
            The action axis may be left out where there is one action.
        lengths : (series,) integers, optional
            How many states of each trajectory count, by default all; what lies beyond is not looked at.
        reward_kind : "rate" or "increment"
        end : "horizon", "terminated" or "censored", or one of them for each trajectory
        ids : (series,), optional
            By default 0, 1, ...
        time_unit : str
        """
        block = columns.numbers(states, argument="states")
        if block.ndim != 3:
            raise ShapeError(f"states has shape {block.shape}, expected (series, time, state)")
        n, steps, _ = block.shape
        at, _ = columns.times(times, time_unit, argument="times")
        inside = grids.extent(at, lengths, n, steps)
        names = np.arange(n) if ids is None else columns.unboxed(ids)
        acted = None
        if actions is not None:
            acted = columns.numbers(actions, argument="actions")
            acted = _one_more(acted[..., None] if acted.ndim == 2 else acted, "actions", n, steps)[inside]
        earned = _one_more(columns.numbers(rewards, argument="rewards"), "rewards", n, steps)
        fields = {"states": block[inside], "rewards": earned[inside], "actions": acted}
        fields["time"] = np.broadcast_to(at, (n, steps))[inside]
        fields["offsets"] = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
        fields["end"] = np.full(n, end) if isinstance(end, str) else np.asarray(end)
        return cls(ids=names, reward_kind=reward_kind, time_unit=time_unit, **fields)

    @classmethod
    def from_long(
        cls, df: Any, states: Sequence[str], actions: Sequence[str] = (), *, id: str = "id",
        time: str = "time", reward: str = "reward", reward_kind: RewardKind, end: str, time_unit: str = "h",
    ) -> Self:  # fmt: skip
        """Read a long table: one row for each state, in any order.

        Parameters
        ----------
        df : pandas.DataFrame or mapping of columns
        states, actions : sequence of str
            Columns.
        id, time, reward : str
            Columns. The reward of the last row of a trajectory is NaN if rewards are increments.
        reward_kind : "rate" or "increment"
        end : str
            "horizon", "terminated" or "censored" for all of them, or the name of a column that holds one of
            these words, the same in every row of a trajectory.
        time_unit : str
        """
        ids, series = columns.codes(columns.column(df, id, argument="id"), argument=f"column {id!r}")
        stamp = columns.column(df, time, argument="time")
        at, _ = columns.times(stamp, time_unit, argument=f"column {time!r}")
        order = np.lexsort((columns.finite(at, argument=f"column {time!r}"), series))
        offsets = rows.cut(series[order], len(ids))
        fields: dict[str, Any] = {"ids": ids, "offsets": offsets, "time": at[order]}
        for argument, names in (("states", states), ("rewards", (reward,)), ("actions", actions)):
            entries = [columns.column(df, name, argument=argument) for name in names]
            block = [
                columns.numbers(e, argument=f"column {n!r}") for e, n in zip(entries, names, strict=True)
            ]
            fields[argument] = np.stack(block, axis=1)[order] if block else None
        fields["rewards"] = fields["rewards"][:, 0]
        if end in ENDS:
            fields["end"] = np.full(len(ids), end)
        else:
            words = np.asarray(columns.column(df, end, argument=f"end is none of {ENDS}")).astype(str)[order]
            fields["end"] = words[offsets[:-1]]
            changes = words != fields["end"][series[order]]
            if changes.any():
                name = ids[series[order][columns.first(changes)]]
                raise DataError(
                    f"column {end!r} changes within id {columns.told(name)}, expected one word a trajectory"
                )
        fields |= {"state_names": tuple(states), "action_names": tuple(actions)}
        return cls(reward_kind=reward_kind, time_unit=time_unit, **fields)

    @classmethod
    def from_minari(
        cls, dataset: Any, dt: float, *, truncated: Literal["horizon", "censored"], time_unit: str = "s"
    ) -> Self:
        """Read the episodes of a Minari dataset, whose rewards are increments.

        Parameters
        ----------
        dataset : minari.MinariDataset
            Anything with ``iterate_episodes()``; an episode has T + 1 observations, T actions and T rewards.
        dt : float
            Time between two observations, which Minari does not know.
        truncated : "horizon" or "censored"
            What it means when an episode ends truncated and not terminated: the horizon of the problem was
            reached, or somebody stopped looking.
        time_unit : str
        """
        if not (np.isfinite(dt) and dt > 0):
            raise DataError(f"dt is {dt}, expected a positive number")
        episodes = list(dataset.iterate_episodes())
        if not episodes:
            raise DataError("0 series: the dataset has no episode")
        blocks: dict[str, list[Array]] = {"states": [], "actions": [], "rewards": [], "time": []}
        for e in episodes:
            states = columns.finite(e.observations, argument=f"observations of episode {e.id}")
            actions = columns.finite(e.actions, argument=f"actions of episode {e.id}")
            rewards = columns.finite(e.rewards, argument=f"rewards of episode {e.id}")
            steps = len(states) - 1
            if len(rewards) != steps or len(actions) != steps:
                found = f"{steps + 1} observations, {len(actions)} actions, {len(rewards)} rewards"
                raise ShapeError(f"episode {e.id} has {found}; expected T + 1, T and T")
            blocks["states"].append(states.reshape(steps + 1, -1))
            blocks["actions"].append(_close(actions.reshape(steps, -1)))
            blocks["rewards"].append(_close(rewards))
            blocks["time"].append(dt * np.arange(steps + 1))
        fields: dict[str, Any] = {name: np.concatenate(block) for name, block in blocks.items()}
        fields["offsets"] = np.concatenate([[0], np.cumsum([len(t) for t in blocks["time"]])])
        fields["ids"] = columns.unboxed([e.id for e in episodes])
        fields["end"] = np.array(["terminated" if np.any(e.terminations) else truncated for e in episodes])
        return cls(reward_kind="increment", time_unit=time_unit, **fields)

    @classmethod
    def from_xarray(cls, ds: Any, *, reward_kind: RewardKind, end: str | Sequence[str]) -> Self:
        """Read an xarray Dataset.

        ``states`` (series, time, state), ``rewards`` (series, time), perhaps ``actions`` (series, time,
        action) and ``length`` (series,), with a coordinate ``time`` that is (time,) or (series, time);
        `from_arrays` says more.
        """
        missing = [name for name in ("states", "rewards", "time") if name not in ds.variables]
        if missing:
            raise DataError(f"ds has no variable {missing[0]!r}; it has {', '.join(map(str, ds.variables))}")
        clock = ds["time"].dims[-1]
        actions = ds["actions"].transpose("series", clock, ...).values if "actions" in ds else None
        return cls.from_arrays(
            ds["time"].values, ds["states"].transpose("series", clock, "state").values,
            ds["rewards"].transpose("series", clock).values, actions,
            ds["length"].values if "length" in ds else None, reward_kind=reward_kind, end=end,
            ids=ds["series"].values, time_unit=str(ds.attrs.get("time_unit", "h")),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int]:
        """``(series,)``, as scikit-learn asks for it."""
        return (len(self.ids),)

    @property
    def lengths(self) -> Array:
        """Number of states of each trajectory, ``(series,)``."""
        return np.diff(self.offsets)

    def __getitem__(self, key: Any) -> Self:
        chosen = rows.positions(key, len(self))
        row, offsets = rows.gather(self.offsets, chosen)
        fields = {name: getattr(self, name)[row] for name in ("time", "states", "rewards")}
        fields["actions"] = None if self.actions is None else self.actions[row]
        return dataclasses.replace(
            self, ids=self.ids[chosen], end=self.end[chosen], offsets=offsets, **fields
        )

    def to_long(self) -> Any:
        """Return a pandas DataFrame with one row for each state, which `from_long` reads back to the bit.

        Columns are id, time, the states, the actions, reward and end.
        """
        import pandas as pd

        repeat = self.lengths
        names = {"id": np.repeat(columns.plain(self.ids), repeat), "time": self.time}
        names |= dict(zip(self.state_names, self.states.T, strict=True))
        if self.actions is not None:
            names |= dict(zip(self.action_names, self.actions.T, strict=True))
        return pd.DataFrame(
            names | {"reward": self.rewards, "end": np.repeat(columns.plain(self.end), repeat)}
        )

    def to_padded(self) -> tuple[Array, Array, Array, Array | None, Array]:
        """Return padded times, states, rewards, actions and lengths, as `from_arrays` takes them."""
        inside = np.arange(self.lengths.max()) < self.lengths[:, None]

        def laid(block: Array) -> Array:
            grid = np.full((*inside.shape, *block.shape[1:]), np.nan)
            grid[inside] = block
            return grid

        actions = None if self.actions is None else laid(self.actions)
        return laid(self.time), laid(self.states), laid(self.rewards), actions, self.lengths

    def equals(self, other: "Trajectories") -> bool:
        """Whether every field is the same to the bit."""
        names = [field.name for field in dataclasses.fields(self)]
        return all(columns.same(getattr(self, name), getattr(other, name)) for name in names)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    def __repr__(self) -> str:
        ends = ", ".join(
            f"{int((self.end == word).sum())} {word}" for word in ENDS if (self.end == word).any()
        )
        steps = len(self.time) - len(self)
        return (
            f"Trajectories({len(self)} series, {steps} steps, {len(self.state_names)} states, rewards as"
            f" {self.reward_kind}; {ends})"
        )


_LAST_REWARD = {
    "increment": "NaN: T states have T - 1 increments, and none begins at the last state",
    "rate": "a finite number: a rate belongs to every state, the last one included",
}


def _one_more(block: Array, argument: str, n: int, steps: int) -> Array:
    """Pad what belongs to the steps between states by a NaN at the last state."""
    if block.shape[:2] == (n, steps - 1):
        block = np.concatenate([block, np.full((n, 1, *block.shape[2:]), np.nan)], axis=1)
    if block.shape[:2] != (n, steps):
        expected = f"({n} series, {steps} or {steps - 1} times, ...)"
        raise ShapeError(f"{argument} has shape {block.shape}, expected {expected}")
    return block


def _close(block: Array) -> Array:
    """Append a NaN row: nothing begins at the last state."""
    return np.concatenate([block, np.full((1, *block.shape[1:]), np.nan)])
