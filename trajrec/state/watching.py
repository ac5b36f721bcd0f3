"""What of an agent's world is watched: named parts, each with a tracker that says what changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from trajrec.protocols import Snapshotable
from trajrec.state.database import Database
from trajrec.state.diff import Change
from trajrec.state.folder import Folder
from trajrec.state.tree import Tree


class Tracker(Protocol):
    """Sees one part of a state."""

    name: str
    version: int

    def begin(self) -> tuple[Any, str]:
        """Return the part whole, as plain data of its own, and its digest."""
        ...

    def update(self) -> tuple[list[Change], str]:
        """Return what changed since the last time, and the digest."""
        ...

    def restore(self, value: Any) -> None:
        """Put the part into a state that `begin` returned, or that follows from it by changes.

        Raises:
            RestoreError: It cannot be put back.
        """
        ...


class Part(NamedTuple):
    """A named part of the state; the only one may be called ""."""

    name: str
    tracker: Tracker


def parts_of(world: Any, state: Any) -> list[Part]:
    """Return what to watch: `state` where it is given, else what the world says of itself.

    Args:
        world: A world, or None.
        state: What to watch: an object, a function without arguments that returns one, a SQLite connection, the Path of a
            SQLite database or of a folder, a tracker; or a mapping of names to such. False watches nothing.

    Raises:
        TypeError: Something cannot be watched.
    """
    if state is False:
        return []
    if state is None or state is True:
        watch = getattr(world, "watch", None)
        if callable(watch):
            state = watch()
        elif isinstance(world, Snapshotable):
            return [Part("", Tree(world.get_state))]
        else:
            return []
    if isinstance(state, Mapping) and state and all(isinstance(name, str) for name in state):
        return [Part(name, _tracker(value)) for name, value in state.items()]
    return [Part("", _tracker(state))]


def _tracker(value: Any) -> Tracker:
    if hasattr(value, "begin") and hasattr(value, "update"):
        tracker: Tracker = value
        return tracker
    if isinstance(value, sqlite3.Connection):
        return Database(value)
    if isinstance(value, Path):
        if value.is_dir():
            return Folder(value)
        with value.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise TypeError(f"{value} is neither a folder nor a SQLite database: it cannot be watched")
        return Database(value)
    if callable(value) and not hasattr(value, "__dataclass_fields__") and not hasattr(value, "model_fields"):
        read: Callable[[], Any] = value
        return Tree(read)
    return Tree(lambda: value)
