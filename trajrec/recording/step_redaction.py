"""Redaction of the values of steps: a field of numbers costs nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from trajrec.errors import EncodeError
from trajrec.recording.step_fields import ANY_TEXT, TextRule
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.survey import NUMBERS
from trajrec.types import Info, Value
from trajrec.values import codec

_ARE_NUMBERS = NUMBERS.issuperset

_ARE_TEXTS = frozenset((str,)).issuperset

_NUMBER_KINDS = "biufcmM"
"""Kinds of dtypes of arrays without texts."""

_MAX_FORMS = 256
"""Dicts of more forms are searched each time: an environment may make a key for each step."""


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
        # Keys and types of dicts of numbers in which no secret was found.
        self._clean_forms: set[tuple[tuple[str, ...], tuple[type, ...]]] = set()

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
        form = _form_of_numbers(value) if type(value) is dict else None
        if form in self._clean_forms:
            return value
        cleaned, n = self._redactor.redacted(value, where=name, opaque=name == "info")
        if not n and form is not None and len(self._clean_forms) < _MAX_FORMS:
            self._clean_forms.add(form)
        if n:
            # A value that does not fit its block is taken twice, so the counts are not added up.
            self.counts[name] = n
        return cleaned

    def take_counts(self) -> dict[str, int]:
        """Return the counts, and begin them anew."""
        counts = self.counts
        self.counts = {}
        return counts


def encode_info(redactor: Redactor, info: Info) -> tuple[bytes, int]:
    """Return the encoded info of a reset, and the number of secrets that were replaced in it."""
    try:
        return _encode_clean(redactor, info)
    except EncodeError:
        return _encode_clean(redactor, codec.without_unstorable(info))


def _encode_clean(redactor: Redactor, info: Info) -> tuple[bytes, int]:
    cleaned, n_secrets = redactor.redacted(info)
    return codec.encode(cleaned, opaque=True), n_secrets


def _form_of_numbers(value: dict[Value, Value]) -> tuple[tuple[str, ...], tuple[type, ...]] | None:
    """Return the keys and types of a dict of numbers and arrays of numbers; None of any other dict.

    Numbers are never secrets, so whether such a dict has one depends on its keys, and on which of
    its values are arrays. To search its keys takes longer than many steps.
    """
    types = tuple(map(type, value.values()))
    if not _ARE_NUMBERS(types):
        for item in value.values():
            kind = type(item)
            is_array = kind is np.ndarray and item.dtype.kind in _NUMBER_KINDS
            if not is_array and kind not in NUMBERS:
                return None
    keys = tuple(value)
    return (keys, types) if _ARE_TEXTS(map(type, keys)) else None
