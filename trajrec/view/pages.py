"""Templates filled with values: every value is made visible and escaped, wherever it stands."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from trajrec.types import Value
from trajrec.values.visible import visible

if TYPE_CHECKING:
    import jinja2

LATER = "\0later\0"
"""Stands in a page for a part that is sent later. No value can hold it: they are made visible."""

FOLDER = Path(__file__).resolve().parent


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    def finalize(value: Value) -> Value:
        # The templates' own macros and files are markup already; all else is a recorded text, a
        # number, or nothing.
        if isinstance(value, Markup):
            return value
        return "" if value is None else visible(str(value))

    environment = jinja2.Environment(
        autoescape=True,
        finalize=finalize,
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["later_mark"] = Markup(LATER)
    environment.filters["grouped"] = lambda number: f"{number:,}"
    return environment


def render(template: str, **values: Value) -> str:
    """Return a page.

    Args:
        template: The file in the folder `templates`.
        values: The values that it names.
    """
    return _environment().get_template(template).render(**values)


def compile_templates() -> None:
    """Compile all templates, which takes 0.1 s: before the first page is asked for."""
    for path in (FOLDER / "templates").iterdir():
        _environment().get_template(path.name)


@functools.cache
def own_file(name: str) -> str:
    """Return a file of the folder `static`."""
    return (FOLDER / "static" / name).read_text("utf-8")
