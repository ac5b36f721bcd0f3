"""Make environments and worlds with the functions and ids that a caller gives."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias, TypeGuard

import gymnasium
from gymnasium.envs.registration import EnvSpec

from trajrec.envstate.pettingzoo import as_gymnasium
from trajrec.errors import EnvContractError, TrajrecError, is_of_user_code, mark_user_code
from trajrec.log.schema import API_FIELD, EnvRecord
from trajrec.protocols import World
from trajrec.replay.execute.trust import check_arguments
from trajrec.replay.execute.user_code import is_refusal
from trajrec.types import AnyEnv, Value
from trajrec.values import codec
from trajrec.values.diff import is_same
from trajrec.values.recorded import RecordedObject, rehydrate

# Strings, because `AnyEnv` is one at run time.
EnvOrFactory: TypeAlias = "AnyEnv | Callable[[], AnyEnv] | None"
WorldOrFactory: TypeAlias = "World | Callable[[], World] | None"

# The package that registers the environments of an id's namespace. Importing one of these registers
# environments and does nothing else.
KNOWN_PACKAGES = {
    "ALE": "ale_py",
    "BabyAI": "minigrid",
    "MiniGrid": "minigrid",
    "trajrec": "trajrec.envs",
}


def make_by_id(env_id: str, **kwargs: Value) -> AnyEnv:
    """Make the environment of an id; import the package that registers it, if that is known."""
    register_package(env_id)
    try:
        env: AnyEnv = gymnasium.make(env_id, **kwargs)
    except Exception as exc:
        if not is_refusal(exc):
            mark_user_code(exc)
        raise
    return env


def make_of_spec(spec: EnvSpec, kwargs: dict[str, Value], **options: Any) -> AnyEnv:
    """Make the environment of a spec with some arguments.

    Not as keywords of `gymnasium.make`, which has some of its own: `max_episode_steps` of an
    environment would be taken for the time limit.

    Args:
        spec: The spec.
        kwargs: Arguments of the environment, beside those of the spec.
        options: Arguments of `gymnasium.make`.
    """
    own = dataclasses.replace(spec, kwargs={**spec.kwargs, **kwargs})
    env: AnyEnv = gymnasium.make(own, **options)
    return env


def arguments_as_given(
    kwargs: dict[str, Value], own: dict[str, Value]
) -> tuple[dict[str, Value], list[str]]:
    """Return recorded arguments as an environment takes them, without those of its registration.

    The member of an enum is looked up if its class is loaded. No other object is made.

    Args:
        kwargs: The recorded arguments.
        own: Those of the registration.

    Returns:
        The arguments, and the names of those that no log can give.
    """
    given: dict[str, Value] = {}
    unknown = []
    for name, value in kwargs.items():
        if name in own and is_same(_as_recorded(own[name]), value):
            continue
        is_enum = isinstance(value, codec.Plain) and value.kind == "enum"
        given[name] = rehydrate(value) if is_enum else value
        if has_objects(given[name]):
            unknown.append(name)
    return given, unknown


def has_objects(value: Value) -> bool:
    """Return whether a decoded value holds an object, or stands for one."""
    if isinstance(value, (codec.Plain, codec.Opaque, RecordedObject)):
        return True
    if isinstance(value, dict):
        return any(map(has_objects, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_objects, value))


def _as_recorded(value: Value) -> Value:
    return codec.decode(codec.encode(value, opaque=True))


def register_package(env_id: str) -> None:
    """Import the package that registers an id, if it is known and the id is not registered.

    Raises:
        ImportError: The package is not installed.
    """
    package = KNOWN_PACKAGES.get(namespace_of(env_id))
    if package is not None and env_id not in gymnasium.registry:
        importlib.import_module(package)


def namespace_of(env_id: str) -> str:
    """Return the namespace of an id: "ALE" of "ALE/Breakout-v5", "MiniGrid" of "MiniGrid-Empty-v0"."""
    return env_id.partition("/" if "/" in env_id else "-")[0]


@dataclasses.dataclass(frozen=True)
class EnvById:
    """Makes the environment of an id that the caller names.

    In the place of a recorded environment it passes on the recorded arguments.

    Attributes:
        env_id: The id.
    """

    env_id: str

    def __call__(self) -> AnyEnv:
        return make_by_id(self.env_id)

    def make_like(self, record: EnvRecord) -> AnyEnv:
        """Make it with the recorded arguments, or without them if it does not accept them."""
        try:
            return self._make(self._recorded_kwargs(record))
        except TypeError as exc:
            if is_of_user_code(exc):
                raise
            return self()

    def rejected_kwargs(self, record: EnvRecord) -> dict[str, Value]:
        """Return the recorded arguments if the environment does not accept them, else {}."""
        kwargs = self._recorded_kwargs(record)
        try:
            self._make(kwargs).close()
        except TypeError as exc:
            if is_of_user_code(exc):
                raise
            return kwargs
        return {}

    def _make(self, kwargs: dict[str, Value]) -> AnyEnv:
        register_package(self.env_id)
        spec = gymnasium.registry.get(self.env_id)
        if spec is None or not kwargs:
            return make_by_id(self.env_id, **kwargs)
        try:
            return make_of_spec(spec, kwargs)
        except Exception as exc:
            if not is_refusal(exc):
                mark_user_code(exc)
            raise

    def _recorded_kwargs(self, record: EnvRecord) -> dict[str, Value]:
        """Return the recorded arguments that somebody gave.

        The arguments that belong to the recorded id are left out: another id has its own.
        """
        if not record.kwargs_data or API_FIELD in record.spec_fields:
            return {}
        for env_id in (record.env_id, self.env_id):
            # The package of the recorded environment need not be installed here.
            with contextlib.suppress(ImportError):
                register_package(env_id)
        spec = gymnasium.registry.get(record.env_id) or gymnasium.registry.get(self.env_id)
        own = {} if spec is None else spec.kwargs
        kwargs, _ = arguments_as_given(codec.decode_map(record.kwargs_data), own)
        kwargs.pop("render_mode", None)
        check_arguments(
            kwargs,
            self.env_id,
            "" if spec is None else module_of(spec),
            allow=(),
            episode_id="",
            defaults=lambda: {} if spec is None else own_arguments(spec),
            can_allow=False,
        )
        return kwargs


def module_of(spec: EnvSpec) -> str:
    """Return the module of a registered environment's constructor, "" if it is unknown."""
    entry_point = spec.entry_point
    if isinstance(entry_point, str):
        return entry_point.partition(":")[0]
    return getattr(entry_point, "__module__", "") or ""


def own_arguments(spec: EnvSpec) -> dict[str, Value]:
    """Return the arguments of a registered environment that its registration or its class gives."""
    entry_point: Any = spec.entry_point
    if isinstance(entry_point, str):
        entry_point = gymnasium.envs.registration.load_env_creator(entry_point)
    return {**default_arguments(entry_point), **spec.kwargs}


def default_arguments(function: Any) -> dict[str, Value]:
    """Return the default values of a function's or class's arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not inspect.Parameter.empty
    }


def env_from_factory(factory: Any, record: EnvRecord | None = None) -> AnyEnv:
    """Make an environment with the function that a caller gave.

    Args:
        factory: The function, or an `EnvById`.
        record: The recorded environment that the new one replaces, if any; see `EnvById`.

    Returns:
        The environment; of a PettingZoo environment, the joint view.

    Raises:
        EnvContractError: The function raises, or returns no environment.
        TypeError: `factory` cannot be called.
    """
    if record is not None and isinstance(factory, EnvById):
        return factory.make_like(record)
    made = as_gymnasium(_call(factory))
    if isinstance(made, gymnasium.Env):
        return made
    kind = "no environment"
    if is_world(made):
        kind = "a world; trajrec.envs.ToolTextEnv makes an environment of one"
    raise EnvContractError(
        f"{_name(factory)} must make a gymnasium.Env: it returned {made!r:.200}, {kind}"
    )


def world_from_factory(factory: Any) -> World:
    """Make a world with the function that a caller gave.

    Raises:
        EnvContractError: The function raises, or returns no world.
        TypeError: `factory` cannot be called.
    """
    made = _call(factory)
    if is_world(made):
        return made
    raise EnvContractError(
        f"{_name(factory)} must make a world for an agent's episode, which has reset, tools and "
        f"call: it returned {made!r:.200}"
    )


def is_world(made: object) -> TypeGuard[World]:
    """Return whether an object is a world; a class of worlds is none."""
    return isinstance(made, World) and not isinstance(made, type)


def _call(factory: Any) -> Value:
    if not callable(factory):
        raise TypeError(
            f"env and world must be an object or a function that makes one, got {factory!r:.200}"
        )
    try:
        return factory()
    except TrajrecError:
        raise
    except Exception as exc:
        # The first frame is this function's own.
        frames = traceback.extract_tb(exc.__traceback__)[1:]
        line = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        raise EnvContractError(
            f"{_name(factory)} made nothing: it raised {type(exc).__name__}: {exc}{line}"
        ) from exc


def _name(factory: Any) -> str:
    """Return the name of a factory in messages: the id or function that the caller gave."""
    if isinstance(factory, EnvById):
        return repr(factory.env_id)
    if isinstance(factory, functools.partial) and factory.args:
        return repr(factory.args[0])
    name = getattr(factory, "__qualname__", None)
    return repr(factory) if name is None else f"{factory.__module__}:{name}"
