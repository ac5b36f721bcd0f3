"""Docstrings and texts as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

NOTE = "<!-- Generated from the program by `python docs/generate.py`. Do not edit. -->"

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Source|Example|Note):$")


def from_docstring(text: str, *, language: str = "python") -> str:
    """Return a docstring in Google style as Markdown."""
    blocks: list[str] = []
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        match = SECTION.match(lines[position])
        stop = position + 1
        if match is None:
            while stop < len(lines) and not SECTION.match(lines[stop]):
                stop += 1
            blocks += _prose(lines[position:stop], language)
        else:
            while stop < len(lines) and (not lines[stop] or lines[stop].startswith(" ")):
                stop += 1
            blocks += _section(
                match.group(1),
                textwrap.dedent("\n".join(lines[position + 1 : stop])).strip(),
                language,
            )
        position = stop
    return "\n\n".join(block for block in blocks if block)


def _section(title: str, text: str, language: str) -> Iterator[str]:
    if title == "Example":
        yield f"```{language}\n{text}\n```"
        return
    if title not in ("Args", "Attributes", "Raises"):
        yield f"**{title}:** {paragraph(text)}"
        return
    yield f"**{title}:**"
    entries = re.split(r"\n(?=\S)", text)
    yield "\n".join(item_of(entry) for entry in entries if entry.strip())


def item_of(entry: str) -> str:
    """Return an entry "name: meaning" as an item, and a list in its meaning as items below it."""
    name, _, meaning = entry.partition(":")
    first, *items = re.split(r"\n\s*- ", meaning)
    lines = [
        f"`{name.strip()}`: {paragraph(first)}".rstrip(),
        *(f"- {paragraph(item)}" for item in items),
    ]
    nested = [textwrap.indent(lines[0], "  "), *(_nested(line) for line in lines[1:])]
    return "\n".join(["- " + nested[0].strip(), *nested[1:]])


def _nested(item: str) -> str:
    return "  " + item.replace("\n", "\n    ")


def _prose(lines: list[str], language: str) -> Iterator[str]:
    """Yield paragraphs, lists, examples and indented code."""
    for block in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        if block.lstrip().startswith(">>>"):
            yield f"```pycon\n{textwrap.dedent(block)}\n```"
        elif block.startswith("    "):
            yield f"```{language}\n{textwrap.dedent(block)}\n```"
        elif block.startswith("- "):
            yield "\n".join(_item(item) for item in re.split(r"\n(?=- )", block))
        else:
            yield paragraph(block)


def _item(item: str) -> str:
    first, *rest = paragraph(item[2:]).splitlines()
    return "\n".join([f"- {first}", *(f"  {line}" for line in rest)])


def paragraph(text: str) -> str:
    """Return a paragraph with one sentence a line, its special characters escaped outside code."""
    joined = " ".join(text.split())
    pieces = re.split(r"(`[^`]*`)", joined)
    escaped = "".join(
        piece if piece.startswith("`") else re.sub(r"([*<\[])", r"\\\1", piece) for piece in pieces
    )
    return re.sub(r"(?<![ (]e\.g)(?<![ (]i\.e)(?<=[.!?]) (?=[A-Z`\"(])", "\n", escaped)


def cell(text: str) -> str:
    """Return the text of a table's cell."""
    return re.sub(r"([|*<])", r"\\\1", " ".join(text.split()))


def anchor(name: str) -> str:
    """Return the anchor of a heading that is a dotted name."""
    return name.replace(".", "")


def page_of(blocks: list[str]) -> str:
    """Return a generated page, with a note that it is one."""
    return "\n\n".join(block.strip("\n") for block in [NOTE, *blocks] if block) + "\n"
