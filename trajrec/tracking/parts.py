"""What of an agent's world is watched: named parts, each with a tracker that says what changed."""

from __future__ import annotations

import datetime
import decimal
import enum
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from trajrec.protocols import HasState
from trajrec.tracking.folder import Folder
from trajrec.tracking.sqlite import Database
from trajrec.tracking.tree import Tree
from trajrec.values.diff import Change

_FIXED = (
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    frozenset,
    enum.Enum,
    decimal.Decimal,
    datetime.date,
    datetime.time,
)


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
        state: What to watch: an object (its attributes), a function without arguments that returns one, a SQLite connection,
            the Path of a SQLite database or of a folder, a tracker; or a mapping of names to such. One with numbers or texts,
            which cannot change by themselves, is watched whole. False watches nothing.

    Raises:
        TypeError: Something cannot be watched.
    """
    if state is False:
        return []
    if state is None or state is True:
        watch = getattr(world, "watch", None)
        if callable(watch):
            state = watch()
        elif isinstance(world, HasState):
            return [Part("", Tree(world.get_state))]
        else:
            return []
    if isinstance(state, Mapping) and state and all(isinstance(name, str) for name in state):
        fixed = {name: value for name, value in state.items() if _is_fixed(value)}
        if not fixed:
            return [Part(name, _tracker(value)) for name, value in state.items()]
        if any(_is_outside(value) for value in state.values()):
            name, value = next(iter(fixed.items()))
            raise TypeError(f"state[{name!r}]: {_refusal(value)}")
        if not isinstance(state, dict):
            mapping = state
            return [Part("", Tree(lambda: dict(mapping)))]
    return [Part("", _tracker(state))]


def _is_fixed(value: Any) -> bool:
    """Say whether a value can never change: only what holds it can."""
    return isinstance(value, _FIXED) or (type(value) is tuple and all(map(_is_fixed, value)))


def _is_outside(value: Any) -> bool:
    """Say whether what is watched of a value lies elsewhere than in it, so that nothing would be seen of it in a whole."""
    return (
        isinstance(value, (sqlite3.Connection, Path)) or hasattr(value, "begin") or callable(value)
    )


def _refusal(value: Any) -> str:
    if isinstance(value, str):
        return f"{value!r} is a text: give pathlib.Path({value!r}) for a folder or a database"
    return (
        f"{value!r} of type {type(value).__name__} can never change: what can be watched is an object with attributes, a dict, "
        "a list, a function that returns one, a SQLite connection, a pathlib.Path of a database or a folder, or several by name"
    )


def _tracker(value: Any) -> Tracker:
    if _is_fixed(value):
        raise TypeError(f"state: {_refusal(value)}")
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
                raise TypeError(
                    f"{value} is neither a folder nor a SQLite database: it cannot be watched"
                )
        return Database(value)
    if (
        callable(value)
        and not hasattr(value, "__dataclass_fields__")
        and not hasattr(value, "model_fields")
    ):
        read: Callable[[], Any] = value
        return Tree(read)
    return Tree(lambda: value)
