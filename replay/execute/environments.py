"""Makes the environment or world that a log names, from what may be trusted.

A log is data, and data must not choose what code runs. An environment is made from this process's own registry, after
importing at most a package known for its environments; anything else that a log names is imported only where the caller
allows its module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import traceback
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeGuard

import gymnasium

from trajrec.corpus.episode import Episode
from trajrec.envstate.attributes import DISPLAY_WRAPPERS
from trajrec.envstate.pettingzoo import API_FIELD, WRAPPER_ARGUMENTS, api_of_class, as_gymnasium
from trajrec.errors import EnvContractError, EnvMissingError, EnvRefusedError, TrajrecError
from trajrec.log.schema import EnvRecord
from trajrec.protocols import World
from trajrec.types import AnyEnv
from trajrec.values import codec
from trajrec.values.diff import is_same

# Strings, because `AnyEnv` is one at run time.
EnvOrFactory: TypeAlias = "AnyEnv | Callable[[], AnyEnv] | None"
WorldOrFactory: TypeAlias = "World | Callable[[], World] | None"

KNOWN_PACKAGES = {
    "ALE": "ale_py",
    "BabyAI": "minigrid",
    "MiniGrid": "minigrid",
    "trajrec": "trajrec.envs",
}
"""Which package registers the environments of an id's namespace; importing these is all that they do to a process."""


AGENTS_PACKAGE = "pettingzoo"
"""The package whose environments and wrappers for several agents may be made because a log names them."""


KNOWN_WORLDS = ("trajrec.envs",)
"""Modules whose worlds may be made because a log names them."""


def make_by_id(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make an environment that the caller names, importing the package that registers it where that is known."""
    _register(env_id)
    env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, **kwargs)
    return env


def _register(env_id: str) -> None:
    package = KNOWN_PACKAGES.get(
        env_id.partition("/")[0] if "/" in env_id else env_id.partition("-")[0]
    )
    if package is not None and env_id not in gymnasium.registry:
        importlib.import_module(package)


@dataclasses.dataclass(frozen=True)
class ById:
    """Makes the environment of an id that the caller names; in the place of a recorded one with the arguments of that.

    Attributes:
        env_id: The id.
    """

    env_id: str

    def __call__(self) -> gymnasium.Env[Any, Any]:
        return make_by_id(self.env_id)

    def refused(self, record: EnvRecord) -> dict[str, Any]:
        """Return the recorded arguments where the environment does not take them; it is then made without."""
        kwargs = self._arguments(record)
        try:
            make_by_id(self.env_id, **kwargs).close()
        except TypeError:
            return kwargs
        return {}

    def like(self, record: EnvRecord) -> gymnasium.Env[Any, Any]:
        """Make it with the recorded arguments, or without where it does not take them."""
        try:
            return make_by_id(self.env_id, **self._arguments(record))
        except TypeError:
            return self()

    def _arguments(self, record: EnvRecord) -> dict[str, Any]:
        """Return the recorded arguments that somebody gave: those of an id are its own, and another id has others."""
        if not record.kwargs_data or API_FIELD in record.spec_fields:
            return {}
        for env_id in (record.env_id, self.env_id):
            with contextlib.suppress(ImportError):  # what was recorded need not be installed
                _register(env_id)
        spec = gymnasium.registry.get(record.env_id) or gymnasium.registry.get(self.env_id)
        own = {} if spec is None else spec.kwargs
        given = {
            name: value
            for name, value in codec.decode(record.kwargs_data).items()
            if name != "render_mode"
        }
        return {
            name: value
            for name, value in given.items()
            if name not in own or not is_same(own[name], value)
        }


def env_by(factory: Any, record: EnvRecord | None = None) -> gymnasium.Env[Any, Any]:
    """Make an environment with what the caller gave to make it; of one of PettingZoo's, the joint view.

    Args:
        factory: What makes it.
        record: What was recorded, in the place of which it is made: see `ById`.

    Raises:
        EnvContractError: It raises, or makes something else; says what.
        TypeError: It is nothing that can be called.
    """
    if record is not None and isinstance(factory, ById):
        return factory.like(record)
    made = as_gymnasium(_made_by(factory))
    if isinstance(made, gymnasium.Env):
        return made
    what = (
        "a world, which trajrec.envs.ToolTextEnv makes an environment of"
        if is_world(made)
        else "no environment"
    )
    raise EnvContractError(
        f"{_name(factory)} must make a gymnasium.Env: it returned {made!r:.200}, {what}"
    )


def world_by(factory: Any) -> World:
    """Make a world with what the caller gave to make it.

    Raises:
        EnvContractError: It raises, or makes something else; says what.
        TypeError: It is nothing that can be called.
    """
    made = _made_by(factory)
    if is_world(made):
        return made
    raise EnvContractError(
        f"{_name(factory)} must make a world for an agent's episode, which has reset, tools and call: it returned {made!r:.200}"
    )


def _made_by(factory: Any) -> Any:
    if not callable(factory):
        raise TypeError(f"an environment or world is made by a function, got {factory!r:.200}")
    try:
        return factory()
    except TrajrecError:
        raise
    except Exception as exc:
        frames = traceback.extract_tb(exc.__traceback__)[1:]
        where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise EnvContractError(
            f"{_name(factory)} made nothing: it raised {type(exc).__name__}: {exc}{where}"
        ) from exc


def is_world(made: object) -> TypeGuard[World]:
    """Return whether an object is a world; a class of worlds is none."""
    return isinstance(made, World) and not isinstance(made, type)


def _name(factory: Any) -> str:
    if isinstance(factory, ById):
        return repr(factory.env_id)
    if isinstance(factory, functools.partial) and factory.args:
        return repr(factory.args[0])  # the id, or the factory, that the caller named
    name = getattr(factory, "__qualname__", None)
    return repr(factory) if name is None else f"{factory.__module__}:{name}"


def make_env(
    record: EnvRecord, *, episode_id: str, allow: Iterable[str] = ()
) -> gymnasium.Env[Any, Any]:
    """Make the environment that a log describes.

    Args:
        record: The log's description.
        episode_id: The episode, for error messages.
        allow: Module prefixes that may be imported because the log names them.

    Raises:
        EnvRefusedError: It would need a module that is not allowed.
        EnvMissingError: It, or the package it comes from, is not installed, or the log does not say how to make it.
    """
    if record.recreatable:
        raise EnvMissingError(
            f"the environment {record.class_name} cannot be made from the log ({record.recreatable}); "
            "give what makes it: env= in Python, --against or --env MODULE:FACTORY on the command line",
            episode_id=episode_id,
        )
    allowed = tuple(allow)
    if API_FIELD in record.spec_fields:
        return _make_agents(record, allowed, episode_id)
    spec = _registered(record, allowed, episode_id)
    kwargs = dict(codec.decode(record.kwargs_data)) if record.kwargs_data else {}
    if kwargs.get("render_mode") == "human":
        kwargs["render_mode"] = None
    # What only looks on is left out: a replay resets before it steps.
    spec = dataclasses.replace(spec, order_enforce=False)
    try:
        env: gymnasium.Env[Any, Any] = gymnasium.make(
            spec, max_episode_steps=record.max_episode_steps, disable_env_checker=True, **kwargs
        )
    except (gymnasium.error.DependencyNotInstalled, ImportError) as exc:
        raise EnvMissingError(
            f"{record.env_id} needs a package that is not installed: {exc}", episode_id=episode_id
        ) from exc
    applied = len(env.spec.additional_wrappers) if env.spec is not None else 0
    for name, data in record.wrappers[applied:]:
        env = _wrap(env, name, data, allowed, episode_id)
    return env


def _registered(record: EnvRecord, allow: tuple[str, ...], episode_id: str) -> Any:
    """Return the spec of an id of this process's registry, or of an allowed entry point."""
    env_id = record.env_id
    module, _, bare_id = env_id.rpartition(":")
    if bare_id in gymnasium.registry:
        return gymnasium.spec(bare_id)
    namespace = bare_id.partition("/")[0] if "/" in bare_id else bare_id.partition("-")[0]
    package = KNOWN_PACKAGES.get(namespace)
    if package is None and record.entry_point.partition(".")[0] in KNOWN_PACKAGES.values():
        package = record.entry_point.partition(".")[0]
    if package is not None and not module:
        try:
            importlib.import_module(package)
        except ImportError as exc:
            raise EnvMissingError(
                f"{env_id} comes from the package {package.partition('.')[0]}, which is not installed: pip install "
                f"{package.partition('.')[0].replace('_', '-')}",
                episode_id=episode_id,
            ) from exc
        if bare_id in gymnasium.registry:
            return gymnasium.spec(bare_id)
    wanted = module or record.entry_point.partition(":")[0]
    if not wanted or not is_allowed(wanted, allow):
        flag = wanted.partition(".")[0] or "MODULE"
        raise EnvRefusedError(
            f"the environment {env_id!r} is not registered here, and the module {wanted!r} that its log names is not imported "
            f"without your leave; to allow it: --allow {flag}, or allow=({flag!r},) in Python",
            episode_id=episode_id,
        )
    try:
        importlib.import_module(wanted)
    except ImportError as exc:
        raise EnvMissingError(
            f"{env_id} comes from the module {wanted}, which is not installed here ({exc})",
            episode_id=episode_id,
        ) from exc
    if bare_id in gymnasium.registry:
        return gymnasium.spec(bare_id)
    if not is_allowed(record.entry_point.partition(":")[0], allow):
        raise EnvRefusedError(
            f"the entry point {record.entry_point!r} is not allowed", episode_id=episode_id
        )
    return gymnasium.envs.registration.EnvSpec(bare_id, entry_point=record.entry_point)


def _wrap(env: Any, name: str, data: bytes | None, allow: tuple[str, ...], episode_id: str) -> Any:
    module, _, cls = name.rpartition(".")
    if module.startswith("gymnasium.wrappers") and cls in DISPLAY_WRAPPERS:
        return env
    if not is_allowed(module, (*allow, "gymnasium.wrappers")):
        raise EnvRefusedError(
            f"the wrapper {name} is not imported without your leave; to allow it: --allow {module.partition('.')[0]}",
            episode_id=episode_id,
        )
    try:
        wrapper = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as exc:
        raise EnvMissingError(
            f"the wrapper {name} is not installed: {exc}", episode_id=episode_id
        ) from exc
    return wrapper(env, **(codec.decode(data) if data else {}))


def _make_agents(
    record: EnvRecord, allow: tuple[str, ...], episode_id: str
) -> gymnasium.Env[Any, Any]:
    """Make a PettingZoo environment of its class and its wrappers' classes, and return the joint view of it."""
    env = _agents_class(record.entry_point, allow, episode_id, "environment")
    kwargs = dict(codec.decode(record.kwargs_data))
    if kwargs.get("render_mode") == "human":
        kwargs["render_mode"] = None
    try:
        made = env(**kwargs)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as exc:
        raise EnvMissingError(
            f"{record.env_id} needs a package that is not installed: {exc}", episode_id=episode_id
        ) from exc
    except TypeError as exc:
        raise EnvMissingError(
            f"{record.entry_point} does not take the recorded arguments here: {exc}",
            episode_id=episode_id,
        ) from exc
    for name, data in record.wrappers:
        module, _, cls = name.rpartition(".")
        wrapper = _agents_class(f"{module}:{cls}", allow, episode_id, "wrapper")
        arguments = codec.decode(data) if data else {}
        if (
            not is_allowed(module, allow)
            and not arguments.keys() <= WRAPPER_ARGUMENTS.get(cls, {}).keys()
        ):
            # Some of them write files where they are told to.
            raise EnvRefusedError(
                f"the arguments of the wrapper {name} are not taken from a log",
                episode_id=episode_id,
            )
        made = wrapper(made, **arguments)
    view: gymnasium.Env[Any, Any] = as_gymnasium(made)
    return view


def _agents_class(name: str, allow: tuple[str, ...], episode_id: str, what: str) -> Any:
    """Return a class that a log names, of PettingZoo's environments and wrappers or of an allowed module."""
    module, _, path = name.partition(":")
    if not is_allowed(module, (AGENTS_PACKAGE, *allow)):
        flag = module.partition(".")[0] or "MODULE"
        raise EnvRefusedError(
            f"the {what} {name} is not imported without your leave; to allow it: --allow {flag}, or allow=({flag!r},) in "
            "Python",
            episode_id=episode_id,
        )
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as exc:
        raise EnvMissingError(
            f"the {what} {name} is not installed here ({exc}): pip install 'trajrec[pettingzoo]', and what of PettingZoo's "
            "extras it needs",
            episode_id=episode_id,
        ) from exc
    # Nothing else that such a module happens to have: a log must not choose what is called.
    is_class = isinstance(found, type) and api_of_class(found) is not None
    if not is_class or not is_allowed(found.__module__, (AGENTS_PACKAGE, *allow)):
        raise EnvRefusedError(
            f"{name} is no class of PettingZoo's environments", episode_id=episode_id
        )
    return found


def make_world(episode: Episode, allow: tuple[str, ...]) -> World:
    """Make the world that an episode names.

    Raises:
        EnvRefusedError: It would need a module that is not allowed.
        EnvMissingError: It is not installed, or the log does not say how to make it.
    """
    task = episode.transcript.task_start
    if task is None or not task.world:
        why = (
            "the log has lost how it began"
            if task is None
            else "it had no world that could be made again"
        )
        raise EnvMissingError(
            f"cannot be replayed: {why}; give what makes one: --against MODULE:FACTORY, or "
            "replay_episode(episode, world=...) in Python; trajrec.rerun needs none: it runs the "
            "agent against its recording",
            episode_id=episode.id,
        )
    module, _, name = task.world.partition(":")
    if not is_allowed(module, (*KNOWN_WORLDS, *allow)):
        flag = module.partition(".")[0]
        raise EnvRefusedError(
            f"the module {module!r} that its log names is not imported without your leave; to allow it: --allow {flag}, or "
            f"allow=({flag!r},) in Python",
            episode_id=episode.id,
        )
    if task.world_data is None:
        raise EnvMissingError(
            f"the log does not say how {task.world} was made (it has no `kwargs`); give one: "
            "replay_episode(episode, world=...)",
            episode_id=episode.id,
        )
    try:
        made: Any = importlib.import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
    except (ImportError, AttributeError) as exc:
        why = (
            "was defined in a script that is not this one"
            if module == "__main__"
            else f"is not installed here ({exc})"
        )
        raise EnvMissingError(
            f"the world {task.world} {why}; give what makes one: --against MODULE:{name}, or "
            "replay_episode(episode, world=...)",
            episode_id=episode.id,
        ) from exc
    world: World = made(**episode.transcript.value(task.world_data))
    return world


def is_allowed(module: str, allow: tuple[str, ...]) -> bool:
    """Say whether a module is, or lies in, one that is allowed."""
    return any(module == prefix or module.startswith(prefix + ".") for prefix in allow)
