"""Conditions in SQL that a caller gives, as parts of queries."""

from __future__ import annotations

import re

from trajrec.errors import QueryError

# Texts, quoted names and comments, whose brackets are none, and brackets.
_TOKEN = re.compile(
    r"""e'(?:\\.|''|[^'\\])*'|'(?:''|[^'])*'|"(?:""|[^"])*"|(\$\w*\$).*?\1|--[^\n]*|/\*.*?\*/|[()]""",
    re.DOTALL | re.IGNORECASE,
)


def bracketed(where: str) -> str:
    """Return a condition in brackets, which a comment at its end cannot leave open.

    >>> bracketed("n_steps > 3")
    '(n_steps > 3\\n)'

    Raises:
        QueryError: A bracket closes that none has opened: the rest would be a part of the query.
        TypeError: It is no text.
        ValueError: It is empty.
    """
    text = _checked("where", where, "a condition", "true")
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth < 0:
            raise QueryError(
                f"where must be one condition, and no bracket opens before {text[token.start() :]!r}"
            )
    return f"({text}\n)"


def ordered(order_by: str) -> str:
    """Return an order that a caller gives, if it is a text.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty.
    """
    return _checked("order_by", order_by, "columns", "log, number")


def _checked(name: str, text: str, noun: str, usual: str) -> str:
    """Return the text of a parameter: anything else would be part of the query by its name."""
    wanted = f"{name} must be {noun} in SQL, {usual!r} by default"
    if not isinstance(text, str):
        raise TypeError(f"{wanted}, got {text!r}")
    if not text.strip():
        raise ValueError(f"{wanted}, got an empty text")
    return text
