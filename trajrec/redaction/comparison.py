"""Comparison of redacted values: both sides have passed the same rules."""

from __future__ import annotations

from trajrec.redaction.digests import without_digests
from trajrec.types import Value
from trajrec.values.diff import Change, diff


def differences(recorded: Value, actual: Value) -> list[Change]:
    """Return the differences of two values, without digests of secrets, which differ by process."""
    return [change for change in diff(recorded, actual) if not is_same_mark(change)]


def is_same_mark(change: Change) -> bool:
    """Return whether two texts differ by the digests of secrets alone."""
    before = change.before
    after = change.after
    return (
        isinstance(before, str)
        and isinstance(after, str)
        and without_digests(before) == without_digests(after)
    )
