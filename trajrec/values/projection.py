"""Projections: named, versioned rules for the parts of a state that count in a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.diff import MISSING, Change, diff, is_same
from trajrec.values.json import to_field
from trajrec.values.paths import Path


@dataclass(frozen=True)
class Projection:
    """A rule for the parts of a state that count.

    Two states that are the same under a projection are never reported as equal: the report names
    the projection.

    Attributes:
        name: Its name.
        version: Raise it whenever the rule changes.
        leave_out: Patterns of paths that do not count, including all paths below them. A path is
            written as a JSON Pointer without its first slash; in a replay the name of the field
            stands in front, e.g. "state". The sign "*" stands for any text, slashes included.
        decimals: Patterns of paths of floats, and the number of decimals that count.

    >>> prices = Projection("prices", "1", leave_out=("*/modified",), decimals={"*/price": 2})
    >>> prices.apply({"lamp": {"price": 9.999, "modified": 17}})
    {'lamp': {'price': 10.0}}
    >>> before = {"lamp": {"price": 10.0, "modified": 3}}
    >>> prices.digest(before) == prices.digest({"lamp": {"price": 9.999}})
    True
    """

    name: str
    version: str
    leave_out: tuple[str, ...] = ()
    decimals: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    def apply(self, value: Value) -> Value:
        """Return plain data without the parts that do not count, and rounded."""
        return self._walk(value, ())

    def digest(self, value: Value) -> str:
        """Return the BLAKE2b-128 digest of the counting parts of plain data, as 32 hex digits."""
        return codec.digest([self.name, self.version, self.apply(value)])

    def counts(self, change: Change) -> bool:
        """Return whether a change remains a change under the projection."""
        if self._is_left_out(change.path):
            return False
        before, after = (
            value if value is MISSING else self._walk(value, change.path)
            for value in (change.before, change.after)
        )
        return not is_same(before, after)

    def changes(self, before: Value, after: Value) -> list[Change]:
        """Return the changes between two values of plain data that count."""
        return [change for change in diff(before, after) if self.counts(change)]

    def _is_left_out(self, path: Path) -> bool:
        text = to_field(path)
        return any(
            fnmatchcase(text, pattern) or fnmatchcase(text, f"{pattern}/*")
            for pattern in self.leave_out
        )

    def _walk(self, value: Value, path: Path) -> Value:
        if isinstance(value, dict):
            return dict(self._counting_items(value.items(), path))
        if type(value) in (list, tuple):
            return type(value)(item for _, item in self._counting_items(enumerate(value), path))
        if isinstance(value, (float, np.floating)):
            n_decimals = self._decimals_at(path)
            if n_decimals is None:
                return value
            rounded: Value = round(value, n_decimals)
            # Without the sign of -0.0: else a small number below 0 would differ from one above.
            return abs(rounded) if rounded == 0 else rounded
        return value

    def _counting_items(
        self, items: Iterable[tuple[Value, Value]], path: Path
    ) -> Iterator[tuple[Value, Value]]:
        for key, item in items:
            item_path = (*path, key)
            if not self._is_left_out(item_path):
                yield key, self._walk(item, item_path)

    def _decimals_at(self, path: Path) -> int | None:
        text = to_field(path)
        for pattern, n_decimals in self.decimals.items():
            if fnmatchcase(text, pattern):
                return n_decimals
        return None
