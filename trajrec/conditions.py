"""Conditions in SQL that a caller gives, as parts of queries."""

from __future__ import annotations


def bracketed(where: str) -> str:
    """Return a condition in brackets, which a comment at its end cannot leave open.

    >>> bracketed("n_steps > 3")
    '(n_steps > 3\\n)'

    Raises:
        TypeError: It is no text.
        ValueError: It is empty.
    """
    return f"({_checked('where', where, 'a condition', 'true')}\n)"


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
