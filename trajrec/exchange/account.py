"""The account of an import: what a file held, and the place that each field of it was given.

A record of a source is a JSON object. Each of its fields is counted once: it was placed, it is null
(unknown), it has no place of its own and is kept under `extra`, or it was dropped for a reason.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from trajrec.exchange.times import time_of
from trajrec.types import JsonObject, Value


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
    """

    found: int = 0
    placed: int = 0
    unknown: int = 0
    extra: Counter[str] = msgspec.field(default_factory=Counter)
    dropped: Counter[str] = msgspec.field(default_factory=Counter)
    records: Counter[str] = msgspec.field(default_factory=Counter)
    notes: list[str] = msgspec.field(default_factory=list)

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
        if placed.issuperset(record) and None not in values:
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
        }
