"""Escapes: characters of a text that stand for another one, as in JSON, in reprs and in URLs."""

from __future__ import annotations

import re

_COLOUR = rb"\[[0-9;]{0,16}[A-Za-z]"

ESCAPE = re.compile(
    rb"[\\%%\x1b](?:(?<=\\)(?:[nrtfvb]|(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|033|e)(?:%(colour)s)?)"
    rb"|(?<=%%)[0-9A-Fa-f]{2}|(?<=\x1b)%(colour)s)(?=[\w\-.+/=~%%:|$]{16})" % {b"colour": _COLOUR}
)
"""What stands for one character, or for a colour of a terminal, before a word that may be a secret.

A letter at its end belongs to it, and not to the word: `\\nghp_...` in JSON, `%20ghp_...` in URLs."""

_BACKSLASHES = re.compile(rb"\\+")
_CODES = re.compile(rb"\\u([0-9A-Fa-f]{4})")
_LETTERS = ((b"\\n", b"\n"), (b"\\r", b"\r"), (b"\\t", b"\t"), (b"\\/", b"/"), (b'\\"', b'"'))


def has_escape(data: bytes) -> bool:
    """Return whether a text may have an escape."""
    return b"\\" in data or b"%" in data or b"\x1b" in data


def unescaped(data: bytes) -> bytes:
    r"""Return a document of JSON, at all its depths, with characters in place of their escapes.

    It is no document any more, but has all words that the document stands for.

    >>> unescaped(rb'{"a": "b\nc\/d"}')
    b'{"a": "b\nc/d"}'
    """
    data = _BACKSLASHES.sub(rb"\\", data)
    for escape, character in _LETTERS:
        data = data.replace(escape, character)
    return _CODES.sub(_character, data)


def _character(code: re.Match[bytes]) -> bytes:
    return chr(int(code[1], 16)).encode("utf-8", "surrogatepass")
