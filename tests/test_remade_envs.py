"""Environments of all kinds are made again for a replay, and one that cannot be fails alone."""

from __future__ import annotations

import dataclasses
import enum
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tiers import mostly_deep

import trajrec
from trajrec.corpus.episode import Episode
from trajrec.errors import EnvMissingError
from trajrec.recording import env_record
from trajrec.replay import fork, fork_many, replay_episode, replay_episodes
from trajrec.replay.execute.factories import EnvById


class Mood(enum.Enum):
    """An argument of an environment."""

    CALM = 1
    WILD = 5


@dataclasses.dataclass(frozen=True)
class Config:
    """An argument of an environment."""

    step: int = 2


class Count(gym.Env[Any, Any]):
    """Counts, and ends at a length of its own."""

    observation_space = gym.spaces.Box(-1e9, 1e9, (1,), np.float64)
    action_space = gym.spaces.Discrete(3)

    def __init__(
        self,
        max_episode_steps: int = 5,
        id: str = "",
        mood: Mood = Mood.CALM,
        config: Any = None,
        render_mode: str | None = None,
    ) -> None:
        self.length = max_episode_steps
        self.by = mood.value + (0 if config is None else config.step)
        self.name = id
        self.render_mode = render_mode
        self.n = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.n = 0
        return np.zeros(1), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.n += 1
        value = float(self.n * self.by + int(action))
        return np.array([value]), value, self.n >= self.length, False, {"name": self.name}


class Slow(Count):
    """Another class under the same id."""


@pytest.fixture
def registered() -> Iterator[Any]:
    """Register environments for one test."""
    ids = []

    def register(env_id: str, entry_point: Any, **kwargs: Any) -> str:
        gym.register(env_id, entry_point=entry_point, **kwargs)
        ids.append(env_id)
        return env_id

    yield register
    for env_id in ids:
        gym.registry.pop(env_id, None)


def record(env: gym.Env[Any, Any], folder: Path, n: int = 4) -> Episode:
    recorder = trajrec.record(env, folder)
    recorder.reset(seed=1)
    for k in range(n):
        if any(recorder.step(k % 2)[2:4]):
            break
    recorder.close()
    assert recorder.episode_id is not None
    return trajrec.open(folder).episode(recorder.episode_id)


def test_own_arguments_named_as_those_of_make_reach_the_environment(
    tmp_path: Path, registered: Any
) -> None:
    own = {"max_episode_steps": 3, "id": "mine"}
    env_id = registered("Own-v0", f"{__name__}:Count", kwargs=own, max_episode_steps=50)
    episode = record(gym.make(env_id), tmp_path, n=9)
    assert (episode.n_steps, episode.ending) == (3, "terminated")
    assert replay_episode(episode).grade == "exact"
    assert replay_episode(episode, env=EnvById(env_id)).grade == "exact"
    with fork(episode, at=1, folder=None) as env:
        assert env.step(1)[0][0] == 3.0


@mostly_deep("environments", drawn=3)
@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["class", "function", "object", "enum"])
def test_an_environment_of_this_registry_is_made_again(
    tmp_path: Path, registered: Any, how: str, jobs: int
) -> None:
    if how == "class":
        env_id = registered("Made-v0", Count)
    elif how == "function":
        env_id = registered("Made-v0", make_count)
    elif how == "object":
        env_id = registered("Made-v0", Count, kwargs={"config": Config(7)})
    else:
        env_id = registered("Made-v0", f"{__name__}:Count", kwargs={"mood": Mood.CALM})
    kwargs = {"mood": Mood.WILD} if how == "enum" else {}
    episode = record(gym.make(env_id, **kwargs), tmp_path)
    (report,) = replay_episodes([episode], jobs=jobs)
    assert report.grade == "exact", report
    (branch,) = fork_many(
        episode, at=2, actions=[1], max_steps=1, jobs=jobs, folder=tmp_path / "forks"
    )
    assert branch.error == ""


def make_count(**kwargs: Any) -> Count:
    return Count(**kwargs)


def test_another_environment_under_its_id_is_refused(tmp_path: Path, registered: Any) -> None:
    episode = record(gym.make(registered("Made-v0", Count)), tmp_path)
    gym.registry.pop("Made-v0")
    registered("Made-v0", Slow)
    with pytest.raises(EnvMissingError, match="Count"):
        replay_episode(episode)
    gym.registry.pop("Made-v0")
    with pytest.raises(EnvMissingError, match="function"):
        replay_episode(episode)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_one_missing_parent_refuses_its_fork_alone(tmp_path: Path, jobs: int) -> None:
    parent = record(gym.make("CartPole-v1"), tmp_path / "a")
    with fork(parent, at=2, folder=tmp_path / "b") as env:
        env.step(1)
    record(gym.make("CartPole-v1"), tmp_path / "b")
    episodes = list(trajrec.open(tmp_path / "b").episodes(kind="all"))
    reports = list(replay_episodes(episodes, jobs=jobs))
    assert sorted(report.grade for report in reports) == ["exact", "refused"]
    (refused,) = (report for report in reports if report.grade == "refused")
    assert parent.id in str(refused)


def test_a_mujoco_without_copies_of_data_forks_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mujoco = pytest.importorskip("mujoco")
    monkeypatch.delattr(mujoco, "mj_copyData", raising=False)
    env = gym.make("InvertedPendulum-v5")
    recorder = trajrec.record(env, tmp_path)
    recorder.reset(seed=1)
    for _ in range(4):
        recorder.step(np.zeros(1, np.float32))
    recorder.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    with fork(episode, at=3, folder=None) as world:
        observation = world.step(np.zeros(1, np.float32))[0]
    assert observation.tobytes() == episode.observation_at(4).tobytes()


def make_wild() -> gym.Env[Any, Any]:
    return gym.wrappers.TimeLimit(Count(20, mood=Mood.WILD), 4)


def make_other() -> gym.Env[Any, Any]:
    return Slow()


def test_an_environment_that_no_log_makes_is_warned_of_once(tmp_path: Path) -> None:
    env_record._warned.clear()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            trajrec.record(make_wild(), tmp_path).close()
    assert len(warned) == 1
    assert "factory=" in str(warned[0].message)
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trajrec.record(gym.make("CartPole-v1"), tmp_path).close()
        env_record._warned.clear()
        trajrec.record(make_wild(), tmp_path, factory=make_wild).close()


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_factory_makes_it_again_if_it_is_allowed(tmp_path: Path, jobs: int) -> None:
    recorder = trajrec.record(make_wild(), tmp_path, factory=make_wild)
    recorder.reset(seed=1)
    while not any(recorder.step(1)[2:4]):
        pass
    recorder.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    (report,) = replay_episodes([episode], allow=[__name__], jobs=jobs)
    assert (report.grade, report.ending) == ("exact", "truncated")
    (refused,) = replay_episodes([episode], jobs=jobs)
    assert refused.grade == "refused"
    assert f"--allow {__name__}" in str(refused)
    with fork(episode, at=2, allow=[__name__], folder=None) as env:
        env.step(1)


def test_a_factory_must_be_found_and_make_the_same(tmp_path: Path) -> None:
    for factory in (lambda: make_wild(), functools.partial(make_wild)):
        with pytest.raises(ValueError, match="factory must be"):
            trajrec.record(make_wild(), tmp_path, factory=factory)

    def in_script() -> gym.Env[Any, Any]:
        return make_wild()

    in_script.__module__ = "__main__"
    with pytest.raises(ValueError, match="move it out of the script that is run"):
        trajrec.record(make_wild(), tmp_path, factory=in_script)
    recorder = trajrec.record(make_wild(), tmp_path, factory=make_other)
    recorder.reset(seed=1)
    recorder.step(1)
    recorder.close()
    (episode,) = trajrec.open(tmp_path).episodes()
    with pytest.raises(EnvMissingError, match="Slow"):
        replay_episode(episode, allow=[__name__])
