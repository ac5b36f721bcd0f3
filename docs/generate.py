"""Write the reference pages that are derived from the program: `python docs/generate.py`.

The command line comes from its parser, the SQL tables from their declarations, the Python API from signatures and docstrings.
`tests/test_docs.py` compares the committed pages with the program. The output is the same on every Python version: usage lines
and signatures are formatted here, and not by argparse or `inspect`, whose layouts change.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

from trajrec.cli.exit_status import MEANINGS
from trajrec.cli.main import build_parser
from trajrec.corpus.index.tables import TABLES
from trajrec.corpus.index.views import EPISODES, VIEWS

FOLDER = Path(__file__).resolve().parent / "reference"
NOTE = "<!-- Generated from the program by `python docs/generate.py`. Do not edit. -->"

MODULES = ("trajrec", "trajrec.replay", "trajrec.replay.credit", "trajrec.envs")
"""Packages whose `__all__` is the public API."""

OTHERS = {
    "trajrec.protocols": (
        "HasState",
        "RestorableState",
        "SandboxedEnv",
        "MultiAgentEnv",
        "Verifier",
    ),
    "trajrec.values.projection": ("Projection",),
    "trajrec.corpus.episode": ("Episode", "Step"),
    "trajrec.corpus.transcript": ("Transcript", "Attempt", "ModelCall"),
    "trajrec.agents.context": ("EpisodeSession",),
    "trajrec.replay.agents.agent_difference": ("AgentDifference",),
    "trajrec.replay.credit.sampling.context": ("Context", "ToolCall"),
}
"""Module -> classes that are no public names, but that public functions take or hand out."""

WIDTH = 96
"""A longer signature has one parameter a line: a page of the site shows about so many characters."""


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
    blocks = [NOTE, "# Command line", _text(parser.description or ""), _text(last), *groups]
    blocks += ["## Exit statuses", "\n".join(["| status | meaning |", "|---|---|", *statuses])]
    blocks += [
        block for name, command in commands.choices.items() for block in _command(name, command)
    ]
    return _page(blocks)


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
    yield _docstring(parser.description or "", language="sh")
    rows = [(_positional(action).strip("[]"), action) for action in positional]
    rows += [
        (", ".join(map(functools.partial(_option, action=action), action.option_strings)), action)
        for action in options
    ]
    if rows:
        lines = [f"| `{_cell(shown)}` | {_cell(_help(action))} |" for shown, action in rows]
        yield "\n".join(["| argument | meaning |", "|---|---|", *lines])
    if parser.epilog:
        yield _text(parser.epilog)


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
        NOTE,
        "# SQL tables",
        "`trajrec schema` prints these tables and views.\n[SQL questions](sql-questions.md) has queries for common questions.",
    ]
    for table in TABLES:
        blocks += [
            f"## {table.name}",
            f"One row is {table.row}.\nIts key is ({', '.join(f'`{name}`' for name in table.key)}).",
        ]
        rows = [
            f"| `{name}` | {kind} | {_cell(meaning)} |" for name, kind, meaning in table.columns
        ]
        blocks.append("\n".join(["| column | type | meaning |", "|---|---|---|", *rows]))
    for view in VIEWS:
        blocks += [f"## {view.name} (view)", f"One row is {view.row}."]
        if view.columns == EPISODES.columns:
            blocks.append("Its columns are those of `all_episodes`.")
            continue
        rows = [f"| `{name}` | {_cell(meaning)} |" for name, meaning in view.columns]
        blocks.append("\n".join(["| column | meaning |", "|---|---|", *rows]))
    return _page(blocks)


# The Python API


def python_api() -> str:
    """Return the page of the public names, with their signatures and docstrings."""
    blocks = [
        NOTE,
        "# Python API",
        "\n".join(
            [
                *(f"- [`{name}`](#{_anchor(name)})" for name in MODULES),
                "- [Other objects](#other-objects)",
                "- [Types in these signatures](#types-in-these-signatures)",
            ]
        ),
        "`...` as the default of an option stands for the default that its description names.",
    ]
    for name in MODULES:
        module = importlib.import_module(name)
        blocks += [f"## {name}", _docstring(inspect.getdoc(module) or "")]
        for public in sorted(module.__all__):
            value = getattr(module, public)
            if not inspect.ismodule(value) and not public.startswith("__"):
                blocks += _object(f"{name}.{public}", public, value)
    blocks += ["## Other objects", "These are taken or returned by the functions above."]
    for home, classes in OTHERS.items():
        for public in classes:
            value = getattr(importlib.import_module(home), public)
            blocks += _object(f"{home}.{public}", public, value)
    blocks += ["## Types in these signatures", "\n".join(["```python", *_aliases(), "```"])]
    return _page(blocks)


_named: set[tuple[str, str]] = set()
"""Module and name of everything that an annotation of a signature names."""


def _aliases() -> list[str]:
    """Return the definitions of the type aliases that the signatures name."""
    return sorted(
        {f"{name} = {_alias(*key)}" for key in _named if _alias(*key) for name in key[1:]}
    )


@functools.cache
def _alias(module: str, name: str) -> str:
    """Return the definition of a type alias as it stands in its module; "" for any other name."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trajrec."):
            for imported in node.names:
                if (imported.asname or imported.name) == name:
                    return _alias(node.module or "", imported.name)
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Subscript, ast.BinOp)):
            names = {target.id for target in node.targets if isinstance(target, ast.Name)}
            if name in names:
                return ast.unparse(node.value)
    return ""


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def _object(path: str, name: str, value: object) -> Iterator[str]:
    yield f"### {path}"
    if callable(value) and not typing.is_typeddict(value) and not getattr(value, "_is_protocol", 0):
        yield _code(name, value)
    yield _docstring(inspect.getdoc(value) or "")
    if callable(value):
        yield from _option_docs(value)
    if inspect.isclass(value) and not typing.is_typeddict(value):
        for member, definition in _members(value).items():
            yield from _member(f"{name}.{member}", getattr(value, member, None), definition)


def _member(path: str, value: object, definition: object) -> Iterator[str]:
    function = _function(definition)
    yield f"#### {path}"
    if isinstance(definition, (property, functools.cached_property)):
        yield _attribute(path.partition(".")[2], function)
    else:
        yield _code(path.partition(".")[2], function, is_method=True)
    yield _docstring(inspect.getdoc(value) or inspect.getdoc(function) or "")
    yield from _option_docs(function)


def _members(cls: type) -> dict[str, object]:
    """Return the public methods and properties of a class that we define, in the order of definition."""
    members: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] == "trajrec":
            members.update(
                {name: value for name, value in vars(base).items() if not name.startswith("_")}
            )
    kinds = (property, functools.cached_property, classmethod, staticmethod)
    return {
        name: value
        for name, value in members.items()
        if isinstance(value, kinds) or inspect.isfunction(value)
    }


def _function(definition: object) -> Callable[..., object]:
    if isinstance(definition, property):
        assert definition.fget is not None
        return definition.fget
    if isinstance(definition, functools.cached_property):
        function: Callable[..., object] = definition.func
        return function
    if isinstance(definition, (classmethod, staticmethod)):
        return definition.__func__
    assert callable(definition)
    return definition


def _attribute(name: str, function: Callable[..., object]) -> str:
    result = _type(inspect.signature(function).return_annotation, function.__module__)
    return f"```python\n{name}: {result}\n```"


def _code(name: str, function: Callable[..., object], *, is_method: bool = False) -> str:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[
        1 if is_method and "self" in signature.parameters else 0 :
    ]
    if is_method and parameters and parameters[0].name == "cls":
        parameters = parameters[1:]
    parts = list(_parameters(parameters, function))
    result = (
        ""
        if inspect.isclass(function)
        else f" -> {_type(signature.return_annotation, function.__module__)}"
    )
    line = f"{name}({', '.join(parts)}){result}"
    if len(line) > WIDTH:
        line = "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){result}"])
    return f"```python\n{line}\n```"


def _parameters(
    parameters: list[inspect.Parameter], function: Callable[..., object]
) -> Iterator[str]:
    has_star = False
    for index, parameter in enumerate(parameters):
        if parameter.kind is parameter.KEYWORD_ONLY and not has_star:
            has_star = True
            yield "*"
        options = _options(function) if parameter.kind is parameter.VAR_KEYWORD else None
        if options is not None:
            if not has_star:
                yield "*"
            for name, kind in options.__annotations__.items():
                yield f"{name}: {_type(kind, options.__module__)} = ..."
            continue
        has_star = has_star or parameter.kind is parameter.VAR_POSITIONAL
        yield _parameter(parameter, function.__module__)
        is_last_positional = (
            index + 1 == len(parameters)
            or parameters[index + 1].kind is not parameter.POSITIONAL_ONLY
        )
        if parameter.kind is parameter.POSITIONAL_ONLY and is_last_positional:
            yield "/"


def _parameter(parameter: inspect.Parameter, module: str) -> str:
    star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
    star = "**" if parameter.kind is parameter.VAR_KEYWORD else star
    text = star + parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {_type(parameter.annotation, module)}"
    if parameter.default is not parameter.empty:
        text += (
            f" = {_default(parameter.default)}"
            if ":" in text
            else f"={_default(parameter.default)}"
        )
    return text


def _options(function: Callable[..., object]) -> type | None:
    """Return the TypedDict of `**options: Unpack[TypedDict]`; None if a function has no such options."""
    code = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    if not inspect.isfunction(code):
        return None
    for annotation in code.__annotations__.values():
        match = re.fullmatch(r"(?:typing\.)?Unpack\[(\w+)\]", str(annotation))
        if match is not None:
            options: type = code.__globals__[match.group(1)]
            return options
    return None


def _option_docs(function: Callable[..., object]) -> Iterator[str]:
    """Yield the descriptions of the keywords that a function takes as options."""
    options = _options(function)
    if options is not None:
        yield "**Options:**"
        yield "\n".join(_entry(entry) for entry in _option_entries(options))


def _option_entries(options: type) -> list[str]:
    inherited = getattr(options, "__orig_bases__", ())
    entries = [
        entry for base in inherited if typing.is_typeddict(base) for entry in _option_entries(base)
    ]
    section = (inspect.getdoc(options) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    return entries + re.split(r"\n(?=\S)", textwrap.dedent(section).strip())


def _type(annotation: object, module: str) -> str:
    """Return an annotation as its module writes it, and note the names in it.

    An alias of a Literal is replaced by its values: these are what a reader may pass.
    """
    if annotation is inspect.Signature.empty:
        return "None"
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if not isinstance(annotation, str):
        is_plain = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
        shown = getattr(annotation, "__name__", "") if is_plain else repr(annotation)
        annotation = shown.replace("typing.", "")

    def values(match: re.Match[str]) -> str:
        definition = _alias(module, match.group())
        if definition.startswith("Literal["):
            return definition
        _named.add((module, match.group()))
        return match.group()

    return re.sub(r"(?<![\w.'])[A-Z]\w*", values, annotation)


def _default(value: object) -> str:
    if isinstance(value, frozenset):
        return "{" + ", ".join(sorted(map(repr, value))) + "}"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    shown = repr(value)
    # The repr of a sentinel or of a factory holds an address or a class; neither tells the reader anything.
    return "..." if shown.startswith("<") or " at 0x" in shown else shown


# Docstrings as Markdown

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Source|Example|Note):$")


def _docstring(text: str, *, language: str = "python") -> str:
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
        yield f"**{title}:** {_text(text)}"
        return
    yield f"**{title}:**"
    entries = re.split(r"\n(?=\S)", text)
    yield "\n".join(_entry(entry) for entry in entries if entry.strip())


def _entry(entry: str) -> str:
    """Return an entry "name: meaning" as an item, and a list in its meaning as items below it."""
    name, _, meaning = entry.partition(":")
    first, *items = re.split(r"\n\s*- ", meaning)
    lines = [f"`{name.strip()}`: {_text(first)}".rstrip(), *(f"- {_text(item)}" for item in items)]
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
            yield _text(block)


def _item(item: str) -> str:
    first, *rest = _text(item[2:]).splitlines()
    return "\n".join([f"- {first}", *(f"  {line}" for line in rest)])


def _text(text: str) -> str:
    """Return a paragraph with one sentence a line, its special characters escaped outside code."""
    joined = " ".join(text.split())
    pieces = re.split(r"(`[^`]*`)", joined)
    escaped = "".join(
        piece if piece.startswith("`") else re.sub(r"([*<\[])", r"\\\1", piece) for piece in pieces
    )
    return re.sub(r"(?<![ (]e\.g)(?<![ (]i\.e)(?<=[.!?]) (?=[A-Z`\"(])", "\n", escaped)


def _cell(text: str) -> str:
    return re.sub(r"([|*<])", r"\\\1", " ".join(text.split()))


def _anchor(name: str) -> str:
    return name.replace(".", "")


def _page(blocks: list[str]) -> str:
    return "\n\n".join(block.strip("\n") for block in blocks if block) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
