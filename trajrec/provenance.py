"""What an episode ran under: environment, versions, machine, code."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from trajrec import codec
from trajrec.errors import EncodeError
from trajrec.schema import EnvRecord

# The settings of a process that are known to change what environments compute.
_SETTINGS = ("PYTHONHASHSEED", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "GLIBC_TUNABLES", "TZ")


def describe_env(env: Any) -> EnvRecord:
    """Describe an environment so that it can be made again, or say why it cannot."""
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
        fields = {"order_enforce": bool(spec.order_enforce), "disable_env_checker": bool(spec.disable_env_checker)}
        try:
            kwargs = codec.encode(spec.kwargs, where="environment kwargs")
        except EncodeError as exc:
            kwargs = codec.encode(spec.kwargs, opaque=True)
            problems.append(str(exc))
    return EnvRecord(
        env_id,
        entry_point,
        kwargs,
        limit,
        fields,
        wrappers,
        class_name,
        "; ".join(problems),
        str(env.observation_space)[:2000],
        str(env.action_space)[:2000],
    )


def _wrappers(env: Any) -> tuple[list[tuple[str, bytes | None]], list[str]]:
    """List the wrappers that were put around what gymnasium.make returned, innermost first."""
    applied = [] if env.spec is None else list(env.spec.additional_wrappers)
    by_name = {wrapper.name: wrapper for wrapper in applied}
    known, problems, standard = [], [], {"PassiveEnvChecker", "OrderEnforcing", "TimeLimit"}
    layers = []
    while hasattr(env, "env") and env is not env.unwrapped:
        layers.append(env)
        env = env.env
    for layer in reversed(layers):
        name = type(layer).__name__
        if name in standard and type(layer).__module__.startswith("gymnasium."):
            continue
        spec = by_name.get(name)
        kwargs = None if spec is None else spec.kwargs
        data = None if kwargs is None else codec.encode(kwargs, opaque=True)
        known.append((codec.type_name(layer), data))
        if data is None or _has_opaque(codec.decode(data)):
            problems.append(f"the arguments of wrapper {name} are not known")
    return known, problems


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
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=5, check=True
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
