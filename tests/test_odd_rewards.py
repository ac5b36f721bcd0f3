"""Sums of rewards are the same in the log, in SQL, in Python and of a replay, whatever a reward is."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import random_values as rv

import trajrec
from trajrec.log.reader import LogReader
from trajrec.replay import replay_episode
from trajrec.values.real_numbers import real_number, sum_of

NUMBERS: list[tuple[Any, float]] = [
    (True, 1.0),
    (2, 2.0),
    (rv.Points(2), 2.0),
    (np.float32(0.5), 0.5),
    (np.bool_(True), 1.0),
    (np.array(1.5), 1.5),
    (np.array([2], np.int8), 2.0),
    (np.array([[0.5]], ">f4"), 0.5),
    (np.ma.masked_array([1.5], mask=[False]), 1.5),
    (9 * 10**307, 9e307),
]
NO_NUMBERS: list[Any] = [
    10**400,
    "1",
    b"1",
    None,
    1j,
    np.complex64(1),
    rv.Level.LOW,
    np.datetime64(5, "ns"),
    np.timedelta64(5, "ns"),
    np.str_("1"),
    np.zeros(1, rv.RECORD)[0],
    [1.0],
    [1.0, 2.0],
    np.array([1.0, 2.0]),
    {"a": 1.0},
    np.ma.masked_array([1.0], mask=[True]),
]


class Paying(gym.Env[int, int]):
    """Gives the rewards of a list, one episode for each inner list."""

    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(1)

    def __init__(self, episodes: list[list[Any]]) -> None:
        self._episodes = iter(episodes)
        self._rewards: list[Any] = []

    def reset(self, **_: Any) -> tuple[int, dict[str, Any]]:
        self._rewards = list(next(self._episodes))
        return 0, {}

    def step(self, action: int) -> Any:
        return 0, self._rewards.pop(0), not self._rewards, False, {}


def record(folder: Path, episodes: list[list[Any]]) -> Path:
    env = trajrec.record(Paying(episodes), folder)
    for rewards in episodes:
        env.reset()
        for _ in rewards:
            env.step(0)
    env.close()
    return env.path


def totals(folder: Path, path: Path, episodes: list[list[Any]]) -> list[tuple[float, ...]]:
    """Return the sum of each episode: of the footer, of SQL, of Python and of a replay."""
    with LogReader(path) as reader:
        footer = [summary.total_reward for summary in reader.episodes()]
    with trajrec.open(folder) as corpus:
        of_steps = (
            "SELECT list(reward ORDER BY step) FROM steps s WHERE s.episode_id = e.episode_id"
        )
        query = f"SELECT total_reward, ({of_steps}) FROM episodes e ORDER BY number"
        rows = corpus.sql(query).fetchall()
        found = sorted(corpus.episodes(), key=lambda episode: episode.number)
        own = [episode.total_reward for episode in found]
        replayed = [
            replay_episode(episode, env=Paying([rewards])).total_reward
            for episode, rewards in zip(found, episodes, strict=True)
        ]
    for (_, listed), rewards in zip(rows, episodes, strict=True):
        assert same(listed, [real_number(reward) for reward in rewards])
    sql = [row[0] for row in rows]
    return list(zip(footer, nan(sql), own, nan(replayed), strict=True))


def nan(values: list[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def same(a: Any, b: Any) -> bool:
    return str(a) == str(b)


def test_numbers_of_any_type_are_summed_alike(tmp_path: Path) -> None:
    episodes = [[value, 1.0, value] for value, _ in NUMBERS]
    path = record(tmp_path, episodes)
    for (value, number), found in zip(NUMBERS, totals(tmp_path, path, episodes), strict=True):
        expected = 2 * number + 1.0
        assert found == (expected,) * 4, value


def test_what_is_no_number_has_no_sum_anywhere(tmp_path: Path) -> None:
    episodes = [[1.0, value] for value in NO_NUMBERS]
    path = record(tmp_path, episodes)
    for value, found in zip(NO_NUMBERS, totals(tmp_path, path, episodes), strict=True):
        assert all(map(math.isnan, found)), value


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "rewards", [[10**400], [-(10**400), 10**400], ["1"], [[1.0, 2.0]], [1j], [10**308, 10**308]]
)
def test_columns_of_one_odd_type_are_summed_alike(rewards: list[Any], tmp_path: Path) -> None:
    path = record(tmp_path, [rewards])
    (found,) = totals(tmp_path, path, [rewards])
    assert len(set(map(str, found))) == 1
    assert same(found[0], sum_of(rewards))


def test_no_odd_reward_warns_or_raises() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (*rv.ODD_REWARDS, *NO_NUMBERS):
            assert isinstance(real_number(value), (float, type(None)))
