"""The registry of worlds: what a log may name, and with which arguments.

A log is data, and data must not choose the code that runs. So a replay makes the world of an agent's
episode only from a class in this registry, or from a module that the caller allows.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import UnionType
from typing import NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from trajrec.module_names import module_name
from trajrec.types import Value

WorldClass = TypeVar("WorldClass", bound=type)

NoneType = type(None)
PLAIN_TYPES = (bool, int, float, str, NoneType)
"""Types of arguments that may come from a log. A text must be no path."""


class RegisteredWorld(NamedTuple):
    """A world that logs may name.

    Attributes:
        load: Returns its class.
        arguments: Name -> types of each argument that may come from a log.
        reaches_out: Why it is made only if the caller allows its module, "" for worlds that work in
            memory alone.
    """

    load: Callable[[], type]
    arguments: Mapping[str, tuple[type, ...]]
    reaches_out: str = ""

    def find_mistake(self, arguments: Mapping[str, Value]) -> str:
        """Return why a log's arguments are refused, "" if they are not."""
        for name, value in arguments.items():
            types = self.arguments.get(name)
            if types is None:
                return f"{name!r} is no argument that a log may give"
            # By type: for isinstance a bool is an int.
            if type(value) not in types and not (type(value) is int and float in types):
                kinds = " or ".join("None" if kind is NoneType else kind.__name__ for kind in types)
                return f"{name} must be {kinds}, got {value!r:.100}"
        return ""


_SEED = (int, NoneType)


def _built_in(name: str) -> Callable[[], type]:
    """Return a function that imports a class of ours, `trajrec.envs.bank:Bank`."""
    module, _, cls = name.partition(":")

    def load() -> type:
        found: type = getattr(importlib.import_module(module), cls)
        return found

    return load


def _entry(
    name: str, reaches_out: str = "", **arguments: tuple[type, ...]
) -> tuple[str, RegisteredWorld]:
    return name, RegisteredWorld(_built_in(name), arguments, reaches_out)


_registry: dict[str, RegisteredWorld] = dict(
    [
        _entry("trajrec.envs.bank:Bank"),
        _entry("trajrec.envs.shop:Shop", seed=_SEED, max_steps=(int,)),
        _entry("trajrec.envs.office:Office", "writes files", seed=_SEED),
        _entry("trajrec.envs.workspace:Workspace", "runs Python that a log holds", seed=_SEED),
    ]
)


def register_world(world: WorldClass) -> WorldClass:
    """Allow logs to name a world, so that replays need no `allow`; a decorator for its class.

    Only arguments that the constructor declares as bool, int, float, str or None are taken from a
    log, and texts that may be paths are refused. Register a world that works in memory alone: its
    tools run with the arguments of the log.

    Args:
        world: The class.

    Returns:
        The class.

    Raises:
        TypeError: It is no class, or has no annotations.

    >>> @trajrec.register_world
    ... class Counter:
    ...     def __init__(self, *, start: int = 0) -> None:
    ...         self.kwargs = {"start": start}
    """
    if not isinstance(world, type):
        raise TypeError(f"a world is registered by its class, got {world!r:.100}")
    name = f"{module_name(world)}:{world.__qualname__}"
    _registry[name] = RegisteredWorld(lambda: world, _declared(world))
    return world


def find_world(name: str) -> RegisteredWorld | None:
    """Return the registered world of a name `module:Class`, None if there is none."""
    return _registry.get(name)


def _declared(world: type) -> dict[str, tuple[type, ...]]:
    """Return the plain types of each argument of a class, by its name."""
    hints = get_type_hints(vars(world).get("__init__", world.__init__))  # type: ignore[misc]
    arguments = {}
    for name in inspect.signature(world).parameters:
        hint = hints.get(name)
        # The types in a list or a Literal are not those of the argument.
        is_union = get_origin(hint) in (Union, UnionType)
        members = get_args(hint) if is_union else (hint,)
        types = tuple(kind for kind in members if kind in PLAIN_TYPES)
        if types:
            arguments[name] = types
    return arguments
