"""A replay compares whole columns, also of several episodes at once, and misses no single value."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import run
from tiers import mostly_deep

import trajrec
from trajrec.replay.execute.report import ReplayReport
from trajrec.replay.replayer import Replayer

N_EPISODES = 5
N_STEPS = 4

Row = dict[str, Any]


class Table(gym.Env[Any, Any]):
    """Returns the values of a table: for each episode a row for the reset, and one for each step."""

    observation_space = gym.spaces.Discrete(100)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, table: list[list[Row]]) -> None:
        self.table = table
        self.episode = -1
        # One object for all steps, as environments have that reuse their buffers.
        self.row: Row = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode += 1
        self.n_steps = 0
        self._fill()
        return self.row["obs"], {}

    def step(self, action: Any) -> Any:
        self.n_steps += 1
        self._fill()
        is_over = self.n_steps == N_STEPS
        return self.row["obs"], self.row["reward"], is_over, False, self.row["info"]

    def get_state(self) -> Any:
        return self.row["state"]

    def set_state(self, state: Any) -> None:
        self.row["state"] = state

    def _fill(self) -> None:
        new = self.table[self.episode][self.n_steps]
        for name, value in new.items():
            old = self.row.get(name)
            if isinstance(old, dict) and isinstance(value, dict):
                old.clear()
                old.update(copy.deepcopy(value))
            elif isinstance(old, np.ndarray) and isinstance(value, np.ndarray):
                if (old.dtype, old.shape) == (value.dtype, value.shape):
                    old[...] = value
                else:
                    self.row[name] = value.copy()
            else:
                self.row[name] = copy.deepcopy(value)


def make_table(values: list[Any]) -> list[list[Row]]:
    """Return a table in which each field has the given values, by turns."""
    # Only infos may hold values that cannot be stored.
    plain = [1, 2] if any(isinstance(value, Own) for value in values) else values
    return [
        [
            {
                "obs": plain[(3 * episode + step) % len(plain)],
                "reward": float(step),
                "info": {"x": values[(episode + 2 * step) % len(values)]},
                "state": plain[(episode + step) % len(plain)],
            }
            for step in range(N_STEPS + 1)
        ]
        for episode in range(N_EPISODES)
    ]


def record_table(folder: Path, table: list[list[Row]], **options: Any) -> None:
    env = trajrec.record(Table(table), folder, **options)
    for _ in range(N_EPISODES):
        env.reset()
        for _ in range(N_STEPS):
            env.step(0)
    env.close()


def replay_all(corpus: trajrec.Corpus, table: list[list[Row]]) -> list[ReplayReport]:
    """Replay the episodes as a batch, which compares them in groups."""
    with Replayer(env=Table(table), explain=False) as replayer:
        return list(replayer.replay_all(corpus.episodes()))


def replay_one_by_one(corpus: trajrec.Corpus, table: list[list[Row]]) -> list[ReplayReport]:
    with Replayer(env=Table(table), explain=False) as replayer:
        return list(map(replayer.replay, corpus.episodes()))


class Own:
    """An object that a log has as its repr."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"Own({self.number})"


VALUES: dict[str, list[Any]] = {
    "int": [1, 2, 3],
    "one int": [1, 1],
    "bool": [True, False],
    "float": [0.5, -0.0, float("nan"), 1e300],
    "one float": [0.25, 0.25],
    "text": ["a", "é", ""],
    "none": [None, None],
    "mixed": [1, 2.5, "x", None, True],
    "np.int64": [np.int64(3), np.int64(4)],
    "np.float32": [np.float32(0.5), np.float32(-0.0)],
    "array": [np.arange(4.0), np.array([0.0, -0.0, np.nan, 1.0])],
    "one array": [np.arange(4.0), np.arange(4.0)],
    "array of int8": [np.arange(3, dtype=np.int8), np.zeros(3, np.int8)],
    "array without axes": [np.array(1.5), np.array(2.5)],
    "arrays of many shapes": [np.zeros(2), np.zeros(3), np.zeros((1, 2))],
    "frames": [np.zeros((64, 64), np.uint8), np.ones((64, 64), np.uint8)],
    "big-endian": [np.arange(3, dtype=">f8"), np.ones(3, ">f8")],
    "texts": [np.array(["a", "bc"]), np.array(["x", "y"])],
    "dict": [{"a": 1, "b": np.zeros(2)}, {"a": 2, "b": np.ones(2)}],
    "dicts of many keys": [{"a": 1}, {"b": 1}, {"a": 1, "b": 2}],
    "nested": [{"a": {"b": {"c": {"d": {"e": 1}}}}}, {"a": {"b": {"c": {"d": {"e": 2}}}}}],
    "tuple": [(1, np.zeros(2)), (2, np.ones(2))],
    "empty": [{}, (), []],
    "list": [[1, 2], [3], [np.zeros(1)]],
    "keys that are numbers": [{1: 2, 3: 4}, {1: 3, 3: 5}],
    "object": [Own(1), Own(2)],
    "large integer": [2**70, 3],
}


def other_values(value: Any) -> Iterator[Any]:
    """Yield values that a replay must tell from a value, however alike they are."""
    if isinstance(value, bool):
        yield int(value)
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield float(value)
        yield np.int64(value) if abs(value) < 2**63 else value - 1
    elif isinstance(value, float):
        yield np.float64(value)
        yield float(np.nextafter(value, 3.0)) if value == value else 0.0
        yield -value
    elif isinstance(value, np.ndarray):
        yield value.reshape(1, *value.shape)
        yield value.tolist()
        if value.dtype.kind in "iuf":
            changed = value.copy()
            changed.reshape(-1)[-1] += 1
            yield changed
            yield value.astype(np.float16)
    elif isinstance(value, np.generic):
        yield value.item()
        yield type(value)(7)
    elif isinstance(value, dict):
        yield {**value, "new": 1}
        yield dict(list(value.items())[1:]) if value else None
        for key, item in value.items():
            for other in other_values(item):
                yield {**value, key: other}
                break
    elif isinstance(value, (tuple, list)):
        yield type(value)([*value, 1])
        yield (list if isinstance(value, tuple) else tuple)(value)
    elif isinstance(value, Own):
        yield Own(9)
    elif isinstance(value, str):
        yield value + "x"
        yield value.encode()
    else:
        yield 0


USUAL_KINDS = ("float", "dict", "mixed")

KINDS = [
    pytest.param(kind, marks=() if kind in USUAL_KINDS else pytest.mark.slow) for kind in VALUES
]


@mostly_deep("replay", drawn=6)
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_values_of_each_kind_replay_exactly(kind: str, tmp_path: Path) -> None:
    table = make_table(VALUES[kind])
    record_table(tmp_path, table)
    with trajrec.open(tmp_path) as corpus:
        for replay in (replay_all, replay_one_by_one):
            assert {report.grade for report in replay(corpus, table)} == {"exact"}


@mostly_deep("replay", drawn=7)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("kind", KINDS)
def test_one_other_value_diverges_at_its_step(kind: str, tmp_path: Path) -> None:
    table = make_table(VALUES[kind])
    record_table(tmp_path, table)
    fields = {"obs": "observation", "info": "info", "state": "state"}
    with trajrec.open(tmp_path) as corpus:
        for number, (name, field) in enumerate(fields.items(), 1):
            original = table[number][number][name]
            for other in other_values(original["x"] if name == "info" else original):
                changed = copy.deepcopy(table)
                changed[number][number][name] = {"x": other} if name == "info" else other
                for replay in (replay_all, replay_one_by_one):
                    # The table goes on after an episode that a batch executes again.
                    reports = replay(corpus, changed)[: number + 1]
                    grades = [report.grade for report in reports]
                    assert grades == ["exact"] * number + ["diverged"], (name, other)
                    check_divergence(reports[-1], number - 1, field)


def check_divergence(report: ReplayReport, step: int, field: str) -> None:
    divergence = report.divergence
    assert divergence is not None
    assert (divergence.step, divergence.field.partition("/")[0]) == (step, field), divergence


@pytest.mark.parametrize("is_dense", [False, True])
def test_an_info_in_another_step_diverges(is_dense: bool, tmp_path: Path) -> None:
    table = make_table([1, 2])
    for rows in table:
        for step, row in enumerate(rows):
            row["info"] = {"x": 1} if step == 2 or (is_dense and step != 3) else {}
    record_table(tmp_path, table)
    changed = copy.deepcopy(table)
    changed[1][2]["info"] = {}
    changed[1][3]["info"] = {"x": 1}
    with trajrec.open(tmp_path) as corpus:
        assert {report.grade for report in replay_all(corpus, table)} == {"exact"}
        check_divergence(replay_all(corpus, changed)[1], 1, "info")


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("keep", ["all", "keys", None])
def test_an_array_state_that_differs_diverges(keep: Any, tmp_path: Path) -> None:
    table = make_table([np.arange(3.0), np.ones(3)])
    record_table(tmp_path, table, **({} if keep is None else {"keep_states": keep}))
    with trajrec.open(tmp_path) as corpus:
        assert {report.grade for report in replay_all(corpus, table)} == {"exact"}
        for row in range(N_STEPS + 1):
            changed = copy.deepcopy(table)
            changed[1][row]["state"] = changed[1][row]["state"] + 1e-9
            check_divergence(replay_all(corpus, changed)[1], row - 1, "state")


def test_an_episode_that_ends_earlier_diverges(tmp_path: Path) -> None:
    class Shorter(Table):
        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, info = super().step(action)
            is_early = self.episode == 2 and self.n_steps == N_STEPS - 1
            return obs, reward, terminated or is_early, truncated, info

    table = make_table([1, 2])
    record_table(tmp_path, table)
    with trajrec.open(tmp_path) as corpus, Replayer(env=Shorter(table), explain=False) as replayer:
        reports = list(replayer.replay_all(corpus.episodes()))[:3]
    assert [report.grade for report in reports] == ["exact", "exact", "diverged"]
    check_divergence(reports[2], N_STEPS - 2, "terminated")


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CartPole-v1"])
def test_many_short_episodes_replay_exactly(env_id: str, tmp_path: Path) -> None:
    env = trajrec.record(gym.make(env_id), tmp_path)
    run(env, 20)
    env.close()
    with trajrec.open(tmp_path) as corpus, Replayer() as replayer:
        assert {report.grade for report in replayer.replay_all(corpus.episodes())} == {"exact"}
