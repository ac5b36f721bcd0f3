"""Text for a terminal, which recorded text cannot steer.

A log may hold sequences that move the cursor, change the title or type answers into a terminal, and
characters that turn the direction of a line. They are shown as escapes: `\\x1b`, `\\u202e`.
"""

from __future__ import annotations

import json
import re
from typing import IO, Any

# Control characters but the end of a line and the tab; marks of direction, also invisible ones;
# other ends of lines; tags, which no font shows; lone surrogates, which no terminal encodes.
_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def escaped(text: str) -> str:
    """Return a text with the characters that steer a terminal as escapes.

    >>> escaped("red: \\x1b[31m")
    'red: \\\\x1b[31m'
    """
    return _STEERING.sub(_escape, text)


def one_line(text: object) -> str:
    """Return a text on one line: a recorded text must not look like a line of the program.

    >>> one_line("done\\n3f2a exact")
    'done\\\\n3f2a exact'
    """
    return str(text).replace("\n", "\\n")


def escaped_json(text: str) -> str:
    """Return JSON with the characters that steer a terminal as escapes of JSON.

    >>> escaped_json('{"a": "\x9b1m"}')
    '{"a": "\\u009b1m"}'
    """
    return _STEERING.sub(lambda match: json.dumps(match[0])[1:-1], text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class SafeStream:
    """A text stream that escapes what it is given.

    Args:
        stream: The stream to write to. All else is done by it.

    Attributes:
        stream: The same, for what moves the cursor on purpose.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write a text, escaped; return its length."""
        self.stream.write(escaped(text))
        return len(text)

    def paint(self, text: str, color: str) -> None:
        """Write a text, escaped, in a colour: the number of a code such as "31"."""
        self.stream.write(f"\x1b[{color}m{escaped(text)}\x1b[0m")

    def writelines(self, lines: list[str]) -> None:
        """Write texts, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
