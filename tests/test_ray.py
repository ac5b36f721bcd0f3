"""Ray tasks give what this process gives: replays, branches, credit, an index."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest
from conftest import only, record
from test_batch import heavier, reports
from test_credit import numbers, wander
from test_credit import record as record_with_policy
from test_index_jobs import build, record_all_kinds, small_tasks
from tiers import third_slow

from trajrec.replay import credit, fork_many
from trajrec.replay.processes.ray import map_on_ray

ray = pytest.importorskip("ray", reason="ray is not installed")

pytestmark = pytest.mark.slow

__all__ = ["small_tasks"]


@pytest.fixture(scope="module")
def no_cluster_is_left() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def cluster(no_cluster_is_left: None) -> None:
    """A cluster of the user's: to start one takes seconds, so the tests share it."""
    if not ray.is_initialized():
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}}
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=paths)


@third_slow("index")
def test_a_cluster_of_its_own_is_shut_down_again() -> None:
    ray.shutdown()
    assert list(map_on_ray(abs, [-1, 2, -3], 2)) == [1, 2, 3]
    assert not ray.is_initialized()


@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_same_reports(tmp_path: Path) -> None:
    for env_id, n in (("CartPole-v1", 30), ("Taxi-v4", 3)):
        record(gym.make(env_id), tmp_path, n)
    assert reports(tmp_path, backend="ray", jobs=2) == reports(tmp_path)
    # Explained, each of the divergences would take seconds of experiments.
    alone = reports(tmp_path, env=heavier, explain=False)
    assert reports(tmp_path, backend="ray", jobs=2, env=heavier, explain=False) == alone
    assert ray.is_initialized(), "the cluster is the user's"


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("ending", ["exception", "close"])
def test_tasks_that_nobody_waits_for_end_on_a_cluster(tmp_path: Path, ending: str) -> None:
    def work(number: int) -> int:
        if number == 1 and ending == "exception":
            raise ValueError("stop")
        while number and not is_released.exists():
            time.sleep(0.02)
        (tmp_path / str(number)).touch()
        return number

    is_released = tmp_path / "released"
    results = map_on_ray(work, range(20), 2)
    assert next(results) == 0
    if ending == "exception":
        with pytest.raises(ValueError, match="stop"):
            list(results)
    results.close()  # type: ignore[attr-defined]
    time.sleep(3)
    is_released.touch()
    time.sleep(1)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "released"}


@pytest.mark.usefixtures("cluster")
def test_ray_runs_the_same_branches(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path)
    episode = only(tmp_path)
    all_branches = [
        fork_many(episode, at=range(0, 12, 4), policy="random", n_branches=3, folder=None, **how)
        for how in ({}, {"jobs": 2, "backend": "ray"})
    ]
    assert [(b.step, b.index, b.actions, b.total_reward) for b in all_branches[0]] == [
        (b.step, b.index, b.actions, b.total_reward) for b in all_branches[1]
    ]


def test_a_time_limit_needs_local_processes(tmp_path: Path) -> None:
    record(gym.make("CartPole-v1"), tmp_path)
    episode = only(tmp_path)
    with pytest.raises(ValueError, match="take backend='local'"):
        fork_many(episode, at=[0], policy="random", backend="ray", timeout_s=1.0)


@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_numbers_of_credit(tmp_path: Path) -> None:
    lake = record_with_policy(tmp_path, gym.make("FrozenLake-v1"), wander, seed=3)
    expected = credit.estimate(lake, wander, n_rollouts=8)
    table = credit.estimate(lake, wander, n_rollouts=8, jobs=2, backend="ray")
    assert numbers(table) == numbers(expected)


@third_slow("index")
@pytest.mark.usefixtures("cluster", "small_tasks")
def test_ray_gives_the_index_of_one_process(tmp_path: Path) -> None:
    record_all_kinds(tmp_path)
    assert build(tmp_path, functools.partial(map_on_ray, jobs=2)) == build(tmp_path, None)
