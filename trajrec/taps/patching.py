"""Patches of HTTP libraries: put in place when a library is imported, counted, and undone.

The taps replace the last method before the socket in each library. A library is patched when the
program imports it, never before, and nothing here imports one. `install` and `uninstall` count
their users, so that nested captures patch once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

TAPS = {
    "aiohttp": "trajrec.taps.aiohttp_tap",
    "grpc": "trajrec.taps.unseen",
    "grpc.aio": "trajrec.taps.unseen",
    "http.client": "trajrec.taps.http_client_tap",
    "httpx": "trajrec.taps.httpx_tap",
    "httpx2": "trajrec.taps.httpx_tap",
    "socket": "trajrec.taps.unseen",
    "urllib3": "trajrec.taps.urllib3_tap",
}
"""Library -> the module whose `replacements` names the methods to replace."""

HOOKS = {
    "agents.run_internal.tool_execution": "trajrec.instrument.openai_agents",
    "langchain_core.tools.base": "trajrec.instrument.langchain",
    "pydantic_ai.tool_manager": "trajrec.instrument.pydantic_ai",
    "smolagents.agents": "trajrec.instrument.smolagents",
}
"""Module of a framework -> the module whose `replacements` names its functions to put hooks around."""

_PATCHES = {**TAPS, **HOOKS}

# How deep a chain of wrappers is searched for ours. Each tool that instruments adds one.
_MOST_WRAPPERS = 50

capture_faults = 0
"""How often a tap failed in this process. Each time the request went on without it."""


class AnswerFault(BaseException):
    """A tap failed to deliver a recorded answer. The request was not sent.

    It is no `Exception`, because a client would retry it and report something else.
    """


class Replacement(NamedTuple):
    """A method to replace.

    Attributes:
        owner: The class or the module that defines the method.
        name: The method's name.
        make: Returns the wrapper of the present method.
    """

    owner: type | ModuleType
    name: str
    make: Callable[[Any], Any]


class _Patch(NamedTuple):
    """A method that was replaced."""

    owner: type | ModuleType
    name: str
    original: Any
    wrapper: Any

    def is_reachable(self) -> bool:
        """Return whether calls still reach the wrapper, perhaps through others' wrappers."""
        method = self.owner.__dict__.get(self.name)
        for _ in range(_MOST_WRAPPERS):
            if method is self.wrapper:
                return True
            method = getattr(method, "__wrapped__", None)
        return False


_lock = threading.RLock()
_n_users = 0
# Whether all imported libraries were patched: an interrupt may leave some, and the next user begins
# anew.
_is_done = False
# Also those that another tool has wrapped: they cannot be taken out, and must not be put in twice.
_patches: list[_Patch] = []
# Kept for the next time, since making them takes longer than an episode may cost.
_removed: dict[tuple[type | ModuleType, str], _Patch] = {}
_replacements: dict[str, tuple[ModuleType | None, Sequence[Replacement]]] = {}


def install() -> None:
    """Turn the taps on, in the libraries that are imported and in those that will be.

    Every call needs one of `uninstall`.
    """
    global _n_users, _is_done
    begun = []
    with _lock:
        _n_users += 1
        if _is_done:
            return
        if _HOOK not in sys.meta_path:
            sys.meta_path.insert(0, _HOOK)
        for library in _PATCHES:
            module = sys.modules.get(library)
            if module is None:
                continue
            if getattr(module.__spec__, "_initializing", False):
                begun.append(library)
            else:
                _patch_library(library, module)
        _is_done = True
    # Another thread is in the midst of importing these: wait, without the lock, which it may need.
    for library in begun:
        with contextlib.suppress(Exception):
            _patch_library(library, importlib.import_module(library))


def uninstall() -> None:
    """Undo one `install`; the last one takes the taps out.

    A method that another tool has wrapped since stays wrapped. The tap in it does nothing.

    Raises:
        RuntimeError: There was no `install` before.
    """
    global _n_users, _is_done
    with _lock:
        if not _n_users:
            raise RuntimeError("uninstall() without install()")
        _n_users -= 1
        if _n_users:
            return
        _is_done = False
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(_HOOK)
        for patch in list(_patches):
            if patch.owner.__dict__.get(patch.name) is patch.wrapper:
                setattr(patch.owner, patch.name, patch.original)
                _patches.remove(patch)
                _removed[patch.owner, patch.name] = patch


def is_installed() -> bool:
    """Return whether the taps are on."""
    return _n_users > 0


def copies_of_libraries() -> list[str]:
    """Return imported modules that are copies of these libraries, whose requests no tap sees.

    Programs carry such copies within packages of their own ("vendored").
    """
    names = []
    for name, module in list(sys.modules.items()):
        home, _, last = name.rpartition(".")
        leaf = {"default": "AsyncHTTPTransport", "connectionpool": "HTTPConnectionPool"}.get(last)
        owner = vars(module).get(leaf) if leaf is not None and module is not None else None
        is_copy = isinstance(owner, type) and owner.__module__ == name
        if is_copy and home.partition(".")[0] not in TAPS:
            names.append(name)
    return sorted(names)


def note_fault(library: str, error: Exception) -> None:
    """Count a failure of a tap. The first one of a process warns."""
    global capture_faults
    capture_faults += 1
    if capture_faults == 1:
        # Where warnings are errors, this one must not reach the program either.
        with contextlib.suppress(Warning):
            warnings.warn(
                f"the tap in {library} failed, so a model call is not recorded as it was: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )


@contextlib.contextmanager
def answering(library: str) -> Iterator[None]:
    """Turn a failure to build a recorded answer into an `AnswerFault`."""
    try:
        yield
    except Exception as error:
        raise AnswerFault(
            f"the tap in {library} cannot deliver the recorded answer: "
            f"{type(error).__name__}: {error}"
        ) from error


def _patch_library(library: str, module: ModuleType) -> None:
    """Put the taps into a library that has been imported."""
    try:
        with _lock:
            known_module, replacements = _replacements.get(library, (None, ()))
            if known_module is not module:
                tap = importlib.import_module(_PATCHES[library])
                replacements = tap.replacements(module)
                _replacements[library] = (module, replacements)
            if _n_users:
                for replacement in replacements:
                    _replace(replacement)
    except LookupError as error:
        if library not in HOOKS:
            note_fault(library, error)
            return
        with contextlib.suppress(Warning):
            warnings.warn(
                f"tool calls of {library.partition('.')[0]} are recorded as its model calls tell "
                f"them, without times and changes of state: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
    except Exception as error:
        note_fault(library, error)


def _replace(replacement: Replacement) -> None:
    """Replace a method, unless it is ours already: one library may have two names."""
    owner = replacement.owner
    name = replacement.name
    for patch in _patches:
        if patch.owner is owner and patch.name == name and patch.is_reachable():
            return
    original = owner.__dict__[name]
    earlier = _removed.get((owner, name))
    if earlier is None or earlier.original is not original:
        earlier = _Patch(owner, name, original, replacement.make(original))
    setattr(owner, name, earlier.wrapper)
    _patches.append(earlier)


class _ImportHook:
    """A finder that finds nothing itself: it has a library patched once it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the library's spec from the other finders, with a loader that patches."""
        if name not in _PATCHES:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                loader: Any = spec.loader
                # Set on the loader itself, so that the module's loader keeps its type. Some loaders
                # are classes, which serve all modules.
                if not isinstance(loader, type):
                    with contextlib.suppress(AttributeError):
                        loader.exec_module = functools.partial(_execute, loader, name)
                return spec
        return None


def _execute(loader: Any, name: str, module: ModuleType) -> None:
    """Execute a library's module, then patch it."""
    execute = functools.partial(type(loader).exec_module, loader)
    if module.__name__ != name:
        # The loader has other modules as well.
        execute(module)
        return
    vars(loader).pop("exec_module", None)
    execute(module)
    _patch_library(name, module)


_HOOK = _ImportHook()


def _renew_lock() -> None:
    """Give a forked child a lock that no thread of its parent holds."""
    global _lock
    _lock = threading.RLock()


# Not on Windows.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
