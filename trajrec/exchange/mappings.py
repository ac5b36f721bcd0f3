"""Mappings: TOML files that say which columns of a table hold a conversation and what is about it.

A mapping names columns and nothing else: there is no code in it.
"""

from __future__ import annotations

import importlib.resources
import tomllib
from functools import cache
from pathlib import Path

import msgspec

from trajrec.errors import ImportFileError


class MessageColumns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a message.

    Attributes:
        role: The field with the role.
        content: The fields with the text: the first that is not null.
        roles: Role in the file -> role in the API of chats.
    """

    role: str = "role"
    content: list[str] = msgspec.field(default_factory=lambda: ["content"])
    roles: dict[str, str] = msgspec.field(default_factory=dict)


class CheckColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column that is a verdict. The first check of a mapping is the primary one."""

    id: str
    field: str
    family: str = "programmatic"


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of several conversations in a row.

    Attributes:
        name: Its name.
        messages: The columns that make it up, one after the other.
        preferred: Whether somebody preferred it to the others; None if there is no such judgement.
    """

    name: str
    messages: list[str]
    preferred: bool | None = None


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How rows of a table become episodes.

    Attributes:
        name: Its name.
        requires: The columns that a table of this kind has.
        messages: The columns that make up the conversation, one after the other.
        variants: Several conversations in a row, in place of `messages`.
        message: The fields of a message.
        drops_null_arguments: Whether null arguments of calls are left out.
        tools: The column with the tools on offer.
        task: The column with the id of the task.
        model: The column with the model.
        run: The column with the run.
        stop_reason: The column with the reason of the end.
        checks: The columns that are verdicts.
    """

    name: str
    requires: list[str]
    messages: list[str] = msgspec.field(default_factory=list)
    variants: list[Variant] = msgspec.field(default_factory=list)
    message: MessageColumns = msgspec.field(default_factory=MessageColumns)
    drops_null_arguments: bool = False
    tools: str = ""
    task: str = ""
    model: str = ""
    run: str = ""
    stop_reason: str = ""
    checks: list[CheckColumn] = msgspec.field(default_factory=list)

    @property
    def conversations(self) -> list[Variant]:
        """The conversations of a row."""
        return self.variants or [Variant("", self.messages)]

    @property
    def columns(self) -> frozenset[str]:
        """The columns that have a place of their own."""
        names = {self.tools, self.task, self.model, self.run, self.stop_reason}
        names |= {check.field for check in self.checks}
        names |= {column for variant in self.conversations for column in variant.messages}
        return frozenset(names - {""})


def read_mapping(path: Path) -> Mapping:
    """Return the mapping of a TOML file.

    Raises:
        ImportFileError: It cannot be read, or is no mapping.
    """
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise ImportFileError(f"is no mapping: {reason}", path=path) from exc


@cache
def shipped_mappings() -> tuple[Mapping, ...]:
    """Return the mappings that come with trajrec, those that require most columns first."""
    folder = importlib.resources.files("trajrec.exchange") / "mappings"
    texts = [file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".toml")]
    mappings = map(_parsed, texts)
    return tuple(sorted(mappings, key=lambda m: (-len(m.requires), m.name)))


def _parsed(text: str) -> Mapping:
    return msgspec.convert(tomllib.loads(text), Mapping)
