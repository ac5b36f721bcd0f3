"""What a search for secrets finds in a text."""

from __future__ import annotations

from typing import NamedTuple


class Span(NamedTuple):
    """A secret in the bytes of a text.

    Attributes:
        start: Its first byte.
        end: The byte after its last one.
        kind: The kind of secret.
    """

    start: int
    end: int
    kind: str


class Findings(NamedTuple):
    """The result of a search.

    Attributes:
        spans: The secrets, in order and without overlaps.
        has_name: Whether the name of a secret is in the text, with or without a secret.
        has_password: Whether a word of the text may name a password.
    """

    spans: list[Span]
    has_name: bool
    has_password: bool


NOTHING = Findings([], False, False)
