"""The page of the public Python names, from their signatures and docstrings."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

from markdown_text import anchor, from_docstring, item_of, page_of

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
    "trajrec.analysis.bands": ("Bands", "TaskBand"),
    "trajrec.analysis.arms": ("Arm", "TaskDifference"),
    "trajrec.analysis.comparison": ("Comparison",),
    "trajrec.analysis.cross_grading": ("CrossGrading", "Verifier"),
    "trajrec.analysis.disagreement": ("Disagreement", "Pair", "Flake"),
    "trajrec.analysis.estimate": ("Estimate",),
    "trajrec.analysis.factors": ("FactorEffects", "FactorEffect", "Link"),
    "trajrec.analysis.fidelity": ("Fidelity",),
    "trajrec.analysis.interface_difference": ("Factor", "PathDifference"),
    "trajrec.analysis.overlap": ("Overlap", "Shared", "SamePath", "Leak"),
    "trajrec.analysis.pass_k": ("PassK",),
    "trajrec.analysis.planning": ("Plan", "PlanRow"),
    "trajrec.analysis.recovery": ("Recovery", "FailureKind", "SuccessGroup", "RunFailures"),
    "trajrec.analysis.release": ("Release",),
    "trajrec.analysis.card_text": ("TableFile",),
    "trajrec.analysis.support": ("Support", "ClaimSupport"),
    "trajrec.values.projection": ("Projection",),
    "trajrec.corpus.episode": ("Episode",),
    "trajrec.corpus.step": ("Step",),
    "trajrec.corpus.said_messages": ("SaidMessage",),
    "trajrec.corpus.transcript": ("Transcript", "ModelCall"),
    "trajrec.corpus.attempts": ("Attempt",),
    "trajrec.datasets.transitions": ("Transitions",),
    "trajrec.datasets.sequences": ("Sequences",),
    "trajrec.corpus.chat": ("Conversation",),
    "trajrec.wire.sampled_tokens": ("SampledTokens",),
    "trajrec.corpus.labels": ("LabelLine", "Criterion"),
    "trajrec.agents.context": ("EpisodeSession",),
    "trajrec.replay.agents.agent_difference": ("AgentDifference",),
    "trajrec.replay.credit.sampling.context": ("Context", "ToolCall"),
}
"""Module -> classes that are no public names, but that public functions take or hand out."""

WIDTH = 96
"""A longer signature has one parameter a line: a page of the site shows about so many characters."""


def python_api() -> str:
    """Return the page of the public names, with their signatures and docstrings."""
    blocks = [
        "# Python API",
        "\n".join(
            [
                *(f"- [`{name}`](#{anchor(name)})" for name in MODULES),
                "- [Other objects](#other-objects)",
                "- [Types in these signatures](#types-in-these-signatures)",
            ]
        ),
        "`...` as the default of an option stands for the default that its description names.",
    ]
    for name in MODULES:
        module = importlib.import_module(name)
        blocks += [f"## {name}", from_docstring(inspect.getdoc(module) or "")]
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
    return page_of(blocks)


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
    # Not imported: a module may need a package that is not installed.
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text("utf-8"))


def _object(path: str, name: str, value: object) -> Iterator[str]:
    yield f"### {path}"
    if callable(value) and not typing.is_typeddict(value) and not getattr(value, "_is_protocol", 0):
        yield _code(name, value)
    yield from_docstring(inspect.getdoc(value) or "")
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
    yield from_docstring(inspect.getdoc(value) or inspect.getdoc(function) or "")
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
        yield "\n".join(item_of(entry) for entry in _option_entries(options))


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
