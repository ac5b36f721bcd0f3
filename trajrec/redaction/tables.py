"""Secrets in tables that a text holds: their column names them.

Lines of CSV, tables of Markdown and of database shells, and the rows of an INSERT statement.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from trajrec.redaction.assignments import Assigned, Name, StrengthOf
from trajrec.redaction.names import kind_of
from trajrec.redaction.plausibility import is_secret_value

_MAX_HEADER_BYTES = 2000
_MAX_STATEMENT_BYTES = 4000

_BORDERS = b",|\t"
_AROUND = b" \"'`*\r"
_HEADER_CELL = re.compile(rb"[\s\"'`*]*[\w .()\-]{0,64}[\s\"'`*]*")
_RULE = re.compile(rb"[\s|:+\-]+")

# A cell in quotes may have the border in it.
_CELLS = {
    border: re.compile(
        rb'[ ]*"(?:[^"]|"")*"[ \r]*(?=%(border)s|\Z)|[^%(border)s]*'
        % {b"border": re.escape(border)}
    )
    for border in (b",", b"|", b"\t")
}

_INTO = re.compile(
    rb"\b(?:insert\s+(?:(?:or\s+\w+|ignore)\s+)?|replace\s+)into\s+[^\s(]+\s*\Z", re.I
)
_MAX_INTO_BYTES = 300
_SQL_VALUE = re.compile(
    # MySQL writes an apostrophe as \', other databases as ''.
    rb"\s*(?:[NEen]?'(?P<text>(?:[^']|''|(?<=\\)')*?)'|[^,()']*(?:\([^()']*\))?[^,()']*)\s*(?P<end>[,)])"
)
_NEXT_ROW = re.compile(rb"\s*,?\s*\(")


def find_in_column(data: bytes, name: Name) -> Iterator[Assigned]:
    """Yield the secrets in the column of a table that has the name of a secret."""
    line = data.rfind(b"\n", 0, name.start) + 1
    end = data.find(b"\n", name.end)
    if end < 0 or end - line > _MAX_HEADER_BYTES:
        return
    after = data[name.end : end].lstrip(_AROUND)[:1]
    before = data[line : name.start].rstrip(_AROUND)[-1:]
    border = after or before
    if not border or border not in _BORDERS or (before and before != border):
        return
    cells = data[line:end].split(border)
    column = data.count(border, line, name.start)
    n_named = sum(bool(cell.strip(_AROUND)) for cell in cells)
    if n_named < 2 or not all(_HEADER_CELL.fullmatch(cell) for cell in cells):
        return
    # A row among others is no header.
    previous = data[data.rfind(b"\n", 0, max(0, line - 1)) + 1 : max(0, line - 1)]
    if previous.count(border) == len(cells) - 1:
        return
    yield from _column(data, end + 1, border, column=column, n_cells=len(cells), name=name)


def _column(
    data: bytes, position: int, border: bytes, *, column: int, n_cells: int, name: Name
) -> Iterator[Assigned]:
    """Yield the secrets in one column of the lines from a position on."""
    while True:
        stop = data.find(b"\n", position)
        line = data[position : len(data) if stop < 0 else stop]
        if not _RULE.fullmatch(line):
            cells = _cells_of(line, border)
            if len(cells) != n_cells:
                return
            start = position + sum(len(cell) + 1 for cell in cells[:column])
            cell = cells[column]
            start += len(cell) - len(cell.lstrip(_AROUND))
            yield from _checked(data, start, start + len(cell.strip(_AROUND)), name=name)
        if stop < 0:
            return
        position = stop + 1


def _cells_of(line: bytes, border: bytes) -> list[bytes]:
    """Return the cells of a line between borders."""
    if b'"' not in line:
        return line.split(border)
    cells = []
    position = 0
    while position <= len(line):
        cell = _CELLS[border].match(line, position)
        assert cell is not None
        cells.append(cell[0])
        position = cell.end() + 1
    return cells


def find_inserted(data: bytes, position: int, strength_of: StrengthOf) -> Iterator[Assigned]:
    """Yield the secrets in the rows of an INSERT statement.

    Args:
        data: The text.
        position: The place of the word VALUES.
        strength_of: Returns how surely a name names a secret.
    """
    start = max(0, position - _MAX_STATEMENT_BYTES)
    before = data[start:position].rstrip()
    begin = before.rfind(b"(")
    if begin < 0 or not before.endswith(b")"):
        return
    if _INTO.search(before, max(0, begin - _MAX_INTO_BYTES), begin) is None:
        return
    names = [
        name.strip(b" \r\n\t\"'`[]").decode("utf-8", "replace")
        for name in before[begin + 1 : -1].split(b",")
    ]
    strengths = [strength_of(name) for name in names]
    if not any(strengths):
        return
    position += len(b"values")
    while True:
        row = _NEXT_ROW.match(data, position)
        if row is None:
            return
        position = row.end()
        for name, strength in zip(names, strengths, strict=True):
            value = _SQL_VALUE.match(data, position)
            if value is None:
                return
            if strength and value["text"]:
                yield from _checked(
                    data, *value.span("text"), name=Name(*value.span("text"), name, strength)
                )
            position = value.end()
            if value["end"] == b")":
                break


def _checked(data: bytes, start: int, end: int, *, name: Name) -> Iterator[Assigned]:
    value = data[start:end].decode("utf-8", "replace")
    if is_secret_value(value, name.strength, is_quoted=True):
        yield Assigned(start, end, kind_of(name.text))
