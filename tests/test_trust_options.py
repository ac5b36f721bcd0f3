"""Options of a reset, and numbers that name open files: a log passes none of them on unasked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import numpy as np
import pytest
from test_trust import CARTPOLE, Counter, episode_of
from tiers import third_slow

import trajrec
from trajrec import worlds
from trajrec.cli.main import main
from trajrec.corpus.episode import Episode
from trajrec.corpus.lone_episode import read_episode
from trajrec.errors import EnvMissingError, EnvRefusedError
from trajrec.recording.event_log import close_logs
from trajrec.replay import fork, replay_episode
from trajrec.replay.execute.environments import make_env
from trajrec.replay.execute.worlds import make_world
from trajrec.values import codec


class Loading(gym.Env[Any, Any]):
    """An environment that loads the file that the options of its reset name."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    loaded: list[Any] = []  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        pass

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        if options:
            self.loaded.append(options)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, True, {}


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gym.register("Loading-v0", entry_point=f"{__name__}:Loading")
    yield
    gym.registry.pop("Loading-v0")


def record(folder: Path, *options: Any) -> Episode:
    """Record an episode for each of some options, and return the last one."""
    env = trajrec.record(gym.make("Loading-v0"), folder)
    for each in options:
        env.reset(seed=0, options=each)
        env.step(0)
    env.close()
    return read_episode(env.path, len(options) - 1)


REACHING = [
    {"map": "/etc/passwd"},
    {"map": "level.txt"},
    {"file": "level"},
    {"config": {"script": "level"}},
    {"levels": ["a", "../b"]},
    {"file": 3},
    {"config": {"fd": np.int64(3)}},
    {"output_file": True},
]


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("options", REACHING, ids=str)
def test_options_of_a_log_are_not_passed_on(tmp_path: Path, options: Any) -> None:
    episode = record(tmp_path, options)
    Loading.loaded.clear()
    makers: list[dict[str, Any]] = [{}, {"env": Loading}, {"env": Loading()}]
    for maker in makers:
        with pytest.raises(EnvRefusedError, match=r"the log's reset option .* may be"):
            replay_episode(episode, **maker)
        with pytest.raises(EnvRefusedError, match=f"pass --allow {__name__}"):
            fork(episode, at=0, folder=None, **maker)
    assert Loading.loaded == []
    assert replay_episode(episode, allow=[__name__]).grade != "diverged"
    assert replay_episode(episode, env=Loading(), allow=[__name__]).grade != "diverged"
    fork(episode, at=0, folder=None, allow=[__name__]).close()
    assert Loading.loaded


@pytest.mark.parametrize(
    "options", [None, {}, {"task": 3}, {"name": "8x8", "low": -0.5}, {"n_files": 3}, {"at": [1]}]
)
def test_plain_options_of_a_log_are_passed_on(tmp_path: Path, options: Any) -> None:
    assert replay_episode(record(tmp_path, options)).grade != "diverged"


def test_options_of_an_earlier_episode_are_checked_too(tmp_path: Path) -> None:
    episode = record(tmp_path, {"map": "/etc/passwd"}, None)
    Loading.loaded.clear()
    # The environment goes through its earlier episodes if it carries state over from them.
    with pytest.raises(EnvRefusedError, match="'/etc/passwd'"):
        replay_episode(read_episode(episode.path, 0))
    assert Loading.loaded == []


class Opening(Counter):
    opened: list[Any] = []  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        self.opened.append(options)
        return super().reset(seed=seed, options=options)


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("options", REACHING, ids=str)
def test_options_of_a_worlds_reset_are_not_passed_on(tmp_path: Path, options: Any) -> None:
    trajrec.register_world(Opening)
    try:
        with trajrec.episode(tmp_path, world=Opening(), watch=False, options=options) as ep:
            ep.call("add")
        close_logs()
        (episode,) = trajrec.open(tmp_path).episodes()
        Opening.opened.clear()
        for world in ({}, {"world": Opening}, {"world": Opening()}):
            with pytest.raises(EnvRefusedError, match=r"the log's reset option .* may be"):
                replay_episode(episode, **world)  # type: ignore[arg-type]
        assert Opening.opened == []
        assert replay_episode(episode, allow=[__name__]).grade != "diverged"
        assert Opening.opened
    finally:
        del worlds._registry[f"{__name__}:Opening"]


def test_large_options_of_a_worlds_reset_are_the_recorded_ones(tmp_path: Path) -> None:
    options = {"items": list(range(500))}
    with trajrec.episode(tmp_path, world=Opening(), watch=False, options=options) as ep:
        ep.call("add")
    close_logs()
    (episode,) = trajrec.open(tmp_path).episodes()
    Opening.opened.clear()
    replay_episode(episode, world=Opening())
    assert Opening.opened == [options]


NUMBERS = [
    {"file": 3},
    {"log_file": np.int32(0)},
    {"path": True},
    {"fd": 1},
    {"socket": 4},
    {"files": [1, 2]},
    {"files": np.arange(3)},
    {"config": {"output": {"file": 5}}},
]


@pytest.mark.parametrize("kwargs", NUMBERS, ids=str)
def test_numbers_that_may_name_open_files_are_not_passed_on(kwargs: dict[str, Any]) -> None:
    record = msgspec.structs.replace(
        CARTPOLE, env_id="Loading-v0", entry_point="", kwargs_data=codec.encode(kwargs)
    )
    with pytest.raises(EnvRefusedError, match="may be an open file"):
        make_env(record, episode_id="x")
    make_env(record, episode_id="x", allow=[__name__]).close()


@pytest.mark.parametrize("kwargs", [{"n_files": 3}, {"max_paths": 2}, {"profile": 1}, {"at": 0}])
def test_counts_are_passed_on(kwargs: dict[str, Any]) -> None:
    record = msgspec.structs.replace(
        CARTPOLE, env_id="Loading-v0", entry_point="", kwargs_data=codec.encode(kwargs)
    )
    make_env(record, episode_id="x").close()


# A mistake in a constructor is the user's to see.

BROKEN = """
import os
import gymnasium as gym
import numpy as np

class Broken(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, size=1):
        if "BREAKS" in os.environ:
            self.table = int("not a number") if size == 1 else len(size)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, True, {}

class BrokenWorld:
    def __init__(self):
        self.kwargs = {}
        if "BREAKS" in os.environ:
            raise ValueError("not a number")

    def reset(self, *, seed=None, options=None):
        return "go"

    def tools(self):
        return ()

    def call(self, name, arguments):
        return 1

gym.register("Broken-v0", entry_point="broken_envs:Broken")
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "broken_envs.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))
    import broken_envs  # type: ignore[import-not-found]

    yield broken_envs
    gym.registry.pop("Broken-v0")
    del __import__("sys").modules["broken_envs"]


@pytest.mark.slow
@third_slow("agents")
@pytest.mark.parametrize(
    ("kwargs", "error", "line"),
    [
        ({}, ValueError, 'self.table = int("not a number")'),
        ({"size": 2}, TypeError, "len(size)"),
    ],
)
def test_a_mistake_in_a_constructor_is_an_exception_of_user_code(
    tmp_path: Path,
    broken: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kwargs: dict[str, Any],
    error: type[Exception],
    line: str,
) -> None:
    runs = tmp_path / "runs"
    env = trajrec.record(gym.make("Broken-v0", **kwargs), runs)
    env.reset(seed=0)
    env.step(0)
    env.close()
    monkeypatch.setenv("BREAKS", "1")
    with pytest.raises(error):
        replay_episode(read_episode(env.path, 0))
    for jobs in ("1", "2"):
        capsys.readouterr()
        assert main(["replay", str(runs), "--jobs", jobs]) == 5
        errors = capsys.readouterr().err
        assert "Traceback" in errors
        assert error.__name__ in errors
        assert line in errors
    # The same mistake, in an environment that is named on the command line.
    broken_kwargs = ["--env-kwargs", json.dumps(kwargs)]
    assert main(["record", "Broken-v0", "-o", str(tmp_path / "more"), *broken_kwargs]) == 5
    assert line in capsys.readouterr().err
    assert main(["replay", str(runs), "--env", "Broken-v0"]) == 5
    assert "Traceback" in capsys.readouterr().err


def test_a_mistake_in_a_worlds_constructor_is_an_exception_of_user_code(
    tmp_path: Path,
    broken: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = tmp_path / "runs"
    with trajrec.episode(runs, world=broken.BrokenWorld(), watch=False):
        pass
    close_logs()
    monkeypatch.setenv("BREAKS", "1")
    assert main(["replay", str(runs), "--allow", "broken_envs"]) == 5
    assert 'raise ValueError("not a number")' in capsys.readouterr().err


def test_arguments_that_a_constructor_does_not_take_are_refused(broken: Any) -> None:
    record = msgspec.structs.replace(
        CARTPOLE, env_id="Broken-v0", entry_point="", kwargs_data=codec.encode({"colour": 1})
    )
    with pytest.raises(EnvMissingError, match="does not take the recorded arguments"):
        make_env(record, episode_id="x")


def test_a_limit_that_gymnasium_refuses_is_no_mistake_of_the_user() -> None:
    no_steps = codec.encode({"max_episode_steps": 0})
    for forged in (
        msgspec.structs.replace(CARTPOLE, max_episode_steps=0),
        msgspec.structs.replace(
            CARTPOLE, wrappers=[("gymnasium.wrappers.common.TimeLimit", no_steps)]
        ),
    ):
        with pytest.raises(EnvMissingError, match="does not take the recorded arguments"):
            make_env(forged, episode_id="x")


def test_arguments_that_a_world_does_not_take_are_refused(tmp_path: Path, broken: Any) -> None:
    world = broken.BrokenWorld()
    world.kwargs = {"colour": 1}
    with trajrec.episode(tmp_path / "runs", world=world, watch=False):
        pass
    close_logs()
    (episode,) = trajrec.open(tmp_path / "runs").episodes()
    with pytest.raises(EnvMissingError, match="does not take the recorded arguments"):
        make_world(episode, ("broken_envs",))


def test_the_first_world_of_this_page_is_replayed(tmp_path: Path) -> None:
    episode = episode_of(tmp_path, Counter())
    assert replay_episode(episode, world=Counter()).grade != "diverged"
