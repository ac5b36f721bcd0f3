"""What an episode ran under: environment, versions, machine, code."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import os
import platform
import socket
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import gymnasium

from trajrec.envstate.attributes import STANDARD_WRAPPERS
from trajrec.envstate.pettingzoo import API_FIELD, WRAPPER_ARGUMENTS, PettingZooEnv, api_of, layers
from trajrec.errors import EncodeError
from trajrec.log.schema import EnvRecord
from trajrec.values import codec

# The settings of a process that are known to change what environments compute.
_SETTINGS = ("PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "GLIBC_TUNABLES", "TZ")


def describe_env(env: Any) -> EnvRecord:
    """Describe an environment so that it can be made again, or say why it cannot."""
    if isinstance(env, PettingZooEnv):
        return _describe_agents(env)
    spec = env.spec
    class_name = codec.type_name(env.unwrapped)
    wrappers, problems = _wrappers(env)
    if spec is None:
        problems.insert(0, "it was not made by gymnasium.make, so nothing says how to make it")
        fields: dict[str, Any] = {}
        env_id, entry_point, kwargs, limit = "", "", b"", None
    else:
        entry_point = spec.entry_point if isinstance(spec.entry_point, str) else ""
        if not entry_point:
            problems.insert(0, "its entry point is a function, not a name")
        env_id, limit = spec.id, spec.max_episode_steps
        fields = {
            "order_enforce": bool(spec.order_enforce),
            "disable_env_checker": bool(spec.disable_env_checker),
        }
        try:
            kwargs = codec.encode(spec.kwargs, where="environment kwargs")
        except EncodeError as exc:
            kwargs = codec.encode(spec.kwargs, opaque=True)
            problems.append(str(exc))
    return EnvRecord(
        env_id=env_id,
        entry_point=entry_point,
        kwargs_data=kwargs,
        max_episode_steps=limit,
        spec_fields=fields,
        wrappers=wrappers,
        class_name=class_name,
        recreatable="; ".join(problems),
        observation_space=str(env.observation_space)[:2000],
        action_space=str(env.action_space)[:2000],
    )


def _wrappers(env: Any) -> tuple[list[tuple[str, bytes | None]], list[str]]:
    """List the wrappers that were put around what gymnasium.make returned, innermost first."""
    applied = [] if env.spec is None else list(env.spec.additional_wrappers)
    by_name = {wrapper.name: wrapper for wrapper in applied}
    known, problems = [], []
    layers = []
    while hasattr(env, "env") and env is not env.unwrapped:
        layers.append(env)
        env = env.env
    for layer in reversed(layers):
        name = type(layer).__name__
        if name in STANDARD_WRAPPERS and type(layer).__module__.startswith("gymnasium."):
            continue
        spec = by_name.get(name)
        kwargs = None if spec is None else spec.kwargs
        data = None if kwargs is None else codec.encode(kwargs, opaque=True)
        known.append((codec.type_name(layer), data))
        if data is None or _has_opaque(codec.decode(data)):
            problems.append(f"the arguments of wrapper {name} are not known")
    return known, problems


def _describe_agents(view: PettingZooEnv) -> EnvRecord:
    """Describe a PettingZoo environment: its class with what it was made with, and each wrapper likewise. Nothing that it has
    says how it was made, but that most are EzPickle; so a class is taken whose arguments are known, or the reason why not."""
    env, bare = view.env, view.unwrapped
    api, cls, problems, wrappers = api_of(env), type(bare), [], []
    if not _is_importable(cls):
        problems.append(
            f"{cls.__qualname__} of the module {cls.__module__} cannot be found by that name"
        )
    arguments = _made_with(bare)
    if arguments is None:
        problems.append("nothing says what it was made with: gymnasium.utils.EzPickle would")
    kwargs = codec.encode(arguments or {}, opaque=True)
    if _has_opaque(codec.decode(kwargs)):
        problems.append("what it was made with cannot be stored as plain data")
    around = list(takewhile(lambda layer: layer is not bare, layers(env)))
    if not any(layer is bare for layer in layers(env)):
        problems.append(f"what wrapper {type(around[-1]).__name__} wraps is out of sight")
    for layer in reversed(around):
        known = _wrapped_with(layer)
        data = None if known is None else codec.encode(known, opaque=True)
        wrappers.append((codec.type_name(layer), data))
        if data is None or _has_opaque(codec.decode(data)):
            problems.append(f"the arguments of wrapper {type(layer).__name__} are not known")
    return EnvRecord(
        env_id=str(view.metadata.get("name", cls.__name__)),
        entry_point=f"{cls.__module__}:{cls.__qualname__}",
        kwargs_data=kwargs,
        max_episode_steps=None,
        spec_fields={API_FIELD: api},
        wrappers=wrappers,
        class_name=codec.type_name(bare),
        recreatable="; ".join(problems),
        observation_space=str(view.observation_space)[:2000],
        action_space=str(view.action_space)[:2000],
    )


def _is_importable(cls: type) -> bool:
    """Say whether another process finds a class by its module and name."""
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is cls and cls.__module__ != "__main__"


def _made_with(bare: Any) -> dict[str, Any] | None:
    """Return the arguments that an environment was made with, by name; None where they are not known."""
    parameters = inspect.signature(type(bare)).parameters
    if not isinstance(bare, gymnasium.utils.EzPickle):
        return None if parameters else {}
    try:
        bound = (
            inspect.signature(type(bare))
            .bind(*bare._ezpickle_args, **bare._ezpickle_kwargs)
            .arguments
        )
    except (TypeError, AttributeError):
        return None
    arguments: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= bound.get(name, {})
        elif parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.POSITIONAL_ONLY,
        ):
            if name in bound:
                return None
        elif name not in bound:
            return None  # what was kept are the arguments of a base class, which has others
        else:
            arguments[name] = bound[name]
    return arguments


def _wrapped_with(layer: Any) -> dict[str, Any] | None:
    """Return the arguments that a wrapper was made with besides what it wraps; None where they are not known."""
    if not _is_importable(type(layer)):
        return None
    names = list(inspect.signature(type(layer)).parameters)[1:]
    attributes = (
        WRAPPER_ARGUMENTS.get(type(layer).__name__, {})
        if type(layer).__module__.startswith("pettingzoo.")
        else {}
    )
    if any(name not in attributes or attributes[name] not in vars(layer) for name in names):
        return None
    return {name: vars(layer)[attributes[name]] for name in names}


def _has_opaque(value: Any) -> bool:
    if isinstance(value, (codec.Opaque, codec.Plain)):
        return True
    if isinstance(value, dict):
        return any(map(_has_opaque, value.values()))
    return isinstance(value, (list, tuple)) and any(map(_has_opaque, value))


def describe_runtime() -> dict[str, Any]:
    """Describe this process: versions, platform, processor, settings, and the git commit of the working directory."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "libc": " ".join(platform.libc_ver()),
        "packages": _packages(),
        "settings": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
        "git": _git(Path.cwd()),
    }


def _packages() -> dict[str, str]:
    """Return the versions of the installed distributions of which a module is imported now."""
    imported = {name.replace("_", "-").lower() for name in list(sys.modules) if "." not in name}
    return {name: version for name, version in _installed().items() if name in imported}


@functools.cache
def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        found.setdefault((distribution.name or "").replace("_", "-").lower(), distribution.version)
    return dict(sorted(found.items()))


@functools.cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


@functools.cache
def _git(folder: Path) -> dict[str, Any] | None:
    """Return commit and cleanliness of the repository that a folder lies in, or None."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "is_clean": not changed.strip()}


def hostname() -> str:
    """Return the machine's name."""
    return socket.gethostname()
