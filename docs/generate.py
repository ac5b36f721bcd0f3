"""Write the reference pages that are derived from the program: `python docs/generate.py`.

The command line comes from its parser, the SQL tables from their declarations, the Python API from signatures and docstrings,
the rules for secrets from their table.
`tests/test_docs.py` compares the committed pages with the program. The output is the same on every Python version: usage lines
and signatures are formatted here, and not by argparse or `inspect`, whose layouts change.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from markdown_text import cell, from_docstring, page_of, paragraph
from python_api import python_api
from secret_rules import secret_rules

from trajrec.cli.exit_status import MEANINGS
from trajrec.cli.main import build_parser
from trajrec.corpus.index.tables import TABLES
from trajrec.corpus.index.views import EPISODES, VIEWS

FOLDER = Path(__file__).resolve().parent / "reference"


def main() -> int:
    """Write every generated page."""
    FOLDER.mkdir(exist_ok=True)
    for name, page in pages().items():
        (FOLDER / name).write_text(page(), encoding="utf-8")
        print(f"docs/reference/{name}")
    return 0


def pages() -> dict[str, Callable[[], str]]:
    """Return the function that writes each generated page, by the page's name."""
    return {
        "command-line.md": command_line,
        "sql-tables.md": sql_tables,
        "python-api.md": python_api,
        "secret-rules.md": secret_rules,
    }


# The command line


def command_line() -> str:
    """Return the page of the command line."""
    parser = build_parser()
    commands = next(
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    *sections, last = (parser.epilog or "").split("\n\n")
    groups = [_group(section) for section in sections if "exit status" not in section.lower()]
    statuses = [f"| {int(status)} | {meaning} |" for status, meaning in MEANINGS.items()]
    blocks = ["# Command line", paragraph(parser.description or ""), paragraph(last), *groups]
    blocks += ["## Exit statuses", "\n".join(["| status | meaning |", "|---|---|", *statuses])]
    blocks += [
        block for name, command in commands.choices.items() for block in _command(name, command)
    ]
    return page_of(blocks)


def _group(section: str) -> str:
    """Return a group of commands of the help as a list of links."""
    title, *lines = section.splitlines()
    rows = [line.split(None, 1) for line in lines]
    items = [f"- [`trajrec {name}`](#trajrec-{name}): {summary}" for name, summary in rows]
    return "\n".join([f"{title.capitalize()}\n", *items])


def _command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    positional = [action for action in parser._actions if not action.option_strings]
    options = [
        action for action in parser._actions if action.option_strings and action.dest != "help"
    ]
    parts = [
        "trajrec",
        name,
        *map(_positional, positional),
        *map(_required, options),
        "[OPTIONS]" if options else "",
    ]
    yield f"## trajrec {name}"
    yield f"```text\n{' '.join(part for part in parts if part)}\n```"
    yield from_docstring(parser.description or "", language="sh")
    rows = [(_positional(action).strip("[]"), action) for action in positional]
    rows += [
        (", ".join(map(functools.partial(_option, action=action), action.option_strings)), action)
        for action in options
    ]
    if rows:
        lines = [f"| `{cell(shown)}` | {cell(_help(action))} |" for shown, action in rows]
        yield "\n".join(["| argument | meaning |", "|---|---|", *lines])
    if parser.epilog:
        yield paragraph(parser.epilog)


def _positional(action: argparse.Action) -> str:
    name = _value(action)
    return {"?": f"[{name}]", "*": f"[{name} ...]", "+": f"{name} ..."}.get(str(action.nargs), name)


def _required(action: argparse.Action) -> str:
    return _option(action.option_strings[0], action=action) if action.required else ""


def _option(flag: str, *, action: argparse.Action) -> str:
    if action.nargs == 0:
        return flag
    value = _value(action)
    return f"{flag} [{value}]" if action.nargs == "?" else f"{flag} {value}"


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.upper()


def _help(action: argparse.Action) -> str:
    text = (action.help or "") % {"default": action.default, "prog": "trajrec"}
    return text + " (required)" if action.required and action.option_strings else text


# The SQL tables


def sql_tables() -> str:
    """Return the page of the tables and views."""
    blocks = [
        "# SQL tables",
        "`trajrec schema` prints these tables and views.\n[SQL questions](sql-questions.md) has queries for common questions.",
    ]
    for table in TABLES:
        blocks += [
            f"## {table.name}",
            f"One row is {table.row}.\nIts key is ({', '.join(f'`{name}`' for name in table.key)}).",
        ]
        rows = [f"| `{name}` | {kind} | {cell(meaning)} |" for name, kind, meaning in table.columns]
        blocks.append("\n".join(["| column | type | meaning |", "|---|---|---|", *rows]))
    for view in VIEWS:
        blocks += [f"## {view.name} (view)", f"One row is {view.row}."]
        if view.columns == EPISODES.columns:
            blocks.append("Its columns are those of `all_episodes`.")
            continue
        rows = [f"| `{name}` | {cell(meaning)} |" for name, meaning in view.columns]
        blocks.append("\n".join(["| column | meaning |", "|---|---|", *rows]))
    return page_of(blocks)


if __name__ == "__main__":
    raise SystemExit(main())
