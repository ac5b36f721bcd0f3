"""The calls of an agent's episode as lines of a table: what was asked, when, and what came of it."""

from __future__ import annotations

from typing import NamedTuple

from trajrec.corpus.call_contents import content_of
from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import Attempt, ModelCall
from trajrec.types import Value
from trajrec.values.json import to_text
from trajrec.values.pictures import with_named_pictures
from trajrec.values.shown import counted

COLUMNS = ("step", "time", "call", "arguments", "outcome", "result", "changes")

# Characters of a text in a cell.
_ANSWER_LENGTH = 100
_VALUE_LENGTH = 60


class AgentLine(NamedTuple):
    """A line.

    Attributes:
        key: Tells the call from all others of the episode.
        is_open: Whether the log does not hold its end yet.
        cells: The values of `COLUMNS`.
    """

    key: tuple[str, int, int, int]
    is_open: bool
    cells: tuple[Value, ...]


def agent_lines(episode: Episode) -> list[AgentLine]:
    """Return model calls and attempts by step; within a step the model's decision comes first."""
    started_ns = None if episode.start is None else episode.start.time_ns
    return [
        _model_line(item, started_ns) if isinstance(item, ModelCall) else _line(item, started_ns)
        for item in calls_in_order(episode)
    ]


def calls_in_order(episode: Episode) -> list[Attempt | ModelCall]:
    """Return model calls and attempts by step; within a step the model's decision comes first."""
    items: list[Attempt | ModelCall] = [
        *episode.transcript.model_calls,
        *episode.transcript.attempts,
    ]
    return sorted(
        items, key=lambda item: (item.start.step, isinstance(item, Attempt), item.start.time_ns)
    )


def _line(item: Attempt, started_ns: int | None) -> AgentLine:
    outcome = f"{item.outcome}, tried again by {item.retry_by}" if item.retry_by else item.outcome
    message = item.end.message if item.end is not None and item.has_failed else None
    n_changes = sum(map(len, item.changes.values()))
    cells = (
        item.start.step,
        _time(item.start.time_ns, started_ns),
        item.tool,
        short(item.arguments, _VALUE_LENGTH),
        outcome,
        message or short(item.result, _VALUE_LENGTH),
        n_changes or None,
    )
    return AgentLine(("call", *item.key), item.outcome == "open", cells)


def _model_line(item: ModelCall, started_ns: int | None) -> AgentLine:
    cells = (
        item.start.step,
        _time(item.start.time_ns, started_ns),
        f"model {item.request.get('model') or ''}".strip(),
        counted(len(item.messages), "message"),
        item.outcome,
        _said(item),
        None,
    )
    return AgentLine(("model", item.start.number, 0, 0), item.outcome == "open", cells)


def _said(item: ModelCall) -> str | None:
    """Return what the model said and which tools it called; its whole answer if that is unknown.

    Of a call that failed, return the error.
    """
    if (
        item.outcome == "error"
        and item.end is not None
        and (item.end.message or item.end.error_type)
    ):
        # A client that tries again may not read the body of a failure.
        return item.end.message or item.end.error_type
    if not item.has_answer:
        return None
    answer = content_of(item).answer
    calls = () if answer is None else answer.calls
    said = "" if answer is None else (answer.text or "").strip()
    if calls:
        said = f"{said} -> {', '.join(call.name or '?' for call in calls)}".strip()
    if said:
        return said if len(said) <= _ANSWER_LENGTH else said[: _ANSWER_LENGTH - 1] + "…"
    return short(item.answer, _ANSWER_LENGTH)


def _time(time_ns: int, started_ns: int | None) -> str | None:
    """Return the seconds since the episode began; None if a time is unknown, which is stored as 0."""
    if not time_ns or not started_ns:
        return None
    return f"{(time_ns - started_ns) / 1e9:+.1f} s"


def short(value: Value, length: int) -> str:
    """Return a value as JSON, cut off; pictures in it are named by their types and sizes."""
    text = to_text(with_named_pictures(value))
    return text if len(text) <= length else text[: length - 1] + "…"
