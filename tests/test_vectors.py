"""Vector environments: each episode is recorded apart and replays alone, for each way to reset."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from tiers import third_slow

import trajrec
from trajrec.replay import replay_episode
from trajrec.values.diff import is_same

N = 8
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


def play(env: Any, n_steps: int = 150, mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> list[Any]:
    """Run a vector environment; return the observations that the loop got."""
    env.action_space.seed(1)
    seen = [env.reset(seed=5)[0].copy()]
    for _ in range(n_steps):
        observations, _, terminations, truncations, _ = env.step(env.action_space.sample())
        seen.append(observations.copy())
        done = terminations | truncations
        if mode is AutoresetMode.DISABLED and done.any():
            observations, _ = env.reset(options={"reset_mask": done})
            seen.append(observations.copy())
    env.close()
    return seen


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize("mode", MODES)
def test_each_episode_of_a_vector_replays_alone(tmp_path: Path, mode: AutoresetMode) -> None:
    make = functools.partial(gym.make, "CartPole-v1")
    bare = play(SyncVectorEnv([make] * N, autoreset_mode=mode), mode=mode)
    recorded = play(
        trajrec.record(SyncVectorEnv([make] * N, autoreset_mode=mode), tmp_path), mode=mode
    )
    assert is_same(bare, recorded)
    with trajrec.open(tmp_path) as corpus:
        per_log = corpus.sql("SELECT count(*), sum(n_steps) FROM episodes GROUP BY log").fetchall()
        assert len(per_log) == N
        endings = dict(corpus.sql("SELECT ending, count(*) FROM episodes GROUP BY 1").fetchall())
        assert endings["terminated"] > 3 * N
        assert endings.get("abandoned", 0) <= N
        for episode in corpus.episodes(order_by="hash(episode_id)"):
            report = replay_episode(episode)
            assert (report.grade, report.notes) == ("exact", ()), report


def test_vector_wrappers_stay_around_recorded_environments(
    tmp_path: Path,
) -> None:
    env = gym.make_vec("MountainCarContinuous-v0", 3, vectorization_mode="sync")
    env = gym.wrappers.vector.RecordEpisodeStatistics(env)
    play(trajrec.record(env, tmp_path), 60)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(*), min(n_steps) FROM episodes").fetchall() == [(3, 60)]
        assert {replay_episode(episode).grade for episode in corpus.episodes()} == {"exact"}


def test_vector_wrapper_that_changes_values_is_warned_of(tmp_path: Path) -> None:
    wrappers = gym.wrappers.vector
    env = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    env = wrappers.RecordEpisodeStatistics(wrappers.ClipReward(env, 0, 0.5))
    with pytest.warns(UserWarning, match=r"before ClipReward, which is around the vector"):
        recorder = trajrec.record(env, tmp_path)
    play(recorder, 5)
    with trajrec.open(tmp_path) as corpus:
        # Those of the environments, which a replay returns too.
        assert corpus.sql("SELECT DISTINCT reward FROM steps").fetchall() == [(1.0,)]


def recorded(env: Any, folder: Path) -> Any:
    return trajrec.record(env, folder)


@pytest.mark.slow
def test_async_vector_can_make_recorded_environments(tmp_path: Path) -> None:
    wrap = functools.partial(recorded, folder=tmp_path)
    env = gym.make_vec("CartPole-v1", 4, vectorization_mode="async", wrappers=[wrap])
    play(env)
    with trajrec.open(tmp_path) as corpus:
        assert corpus.sql("SELECT count(DISTINCT log) FROM episodes").fetchall() == [(4,)]
        assert {replay_episode(episode).grade for episode in corpus.episodes()} == {"exact"}


def test_unrecordable_vectors_are_refused_with_a_remedy(tmp_path: Path) -> None:
    env = AsyncVectorEnv([functools.partial(gym.make, "CartPole-v1")] * 2)
    try:
        with pytest.raises(TypeError, match=r"let it make recorded ones, gym\.make_vec"):
            trajrec.record(env, tmp_path)
    finally:
        env.close()
    with pytest.raises(
        TypeError,
        match=r'CartPoleVectorEnv, which does not hold .* vectorization_mode="sync" or "async"',
    ):
        trajrec.record(gym.make_vec("CartPole-v1", 3), tmp_path)
    with pytest.raises(TypeError, match=r"must be a gymnasium\.Env, got ndarray$"):
        trajrec.record(np.zeros(3), tmp_path)  # type: ignore[call-overload]


def test_wrapper_that_resets_inside_of_steps_is_refused(tmp_path: Path) -> None:
    inside = gym.wrappers.TransformReward(
        gym.wrappers.Autoreset(gym.make("CartPole-v1")), lambda reward: reward
    )
    with pytest.raises(TypeError, match=r"put it outside, Autoreset\(trajrec\.record"):
        trajrec.record(inside, tmp_path)
    with pytest.raises(TypeError, match=r"put it outside, Autoreset\(trajrec\.record"):
        trajrec.record(SyncVectorEnv([lambda: gym.make("CartPole-v1"), lambda: inside]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_wrapper_that_resets_around_the_recorder_is_recorded_right(tmp_path: Path) -> None:
    env = gym.wrappers.Autoreset(trajrec.record(gym.make("CartPole-v1"), tmp_path))
    env.action_space.seed(0)
    env.reset(seed=0)
    n_ends = 0
    while n_ends < 3:
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        n_ends += terminated or truncated
    env.step(0)
    env.close()
    with trajrec.open(tmp_path) as corpus:
        query = "SELECT ending FROM all_episodes ORDER BY number"
        assert corpus.sql(query).fetchall() == [("terminated",)] * 3
        assert {replay_episode(episode).grade for episode in corpus.episodes()} == {"exact"}
