"""The explanation pages and the log format hold: links resolve, and structs are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from trajrec.log import events, schema

pytestmark = pytest.mark.sources

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted(
    [
        *(DOCS / "explanation").glob("*.md"),
        DOCS / "reference" / "log-format.md",
        DOCS / "reference" / "errors.md",
    ]
)
LOG_FORMAT = (DOCS / "reference" / "log-format.md").read_text()
SECTIONS = dict(re.findall(r"\n### (\w+)[^\n]*\n(.*?)(?=\n##|\Z)", LOG_FORMAT, re.DOTALL))
STRUCTS = {
    name: cls
    for module in (schema, events)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and cls is not events.Record
}
INLINE = frozenset({"FrameEntry"})
"""Structs that the page describes within the struct that holds them."""


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def documented_fields(section: str) -> list[str]:
    """Return the fields that a section lists, as a table or as a sentence."""
    sentence = re.search(r"^Fields: (.*)\.$", section, re.MULTILINE)
    if sentence is not None:
        return re.sub(r"\s*\([^)]*\)", "", sentence[1]).split(", ")
    table = section.partition("|---|")[2].partition("\n\n")[0]
    return [
        name for row in table.splitlines()[1:] for name in row.split("|")[1].strip().split(", ")
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_an_explanation_page_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), anchor


@pytest.mark.parametrize("name", sorted(STRUCTS.keys() - INLINE))
def test_the_log_format_lists_every_field_of_a_struct_in_order(name: str) -> None:
    assert documented_fields(SECTIONS[name]) == list(STRUCTS[name].__struct_fields__)


@pytest.mark.parametrize(
    "name", sorted(name for name, cls in STRUCTS.items() if cls.__struct_config__.tag is not None)
)
def test_the_log_format_gives_the_tag_of_every_event(name: str) -> None:
    assert re.search(
        rf"^### {name} \(tag `{STRUCTS[name].__struct_config__.tag}`", LOG_FORMAT, re.MULTILINE
    )
