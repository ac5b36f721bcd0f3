"""Make the world that an agent's episode names, from the registry or from an allowed module."""

from __future__ import annotations

import importlib
from typing import Any

from trajrec.corpus.episode import Episode
from trajrec.errors import EnvMissingError, EnvRefusedError, mark_user_code
from trajrec.protocols import World
from trajrec.replay.execute.trust import (
    check_arguments,
    check_options,
    how_to_allow,
    is_allowed,
    not_allowed,
)
from trajrec.replay.execute.user_code import is_refusal
from trajrec.types import Value
from trajrec.worlds import find_world

# The methods of a world. A module has other names too, such as os.system: a log must not choose
# which of them is called.
_METHODS = ("reset", "tools", "call")


def make_world(episode: Episode, allow: tuple[str, ...]) -> World:
    """Make the world that an agent's episode names.

    Args:
        episode: The episode.
        allow: Module prefixes that may be imported because the log names them.

    Raises:
        EnvRefusedError: The world or its arguments need a module that is not allowed.
        EnvMissingError: The world is not installed, or the log does not say how to make it.
    """
    task = episode.transcript.task_start
    if task is None or not task.world:
        why = "it had no world that could be made again"
        if task is None:
            why = "the log has lost its beginning"
        raise EnvMissingError(
            f"cannot be replayed: {why}; {_give_world('MODULE:FACTORY')}; trajrec.rerun needs no "
            "world: it runs the agent against its recording",
            episode_id=episode.id,
        )
    name = task.world
    if task.world_data is None:
        _check_module(name, allow, episode.id)
        raise EnvMissingError(
            f"the log does not say how {name} was made (it has no `kwargs`); "
            f"{_give_world('MODULE:FACTORY')}",
            episode_id=episode.id,
        )
    arguments: Any = episode.transcript.value(task.world_data)
    if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
        raise EnvRefusedError(
            f"the log gives {name} no arguments by name; {_give_world('MODULE:FACTORY')}",
            episode_id=episode.id,
        )
    cls = _find_class(name, arguments, allow, episode.id)
    try:
        world: World = cls(**arguments)
    except Exception as exc:
        if not is_refusal(exc, __name__):
            mark_user_code(exc)
            raise
        raise EnvMissingError(
            f"{name} does not take the recorded arguments in the version that is installed here: "
            f"{exc}",
            episode_id=episode.id,
        ) from exc
    return world


def check_world_options(episode: Episode, world: World, allow: tuple[str, ...]) -> None:
    """Refuse options of an agent's recorded reset that may be paths, addresses or commands.

    Raises:
        EnvRefusedError: One of them may be such a text, and the world's module is not allowed.
    """
    recorded: Episode | None = episode
    while recorded is not None:
        if recorded.start is not None:
            options = recorded.transcript.value(recorded.start.options_data)
            check_options(options, world, allow=allow, episode_id=episode.id)
        # A fork begins with the reset of the episode that it was forked from.
        recorded = recorded.parent if recorded.fork is not None else None


def _find_class(
    name: str, arguments: dict[str, Value], allow: tuple[str, ...], episode_id: str
) -> type:
    """Return the class that a log names, if it may be made with these arguments."""
    module = name.partition(":")[0]
    registered = find_world(name)
    if registered is None:
        _check_module(name, allow, episode_id)
        return _import_class(name, allow, episode_id)
    if registered.reaches_out and not is_allowed(module, allow):
        raise EnvRefusedError(
            f"the world {name} {registered.reaches_out}, so it is made only if you allow it: pass "
            f"{how_to_allow(module)}",
            episode_id=episode_id,
        )
    mistake = registered.find_mistake(arguments)
    if mistake:
        raise EnvRefusedError(
            f"the log's arguments of {name} are refused: {mistake}; {_give_world('MODULE:FACTORY')}",
            episode_id=episode_id,
        )
    check_arguments(arguments, name, module, allow=allow, episode_id=episode_id)
    return registered.load()


def _check_module(name: str, allow: tuple[str, ...], episode_id: str) -> None:
    """Refuse a world that is not registered and lies in no allowed module."""
    module = name.partition(":")[0]
    if find_world(name) is None and not is_allowed(module, allow):
        raise not_allowed(f"the world {name} of its log", module, episode_id)


def _import_class(name: str, allow: tuple[str, ...], episode_id: str) -> type:
    """Import a class of worlds from an allowed module."""
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for number, part in enumerate(path.split(".")):
            if number and not isinstance(found, type):
                raise AttributeError(f"{found!r:.100} is no class")
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        why = f"is not installed here ({exc})"
        if module == "__main__":
            why = "was defined in a script that is not this one"
        raise EnvMissingError(
            f"the world {name} {why}; {_give_world(f'MODULE:{path}')}", episode_id=episode_id
        ) from exc
    is_world = isinstance(found, type) and all(hasattr(found, method) for method in _METHODS)
    if not is_world or not is_allowed(found.__module__, allow):
        raise EnvRefusedError(f"{name} is no class of worlds", episode_id=episode_id)
    cls: type = found
    return cls


def _give_world(factory: str) -> str:
    return (
        f"give a function that makes it: --env {factory}, or replay_episode(episode, world=...) "
        "in Python"
    )
