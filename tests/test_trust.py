"""A log chooses no code and opens no file: one hostile log for each way to try."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import msgspec
import pytest

import trajrec
from trajrec import worlds
from trajrec.envs import Bank, Office, Shop, Workspace
from trajrec.errors import EnvRefusedError
from trajrec.log.schema import EnvRecord
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.replay import replay_episode
from trajrec.replay.execute.environments import make_env
from trajrec.replay.execute.factories import EnvById
from trajrec.values import codec

CARTPOLE = EnvRecord(
    env_id="CartPole-v1",
    entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
    kwargs_data=b"",
    max_episode_steps=500,
    spec_fields={},
    wrappers=[],
    class_name="",
)


class Counter:
    """A world in memory, with arguments of several kinds."""

    def __init__(self, *, start: int = 0, name: str = "c", extra: Any = None) -> None:
        self.kwargs: dict[str, Any] = {"start": start, "name": name}
        if extra is not None:
            self.kwargs["extra"] = extra
        self.start = start
        self.n = start

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> str:
        self.n = self.start
        return "count"

    def tools(self) -> tuple[Tool, ...]:
        return (Tool.with_args("add", "write"),)

    def call(self, name: str, arguments: dict[str, Any], /) -> int:
        self.n += 1
        return self.n


def episode_of(folder: Path, world: Any) -> Any:
    """Record an episode of one call, and return it."""
    with trajrec.episode(folder, world=world, watch=False) as ep:
        tool = world.tools()[0]
        properties = (tool.schema or {}).get("properties", {})
        ep.call(tool.name, **dict.fromkeys(properties, 1))
    close_logs()
    return next(iter(trajrec.open(folder).episodes()))


def named(name: str, kwargs: dict[str, Any]) -> Any:
    """Return a world that its log describes as another one."""
    module, _, path = name.partition(":")
    cls = type("Named", (Counter,), {"__module__": module, "__qualname__": path})
    world = cls()
    world.kwargs = kwargs
    return world


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize(
    ("name", "allow"),
    [
        ("os:system", ()),
        ("trajrec.envs.workspace:os.system", ()),
        ("trajrec.envs.workspace:subprocess.Popen", ()),
        ("trajrec.envs:office.Path", ()),
        ("trajrec.envs.workspace:os.system", ("trajrec",)),
        ("trajrec.envs.workspace:subprocess.Popen", ("trajrec",)),
        ("trajrec.envs.workspace:Path", ("trajrec",)),
        ("trajrec.envs.bank:Tool.with_args", ("trajrec",)),
    ],
)
def test_a_log_names_no_function_as_its_world(
    tmp_path: Path, name: str, allow: tuple[str, ...]
) -> None:
    ran = tmp_path / "ran"
    episode = episode_of(tmp_path, named(name, {"command": f"touch {ran}"}))
    with pytest.raises((EnvRefusedError, trajrec.errors.EnvMissingError)):
        replay_episode(episode, allow=allow)
    assert not ran.exists()


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("world", [Bank, Shop])
def test_worlds_in_memory_replay_without_permission(tmp_path: Path, world: Any) -> None:
    assert replay_episode(episode_of(tmp_path, world())).grade != "diverged"


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("world", [Office, Workspace])
def test_worlds_that_reach_out_need_permission(tmp_path: Path, world: Any) -> None:
    episode = episode_of(tmp_path, world(seed=1))
    with pytest.raises(EnvRefusedError, match="only if you allow it: pass --allow trajrec"):
        replay_episode(episode)
    assert replay_episode(episode, allow=["trajrec"]).grade != "diverged"


@pytest.mark.mostly_slow(1)
@pytest.mark.parametrize("allow", [(), ("trajrec",)])
def test_a_folder_named_by_a_log_is_not_touched(tmp_path: Path, allow: tuple[str, ...]) -> None:
    mine = tmp_path / "mine" / "files"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work")
    world = named("trajrec.envs.office:Office", {"seed": 1, "root": str(mine.parent)})
    with pytest.raises(EnvRefusedError):
        replay_episode(episode_of(tmp_path / "runs", world), allow=allow)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_folder_with_files_is_not_laid_out_anew(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="give an empty root"):
        Office(seed=1, root=str(tmp_path)).reset()
    assert (tmp_path / "files" / "thesis.txt").exists()


@pytest.fixture
def registered() -> Iterator[type[Counter]]:
    trajrec.register_world(Counter)
    yield Counter
    del worlds._registry[f"{__name__}:Counter"]


def test_a_registered_world_needs_no_permission(tmp_path: Path, registered: type[Counter]) -> None:
    assert replay_episode(episode_of(tmp_path, registered(start=3))).grade != "diverged"


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"start": "3"}, "start must be int, got '3'"),
        ({"start": True}, "start must be int, got True"),
        ({"extra": 1}, "'extra' is no argument that a log may give"),
        ({"other": 1}, "'other' is no argument that a log may give"),
        ({"name": "../secrets"}, "may be a path"),
        ({"name": "C:stolen"}, "may be a path"),
        ({"name": "~root"}, "may be a path"),
    ],
)
def test_arguments_of_a_registered_world_are_checked(
    tmp_path: Path, registered: type[Counter], kwargs: dict[str, Any], message: str
) -> None:
    world = named(f"{__name__}:{registered.__name__}", kwargs)
    with pytest.raises(EnvRefusedError, match=message):
        replay_episode(episode_of(tmp_path, world))


class Listing:
    def __init__(
        self, *, hosts: list[str], sizes: dict[str, int], kind: type[int], limit: int | None = None
    ) -> None:
        pass


def test_an_item_of_a_list_is_no_argument_for_it() -> None:
    trajrec.register_world(Listing)
    name = f"{__name__}:Listing"
    try:
        world = worlds.find_world(name)
        assert world is not None
        for argument, value in (("hosts", "a"), ("sizes", 1), ("kind", 1)):
            assert "is no argument that a log may give" in world.find_mistake({argument: value})
        assert world.find_mistake({"limit": None}) == ""
    finally:
        del worlds._registry[name]


def test_only_classes_are_registered() -> None:
    with pytest.raises(TypeError, match="a world is registered by its class"):
        trajrec.register_world(lambda: Counter())  # type: ignore[type-var]


PATHS = [
    {"xml_file": "/etc/passwd"},
    {"xml_file": "model"},
    {"model": "./model.xml"},
    {"model": "model.xml"},
    {"model": "~/model"},
    {"model": "\\\\server\\share"},
    {"levels": [{"at": ("a", b"/etc/passwd")}]},
    {"config": {"/etc/passwd": 1}},
    {"command": "reboot"},
    {"url": "example"},
]


@pytest.mark.parametrize("kwargs", PATHS, ids=str)
def test_paths_of_a_log_are_not_passed_on(kwargs: dict[str, Any]) -> None:
    made: list[Any] = []

    class Reading(gym.Env[Any, Any]):
        def __init__(self, **kwargs: Any) -> None:
            made.append(kwargs)

    gym.register("Reading-v0", entry_point=Reading)
    try:
        record = msgspec.structs.replace(
            CARTPOLE, env_id="Reading-v0", entry_point="", kwargs_data=codec.encode(kwargs)
        )
        with pytest.raises(EnvRefusedError, match="may be a path, an address or a command"):
            make_env(record, episode_id="x")
        with pytest.raises(EnvRefusedError, match="may be a path"):
            EnvById("Reading-v0").make_like(record)
        assert not made
        make_env(record, episode_id="x", allow=[__name__])
        assert made == [kwargs]
    finally:
        gym.registry.pop("Reading-v0")


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("FrozenLake-v1", {"map_name": "8x8", "is_slippery": False}),
        ("FrozenLake-v1", {"desc": ["SFFF", "FHFH", "FFFH", "HFFG"]}),
        ("CartPole-v1", {"sutton_barto_reward": True}),
        ("Taxi-v4", {"is_rainy": True}),
    ],
)
def test_plain_arguments_of_a_log_are_passed_on(env_id: str, kwargs: dict[str, Any]) -> None:
    spec = gym.spec(env_id)
    record = msgspec.structs.replace(
        CARTPOLE,
        env_id=env_id,
        entry_point=str(spec.entry_point),
        max_episode_steps=spec.max_episode_steps,
        kwargs_data=codec.encode(kwargs),
    )
    env = make_env(record, episode_id="x")
    assert env.spec is not None
    assert kwargs.items() <= env.spec.kwargs.items()
    env.close()


def test_the_file_of_a_mujoco_model_comes_from_no_log() -> None:
    pytest.importorskip("mujoco")
    record = msgspec.structs.replace(
        CARTPOLE, env_id="Ant-v5", entry_point="gymnasium.envs.mujoco.ant_v5:AntEnv"
    )
    own = msgspec.structs.replace(record, kwargs_data=codec.encode({"xml_file": "ant.xml"}))
    make_env(own, episode_id="x").close()
    for file in ("/etc/passwd", "other.xml"):
        data = codec.encode({"xml_file": file})
        with pytest.raises(EnvRefusedError, match="--allow gymnasium"):
            make_env(msgspec.structs.replace(record, kwargs_data=data), episode_id="x")


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("gymnasium.wrappers.common.deepcopy", {}),
        ("gymnasium.wrappers.rendering.os", {}),
        ("gymnasium.wrappers.rendering.logger", {}),
        ("gymnasium.wrappers.TimeLimit", {"max_episode_steps": 3, "path": "x"}),
        ("os.system", {}),
    ],
)
def test_a_log_names_no_function_as_a_wrapper(name: str, kwargs: dict[str, Any]) -> None:
    record = msgspec.structs.replace(CARTPOLE, wrappers=[(name, codec.encode(kwargs))])
    with pytest.raises((EnvRefusedError, trajrec.errors.EnvMissingError)):
        make_env(record, episode_id="x")


def test_no_module_is_imported_by_an_id() -> None:
    record = msgspec.structs.replace(CARTPOLE, env_id="antigravity:X-v0", entry_point="")
    with pytest.raises(EnvRefusedError):
        make_env(record, episode_id="x")
    assert "antigravity" not in sys.modules
