"""The account of an import: what a file held, and the place that each field of it was given.

A record of a source is a JSON object. Each of its fields is counted once: it was placed, it is null
(unknown), it has no place of its own and is kept under `extra`, or it was dropped for a reason.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from trajrec.errors import EncodeError, ImportFileError
from trajrec.exchange.times import time_of
from trajrec.types import JsonObject, Value

T = TypeVar("T")
Episode = TypeVar("Episode")

MISFITS = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
"""The errors of code that reads values of unexpected types."""

MAX_NAMED = 1000
"""The damaged parts of a file that are named; a file may hold millions."""

_NULLS = frozenset((type(None),))

_OTHERS = f"further parts that are damaged, beyond the first {MAX_NAMED}"


class Account(msgspec.Struct, kw_only=True):
    """Counts fields and records of one file.

    Attributes:
        found: Fields found.
        placed: Fields that have a place of their own.
        unknown: Fields that are null.
        extra: Fields that are kept as extra, by "record.field".
        dropped: Fields that were not kept, by the reason.
        records: Records found, by kind.
        notes: Sentences about the file.
        n_damaged: Parts of the file, such as rows, that were dropped since they are damaged.
        check: Raises an EncodeError for an episode of a part that cannot be stored.
    """

    found: int = 0
    placed: int = 0
    unknown: int = 0
    extra: Counter[str] = msgspec.field(default_factory=Counter)
    dropped: Counter[str] = msgspec.field(default_factory=Counter)
    records: Counter[str] = msgspec.field(default_factory=Counter)
    notes: list[str] = msgspec.field(default_factory=list)
    n_damaged: int = 0
    check: Callable[[Any], None] | None = None

    def take(
        self,
        record: JsonObject,
        kind: str,
        placed: frozenset[str],
        expected: JsonObject | None = None,
    ) -> JsonObject | None:
        """Count the fields of a record, and return those that have no place of their own.

        Args:
            record: The record.
            kind: Its kind, e.g. "step".
            placed: The names of the fields that the caller places.
            expected: The values of fields that have a place only if they have these values, since
                the log does not repeat them.

        Returns:
            The other fields by name, without those that are null; None if there are none.
        """
        self.records[kind] += 1
        n = len(record)
        self.found += n
        values = record.values()
        if expected is not None:
            placed -= {name for name, v in expected.items() if record.get(name, v) != v}
        if placed.issuperset(record) and _NULLS.isdisjoint(map(type, values)):
            self.placed += n
            return None
        rest: JsonObject = {}
        for name, value in record.items():
            if value is None:
                self.unknown += 1
            elif name in placed:
                self.placed += 1
            else:
                rest[name] = value
                self.extra[f"{kind}.{name}"] += 1
        return rest or None

    def keep(self, kind: str, n: int = 1) -> None:
        """Count values that are no fields of an object, and that the caller places."""
        self.records[kind] += n
        self.found += n
        self.placed += n

    def time(self, value: Value) -> int:
        """Return a time in nanoseconds since 1970 UTC, 0 if it is unknown.

        A value that is no time is dropped, with itself as the reason.
        """
        time_ns = time_of(value)
        if not time_ns and value is not None and value != "":
            self.drop(f"a time that is none: {value!r:.60}")
        return time_ns

    def drop(self, reason: str, n: int = 1) -> None:
        """Count fields that are not kept, with the reason."""
        self.found += n
        self.dropped[reason] += n

    def drop_part(self, reason: str, n: int = 1) -> None:
        """Count a damaged part of the file that is not kept, with its place and the reason."""
        self.n_damaged += 1
        self.drop(reason if self.n_damaged <= MAX_NAMED else _OTHERS, n)

    @contextlib.contextmanager
    def attempt(self, position: str) -> Iterator[None]:
        """Return a context that reads a part of the file.

        If the part is damaged, it is dropped with its place and the reason, and none of its fields
        is counted; the rest of the file is read.
        """
        counts = (self.found, self.placed, self.unknown)
        counters = (Counter(self.extra), Counter(self.dropped), Counter(self.records))
        n_notes = len(self.notes)
        try:
            yield
        except (ImportFileError, EncodeError, *MISFITS) as exc:
            self.found, self.placed, self.unknown = counts
            self.extra, self.dropped, self.records = counters
            del self.notes[n_notes:]
            self.drop_part(_reason(exc, position))

    def whole_parts(
        self, parts: Iterable[tuple[str, T]], read: Callable[[str, T], Iterable[Episode]]
    ) -> Iterator[Episode]:
        """Yield the episodes of the parts of a file that are whole, and drop the others.

        Args:
            parts: The position of each part, and its value.
            read: Returns the episodes of a part.
        """
        for position, part in parts:
            episodes: list[Episode] = []
            with self.attempt(position):
                read_episodes = list(read(position, part))
                if self.check is not None:
                    for episode in read_episodes:
                        self.check(episode)
                episodes = read_episodes
            yield from episodes

    def note(self, sentence: str) -> None:
        """Add a sentence about the file, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def n_extra(self) -> int:
        """The number of fields that are kept as extra."""
        return self.extra.total()

    @property
    def n_dropped(self) -> int:
        """The number of fields that were not kept."""
        return self.dropped.total()

    def as_dict(self) -> JsonObject:
        """Return the account as plain data."""
        return {
            "found": self.found,
            "placed": self.placed,
            "unknown": self.unknown,
            "extra": self.n_extra,
            "dropped": self.n_dropped,
            "extra_fields": dict(self.extra),
            "dropped_reasons": dict(self.dropped),
            "records": dict(self.records),
            "notes": list(self.notes),
            "n_damaged": self.n_damaged,
        }


def why_not_stored(exc: EncodeError) -> str:
    """Return why a value cannot be stored, in a sentence for the user."""
    return f"holds a value that a log cannot store: {exc.what}"


def _reason(exc: Exception, position: str) -> str:
    """Return the place and the reason of an error."""
    if isinstance(exc, EncodeError):
        return f"{position}: {why_not_stored(exc)}"
    if isinstance(exc, ImportFileError):
        return f"{exc.position or position}: {exc.what}"
    return f"{position}: is not of the form of its format: {type(exc).__name__}: {exc}"
