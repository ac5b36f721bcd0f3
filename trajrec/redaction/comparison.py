"""Comparison of redacted values: both sides have passed the same rules."""

from __future__ import annotations

import functools
import re

from trajrec.redaction.digests import has_mark, is_mark, without_digests
from trajrec.redaction.names import strength_of
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.survey import Survey
from trajrec.types import Value
from trajrec.values.diff import Change, diff
from trajrec.values.extensions import Opaque

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+\b")


def differences(recorded: Value, actual: Value) -> list[Change]:
    """Return the differences of two values that are not made by the process alone.

    Digests of secrets and the addresses of objects differ from process to process.
    """
    return [
        change
        for change in diff(recorded, actual)
        if not (is_same_mark(change) or _is_same_object(change))
    ]


def _is_same_object(change: Change) -> bool:
    """Return whether two objects that could not be stored differ by their addresses alone."""
    before = change.before
    after = change.after
    return (
        isinstance(before, Opaque)
        and isinstance(after, Opaque)
        and before.type_name == after.type_name
        and _ADDRESS.sub("", before.text) == _ADDRESS.sub("", after.text)
    )


def is_same_mark(change: Change) -> bool:
    """Return whether two texts differ by the digests of secrets alone."""
    before = change.before
    after = change.after
    return (
        isinstance(before, str)
        and isinstance(after, str)
        and without_digests(before) == without_digests(after)
    )


def is_same_redacted(change: Change, redactor: Redactor | None) -> bool:
    """Return whether the text after a change would have been recorded as the one before it.

    Args:
        change: The change, with the keys that lead to it.
        redactor: The redactor of the recording. Default: that of `trajrec.record`.
    """
    if not isinstance(change.before, str) or not has_mark(change.before):
        return False
    # Under the name of a secret, a mark stands for any text.
    is_named = any(isinstance(key, str) and strength_of(key) for key in change.path)
    if is_named and is_mark(change.before) and isinstance(change.after, str):
        return True
    return is_same_mark(change._replace(after=(redactor or default_redactor()).plain(change.after)))


def has_marks(value: Value) -> bool:
    """Return whether there is a mark in a decoded value."""
    survey = Survey(strength_of)
    survey.add(value)
    return any(map(has_mark, survey.texts))


def redacted_like(recorded: Value, live: Value, redactor: Redactor | None = None) -> Value:
    """Return a live value as the recorder of another one would have stored it.

    Args:
        recorded: The recorded value. Without a mark, nothing was redacted in it.
        live: The live value.
        redactor: The redactor of the recording. Default: that of `trajrec.record`.
    """
    return (redactor or default_redactor()).plain(live) if has_marks(recorded) else live


def first_change_of_marked(recorded: Value, live: Value) -> Change | None:
    """Return the first difference of a redacted value and a live one, redacted like it."""
    return next(iter(differences(recorded, default_redactor().plain(live))), None)


@functools.cache
def default_redactor() -> Redactor:
    """Return a redactor with the default rules and this process's environment."""
    return Redactor()
