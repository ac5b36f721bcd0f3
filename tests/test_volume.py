"""Recordings that are limited: a share of the episodes, a size, the last episodes."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Scripted, run
from tiers import third_slow

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import LogWriteError
from trajrec.log.reader import LogReader
from trajrec.replay import replay_episodes
from trajrec.values import codec


def episodes(folder: Path) -> list[Episode]:
    with trajrec.open(folder) as corpus:
        return list(corpus.episodes(order_by="started_at, number"))


@pytest.mark.slow
def test_every_third_episode_is_recorded_and_replays(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, every=3)
    rewards = []
    env.action_space.seed(0)
    for k in range(7):
        env.reset(seed=4 if k == 0 else None)
        rewards.append(0.0)
        is_over = False
        while not is_over:
            _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            rewards[-1] += float(reward)
            is_over = terminated or truncated
    env.close()
    recorded = episodes(tmp_path)
    assert [episode.total_reward for episode in recorded] == rewards[::3]
    numbers = [codec.decode(e.start.extra_data) for e in recorded if e.start]
    assert numbers == [{"reset": 0}, {"reset": 3}, {"reset": 6}]
    with trajrec.open(tmp_path) as corpus:
        assert {report.grade for report in replay_episodes(corpus.episodes())} == {"exact"}


def test_skipped_episode_ends_the_one_before(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, every=2)
    env.reset(seed=0)
    env.step(0)
    env.reset()
    assert not env.is_open
    env.step(0)
    env.close()
    (episode,) = episodes(tmp_path)
    assert (episode.ending, episode.n_steps) == ("abandoned", 1)


def noise(k: int) -> Any:
    return np.random.default_rng(k + 1).random(50), 1.0, False, k == 99, {}


def run_and_close(env: trajrec.Recorder, n_episodes: int) -> int:
    n_steps = run(env, n_episodes)
    env.close()
    return n_steps


def test_log_stays_below_its_limit_and_training_goes_on(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(noise), tmp_path, max_bytes=100_000)
    with pytest.warns(RuntimeWarning, match="it has reached max_bytes=100000") as warned:
        assert run_and_close(env, 80) == 8000
    assert len(warned) == 1
    assert 50_000 < env.path.stat().st_size <= 100_000
    with LogReader(env.path) as reader:
        assert reader.is_sealed
        assert not reader.damage
    recorded = episodes(tmp_path)
    assert len(recorded) > 1
    assert all(episode.n_steps == 100 for episode in recorded[:-1])


def test_log_at_its_limit_raises_if_the_user_chose_so(tmp_path: Path) -> None:
    env = trajrec.record(Scripted(noise), tmp_path, max_bytes=100_000, on_full="raise")
    with pytest.raises(LogWriteError, match="it has reached max_bytes=100000"):
        run(env, 80)
    with pytest.raises(LogWriteError):
        env.close()
    assert env.path.stat().st_size <= 100_000


def test_last_episodes_are_kept_and_older_logs_deleted(tmp_path: Path) -> None:
    other = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(other, 1)
    other.close()
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, keep_last=8)
    returns = []
    n_logs = []
    for k in range(30):
        env.reset(seed=k)
        n_steps = 0
        is_over = False
        while not is_over:
            _, _, terminated, truncated, _ = env.step(n_steps // 2 % 2)
            n_steps += 1
            is_over = terminated or truncated
        returns.append((k, n_steps))
        n_logs.append(len(list(tmp_path.glob("*.trj"))))
    env.close()
    assert max(n_logs) <= 7
    with LogReader(other.path) as reader:
        assert reader.is_sealed
    kept = [
        (e.start.seed, e.n_steps) for e in episodes(tmp_path) if e.start and e.path != other.path
    ]
    assert kept == returns[-len(kept) :]
    assert 8 <= len(kept) <= 10
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.usefixtures("no_flusher")
# The header names the packages of the process: in a process of many tests it has 3 kB.
@pytest.mark.parametrize("limit", [16_000, 30_000])
def test_a_block_that_does_not_fit_whole_fits_in_part(tmp_path: Path, limit: int) -> None:
    env = trajrec.record(Scripted(noise), tmp_path, max_bytes=limit)
    with pytest.warns(RuntimeWarning, match=f"it has reached max_bytes={limit}"):
        assert run_and_close(env, 8) == 800
    # The space of the footer is kept free.
    assert limit - 5_000 < env.path.stat().st_size <= limit
    recorded = episodes(tmp_path)
    rows = [row for episode in recorded for row in episode.observations[1:]]
    assert len(rows) == sum(episode.n_steps for episode in recorded)
    assert len(rows) * 400 > limit / 3
    expected = [noise(k % 100)[0] for k in range(len(rows))]
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("on_full", ["stop-recording", "raise"])
def test_limit_met_by_the_flusher_is_told_by_the_next_flush(tmp_path: Path, on_full: Any) -> None:
    env = trajrec.record(Scripted(noise), tmp_path, max_bytes=10_000, on_full=on_full)
    run(env, 1)
    env._writer.flush_pending()
    assert env._writer.is_closed
    told = pytest.warns(RuntimeWarning, match="it has reached max_bytes=10000")
    if on_full == "raise":
        told = pytest.raises(LogWriteError, match="it has reached max_bytes=10000")
    with told:
        env.flush()


@pytest.mark.slow
@third_slow("index")
def test_sql_knows_the_logs_that_are_left(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path / "runs", keep_last=4)
    query = "SELECT episode_id, seed, n_steps, ending, total_reward FROM episodes ORDER BY seed"
    steps = "SELECT episode_id, step, reward FROM steps ORDER BY ALL"
    with trajrec.open(tmp_path / "runs") as corpus:
        for k in range(12):
            env.reset(seed=k)
            for n in range(5):
                env.step(n % 2)
            found = corpus.sql(query).fetchall()
            assert [row[1] for row in found] == list(range(found[0][1], k + 1))
            assert found[-1][2:] == (5, "running", 5.0)
            if k % 3 == 2:
                copy = tmp_path / f"copy {k}"
                shutil.copytree(tmp_path / "runs", copy, ignore=shutil.ignore_patterns("*.duckdb"))
                with trajrec.open(copy) as other:
                    assert [row[:3] for row in other.sql(query).fetchall()] == [
                        row[:3] for row in found
                    ]
                    assert other.sql(steps).fetchall() == corpus.sql(steps).fetchall()
    env.close()


def test_log_that_cannot_be_deleted_is_deleted_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "a reader holds it", str(path))

    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, keep_last=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        run(env, 4)
    assert len(list(tmp_path.glob("*.trj"))) == 4
    run(env, 1)
    env.close()
    assert len(list(tmp_path.glob("*.trj"))) == 2


@pytest.mark.parametrize("option", ["every", "max_bytes", "keep_last"])
def test_limit_below_one_is_refused_by_name(option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least 1, got 0"):
        trajrec.record(gym.make("CartPole-v1"), tmp_path, **{option: 0})  # type: ignore[call-overload]


def test_audit_and_deleted_logs_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last deletes logs"):
        trajrec.record(gym.make("CartPole-v1"), tmp_path, audit=0.5, keep_last=3)


def test_episode_after_close_is_not_recorded_with_a_warning(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path)
    run(env, 1)
    env.close()
    with pytest.warns(RuntimeWarning, match="the recorder was closed"):
        env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(0)
        env.reset()
    assert len(episodes(tmp_path)) == 1


def test_deleted_log_does_not_end_the_loop_of_kept_episodes(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, keep_last=4)
    first = env.path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for seed in range(3):
            env.reset(seed=seed)
            env.step(0)
            first.unlink(missing_ok=True)
    env.close()
    assert [episode.start.seed for episode in episodes(tmp_path)] == [1, 2]


def test_annotate_after_a_limit_does_not_end_the_loop(tmp_path: Path) -> None:
    env = trajrec.record(gym.make("CartPole-v1"), tmp_path, max_bytes=1)
    env.reset(seed=0)
    env.step(0)
    # As the flusher's thread does meanwhile.
    env._writer.flush_pending()
    env.annotate(value=1.0)
    with pytest.warns(RuntimeWarning, match="cannot be written"):
        env.reset()
    env.close()
