"""A look at a value that tells whether it may have a secret: fast, since nearly all have none."""

from __future__ import annotations

import numpy as np

from trajrec.redaction.assignments import StrengthOf
from trajrec.redaction.database_files import MAGIC
from trajrec.redaction.structure import KUBERNETES_SECRET, has_texts, name_of, pair_of
from trajrec.types import Value
from trajrec.values.codec import Opaque, Plain, Ref
from trajrec.values.encoder import MAX_REPR
from trajrec.values.plain import IMMUTABLE_TYPES

NUMBERS = IMMUTABLE_TYPES - {str, bytes, np.str_, np.bytes_}
"""Types of values that have no text."""

KEY_CHARS = 16
"""Shorter keys cannot be secrets themselves, but for those of the user's own."""

_JSON_STARTS = frozenset('{[ \r\n\t"')
_FEW_ITEMS = 8


class Survey:
    """The texts of a value, without a look at numbers and arrays of numbers.

    Args:
        strength_of: Returns how surely a name names a secret.
        key_chars: Shorter keys cannot be secrets.

    Attributes:
        texts: The texts.
        has_name: Whether a name in the value names a secret, or texts alone do not decide.
        has_json: Whether a text may be a JSON document.
        has_object: Whether there is an object that only its encoding shows.
    """

    __slots__ = ("_key_chars", "_strength_of", "has_json", "has_name", "has_object", "texts")

    def __init__(self, strength_of: StrengthOf, key_chars: int = KEY_CHARS) -> None:
        self.texts: list[str] = []
        self.has_name = False
        self.has_json = False
        self.has_object = False
        self._strength_of = strength_of
        self._key_chars = key_chars

    def add(self, value: Value) -> None:
        """Add a value."""
        cls = type(value)
        if cls is str:
            self._add_text(value)
        elif cls in NUMBERS:
            return
        elif cls is dict:
            self._add_dict(value)
        elif cls is list or cls is tuple:
            self._add_items(value)
        elif cls is bytes:
            self._add_text(value.decode("utf-8", "surrogateescape"))
            if value.startswith(MAGIC):
                self.has_name = True
        elif cls is np.ndarray or cls is np.void:
            if has_texts(value.dtype):
                self.has_name = True
        elif cls is set or cls is frozenset:
            for item in value:
                self.add(item)
        else:
            self._add_other(value)

    def _add_text(self, text: str) -> None:
        self.texts.append(text)
        if text[:1] in _JSON_STARTS:
            self.has_json = True

    def _add_dict(self, value: dict[Value, Value]) -> None:
        texts = self.texts
        strength_of = self._strength_of
        for key, item in value.items():
            cls = type(item)
            if type(key) is not str:
                self.add(key)
            elif len(key) >= self._key_chars:
                texts.append(key)
            if cls in NUMBERS:
                continue
            if strength_of(name_of(key)):
                self.has_name = True
            if cls is str:
                texts.append(item)
                if item[:1] in _JSON_STARTS:
                    self.has_json = True
            elif cls is dict:
                self._add_dict(item)
            else:
                self.add(item)
        if "value" in value or "text" in value:
            paired = pair_of(value)
            if paired is not None and strength_of(paired[1]):
                self.has_name = True
        # An array compares item by item.
        kind = value.get("kind")
        if "kty" in value or (isinstance(kind, str) and kind == KUBERNETES_SECRET):
            self.has_name = True

    def _add_items(self, value: list[Value] | tuple[Value, ...]) -> None:
        if len(value) > _FEW_ITEMS and NUMBERS.issuperset(map(type, value)):
            return
        strength_of = self._strength_of
        is_pair = len(value) == 2
        for item in value:
            self.add(item)
            if (
                type(item) is str
                and (is_pair or item[:2] == "--")
                and strength_of(item.lstrip("-"))
            ):
                self.has_name = True
        if is_pair and type(value[0]) is bytes and strength_of(value[0].decode("latin-1")):
            self.has_name = True

    def _add_other(self, value: Value) -> None:
        cls = type(value)
        if cls is Plain:
            self._add_dict(value.fields)
        elif cls is Opaque:
            self.texts.append(value.text)
            # The rest of a secret at its end may have been cut off.
            self.has_name = self.has_name or len(value.text) >= MAX_REPR
        elif cls is bytearray or cls is np.bytes_:
            self._add_text(value.decode("utf-8", "surrogateescape"))
        elif cls is np.str_:
            self._add_text(str(value))
        elif cls is not Ref:
            self.has_object = True


def has_none(value: Value) -> bool:
    """Return whether a value is None or has one in it, in the place of which a text may come."""
    if type(value) is dict:
        return any(map(has_none, value.values()))
    return value is None or (type(value) in (list, tuple) and any(map(has_none, value)))
