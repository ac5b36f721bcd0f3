"""Parts of an agent's world that are watched, each with a tracker that reports its changes."""

from __future__ import annotations

import sqlite3
from collections import ChainMap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from msgspec.msgpack import Encoder, Ext

from trajrec.paths import fixed_path
from trajrec.protocols import HasState
from trajrec.tracking.folder import Folder
from trajrec.tracking.sqlite import Database
from trajrec.tracking.sqlite_files import is_database
from trajrec.tracking.tree import Tree
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import Change
from trajrec.values.extensions import TUPLE
from trajrec.values.plain import is_immutable

_pack = Encoder().encode


class Tracker(Protocol):
    """Watches one part of a state.

    A tracker may have an attribute `is_large`: whether a look at the part costs more than 0.1 ms
    even if nothing changed. A large part is not compared after each call of a tool that is declared
    `read`, see `trajrec.agents.state_recorder`.

    Attributes:
        name: The kind of tracker, which the log stores, e.g. "tree".
        version: Change it whenever the same part may get another value or digest.
    """

    name: str
    version: int

    def begin(self) -> tuple[Value, str]:
        """Return the whole part, as plain data of its own, and its digest.

        The digest must follow from the data. Readers of the log know the states of a tracker of
        your own if it is `trajrec.values.codec.digest` of the data; of another one, they cannot
        verify a state, and do not use it.
        """
        ...

    def update(self) -> tuple[list[Change], str]:
        """Return the changes since the last `begin` or `update`, and the digest."""
        ...

    def restore(self, value: Value) -> None:
        """Put the part into a state that `begin` returned, or that follows from one by changes.

        Raises:
            RestoreError: The part cannot be put into that state.
        """
        ...


# Version 2 of these trackers gives the values of version 1. Only the digests of some states differ:
# of objects, and after a large item was removed. Version 3 of databases adds the counters of tables
# with AUTOINCREMENT to the values of version 2, and tables such as `sqlite3_jobs`, so that other
# databases have the same ones.
_SAME_VALUES = frozenset((("tree", 1, 2), ("folder", 1, 2), ("sqlite", 2, 3)))


def has_same_values(tracker: Tracker, name: str, version: int) -> bool:
    """Return whether a tracker gives the values that a log has by another version of it."""
    return (name, version, tracker.version) in _SAME_VALUES and name == tracker.name


def is_large(tracker: Tracker) -> bool:
    """Return whether a look at a part costs much even if nothing changed."""
    return bool(getattr(tracker, "is_large", False))


def digest_of_parts(digests: Mapping[str, str]) -> str | None:
    """Return the digest of a whole state, as checks store it, from those of its parts by name.

    Returns:
        None if nothing is watched, or if a part is unknown: its digest is "".
    """
    if not digests or not all(digests.values()):
        return None
    parts = sorted(digests.items())
    try:
        # The bytes of `codec.encode`, which takes five times as long: an index asks for the digest
        # of the state after each call.
        data = _pack([Ext(TUPLE, _pack(part)) for part in parts])
    except ValueError:
        return codec.digest(parts)  # a lone surrogate is no plain text
    return codec.digest_bytes(data)


class Part(NamedTuple):
    """A named part of the state. The name is "" if it is the only part."""

    name: str
    tracker: Tracker


def find_parts(world: Value, watch: Value) -> list[Part]:
    """Return the parts to watch: those of `watch` if it is given, else those the world names.

    Args:
        world: A world, or None. Its method `watch` returns the value to watch; a world without one
            is watched through `get_state`.
        watch: An object (its attributes are watched), a function without arguments that returns
            one, a SQLite connection, the Path of a SQLite database or of a folder, or a tracker. A
            mapping of names to such values has one part per name; if some of its values are
            immutable, such as numbers, the mapping itself is the only part. None and True leave the
            choice to the world; False watches nothing.

    Raises:
        TypeError: A value cannot be watched.
    """
    if watch is False:
        return []
    if watch is None or watch is True:
        world_watch = getattr(world, "watch", None)
        if callable(world_watch):
            watch = world_watch()
        elif isinstance(world, HasState):
            return [Part("", Tree(world.get_state, getattr(world, "set_state", None)))]
        else:
            return []
    check_watch(watch)
    if _has_names(watch):
        if not any(map(is_immutable, watch.values())):
            return [
                Part(name, _tracker(value, Entry(watch, name))) for name, value in watch.items()
            ]
        if not isinstance(watch, dict):
            mapping = watch
            return [Part("", Tree(lambda: dict(mapping)))]
    return [Part("", _tracker(watch))]


def check_watch(watch: Value) -> None:
    """Raise a TypeError if a value cannot be watched, before anything is recorded."""
    if watch is None or isinstance(watch, bool):
        return
    if is_immutable(watch):
        raise TypeError(f"watch {_refusal(watch)}")
    if _has_names(watch) and any(map(_is_stored_elsewhere, watch.values())):
        for name, value in watch.items():
            if is_immutable(value):
                raise TypeError(f"watch[{name!r}] {_refusal(value)}")


def fixed_paths(watch: Value) -> Value:
    """Return what to watch, with absolute paths.

    The program or its world may change the working folder before the paths are opened.
    """
    if isinstance(watch, Path):
        return fixed_path(watch)
    if not _has_names(watch):
        return watch
    paths = {name: fixed_path(value) for name, value in watch.items() if isinstance(value, Path)}
    if not paths:
        return watch
    if all(map(_is_stored_elsewhere, watch.values())):
        return {**watch, **paths}
    # The other values may be replaced meanwhile, so the mapping itself is asked for them.
    return ChainMap(paths, watch)


def _has_names(watch: Value) -> bool:
    """Return whether a value names the parts to watch."""
    is_mapping = isinstance(watch, Mapping) and bool(watch)
    return is_mapping and all(isinstance(name, str) for name in watch)


def _is_stored_elsewhere(value: Value) -> bool:
    """Return whether a value only leads to the data to watch, so no tree can hold it."""
    return (
        isinstance(value, (sqlite3.Connection, Path)) or hasattr(value, "begin") or callable(value)
    )


def _refusal(value: Value) -> str:
    if isinstance(value, str):
        return (
            f"must not be a text, got {value!r}: give pathlib.Path({value!r}) for a folder or a "
            "database"
        )
    return (
        f"must be a value that can change, got {value!r} of type {type(value).__name__}: give an "
        "object with attributes, a dict, a list, a function that returns one, a SQLite connection, "
        "a pathlib.Path of a database or a folder, or a dict of several such values by name"
    )


class Entry:
    """Reads a value of a mapping that names the parts; the values may be replaced by others.

    The mapping may be the state itself. A key that comes or goes would be seen by no part, so the
    state is unknown then.

    Args:
        mapping: The parts by name.
        name: The name.
    """

    def __init__(self, mapping: Mapping[str, Value], name: str) -> None:
        self._mapping = mapping
        self._name = name
        self._names = frozenset(mapping)

    def __call__(self) -> Value:
        """Return the value as it is now.

        Raises:
            LookupError: The mapping has other keys than at the beginning.
        """
        if self._mapping.keys() != self._names:
            other = sorted(self._mapping.keys() ^ self._names)
            raise LookupError(
                f"each key of watch is a part of its own, and {other} came or went: watch a function "
                "that returns the dict, so that it is one part"
            )
        return self._mapping[self._name]


def _tracker(value: Value, entry: Entry | None = None) -> Tracker:
    if hasattr(value, "begin") and hasattr(value, "update"):
        tracker: Tracker = value
        return tracker
    if isinstance(value, sqlite3.Connection):
        return Database(value)
    if isinstance(value, Path):
        if value.is_dir():
            return Folder(value)
        if not is_database(value):
            raise TypeError(
                f"watch must be the path of a folder or of a SQLite database, got {value}, which "
                "is neither"
            )
        return Database(value)
    # Objects of some dataclasses and pydantic models are callable; they are watched themselves.
    is_data = hasattr(value, "__dataclass_fields__") or hasattr(value, "model_fields")
    if callable(value) and not is_data:
        read: Callable[[], Any] = value
        return Tree(read)
    return Tree(entry or (lambda: value))
