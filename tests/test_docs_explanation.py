"""The explanation pages and the log format hold: links resolve, and structs are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from trajrec.log import annotations, events, schema

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
    for module in (schema, events, annotations)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and cls is not events.Record
}
DEFAULTS = {"nil": None, "empty": b"", "false": False, "[]": (), '""': "", "0": 0, "-1": -1}
"""Default, as the page writes it -> its value. Other defaults are texts."""


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def documented_fields(section: str) -> dict[str, str | None]:
    """Return the fields that a section lists, in order, each with its default or None.

    A section lists them as a table, with types, or as a sentence, with remarks in parentheses.
    """
    fields: dict[str, str | None] = {}
    sentence = re.search(r"^Fields: (.*)\.$", section, re.MULTILINE)
    if sentence is not None:
        for item in re.split(r", (?![^(]*\))", sentence[1]):
            default = re.search(r"\[(.*)\]", item)
            fields[re.split(r"[ (]", item)[0]] = default[1] if default else None
        return fields
    table = section.partition("|---|")[2].partition("\n\n")[0]
    for row in table.splitlines()[1:]:
        names, kind = (cell.strip() for cell in row.split("|")[1:3])
        default = re.search(r"\[(.*)\]$", kind)
        fields |= dict.fromkeys(names.split(", "), default[1] if default else None)
    return fields


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_of_an_explanation_page_leads_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), anchor


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_the_log_format_lists_every_field_of_a_struct_in_order(name: str) -> None:
    assert list(documented_fields(SECTIONS[name])) == list(STRUCTS[name].__struct_fields__)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_the_log_format_gives_every_default(name: str) -> None:
    documented = documented_fields(SECTIONS[name])
    for field in msgspec.structs.fields(STRUCTS[name]):
        text = "agent" if field.name == "actor" else documented[field.name]
        if text is None:
            assert field.required, field.name
            continue
        default = DEFAULTS.get(text, text.strip('`"'))
        actual = field.default if field.default_factory is msgspec.NODEFAULT else ()
        assert (actual, type(actual)) == (default, type(default)), field.name


@pytest.mark.parametrize(
    "name", sorted(name for name, cls in STRUCTS.items() if cls.__struct_config__.tag is not None)
)
def test_the_log_format_gives_the_tag_of_every_event(name: str) -> None:
    assert re.search(
        rf"^### {name} \(tag `{STRUCTS[name].__struct_config__.tag}`", LOG_FORMAT, re.MULTILINE
    )


def costs(page: Path) -> dict[str, list[float]]:
    """Return the numbers of each row of the tables of a page, by the name of the row."""
    rows = {}
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("|"):
            name, *cells = line.strip("|").split("|")
            numbers = re.findall(r"\d+(?:\.\d+)?", "".join(cells).replace(",", ""))
            rows[name.partition(",")[0].strip()] = [float(number) for number in numbers]
    return rows


def test_the_costs_of_the_readme_are_those_of_the_measurements() -> None:
    measured = costs(DOCS / "explanation" / "performance.md")
    rows = costs(DOCS.parent / "README.md")
    names = ("84x84x4 frame stacks", "a tool call")
    assert {name: rows[name] for name in names} == {name: measured[name] for name in names}
    (guide,) = re.findall(
        r"A tool call costs (\d+) µs and (\d+) bytes; .* changes, (\d+) µs and (\d+) bytes",
        (DOCS / "how-to" / "record-tool-agents.md").read_text("utf-8"),
    )
    changed = measured["a tool call that changes a watched state of 20 kB"]
    assert [float(number) for number in guide] == [*measured["a tool call"], *changed]
