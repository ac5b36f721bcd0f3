"""Make the environment that a log names, from trusted code only.

An environment is made from the registry of this process, after importing at most a package that is
known for its environments. Any other module that a log names is imported only if the caller allows
it (`trajrec.replay.execute.trust`).
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from typing import Any, NoReturn

import gymnasium
from gymnasium.envs.registration import EnvSpec

from trajrec.envstate.pettingzoo import WRAPPER_ARGUMENTS, api_of_class, as_gymnasium
from trajrec.errors import EnvMissingError, EnvRefusedError, mark_user_code
from trajrec.log.schema import API_FIELD, FACTORY_FIELD, EnvRecord
from trajrec.redaction.comparison import has_marks
from trajrec.replay.execute.factories import (
    KNOWN_PACKAGES,
    arguments_as_given,
    default_arguments,
    env_from_factory,
    has_objects,
    make_of_spec,
    module_of,
    namespace_of,
    own_arguments,
)
from trajrec.replay.execute.trust import (
    check_arguments,
    how_to_allow,
    is_allowed,
    module_prefixes,
    not_allowed,
)
from trajrec.replay.execute.user_code import is_refusal
from trajrec.types import AnyEnv, Value
from trajrec.values import codec

# The package whose environments and wrappers for several agents a log may name.
AGENTS_PACKAGE = "pettingzoo"

# Wrappers of Gymnasium that show or film an episode. They are left out: no window opens and no file
# is written because a log says so.
_DISPLAY_WRAPPERS = ("HumanRendering", "RecordVideo")


def make_env(record: EnvRecord, *, episode_id: str, allow: Iterable[str] = ()) -> AnyEnv:
    """Make the environment that a log describes.

    Args:
        record: The description.
        episode_id: The episode, for error messages.
        allow: Module prefixes that may be imported because the log names them.

    Raises:
        EnvRefusedError: The environment needs a module that is not allowed.
        EnvMissingError: The environment, or its package, is not installed, or the log does not say
            how to make it.
    """
    is_of_registry = bool(record.recreatable) and is_registered_here(record)
    if record.recreatable and not is_of_registry:
        raise EnvMissingError(
            f"the environment {record.class_name} cannot be made from the log "
            f"({record.recreatable}); give a function that makes it: env= in Python, "
            "--env MODULE:FACTORY on the command line",
            episode_id=episode_id,
        )
    allowed = module_prefixes(allow)
    if FACTORY_FIELD in record.spec_fields:
        return _make_with_factory(record, allowed, episode_id)
    if API_FIELD in record.spec_fields:
        return _make_pettingzoo(record, allowed, episode_id)
    # Order enforcement is left out, as it only watches: a replay always resets before it steps.
    spec = dataclasses.replace(_spec(record, allowed, episode_id), order_enforce=False)
    kwargs, unknown = arguments_as_given(_kwargs(record), spec.kwargs)
    if unknown:
        raise EnvMissingError(
            f"the argument {unknown[0]} of {record.env_id} is an object, which is not made from a "
            "log; give a function that makes the environment: env= in Python, "
            "--env MODULE:FACTORY on the command line",
            episode_id=episode_id,
        )
    check_arguments(
        kwargs,
        record.env_id,
        module_of(spec),
        allow=allowed,
        episode_id=episode_id,
        defaults=lambda: own_arguments(spec),
    )
    try:
        env = make_of_spec(
            spec, kwargs, max_episode_steps=record.max_episode_steps, disable_env_checker=True
        )
    except (gymnasium.error.DependencyNotInstalled, ImportError) as exc:
        raise _dependency_missing(record.env_id, exc, episode_id) from exc
    except Exception as exc:
        _raise_again(record.env_id, exc, episode_id)
    class_name = codec.type_name(env.unwrapped)
    if is_of_registry and class_name != record.class_name:
        env.close()
        raise EnvMissingError(
            f"{record.env_id} is {class_name} in this process, and was {record.class_name}",
            episode_id=episode_id,
        )
    n_applied = len(env.spec.additional_wrappers) if env.spec is not None else 0
    for name, data in record.wrappers[n_applied:]:
        env = _wrap(env, name, data, allow=allowed, episode_id=episode_id)
    return env


def _make_with_factory(record: EnvRecord, allow: tuple[str, ...], episode_id: str) -> AnyEnv:
    """Make an environment with the function that the recorder was given."""
    name = str(record.spec_fields[FACTORY_FIELD])
    module, _, path = name.partition(":")
    if not is_allowed(module, allow):
        raise not_allowed(f"the factory {name} of its log", module, episode_id)
    try:
        factory: Any = importlib.import_module(module)
        for number, part in enumerate(path.split(".")):
            if number and not isinstance(factory, type):
                raise AttributeError(f"{factory!r:.100} is no class")
            factory = getattr(factory, part)
    except (ImportError, AttributeError) as exc:
        raise EnvMissingError(
            f"the factory {name} is not installed here ({exc})", episode_id=episode_id
        ) from exc
    # The module has names of other modules too: a log must not choose which of them is called.
    if not callable(factory) or not is_allowed(getattr(factory, "__module__", ""), allow):
        raise EnvRefusedError(f"{name} is no factory of this module", episode_id=episode_id)
    env = env_from_factory(factory)
    class_name = codec.type_name(env.unwrapped)
    if class_name != record.class_name:
        env.close()
        raise EnvMissingError(
            f"the factory {name} makes {class_name}; recorded is {record.class_name}",
            episode_id=episode_id,
        )
    return env


def is_registered_here(record: EnvRecord) -> bool:
    """Return whether this process registers an environment that a log cannot make by itself.

    Its entry point may be a function, or an argument of the registration an object.
    """
    spec = gymnasium.registry.get(record.env_id)
    if spec is None:
        return False
    kwargs = codec.decode_map(record.kwargs_data)
    _, unknown = arguments_as_given(kwargs, spec.kwargs)
    wrappers = [None if data is None else codec.decode(data) for _, data in record.wrappers]
    has_unknown_wrappers = any(data is None or has_objects(data) for data in wrappers)
    return not unknown and not has_unknown_wrappers and not has_marks([kwargs, wrappers])


def _kwargs(record: EnvRecord) -> dict[str, Value]:
    """Return the recorded arguments, without a window."""
    kwargs = codec.decode_map(record.kwargs_data)
    if kwargs.get("render_mode") == "human":
        kwargs["render_mode"] = None
    return kwargs


def _spec(record: EnvRecord, allow: tuple[str, ...], episode_id: str) -> EnvSpec:
    """Return the spec of a registered id, or of an allowed entry point."""
    # Gymnasium takes ids as "module:id".
    module, _, bare_id = record.env_id.rpartition(":")
    if bare_id in gymnasium.registry:
        return gymnasium.spec(bare_id)
    package = KNOWN_PACKAGES.get(namespace_of(bare_id))
    top_package = record.entry_point.partition(".")[0]
    if package is None and top_package in KNOWN_PACKAGES.values():
        package = top_package
    if package is not None and not module:
        try:
            importlib.import_module(package)
        except ImportError as exc:
            distribution = package.partition(".")[0]
            raise EnvMissingError(
                f"{record.env_id} comes from the package {distribution}, which is not installed: "
                f"pip install {distribution.replace('_', '-')}",
                episode_id=episode_id,
            ) from exc
        if bare_id in gymnasium.registry:
            return gymnasium.spec(bare_id)
    entry_module = record.entry_point.partition(":")[0]
    wanted = module or entry_module
    if not wanted or not is_allowed(wanted, allow):
        raise not_allowed(
            f"the environment {record.env_id!r} is not registered here, and its log names the "
            f"module {wanted!r}, which",
            wanted,
            episode_id,
        )
    try:
        importlib.import_module(wanted)
    except ImportError as exc:
        raise EnvMissingError(
            f"{record.env_id} comes from the module {wanted}, which is not installed here ({exc})",
            episode_id=episode_id,
        ) from exc
    if bare_id in gymnasium.registry:
        return gymnasium.spec(bare_id)
    if not is_allowed(entry_module, allow):
        raise not_allowed(
            f"the entry point {record.entry_point!r} of the environment {record.env_id!r}",
            entry_module,
            episode_id,
        )
    return EnvSpec(bare_id, entry_point=record.entry_point)


def _wrap(
    env: AnyEnv, name: str, data: bytes | None, *, allow: tuple[str, ...], episode_id: str
) -> AnyEnv:
    """Apply a recorded wrapper."""
    module, _, cls = name.rpartition(".")
    if module.startswith("gymnasium.wrappers") and cls in _DISPLAY_WRAPPERS:
        return env
    if not is_allowed(module, (*allow, "gymnasium.wrappers")):
        raise not_allowed(f"the wrapper {name}", module, episode_id)
    try:
        wrapper: Any = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as exc:
        raise EnvMissingError(
            f"the wrapper {name} is not installed here ({exc})", episode_id=episode_id
        ) from exc
    # The module has other names too: a log must not choose which of them is called.
    is_wrapper = isinstance(wrapper, type) and issubclass(wrapper, gymnasium.Wrapper)
    if not is_wrapper or not is_allowed(wrapper.__module__, (*allow, "gymnasium.wrappers")):
        raise EnvRefusedError(f"{name} is no class of wrappers", episode_id=episode_id)
    arguments = codec.decode_map(data)
    check_arguments(
        arguments,
        name,
        module,
        allow=allow,
        episode_id=episode_id,
        defaults=lambda: default_arguments(wrapper),
    )
    try:
        wrapped: AnyEnv = wrapper(env, **arguments)
    except Exception as exc:
        _raise_again(name, exc, episode_id)
    return wrapped


def _raise_again(name: str, exc: Exception, episode_id: str) -> NoReturn:
    """Raise the exception of a constructor, or say that it does not take the recorded arguments."""
    if not is_refusal(exc, __name__):
        mark_user_code(exc)
        raise exc
    raise EnvMissingError(
        f"{name} does not take the recorded arguments in the version that is installed here: {exc}",
        episode_id=episode_id,
    ) from exc


def _make_pettingzoo(record: EnvRecord, allow: tuple[str, ...], episode_id: str) -> AnyEnv:
    """Make a PettingZoo environment and its wrappers; return the joint view of it."""
    cls = _pettingzoo_class(
        record.entry_point, kind="environment", allow=allow, episode_id=episode_id
    )
    kwargs = _kwargs(record)
    check_arguments(
        kwargs,
        record.entry_point,
        record.entry_point.partition(":")[0],
        allow=allow,
        episode_id=episode_id,
        defaults=lambda: default_arguments(cls),
    )
    try:
        made = cls(**kwargs)
    except (gymnasium.error.DependencyNotInstalled, ImportError) as exc:
        raise _dependency_missing(record.env_id, exc, episode_id) from exc
    except Exception as exc:
        _raise_again(record.entry_point, exc, episode_id)
    for name, data in record.wrappers:
        module, _, cls_name = name.rpartition(".")
        wrapper = _pettingzoo_class(
            f"{module}:{cls_name}", kind="wrapper", allow=allow, episode_id=episode_id
        )
        arguments = codec.decode_map(data)
        known = WRAPPER_ARGUMENTS.get(cls_name, {}).keys()
        # Some wrappers write to a file that an argument names.
        if not is_allowed(module, allow) and not arguments.keys() <= known:
            raise EnvRefusedError(
                f"the arguments of the wrapper {name} are not taken from a log unless you allow "
                f"its module: pass {how_to_allow(module)}",
                episode_id=episode_id,
            )
        try:
            made = wrapper(made, **arguments)
        except Exception as exc:
            _raise_again(name, exc, episode_id)
    view: AnyEnv = as_gymnasium(made)
    return view


def _pettingzoo_class(name: str, *, kind: str, allow: tuple[str, ...], episode_id: str) -> Any:
    """Return a class that a log names, of PettingZoo or of an allowed module."""
    module, _, path = name.partition(":")
    if not is_allowed(module, (AGENTS_PACKAGE, *allow)):
        raise not_allowed(f"the {kind} {name}", module, episode_id)
    try:
        cls: Any = importlib.import_module(module)
        for part in path.split("."):
            cls = getattr(cls, part)
    except (ImportError, AttributeError) as exc:
        raise EnvMissingError(
            f"the {kind} {name} is not installed here ({exc}): pip install "
            "'trajrec[pettingzoo]', and PettingZoo's extra for this environment",
            episode_id=episode_id,
        ) from exc
    # The module has other names too (os, open): a log must not choose which of them is called.
    is_class = isinstance(cls, type) and api_of_class(cls) is not None
    if not is_class or not is_allowed(cls.__module__, (AGENTS_PACKAGE, *allow)):
        raise EnvRefusedError(
            f"{name} is no class of PettingZoo's environments", episode_id=episode_id
        )
    return cls


def _dependency_missing(env_id: str, exc: Exception, episode_id: str) -> EnvMissingError:
    return EnvMissingError(
        f"{env_id} needs a package that is not installed: {exc}", episode_id=episode_id
    )
