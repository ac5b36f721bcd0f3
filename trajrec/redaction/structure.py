"""Redaction of values: dicts, lists and objects, by the names in them and by their texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from trajrec.redaction.assignments import StrengthOf
from trajrec.redaction.digests import is_mark, mark
from trajrec.redaction.names import MAX_NAME_CHARS, Strength, kind_of, strength_of
from trajrec.redaction.plausibility import (
    is_mask,
    is_placeholder,
    is_secret_value,
    is_template,
    is_weak_secret,
    looks_random,
)
from trajrec.types import Array, Value
from trajrec.values.codec import Opaque, Plain

# A scheme and credentials, in a header.
_CREDENTIALS = re.compile(r"[A-Za-z][\w.-]{1,40} +\S{8,}.*", re.DOTALL)

# A character that names and words do not have.
_NO_NAME = re.compile(r"[0-9]|[^\w\s.,-]")

# A dict with one of these describes a value, in the words of JSON Schema and OpenAPI.
_SCHEMA_WORDS = frozenset({"$ref", "anyOf", "oneOf", "allOf"})
_SCHEMA_TYPES = frozenset(
    (
        "string",
        "number",
        "integer",
        "boolean",
        "array",
        "object",
        "null",
        "apiKey",
        "http",
        "oauth2",
        "openIdConnect",
    )
)

# Beside one of these a "token" is a piece of a text.
_TEXT_TOKEN_WORDS = frozenset(
    {"logprob", "top_logprobs", "bytes", "token_id", "score", "prob", "probability", "offset"}
)

# RFC 7517: the private parts of a key in JSON.
_PRIVATE_PARTS = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})

KUBERNETES_SECRET = "Secret"
"""The kind of an object of Kubernetes whose data is secret, whatever its keys are."""

_SECRET_DATA = frozenset({"data", "stringData"})

# A dict with one of these and a "value" is a pair, such as a header in a HAR file.
_PAIR_NAMES = ("name", "key", "header", "variable", "field")

# With one of these, the pair is a cookie of a browser, whose name says nothing about it.
_COOKIE_WORDS = frozenset({"httpOnly", "http_only", "sameSite", "same_site"})

# Agents that use browsers fill in a field that one of these describes, such as "#password" or
# "Password field". A label beside a text is mostly a class of texts.
_FIELD_NAMES = {
    "value": ("selector", "locator", "element", "label", "placeholder"),
    "text": ("selector", "locator", "element", "field"),
}
_FIELD_WORD = re.compile(r"[A-Za-z][\w-]*")

MAX_FIELD_CHARS = 400
"""A longer text describes no field."""

# The SQL that defines tables, by their names; see `trajrec.tracking.sqlite`.
SQLITE_SCHEMA = "sqlite_schema"


_TEXT_KINDS = "USTO"


def has_texts(dtype: np.dtype[Any]) -> bool:
    """Return whether arrays of a dtype have texts or objects, or records with some."""
    if dtype.names is None:
        return dtype.kind in _TEXT_KINDS
    return any(has_texts(dtype[name]) for name in dtype.names)


class Cleaner:
    """Takes the secrets out of one decoded value.

    Args:
        text: Returns a text without secrets, and their number.
        cut_text: The same for a text that may end in the middle of a secret.
        data: The same for bytes.
        strength_of: Returns how surely a name names a secret.

    Attributes:
        n: Number of secrets that were replaced so far.
    """

    def __init__(
        self,
        *,
        text: Callable[[str], tuple[str, int]],
        cut_text: Callable[[str], tuple[str, int]],
        data: Callable[[bytes], tuple[bytes, int]],
        strength_of: StrengthOf,
    ) -> None:
        self.n = 0
        self._text = text
        self._cut_text = cut_text
        self._data = data
        self._strength_of = strength_of

    def clean(self, value: Value) -> Value:
        """Return a value without its secrets."""
        if isinstance(value, str):
            text, n = self._text(value)
            self.n += n
            return _like(value, text)
        if isinstance(value, (bytes, bytearray)):
            data, n = self._data(bytes(value))
            self.n += n
            return _like(value, data)
        if isinstance(value, dict):
            return self._clean_dict(value)
        if isinstance(value, Plain):
            # The name of an enum's member is a word of a program.
            fields = value.fields if value.kind == "enum" else self._clean_dict(value.fields)
            return Plain(value.type_name, value.kind, fields)
        if isinstance(value, Opaque):
            text, n = self._cut_text(value.text)
            self.n += n
            return Opaque(value.type_name, text)
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(self._clean_items(value))
        if isinstance(value, (set, frozenset)):
            return type(value)(map(self.clean, value))
        if isinstance(value, np.ndarray) and has_texts(value.dtype):
            return self._clean_array(value, self.clean)
        if isinstance(value, np.void) and has_texts(value.dtype):
            return self._clean_array(np.asarray(value), self.clean)[()]
        return value

    def hide(self, value: Value, kind: str, strength: Strength) -> Value:
        """Return a value that has the name of a secret, with every text in it replaced."""
        if isinstance(value, str):
            return _like(value, self._hide_text(value, kind, strength))
        if isinstance(value, (bytes, bytearray)):
            text = bytes(value).decode("latin-1")
            return _like(value, as_bytes(self._hide_text(text, kind, strength)))
        if isinstance(value, dict):
            if _is_schema(value):
                return self._clean_dict(value)
            is_file = _is_file(value)
            return {
                self.clean(key): item
                if is_file and key == "mode"
                else self.hide(item, kind, strength)
                for key, item in value.items()
            }
        if isinstance(value, Plain) and value.kind != "enum":
            fields = {key: self.hide(item, kind, strength) for key, item in value.fields.items()}
            return Plain(value.type_name, value.kind, fields)
        if isinstance(value, Opaque):
            if is_mark(value.text):
                return value
            self.n += 1
            return Opaque(value.type_name, mark(kind, value.text))
        if isinstance(value, (list, tuple, set, frozenset)) and not hasattr(value, "_fields"):
            return type(value)(self.hide(item, kind, strength) for item in value)
        if isinstance(value, (np.ndarray, np.void)) and has_texts(value.dtype):
            hide = partial(self.hide, kind=kind, strength=strength)
            cleaned = self._clean_array(np.asarray(value), hide)
            return cleaned[()] if isinstance(value, np.void) else cleaned
        return self.clean(value)

    def _hide_text(self, text: str, kind: str, strength: Strength) -> str:
        if not text or is_mark(text) or is_template(text) or is_mask(text):
            return text
        if strength == "weak" and not is_weak_secret(text):
            return str(self.clean(text))
        self.n += 1
        return mark(kind, text.removeprefix("Bearer "))

    def _clean_dict(self, value: Mapping[Value, Value]) -> dict[Value, Value]:
        paired = pair_of(value)
        is_key = "kty" in value
        kind = value.get("kind")
        # An array compares item by item.
        is_secret = isinstance(kind, str) and kind == KUBERNETES_SECRET
        has_pieces = not _TEXT_TOKEN_WORDS.isdisjoint(value)
        cleaned = {}
        for key, item in value.items():
            name = name_of(key)
            if paired is not None and name == paired[0]:
                name = paired[1]
            strength: Strength = "key" if is_key and name in _PRIVATE_PARTS else ""
            strength = strength or self._strength_of(name)
            if is_secret and name in _SECRET_DATA:
                cleaned[key] = self.hide(item, "kubernetes secret", "key")
            elif name == SQLITE_SCHEMA and isinstance(item, dict):
                # Its keys are names of tables, not of secrets.
                cleaned[key] = {self.clean(k): self.clean(sql) for k, sql in item.items()}
            elif not strength or (strength == "weak" and has_pieces):
                cleaned[self.clean(key)] = self.clean(item)
            else:
                cleaned[self.clean(key)] = self.hide(item, kind_of(name), strength)
        return cleaned

    def _clean_items(self, items: Sequence[Value]) -> Iterator[Value]:
        """Yield items without secrets; ("password", ...) and ["--password", ...] name them."""
        name = ""
        is_pair = len(items) == 2
        for item in items:
            strength = self._strength_of(name) if name else ""
            if isinstance(items, list) and not name.startswith("-"):
                strength = _strength_in_list(name, item, strength)
            if strength and isinstance(item, (str, bytes)):
                yield self.hide(item, kind_of(name), strength)
            else:
                yield self.clean(item)
            name = ""
            if isinstance(item, bytes) and is_pair and item.isascii():
                name = item.decode()
            elif isinstance(item, str) and (is_pair or item.startswith("--")):
                name = item

    def _clean_array(self, value: Array, clean: Callable[[Value], Value]) -> Array:
        """Return an array of texts, objects or records without secrets."""
        if value.dtype.names is not None:
            return self._clean_records(value, clean)
        items = value.ravel().tolist()
        n_before = self.n
        cleaned = [clean(item) for item in items]
        if self.n == n_before:
            return value
        dtype = value.dtype if value.dtype.kind in "TO" else None
        array = np.empty(len(cleaned), dtype) if dtype is not None else np.array(cleaned)
        # One by one: assigning a list of lists would make a second dimension of them.
        for index, item in enumerate(cleaned):
            array[index] = item
        return array.reshape(value.shape)

    def _clean_records(self, value: Array, clean: Callable[[Value], Value]) -> Array:
        """Return an array of records without secrets. A mark may need a wider field."""
        n_before = self.n
        fields = {}
        for name in value.dtype.names or ():
            field = value[name]
            strength = self._strength_of(name)
            hide = partial(self.hide, kind=kind_of(name), strength=strength) if strength else clean
            fields[name] = self._clean_array(field, hide) if has_texts(field.dtype) else field
        if self.n == n_before:
            return value
        array = np.empty(value.shape, [(name, field.dtype) for name, field in fields.items()])
        for name, field in fields.items():
            array[name] = field
        return array


def _strength_in_list(name: str, value: Value, strength: Strength) -> Strength:
    """Return how surely the item before a value names it: ["password", "email"] are two names."""
    if not strength or not isinstance(value, (str, bytes)):
        return ""
    text = value if isinstance(value, str) else value.decode("latin-1")
    if strength == "weak":
        return "weak" if looks_random(text) else ""
    if name.lower().endswith("authorization"):
        is_header = _CREDENTIALS.fullmatch(text) is not None or looks_random(text)
        return strength if is_header and not is_placeholder(text) else ""
    is_secret = _NO_NAME.search(text) and is_secret_value(text, strength, is_quoted=True)
    return strength if is_secret else ""


def as_bytes(text: str) -> bytes:
    """Return the bytes of a text that was decoded as Latin-1. Marks may have other characters.

    >>> as_bytes("\xe9\u20ac")
    b'\xe9\xe2\x82\xac'
    """
    return b"".join(
        char.encode("latin-1" if char <= "\xff" else "utf-8", "replace") for char in text
    )


def _like(value: Value, new: Value) -> Value:
    """Return a text or bytes of the type of another value."""
    return new if type(value) is type(new) else type(value)(new)


def _is_schema(value: Mapping[Value, Value]) -> bool:
    """Return whether a dict describes a value, as a tool's schema does, and holds none."""
    if not _SCHEMA_WORDS.isdisjoint(value):
        return True
    kind = value.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    return bool(kinds) and all(isinstance(k, str) and k in _SCHEMA_TYPES for k in kinds)


def may_hide(value: Value, strength_of: StrengthOf) -> bool:
    """Return whether a name in a value may hide a text in it, if the text is another one."""
    if isinstance(value, list):
        # A pair: the first text may be a name.
        is_pair = len(value) == 2 and all(isinstance(item, str) for item in value)
        return is_pair or any(may_hide(item, strength_of) for item in value)
    if not isinstance(value, dict):
        return False
    is_key = "kty" in value or ("kind" in value and not _SECRET_DATA.isdisjoint(value))
    if is_key or pair_of(value) is not None:
        return True
    # Another text may describe the field of a password.
    if any(key in value and not value.keys().isdisjoint(_FIELD_NAMES[key]) for key in _FIELD_NAMES):
        return True
    has_pieces = not _TEXT_TOKEN_WORDS.isdisjoint(value)
    for key, item in value.items():
        strength = strength_of(key) if isinstance(item, (str, dict, list)) else ""
        if strength and not (strength == "weak" and has_pieces):
            return True
        if may_hide(item, strength_of):
            return True
    return False


def _is_file(value: Mapping[Value, Value]) -> bool:
    """Return whether a dict is a file of a watched folder; see `trajrec.tracking.folder`."""
    mode = value.get("mode")
    return isinstance(mode, str) and mode.isdigit() and not {"text", "bytes"}.isdisjoint(value)


def name_of(key: Value) -> str:
    """Return a key of a dict as a name: some clients of databases give bytes."""
    if isinstance(key, str):
        return key
    return key.decode("latin-1") if isinstance(key, bytes) and len(key) <= MAX_NAME_CHARS else ""


def pair_of(value: Mapping[Value, Value]) -> tuple[str, str] | None:
    """Return the key of the item of a dict that another item names, and this name.

    >>> pair_of({"name": "password", "value": "..."})
    ('value', 'password')
    >>> pair_of({"selector": "input[name=passwd]", "text": "..."})
    ('text', 'passwd')
    """
    if "value" in value:
        for key in _PAIR_NAMES:
            name = value.get(key)
            if isinstance(name, str):
                return "value", name if _COOKIE_WORDS.isdisjoint(value) else "cookie"
    for item in _FIELD_NAMES:
        if item in value:
            for key in _FIELD_NAMES[item]:
                described = value.get(key)
                if isinstance(described, str) and (name := _field(described)):
                    return item, name
    return None


def _field(text: str) -> str:
    """Return the name of a password in the description of a field; "" without one."""
    if len(text) > MAX_FIELD_CHARS:
        return ""
    return next((w for w in _FIELD_WORD.findall(text) if strength_of(w) == "password"), "")


def may_have_cookie(data: bytes) -> bool:
    """Return whether a JSON document may have a cookie of a browser.

    >>> may_have_cookie(b'{"name": "sid", "value": "x7Kq", "httpOnly": true}')
    True
    """
    # First what two words have in common: a search costs half a microsecond a kilobyte.
    return (b"nly" in data and (b"httpOnly" in data or b"http_only" in data)) or (
        b"ite" in data and (b"sameSite" in data or b"same_site" in data)
    )
