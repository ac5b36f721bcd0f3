"""The mark that stands in place of a secret: its kind and a keyed digest.

Equal secrets stay recognisable within a process, or everywhere with one `TRAJREC_REDACTION_KEY`, and
no secret can be computed from its mark.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets

# Random unless the user sets one, so that no table of digests can be made for guessed secrets.
_KEY = os.environ.get("TRAJREC_REDACTION_KEY", "").encode()[:64] or secrets.token_bytes(32)

_MARK = r"\[redacted ([^\]\n]{1,80}) [0-9a-f]{8}\]"
_MARKED_TEXT = re.compile(_MARK)
_MARKED_BYTES = re.compile(_MARK.encode())

SIGN = "[redacted "
"""The first characters of each mark."""


def mark(kind: str, secret: str | bytes) -> str:
    """Return the mark of a secret.

    >>> mark("api key", "sk-1") == mark("api key", b"sk-1")
    True
    """
    data = secret if isinstance(secret, bytes) else secret.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=4, key=_KEY).hexdigest()
    # A key of a dict can be a kind, and may have any characters.
    name = re.sub(r"[\]\n\ud800-\udfff]", " ", kind)[:80]
    return f"{SIGN}{name} {digest}]"


def is_mark(text: str) -> bool:
    """Return whether a text is a mark and nothing else."""
    return text.startswith(SIGN) and _MARKED_TEXT.fullmatch(text) is not None


def has_mark(text: str) -> bool:
    """Return whether a text has a mark in it."""
    return SIGN in text and _MARKED_TEXT.search(text) is not None


def mark_spans(data: bytes) -> list[tuple[int, int]]:
    """Return start and end of each mark in the bytes of a text."""
    return [match.span() for match in _MARKED_BYTES.finditer(data)]


def without_digests(text: str) -> str:
    """Return a text whose marks have no digests: these differ from process to process."""
    return _MARKED_TEXT.sub(r"[redacted \1]", text)


def without_digests_in_bytes(data: bytes) -> bytes:
    """Return the same of the bytes of a text."""
    return _MARKED_BYTES.sub(rb"[redacted \1]", data) if SIGN.encode() in data else data
