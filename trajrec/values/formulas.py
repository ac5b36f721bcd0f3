"""Texts that a spreadsheet runs as formulas, in files of CSV."""

from __future__ import annotations

import re

from trajrec.types import Value

# Some spreadsheets take the signs of full width too, and skip the end of a line.
FORMULA = "^[=+@\\t\\r\\n\uff1d\uff0b\uff20\uff0d-]"
"""A pattern of the beginning of such texts, which Python and DuckDB read alike."""


def guarded(value: Value) -> Value:
    """Return a value with an apostrophe before it if it is such a text."""
    is_formula = isinstance(value, str) and re.match(FORMULA, value)
    return f"'{value}" if is_formula else value
