"""Headers of logs: who recorded them, and under which versions, settings and code."""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import os
import platform
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trajrec.log.records import env_without_description
from trajrec.log.schema import EnvRecord, Header, StateRecord
from trajrec.redaction.redactor import Redactor
from trajrec.types import Value
from trajrec.version import __version__

_RESULT_SETTINGS = (
    "PYTHONHASHSEED",
    "OMP_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "GLIBC_TUNABLES",
    "TZ",
)
"""Environment variables that can change the results of an environment: the order of sets, the order
of sums in numerical libraries, the code path of a processor, and the time zone."""

_GIT_TIMEOUT_S = 5.0
"""On a slow network file system `git status` may take minutes; the log then has no commit."""


def make_agents_header(log_id: str, reason: str) -> Header:
    """Return the header of a log of agents, which has no environment.

    Args:
        log_id: The log's id.
        reason: Why nothing says how to make an environment.
    """
    return make_header(
        log_id=log_id,
        created_ns=time.time_ns(),
        env=env_without_description(class_name="", reason=reason),
        state=StateRecord(),
        keep_states="auto",
        # The log is shared by episodes, which may have other ones.
        redactor=Redactor(),
    )


def make_header(
    *,
    log_id: str,
    created_ns: int,
    env: EnvRecord,
    state: StateRecord,
    keep_states: str,
    interface: Mapping[str, Value] | None = None,
    redactor: Redactor,
) -> Header:
    """Return the header of a log that this process writes, without secrets."""
    interface_data = None
    if interface is not None:
        interface_data, _ = redactor.encode(interface, where="interface", opaque=False)
    runtime, _ = redactor.redacted(describe_runtime())
    return Header(
        log_id=log_id,
        created_ns=created_ns,
        writer=f"trajrec {__version__}",
        env=env,
        state=state,
        keep_states=keep_states,
        runtime=runtime,
        process_id=os.getpid(),
        host=hostname(),
        interface_data=interface_data,
    )


def describe_runtime() -> dict[str, Any]:
    """Describe this process: versions, platform, processor, settings, and the git commit."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "libc": " ".join(platform.libc_ver()),
        "packages": _packages(),
        "settings": {name: os.environ[name] for name in _RESULT_SETTINGS if name in os.environ},
        "git": _git_here(),
    }


def hostname() -> str:
    """Return the machine's name."""
    return socket.gethostname()


def _packages() -> dict[str, str]:
    """Return the versions of the installed distributions of which a module is imported now."""
    imported = {_normal(name) for name in list(sys.modules) if "." not in name}
    return {
        name: distribution.version
        for name, distribution in _installed().items()
        if name in imported or not imported.isdisjoint(distribution.modules)
    }


def _normal(name: str) -> str:
    return name.replace("_", "-").lower()


class _Distribution(NamedTuple):
    """An installed distribution.

    Attributes:
        version: Its version.
        modules: The modules that it names and no other one does, such as cv2 of opencv-python. A
            name that several give, such as google, tells none of them from the others.
    """

    version: str
    modules: frozenset[str]


# Cached, as the next two: a process that opens many logs needs the same each time. To list the
# distributions of a large installation takes 0.2 s.
@functools.cache
def _installed() -> dict[str, _Distribution]:
    """Return each installed distribution by its normalised name."""
    versions: dict[str, str] = {}
    modules: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        name, version = _name_and_version(distribution)
        name = _normal(name)
        # The first on the path is the one that is imported.
        if name not in versions:
            versions[name] = version
            text = distribution.read_text("top_level.txt") or ""
            modules[name] = set(map(_normal, text.split()))
    counts = Counter(itertools.chain.from_iterable(modules.values()))
    return {
        name: _Distribution(
            versions[name], frozenset(module for module in modules[name] if counts[module] == 1)
        )
        for name in sorted(versions)
    }


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Return two fields of a distribution, without the parser of mail that `metadata` takes.

    It takes ten times as long, and reads the file anew for each field.
    """
    text = distribution.read_text("METADATA") or ""
    fields = dict(
        line.split(": ", 1) for line in text.partition("\n\n")[0].split("\n") if ": " in line
    )
    if "Name" in fields and "Version" in fields:
        return fields["Name"].strip(), fields["Version"].strip()
    return distribution.name or "", distribution.version


@functools.cache
def _cpu() -> str:
    """Return the processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        # Only Linux has this file.
        pass
    return platform.processor()


def _git_here() -> dict[str, Any] | None:
    try:
        folder = Path.cwd()
    except OSError:
        return None  # the working folder was deleted
    return _git(folder)


@functools.cache
def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit and cleanliness of the repository that a folder lies in, or None."""
    # Not `Path.exists`, which raises where a folder may not be searched.
    if not any(os.path.exists(parent / ".git") for parent in (folder, *folder.parents)):
        return None
    try:
        commit = _run_git(folder, "rev-parse", "HEAD")
        changes = _run_git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "is_clean": not changes}


def _run_git(folder: Path, *arguments: str) -> str:
    finished = subprocess.run(
        # Without locks: a commit of the user at the same moment must not fail.
        ["git", "--no-optional-locks", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_GIT_TIMEOUT_S,
        check=True,
    )
    return finished.stdout.strip()
