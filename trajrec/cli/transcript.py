"""What an agent's episode and its steps look like on a terminal."""

from __future__ import annotations

from typing import Any

from trajrec.cli.output import print_facts, print_findings, print_json, print_table
from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import Attempt, ModelCall
from trajrec.values.diff import MISSING
from trajrec.values.json import to_json

SHOWN_ATTEMPTS = 40


def print_agent(episode: Episode, *, as_json: bool) -> None:
    """Print what an agent was asked, its calls and model calls in order, and what checks said."""
    transcript, facts = episode.transcript, _facts(episode)
    if as_json:
        print_json(facts)
        for row in _rows(episode, None):
            print_json(row)
        return
    print_facts(facts)
    rows = [_line(item) for item in _in_order(episode)]
    hidden = len(rows) - SHOWN_ATTEMPTS
    if hidden > 0:
        half = SHOWN_ATTEMPTS // 2
        rows = [*rows[:half], ("…", f"{hidden} more", None, None, None), *rows[-half:]]
    print_table(("step", "what", "arguments", "outcome", "result"), rows)
    if transcript.attempts and all(not attempt.changes for attempt in transcript.attempts):
        print("\nno call changed any state that was watched")
    print_findings(episode)


def print_agent_step(episode: Episode, number: int, *, as_json: bool) -> None:
    """Print one step of an agent whole: what the model said, each try of each call, what it changed.

    Raises:
        ValueError: There is no such step.
    """
    if not 0 <= number < episode.end_step:
        raise ValueError(
            f"episode {episode.id} has no step {number}: it has steps 0 to {episode.end_step - 1}"
        )
    for row in _rows(episode, number):
        if as_json:
            print_json(row)
            continue
        for name, value in row.items():
            if name == "changes":
                for path, before, after in value:
                    print(f"changed        {path}: {before} -> {after}")
            elif value not in (None, "", 0):
                print(f"{name:<13}  {value}")
        print()


def _facts(episode: Episode) -> dict[str, Any]:
    transcript, start, end = episode.transcript, episode.start, episode.end
    task = transcript.task_start
    return {
        "episode_id": episode.id,
        "parent_id": None if episode.fork is None else episode.fork.parent_id,
        "fork_step": None if episode.fork is None else episode.fork.step,
        "task": transcript.task,
        "goal": None
        if task is None or task.goal_data is None
        else _short(transcript.value(task.goal_data), 400),
        "world": transcript.world,
        "seed": None
        if start is None or start.seed is None
        else f"{start.seed} ({start.seed_origin})",
        "n_steps": episode.n_steps,
        "end_step": None if episode.fork is None else episode.end_step,
        "ending": episode.ending,
        "stop_reason": None if end is None else end.stop_reason,
        "claimed_done": None if end is None else end.claimed_done,
        "outcome": episode.outcome,
        "watched": [
            f"{part or 'the world'} ({name})"
            for part, name, _ in ([] if task is None else task.parts)
        ],
        "interface": None
        if task is None or task.interface_data is None
        else to_json(transcript.value(task.interface_data)),
        "within": None
        if task is None or task.caller_id is None
        else f"{task.caller_id} at step {task.caller_step}",
        "log": str(episode.path),
    }


def _in_order(episode: Episode) -> list[Attempt | ModelCall]:
    items: list[Attempt | ModelCall] = [
        *episode.transcript.model_calls,
        *episode.transcript.attempts,
    ]
    return sorted(
        items, key=lambda item: (item.start.step, isinstance(item, Attempt), item.start.time_ns)
    )


def _line(item: Attempt | ModelCall) -> tuple[Any, ...]:
    if isinstance(item, ModelCall):
        said = (
            None if item.end is None or item.end.answer_data is None else _short(item.answer, 100)
        )
        what = f"model {item.request.get('model') or ''}".strip()
        return item.start.step, what, f"{len(item.messages)} messages", item.outcome, said
    outcome = f"{item.outcome}, tried again by {item.retry_by}" if item.retry_by else item.outcome
    message = item.end.message if item.end is not None and item.has_failed else None
    return (
        item.start.step,
        item.tool,
        _short(item.arguments, 60),
        outcome,
        message or _short(item.result, 60),
    )


def _rows(episode: Episode, step: int | None) -> list[dict[str, Any]]:
    items = [item for item in _in_order(episode) if step is None or item.start.step == step]
    return [_model_row(item) if isinstance(item, ModelCall) else _call_row(item) for item in items]


def _model_row(item: ModelCall) -> dict[str, Any]:
    return {
        "step": item.start.step,
        "model_call": item.start.number,
        "parameters": to_json(
            {key: value for key, value in item.request.items() if key != "tools"}
        ),
        "messages": to_json(item.messages),
        "answer": None
        if item.end is None or item.end.answer_data is None
        else to_json(item.answer),
        "outcome": item.outcome,
        "error": _error(item),
    }


def _call_row(item: Attempt) -> dict[str, Any]:
    changes = [
        (
            f"{part}: {change.path}" if part else change.path,
            *(_value(value) for value in (change.before, change.after)),
        )
        for part, found in item.changes.items()
        for change in found
    ]
    return {
        "step": item.start.step,
        "call": item.start.call,
        "attempt": item.start.attempt,
        "tool": item.tool,
        "arguments": to_json(item.arguments),
        "outcome": item.outcome,
        "result": None if item.end is None or item.end.is_raised else to_json(item.result),
        "error": _error(item),
        "retry_of": None
        if item.retry_of is None
        else f"step {item.retry_of[0]}, by {item.retry_by}",
        "recovered_at": item.recovered_at,
        "latency_ms": None if item.latency_ms is None else round(item.latency_ms, 3),
        "finding": "; ".join(item.notes),
        "changes": changes,
    }


def _error(item: Attempt | ModelCall) -> str | None:
    return (
        None
        if item.end is None or not item.end.error_type
        else f"{item.end.error_type}: {item.end.message}"
    )


def _value(value: Any) -> str:
    return "(nothing)" if value is MISSING else to_json(value)


def _short(value: Any, length: int) -> str:
    text = to_json(value)
    return text if len(text) <= length else text[: length - 1] + "…"
