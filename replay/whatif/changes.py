"""The changes of one step of an agent's episode that `trajrec.replay.what_if` can try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

from trajrec.types import JsonObject, Value
from trajrec.values.diff import diff
from trajrec.values.shown import short_pair
from trajrec.wire.edits import RequestEdit

Start: TypeAlias = Literal["request", "call", "after"]
"""The place in a step at which a run goes live: before its model call, before its tool calls, or
after them."""


@dataclass(frozen=True)
class Change:
    """No change, and the base of all changes.

    Both arms then do the same, which tells how certain the outcome was.
    """

    name: ClassVar[str] = "nothing"
    start: ClassVar[Start] = "request"

    @property
    def edit(self) -> RequestEdit | None:
        """The change of every request to a model from the step on; None if there is none."""
        return None

    def describe(self, before: Value) -> str:
        """Return the change in a few words.

        Args:
            before: The recorded arguments of the changed call; None if no call is changed.
        """
        return "nothing changed"

    def to_json(self) -> JsonObject:
        """Return the change as plain data, for `change_of`."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Arguments(Change):
    """Other arguments of a tool call: the model's answer asks for them.

    Attributes:
        arguments: Name -> value. Those that are not named stay as they were.
    """

    name: ClassVar[str] = "arguments"
    start: ClassVar[Start] = "call"

    arguments: Mapping[str, Value]

    def describe(self, before: Value) -> str:
        """Return the change in a few words."""
        recorded = before if isinstance(before, dict) else {}
        told = []
        for name, value in self.arguments.items():
            if name in recorded and not diff(recorded[name], value):
                continue
            earlier, later = short_pair(recorded.get(name), value)
            is_new = before is not None and name not in recorded
            known = f"{name} {earlier} -> {later}"
            told.append(f"{name} -> {later}, which the call did not have" if is_new else known)
        return ", ".join(told)

    def to_json(self) -> JsonObject:
        """Return the change as plain data, for `change_of`."""
        return {"name": self.name, "arguments": dict(self.arguments)}


@dataclass(frozen=True)
class Result(Change):
    """Another result of a tool call. The call itself was made as recorded.

    Attributes:
        result: The result that the agent gets.
    """

    name: ClassVar[str] = "result"
    start: ClassVar[Start] = "after"

    result: Value

    def describe(self, before: Value) -> str:
        """Return the change in a few words."""
        return "another result: " + short_pair(None, self.result)[1]


@dataclass(frozen=True)
class ToolError(Change):
    """A failure of a tool call, which does nothing else.

    Attributes:
        message: The message of the exception.
        error_type: The class of the exception, as "module.Class".
    """

    name: ClassVar[str] = "error"
    start: ClassVar[Start] = "after"

    message: str
    error_type: str = "builtins.RuntimeError"

    def describe(self, before: Value) -> str:
        """Return the change in a few words."""
        return f"fails with {self.error_type.removeprefix('builtins.')}: {self.message}"


@dataclass(frozen=True)
class Prompt(Change):
    """Another system prompt, in all requests from the step on.

    Attributes:
        text: The prompt.
    """

    name: ClassVar[str] = "prompt"

    text: str

    @property
    def edit(self) -> RequestEdit:
        """The change of every request to a model from the step on."""
        return RequestEdit(system=self.text)

    def describe(self, before: Value) -> str:
        """Return the change in a few words."""
        return "system prompt -> " + short_pair(None, self.text)[1]


@dataclass(frozen=True)
class Message(Change):
    """Another text of the user's last message, in all requests from the step on.

    Attributes:
        text: The message.
    """

    name: ClassVar[str] = "message"

    text: str

    @property
    def edit(self) -> RequestEdit:
        """The change of every request to a model from the step on."""
        return RequestEdit(message=self.text)

    def describe(self, before: Value) -> str:
        """Return the change in a few words."""
        return "the user's last message -> " + short_pair(None, self.text)[1]


@dataclass(frozen=True)
class Model(Change):
    """Another model, or other parameters of its sampling, in all requests from the step on.

    Attributes:
        model: The name of the model; "" leaves it as it is.
        parameters: Parameters by the provider's own names, e.g. {"temperature": 0}.
    """

    name: ClassVar[str] = "model"

    model: str = ""
    parameters: Mapping[str, Value] = field(default_factory=dict)

    @property
    def edit(self) -> RequestEdit:
        """The change of every request to a model from the step on."""
        return RequestEdit(model=self.model or None, parameters=self.parameters)

    def describe(self, before: Value) -> str:
        """Return the change in a few words."""
        parts = [f"model -> {self.model}"] if self.model else []
        parts += [f"{name} -> {short_pair(None, v)[1]}" for name, v in self.parameters.items()]
        return ", ".join(parts)

    def to_json(self) -> JsonObject:
        """Return the change as plain data, for `change_of`."""
        return {"name": self.name, "model": self.model, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class ToolDefinition(Change):
    """Another description, or schema, of a tool, in all requests from the step on.

    Attributes:
        tool: The name of the tool.
        description: Its description; None leaves it as it is.
        schema: The JSON Schema of its arguments; None leaves it as it is.
    """

    name: ClassVar[str] = "tool"

    tool: str
    description: str | None = None
    schema: Value = None

    @property
    def edit(self) -> RequestEdit:
        """The change of every request to a model from the step on."""
        changes: dict[str, Value] = {}
        if self.description is not None:
            changes["description"] = self.description
        if self.schema is not None:
            changes["schema"] = self.schema
        return RequestEdit(tools={self.tool: changes})

    def describe(self, before: Value) -> str:
        """Return the change in a few words."""
        parts = [] if self.description is None else ["description"]
        parts += [] if self.schema is None else ["schema"]
        return f"another {' and '.join(parts)} of the tool {self.tool}"


KINDS: tuple[type[Change], ...] = (
    Change,
    Arguments,
    Result,
    ToolError,
    Prompt,
    Message,
    Model,
    ToolDefinition,
)


def change_of(data: JsonObject) -> Change:
    """Return the change that `Change.to_json` gave.

    >>> change_of(Prompt("Be brief.").to_json())
    Prompt(text='Be brief.')
    """
    fields: dict[str, Any] = dict(data)
    name = fields.pop("name")
    kind = next(kind for kind in KINDS if kind.name == name)
    return kind(**fields)
