"""The first difference between an agent's run and its recording, and how it is printed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trajrec.types import Value
from trajrec.values.diff import Change
from trajrec.values.json import describe_path, to_json
from trajrec.values.shown import short_texts

# Changes that are printed: the first ones nearly always show the cause.
SHOWN_CHANGES = 8

# Characters that are printed of a value, about two lines of a terminal.
SHOWN_CHARS = 200

RequestKind: TypeAlias = Literal[
    "model call", "tool call", "side effect", "end", "tool result", "check", "state"
]


@dataclass(frozen=True)
class AgentDifference:
    """The first request of an agent that differs from its recording.

    Attributes:
        step: The step, from 0.
        kind: "model call", "tool call" or "side effect"; "end" if the agent ended too early. Of a
            control of `trajrec.replay.what_if`: "tool result", "check" or "state" too.
        recorded: The recorded request, as plain data; None if the recording has no more of them.
        actual: The request of this run, as plain data; None if the agent has ended.
        changes: The differences between the two requests.
    """

    step: int
    kind: RequestKind
    recorded: Value
    actual: Value
    changes: tuple[Change, ...] = ()

    def __str__(self) -> str:
        head = f"step {self.step}, {self.kind}: "
        if self.recorded is None:
            return f"{head}the recording has no more of them; now {_shorten(self.actual)}"
        if self.actual is None:
            return f"{head}the agent ended before {_shorten(self.recorded)}"
        lines = [line for change in self.changes[:SHOWN_CHANGES] for line in _lines(change)]
        if len(self.changes) > SHOWN_CHANGES:
            lines.append(f"  and {len(self.changes) - SHOWN_CHANGES} more")
        return "\n".join([f"{head}it is not the recorded one", *lines])


def _lines(change: Change) -> list[str]:
    """Return a change as lines; of texts with several lines, only those that differ."""
    path = describe_path(change.path)
    before = change.before
    after = change.after
    is_text = isinstance(before, str) and isinstance(after, str)
    if not is_text or not ("\n" in before or "\n" in after):
        recorded, now = short_texts(to_json(before), to_json(after), SHOWN_CHARS)
        return [f"  {path}: recorded {recorded}, now {now}"]
    lines = difflib.unified_diff(
        before.splitlines(),
        after.splitlines(),
        fromfile="recorded",
        tofile="now",
        lineterm="",
        n=1,
    )
    return [f"  {path}:", *(f"    {line}" for line in lines)]


def _shorten(value: Value) -> str:
    text = to_json(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
