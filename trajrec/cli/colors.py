"""Colours of results on a terminal, and nowhere else.

A colour repeats what a word says: the output reads the same without it. `NO_COLOR` leaves it off
(https://no-color.org).
"""

from __future__ import annotations

import os
import sys

_BOLD = "1"
_RED = "31"
_GREEN = "32"
_YELLOW = "33"

# The first word of a cell -> its colour, in these columns.
_COLUMNS = ("outcome", "ending", "grade")
_WORDS = {
    "success": _GREEN,
    "exact": _GREEN,
    "failure": _RED,
    "error": _RED,
    "timeout": _RED,
    "invalid": _RED,
    "diverged": _RED,
    "exception": _RED,
    "cancelled": _YELLOW,
    "interrupted": _YELLOW,
    "refused": _YELLOW,
    "open": _YELLOW,
    "running": _YELLOW,
}


def has_colors() -> bool:
    """Return whether standard output is a terminal that shows colours."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return False
    if os.name == "nt":
        # The old console of Windows shows the codes as text.
        return "WT_SESSION" in os.environ
    return os.environ.get("TERM", "dumb") != "dumb"


def color_of(column: str, cell: str) -> str:
    """Return the colour of a cell of a table, "" for none.

    >>> color_of("outcome", "timeout, tried again by agent") == color_of("outcome", "failure")
    True
    """
    if column not in _COLUMNS:
        return ""
    return _WORDS.get(cell.strip().split(",")[0].split(" ")[0], "")


def print_colored(cells: list[tuple[str, str]]) -> None:
    """Print a line of cells, each with its colour; two spaces stand between them."""
    paint = getattr(sys.stdout, "paint", None)
    last = len(cells) - 1
    for number, (text, color) in enumerate(cells):
        shown = text.rstrip() if number == last else text
        if color and paint is not None:
            paint(shown, color)
        else:
            sys.stdout.write(shown)
        sys.stdout.write("\n" if number == last else "  ")


HEADING = _BOLD
"""The colour of the names of columns."""
