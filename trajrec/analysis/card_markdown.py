"""Values as Markdown: no recorded text means anything in it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from trajrec.types import Value
from trajrec.values.visible import visible

MOST_CHARACTERS = 2_000
"""Characters of one text: a prompt may have a million."""


def _cut(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    return (
        f"{text[:MOST_CHARACTERS]} ... ({len(text) - MOST_CHARACTERS} more characters in card.json)"
    )


def escape(text: Value) -> str:
    """Return a text in which no character means anything to Markdown or HTML, on one line.

    Controls and marks of direction are shown by their escapes, and a long text is cut.
    """
    plain = _cut(visible(" ".join(str(text).split())))
    return re.sub(r"([\\`*_\[\]<>|#&$!~])", r"\\\1", plain)


def code(value: Value) -> str:
    """Return a value as code that no backtick inside of it ends."""
    text = _cut(visible(" ".join(str(value).split()))).replace("|", "\\|")
    runs = {len(run) for run in re.findall("`+", text)}
    fence = "`" * next(n for n in itertools.count(1) if n not in runs)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; "" without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(names)} |", f"|{'---|' * len(names)}", *lines])


def bullets(texts: Iterable[str]) -> str:
    """Return a list of Markdown."""
    return "\n".join(f"- {escape(text)}" for text in texts)
