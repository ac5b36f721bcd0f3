"""Whole arrays of an episode: those of the dataset readers, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, record, run

import trajrec
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.replay import fork_many, replay_episode


def columns(rows: Any, name: str) -> dict[str, Any]:
    """Return the arrays of a field, by the names that datasets give them."""
    if isinstance(rows, dict):
        return {
            k: v for key, item in rows.items() for k, v in columns(item, f"{name}/{key}").items()
        }
    if isinstance(rows, tuple):
        parts = enumerate(rows)
        return {k: v for key, item in parts for k, v in columns(item, f"{name}/{key}").items()}
    return {name: rows}


def without_last(rows: Any) -> Any:
    """Return all observations but the last."""
    if isinstance(rows, dict):
        return {key: without_last(item) for key, item in rows.items()}
    return tuple(map(without_last, rows)) if isinstance(rows, tuple) else rows[:-1]


def check(corpus: trajrec.Corpus) -> list[Episode]:
    """Compare the arrays of each episode with its batch."""
    episodes = list(corpus.episodes())
    for episode in episodes:
        where = f"episode_id = '{episode.id}'"
        (batch,) = corpus.transitions(where, shuffle=False, batch_size=10**6)
        arrays = {
            **columns(without_last(episode.observations), "obs"),
            **columns(episode.action_array, "action"),
            "reward": episode.rewards,
            **columns(episode.next_observations, "next_obs"),
            "terminated": episode.terminations,
            "truncated": episode.truncations,
        }
        assert arrays.keys() == batch.keys() - {"episode", "step"}
        assert episode.step_numbers.tolist() == batch["step"].tolist()
        for name, array in arrays.items():
            assert (array.dtype, array.shape) == (batch[name].dtype, batch[name].shape), name
            assert array.tobytes() == batch[name].tobytes(), name
    return episodes


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    "env_id", ["FrozenLake-v1", "CartPole-v1", "Taxi-v4", "Blackjack-v1", "Pendulum-v1"]
)
def test_arrays_of_an_episode_are_those_of_datasets(env_id: str, tmp_path: Path) -> None:
    record(gym.make(env_id), tmp_path, 3)
    with trajrec.open(tmp_path) as corpus:
        check(corpus)


def test_numbers_have_their_type_however_they_are_stored(tmp_path: Path) -> None:
    def result(k: int) -> Any:
        return 7 ** max(k, 0), [1, 300, 70_000, 2**40][k % 4], k == 7, False, {}

    env = trajrec.record(Scripted(result), tmp_path)
    env.reset(seed=0)
    for k in range(8):
        env.step(1000**k if k < 4 else -k)
        # A chunk for each step: each stores integers as narrow as its own.
        env.flush()
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = check(corpus)
    assert episode.observations.dtype == np.int64
    assert episode.action_array.tolist() == episode.actions
    assert episode.action_array.dtype == np.int64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("actions", "dtype"),
    [
        ([True, False], np.bool_),
        ([0.5, 2.0], np.float64),
        ([np.float32(0.5), np.float32(1)], np.float32),
        ([np.int8(1), np.int8(2)], np.int8),
        ([np.ones(3, np.float16), np.zeros(3, np.float16)], np.float16),
    ],
    ids=str,
)
def test_the_dtype_of_actions_is_that_of_the_loop(
    tmp_path: Path, actions: list[Any], dtype: Any
) -> None:
    env = trajrec.record(Scripted(lambda k: (0.0, 0.0, k == 1, False, {})), tmp_path)
    env.reset(seed=0)
    for action in actions:
        env.step(action)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = check(corpus)
    assert episode.action_array.dtype == dtype
    assert episode.action_array.tolist() == np.stack(actions).tolist()


@pytest.mark.slow
def test_actions_without_a_common_form_stay_a_list(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(lambda k: (0.0, 0.0, k == 3, False, {})), tmp_path)
    env.reset(seed=0)
    actions = [1, "go", np.ones(2), None]
    for action in actions:
        env.step(action)
        env.flush()
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert isinstance(episode.action_array, list)
        assert episode.action_array[:2] == actions[:2]
        assert episode.action_array[2].tolist() == [1, 1]
        assert episode.action_array[3] is None


@pytest.mark.slow
def test_integers_beyond_64_bits_signed_are_not_wrapped(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(lambda k: (0.0, 0.0, k == 1, False, {})), tmp_path)
    env.reset(seed=0)
    for action in (2**63, 2**64 - 1):
        env.step(action)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert list(map(int, episode.action_array)) == episode.actions == [2**63, 2**64 - 1]


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize(
    ("rewards", "total"),
    [
        ([2**62, 2**62, 2**62], 1.5 * 2**63),
        ([1, 2, 3], 6.0),
        ([True, False, True], 2.0),
        ([0.5, 10**400, 0.5], float("nan")),
        ([1j, 1j, 1j], float("nan")),
        ([None, 1.0, 1.0], float("nan")),
    ],
)
def test_a_sum_of_rewards_is_right_or_nan(rewards: list[Any], total: float, tmp_path: Path) -> None:
    def make() -> Scripted:
        return Scripted(lambda k: (0.0, rewards[k], k == 2, False, {}))

    env = trajrec.record(make(), tmp_path)
    env.reset(seed=0)
    for _ in rewards:
        env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        (episode,) = corpus.episodes()
        assert episode.total_reward == pytest.approx(total, nan_ok=True)
        (row,) = corpus.sql("SELECT total_reward FROM episodes").fetchall()
        assert row[0] == (None if np.isnan(total) else total)
        report = replay_episode(episode, env=make)
        assert report.grade == "exact"
        (branch,) = fork_many(episode, at=0, actions=[0, 0, 0], env=make)
        assert branch.total_reward == pytest.approx(total, nan_ok=True)


def test_an_unknown_row_or_step_names_the_episode(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(lambda k: (k + 1.0, 0.0, k == 1, False, {})), tmp_path)
    for _ in range(2):
        env.reset(seed=0)
        env.step(0)
        env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        _, episode = corpus.episodes()
        assert [episode.observation_at(row) for row in range(3)] == [0.0, 1.0, 2.0]
        for row in (-1, 3):
            text = rf"row must be in \[0, 2\] for episode {episode.id}, got {row}"
            with pytest.raises(IndexError, match=text):
                episode.observation_at(row)
        with pytest.raises(IndexError, match=rf"in \[0, 1\] for episode {episode.id}, got 2"):
            episode.step_at(2)
        with pytest.raises(IndexError, match=rf"in \[0, 2\] for episode {episode.id}, got 3"):
            episode.state(3)


class Numbered(Scripted):
    """Returns infos whose keys are numbers."""

    def reset(self, **options: Any) -> Any:
        observation, _ = super().reset(**options)
        return observation, self.result_of(-1)[4]


def test_an_info_of_the_reset_has_keys_of_any_type(tmp_path: Path) -> None:
    env = Numbered(lambda k: (np.zeros(2, np.float32), 0.0, k == 1, False, {0: k, (1, "x"): 2}))
    with trajrec.record(env, tmp_path) as recorder:
        run(recorder, 2, policy=lambda observation: 0)
    with trajrec.open(tmp_path) as corpus:
        first, second = corpus.episodes()
        assert first.reset_info == {0: -1, (1, "x"): 2}
        assert first.infos[0] == {0: 0, (1, "x"): 2}
        assert main(["diff", str(tmp_path), first.id, second.id]) == 0


class Composed(gym.Env[Any, Any]):
    action_space = gym.spaces.Box(-1, 1, (2,))
    observation_space = gym.spaces.Dict(
        a=gym.spaces.Box(0, 9, (3,)), b=gym.spaces.Tuple([gym.spaces.Box(0, 9, (2,))])
    )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return {"a": np.ones(3, np.float32), "b": (np.ones(2, np.float32),)}, {}

    def step(self, action: Any) -> Any:
        observation, info = self.reset()
        return observation, np.ones(2), False, False, info


def leaves(rows: Any) -> list[Any]:
    return list(columns(rows, "rows").values())


def test_a_caller_may_change_the_arrays_of_an_episode(tmp_path: Path) -> None:
    with trajrec.record(Composed(), tmp_path, factory=Composed) as env:
        env.reset(seed=1)
        for _ in range(5):
            env.step(np.ones(2, np.float32))
    with trajrec.open(tmp_path) as corpus:
        for _ in range(2):
            episode = next(corpus.episodes())
            for rows in (episode.observations, episode.action_array, episode.rewards):
                for leaf in leaves(rows):
                    assert (leaf == 1).all()
                    leaf /= 2
        assert replay_episode(episode, env=Composed).grade == "exact"
