"""Descriptions of environments, from which a replay makes them again."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

import gymnasium
import msgspec

from trajrec.envstate.attributes import STANDARD_WRAPPERS
from trajrec.envstate.pettingzoo import WRAPPER_ARGUMENTS, PettingZooEnv, api_of, layers
from trajrec.errors import EncodeError
from trajrec.log.schema import API_FIELD, FACTORY_FIELD, EnvRecord
from trajrec.module_names import SCRIPT, module_name
from trajrec.recording.unrecorded_copies import CopiedUnrecorded
from trajrec.redaction.redactor import Redactor
from trajrec.types import AnyEnv, Value
from trajrec.values import codec

SPACE_CHARACTERS = 2000
"""Spaces are stored for people to read. The bounds of a large Box would fill pages."""

UNTOLD = "the arguments of wrapper"
"""Begins the reason that a wrapper's arguments are unknown."""

# The environments that were warned of: a training run makes hundreds of one kind.
_warned: set[tuple[str, str]] = set()

StoredWrapper = tuple[str, bytes | None]
"""Class name and encoded arguments of a wrapper; None if the arguments are unknown."""


# The reasons below are stored in headers: to change one changes the bytes of new logs.
def describe_env(env: AnyEnv) -> EnvRecord:
    """Describe an environment so that it can be made again, or give the reason why it cannot."""
    if isinstance(env, PettingZooEnv):
        return _describe_pettingzoo(env)
    spec = env.spec
    wrappers, problems = _gymnasium_wrappers(env)
    env_id = ""
    entry_point = ""
    kwargs_data = b""
    max_episode_steps = None
    spec_fields: dict[str, Any] = {}
    if spec is None:
        problems.insert(0, "it was not made by gymnasium.make, so nothing says how to make it")
    else:
        if isinstance(spec.entry_point, str) and spec.entry_point:
            entry_point = spec.entry_point
        else:
            problems.insert(0, "its entry point is a function, not a name")
        env_id = spec.id
        max_episode_steps = spec.max_episode_steps
        spec_fields = {
            "order_enforce": bool(spec.order_enforce),
            "disable_env_checker": bool(spec.disable_env_checker),
        }
        try:
            kwargs_data = codec.encode(spec.kwargs, where="environment kwargs")
        except EncodeError as exc:
            kwargs_data = codec.encode(spec.kwargs, opaque=True)
            problems.append(str(exc))
    return EnvRecord(
        env_id=env_id,
        entry_point=entry_point,
        kwargs_data=kwargs_data,
        max_episode_steps=max_episode_steps,
        spec_fields=spec_fields,
        wrappers=wrappers,
        class_name=codec.type_name(env.unwrapped),
        recreatable="; ".join(problems),
        observation_space=_space_text(env, "observation_space"),
        action_space=_space_text(env, "action_space"),
    )


def _space_text(env: AnyEnv, name: str) -> str:
    """Return a space as text; "" if the environment does not declare it: a recorder needs none."""
    return str(getattr(env, name, ""))[:SPACE_CHARACTERS]


def with_factory(record: EnvRecord, factory: Callable[[], Value] | None) -> EnvRecord:
    """Return the description of an environment with the function that makes it again.

    Without a function, a warning says once that the environment cannot be made again, and why.

    Raises:
        ValueError: Another process does not find the function by its module and name.
    """
    if not record.recreatable:
        return record
    if factory is None:
        _warn_of(record)
        return record
    if not _is_importable(factory):
        is_of_script = module_name(factory) == SCRIPT
        remedy = "; move it out of the script that is run" if is_of_script else ""
        raise ValueError(
            "factory must be a function at the top of a module that other processes can import, "
            f"got {factory!r:.200}{remedy}"
        )
    name = f"{factory.__module__}:{factory.__qualname__}"
    fields = {**record.spec_fields, FACTORY_FIELD: name}
    return msgspec.structs.replace(record, spec_fields=fields, recreatable="")


def _warn_of(record: EnvRecord) -> None:
    reason = (record.class_name, record.recreatable)
    if reason in _warned:
        return
    _warned.add(reason)
    # Gymnasium's own wrappers keep their arguments by this class. Those of PettingZoo do not.
    is_untold = UNTOLD in record.recreatable and API_FIELD not in record.spec_fields
    remedy = (
        "; a wrapper tells its arguments if its class derives from "
        "gymnasium.utils.RecordConstructorArgs too"
        if is_untold
        else ""
    )
    warnings.warn(
        f"the environment {record.class_name} cannot be made again from its log "
        f"({record.recreatable}): each replay and fork will need env=, unless you record with "
        f"factory=, a function of a module that makes the environment{remedy}",
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """Return the `stacklevel` of the first frame outside of trajrec, for a warning by the caller."""
    frame = sys._getframe(1)
    level = 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("trajrec."):
        frame = frame.f_back
        level += 1
    return level


def redacted_env(record: EnvRecord, redactor: Redactor) -> EnvRecord:
    """Return the description of an environment without the secrets in its arguments.

    The environment cannot be made again from a description that had secrets.
    """
    kwargs_data, n_secrets = _redacted_data(record.kwargs_data, redactor)
    wrappers: list[StoredWrapper] = []
    for name, data in record.wrappers:
        cleaned, n = (None, 0) if data is None else _redacted_data(data, redactor)
        wrappers.append((name, cleaned))
        n_secrets += n
    problems = redactor.text(record.recreatable)
    if n_secrets:
        secret = "the arguments that it was made with have secrets, which the log does not have"
        problems = f"{problems}; {secret}" if problems else secret
    return msgspec.structs.replace(
        record, kwargs_data=kwargs_data, wrappers=wrappers, recreatable=problems
    )


def _redacted_data(data: bytes, redactor: Redactor) -> tuple[bytes, int]:
    """Return an encoded value without secrets, and their number."""
    if not data:
        return data, 0
    cleaned, n = redactor.redacted(codec.decode(data))
    return (codec.encode(cleaned, opaque=True) if n else data), n


def _gymnasium_wrappers(env: Any) -> tuple[list[StoredWrapper], list[str]]:
    """Return the wrappers around the result of `gymnasium.make`, innermost first, and problems."""
    specs = () if env.spec is None else env.spec.additional_wrappers
    # A class may wrap twice, with other arguments.
    specs_by_name: dict[str, list[Any]] = {}
    for spec in specs:
        specs_by_name.setdefault(spec.name, []).append(spec)
    outermost_first = []
    while hasattr(env, "env") and env is not env.unwrapped:
        outermost_first.append(env)
        env = env.env
    wrappers: list[StoredWrapper] = []
    problems: list[str] = []
    n_layers = Counter(type(layer).__name__ for layer in outermost_first)
    for layer in reversed(outermost_first):
        if isinstance(layer, CopiedUnrecorded):
            # A recorder changes nothing, so it is no part of the environment.
            continue
        name = type(layer).__name__
        if name in STANDARD_WRAPPERS and type(layer).__module__.startswith("gymnasium."):
            continue
        own_specs = specs_by_name.get(name, [])
        # If one of them is without arguments, nothing says which.
        arguments = own_specs.pop(0).kwargs if len(own_specs) == n_layers[name] else None
        n_layers[name] -= 1
        _add_wrapper(layer, arguments, wrappers, problems)
    return wrappers, problems


def _add_wrapper(
    layer: object,
    arguments: Mapping[str, Value] | None,
    wrappers: list[StoredWrapper],
    problems: list[str],
) -> None:
    data = None if arguments is None else codec.encode(arguments, opaque=True)
    wrappers.append((codec.type_name(layer), data))
    if data is None or _has_opaque(codec.decode(data)):
        problems.append(f"{UNTOLD} {type(layer).__name__} are not known")


def _describe_pettingzoo(view: PettingZooEnv) -> EnvRecord:
    """Describe a PettingZoo environment by its class and its wrappers, each with its arguments.

    PettingZoo has no registry, but most of its environments are EzPickle objects, which keep the
    arguments that they were made with.
    """
    env = view.env
    bare = view.unwrapped
    cls = type(bare)
    problems: list[str] = []
    wrappers: list[StoredWrapper] = []
    if not _is_importable(cls):
        problems.append(
            f"{cls.__qualname__} of the module {module_name(cls)} cannot be found by that name"
        )
    arguments = _constructor_arguments(bare)
    if arguments is None:
        problems.append("nothing says what it was made with: gymnasium.utils.EzPickle would")
    kwargs_data = codec.encode(arguments or {}, opaque=True)
    if _has_opaque(codec.decode(kwargs_data)):
        problems.append("what it was made with cannot be stored as plain data")
    outermost_first = list(takewhile(lambda layer: layer is not bare, layers(env)))
    if not any(layer is bare for layer in layers(env)):
        name = type(outermost_first[-1]).__name__
        problems.append(f"what wrapper {name} wraps is out of sight")
    for layer in reversed(outermost_first):
        if not isinstance(layer, CopiedUnrecorded):
            _add_wrapper(layer, _wrapper_arguments(layer), wrappers, problems)
    return EnvRecord(
        env_id=str(view.metadata.get("name", cls.__name__)),
        entry_point=f"{module_name(cls)}:{cls.__qualname__}",
        kwargs_data=kwargs_data,
        max_episode_steps=None,
        spec_fields={API_FIELD: api_of(env)},
        wrappers=wrappers,
        class_name=codec.type_name(bare),
        recreatable="; ".join(problems),
        observation_space=str(view.observation_space)[:SPACE_CHARACTERS],
        action_space=str(view.action_space)[:SPACE_CHARACTERS],
    )


def _is_importable(cls: Any) -> bool:
    """Return whether another process finds a class or function by its module and name."""
    attribute: Any = sys.modules.get(getattr(cls, "__module__", ""))
    for name in getattr(cls, "__qualname__", "").split("."):
        attribute = getattr(attribute, name, None)
    return attribute is cls and module_name(cls) != SCRIPT


def _constructor_arguments(bare: Any) -> dict[str, Any] | None:
    """Return the arguments that an environment was made with, by name; None if they are unknown."""
    signature = inspect.signature(type(bare))
    if not isinstance(bare, gymnasium.utils.EzPickle):
        return None if signature.parameters else {}
    try:
        bound = signature.bind(*bare._ezpickle_args, **bare._ezpickle_kwargs).arguments
    except (TypeError, AttributeError):
        return None
    arguments: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= bound.get(name, {})
        elif parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.POSITIONAL_ONLY,
        ):
            if name in bound:
                return None
        elif name not in bound:
            # EzPickle has the arguments of a base class, which takes others.
            return None
        else:
            arguments[name] = bound[name]
    return arguments


def _wrapper_arguments(layer: Any) -> dict[str, Any] | None:
    """Return a wrapper's arguments besides the environment; None if they are unknown."""
    cls = type(layer)
    if not _is_importable(cls):
        return None
    # The first parameter is the environment.
    names = list(inspect.signature(cls).parameters)[1:]
    is_pettingzoo = cls.__module__.startswith("pettingzoo.")
    attributes = WRAPPER_ARGUMENTS.get(cls.__name__, {}) if is_pettingzoo else {}
    if any(name not in attributes or attributes[name] not in vars(layer) for name in names):
        return None
    return {name: vars(layer)[attributes[name]] for name in names}


def _has_opaque(value: Value) -> bool:
    """Return whether a decoded value holds an object that was not stored as plain data."""
    if isinstance(value, (codec.Opaque, codec.Plain)):
        return True
    if isinstance(value, dict):
        return any(map(_has_opaque, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_opaque, value))
