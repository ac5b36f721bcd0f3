"""Redaction of the values of steps: a field of numbers costs nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable

from trajrec.recording.step_fields import ANY_TEXT, TextRule
from trajrec.redaction.redactor import Redactor
from trajrec.types import Value


class StepRedaction:
    """Takes the secrets out of the values of steps, and counts them by field.

    Args:
        redactor: Finds the secrets.

    Attributes:
        counts: Number of secrets by field since `take_counts`.
    """

    def __init__(self, redactor: Redactor) -> None:
        self.counts: dict[str, int] = {}
        self._redactor = redactor

    def rule(
        self, name: str, value: Value, clean: Callable[[str, Value], Value] | None = None
    ) -> TextRule:
        """Return the rule for the texts of a field.

        Args:
            name: The field.
            value: Its first value.
            clean: Does the same as the method `clean`, and more.
        """
        redactor = self._redactor
        if not redactor.is_on:
            return ANY_TEXT
        if not redactor.may_have_text(value):
            return TextRule(refused=redactor.may_have_text)

        return TextRule(clean=functools.partial(clean or self.clean, name))

    def example(self, name: str, value: Value) -> Value:
        """Return the same as `clean`, but count nothing."""
        return self._redactor.redacted(value, where=name, opaque=name == "info")[0]

    def clean(self, name: str, value: Value) -> Value:
        """Return a field's value without secrets: the value itself if it has none.

        Raises:
            EncodeError: The value cannot be stored, and is no info.
        """
        cleaned, n = self._redactor.redacted(value, where=name, opaque=name == "info")
        if n:
            # A value that does not fit its block is taken twice, so the counts are not added up.
            self.counts[name] = n
        return cleaned

    def take_counts(self) -> dict[str, int]:
        """Return the counts, and begin them anew."""
        counts = self.counts
        self.counts = {}
        return counts
