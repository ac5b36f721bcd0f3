"""Texts with their invisible and steering characters as escapes."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and newline, marks of direction, invisible joiners and separators,
# lone surrogates and non-characters: each is shown by its escape.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Return a text with its invisible and steering characters as escapes.

    >>> visible("red: \\x1b[31m, turned: \\u202e")
    'red: \\\\x1b[31m, turned: \\\\u202e'
    """
    return _HIDDEN.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
