"""Projections: named, versioned rules for what of a state counts when two states are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from trajrec.values import codec
from trajrec.values.diff import MISSING, Change, diff, is_same, join


@dataclass(frozen=True)
class Projection:
    """What of a state counts. Two states that are the same under it are never called equal: a report names the projection.

    Attributes:
        name: What it is called.
        version: Raised whenever the rule changes.
        leave_out: Patterns of paths that do not count, with all below them; "*" stands for anything, slashes too.
        decimals: Patterns of paths of numbers, and to how many decimals they count.

    >>> times = Projection("no-times", "1", leave_out=("*/modified",), decimals={"*/price": 2})
    >>> times.apply({"lamp": {"price": 9.999, "modified": 17}})
    {'lamp': {'price': 10.0}}
    >>> times.digest({"lamp": {"price": 10.0, "modified": 3}}) == times.digest({"lamp": {"price": 9.999}})
    True
    """

    name: str
    version: str
    leave_out: tuple[str, ...] = ()
    decimals: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} v{self.version}"

    def apply(self, value: Any) -> Any:
        """Return plain data as it counts."""
        return self._walk(value, "")

    def digest(self, value: Any) -> str:
        """Return the digest of plain data as it counts, BLAKE2b-128 in hex digits."""
        return codec.digest([self.name, self.version, self.apply(value)])

    def counts(self, change: Change) -> bool:
        """Say whether a change is one under the projection."""
        if self._is_out(change.path):
            return False
        before, after = (
            value if value is MISSING else self._walk(value, change.path)
            for value in (change.before, change.after)
        )
        return not is_same(before, after)

    def changes(self, before: Any, after: Any) -> list[Change]:
        """Return the changes between two values of plain data that count."""
        return [change for change in diff(before, after) if self.counts(change)]

    def _is_out(self, path: str) -> bool:
        return any(
            fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")
            for pattern in self.leave_out
        )

    def _walk(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            paths = {key: join(path, key) for key in value}
            return {
                key: self._walk(item, paths[key])
                for key, item in value.items()
                if not self._is_out(paths[key])
            }
        if type(value) in (list, tuple):
            paths = {k: join(path, k) for k in range(len(value))}
            return type(value)(
                self._walk(item, paths[k])
                for k, item in enumerate(value)
                if not self._is_out(paths[k])
            )
        if isinstance(value, float):
            digits = next(
                (n for pattern, n in self.decimals.items() if fnmatchcase(path, pattern)), None
            )
            return value if digits is None else round(value, digits)
        return value
