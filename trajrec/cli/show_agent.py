"""An agent's episode and its steps on a terminal."""

from __future__ import annotations

from trajrec.cli.agent_lines import COLUMNS, agent_lines, calls_in_order, short
from trajrec.cli.output import print_facts, print_findings, print_json, print_table
from trajrec.cli.safe_stream import one_line
from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import Attempt, ModelCall
from trajrec.log.events import PROGRAM, TaskStart
from trajrec.log.unseen_ways import unseen_of
from trajrec.types import JsonObject, Value
from trajrec.values.diff import MISSING, Change
from trajrec.values.json import to_json, to_json_value, to_pointer, typed_keys, with_keys
from trajrec.values.pictures import with_named_pictures

# Attempts and model calls of a long episode, half of them from each end: about a screen.
SHOWN_ROWS = 40

# Characters of the goal, which has a line of its own.
GOAL_LENGTH = 400


def print_episode(episode: Episode, *, as_json: bool) -> None:
    """Print an agent's goal, its tool and model calls in order, its failures and checks."""
    facts = _facts(episode)
    if as_json:
        print_json(facts)
        for row in json_rows(episode, None):
            print_json(row)
        return
    goal = facts["goal"]
    print_facts(facts | {"goal": None if goal is None else short(goal, GOAL_LENGTH)})
    rows = [line.cells for line in agent_lines(episode)]
    n_hidden = len(rows) - SHOWN_ROWS
    if n_hidden > 0:
        half = SHOWN_ROWS // 2
        rows = [
            *rows[:half],
            ("…", None, f"{n_hidden} more", None, None, None, None),
            *rows[-half:],
        ]
    print_table(COLUMNS, rows)
    attempts = episode.transcript.attempts
    # Where nothing is watched, as in a fork that a rerun made, it would be no finding.
    if facts["watched"] and attempts and all(not attempt.changes for attempt in attempts):
        print("\nno call changed any watched state")
    between = sorted({change.step for change in episode.transcript.program_changes})
    if between:
        steps = ", ".join("the reset" if step < 0 else f"step {step}" for step in between)
        print(f"\nthe agent's own program changed watched state after {steps}")
    print_findings(episode)


def print_step(episode: Episode, number: int, *, as_json: bool) -> None:
    """Print one step whole: the model's answer, each attempt at each call, and its changes.

    Raises:
        ValueError: The episode has no such step.
    """
    if not 0 <= number < episode.end_step:
        raise ValueError(
            f"step must be in [0, {episode.end_step}) of episode {episode.id}, got {number}"
        )
    for row in json_rows(episode, number):
        if as_json:
            print_json(row)
            continue
        for name, value in row.items():
            if name == "changes":
                for change in value:
                    _print_change(change)
            elif value not in (None, "", 0, []):
                value = with_named_pictures(value)
                text = value if isinstance(value, str) else to_json(value)
                print(f"{name:<13}  {one_line(text)}")
        print()


def _print_change(change: JsonObject) -> None:
    pointer = with_keys(change["path"], change["keys"])
    path = f"{change['part']}: {pointer}" if change["part"] else pointer
    before = to_json(change["before"]) if "before" in change else "(missing)"
    after = to_json(change["after"]) if "after" in change else "(missing)"
    print(one_line(f"changed        {path or '(all)'}: {before} -> {after}"))


def _facts(episode: Episode) -> JsonObject:
    transcript = episode.transcript
    task = transcript.task_start
    start = episode.start
    end = episode.end
    has_seed = start is not None and start.seed is not None
    return {
        "episode_id": episode.id,
        "parent_id": None if episode.fork is None else episode.fork.parent_id,
        "fork_step": None if episode.fork is None else episode.fork.step,
        "task": transcript.task,
        "goal": _stored(episode, None if task is None else task.goal_data),
        "metadata": _stored(episode, None if task is None else task.metadata_data),
        "world": transcript.world,
        "seed": f"{start.seed} ({start.seed_origin})" if start is not None and has_seed else None,
        "n_steps": episode.n_steps,
        "end_step": episode.end_step,
        "ending": episode.ending,
        "stop_reason": None if end is None else end.stop_reason,
        "claimed_done": None if end is None else end.claimed_done,
        "outcome": episode.outcome,
        "unseen": (None if end is None else unseen_of(end.extra_data)) or None,
        "watched": _watched(task),
        "interface": _stored(episode, None if task is None else task.interface_data),
        "caller": _caller(task),
        "log": str(episode.path),
    }


def _stored(episode: Episode, data: bytes | None) -> Value:
    """Return a stored value as JSON has it; None if there is none."""
    return None if data is None else to_json_value(episode.transcript.value(data))


def _watched(task: TaskStart | None) -> list[str]:
    parts = [] if task is None else task.parts
    return [f"{part or 'the world'} ({adapter})" for part, adapter, _ in parts]


def _caller(task: TaskStart | None) -> str | None:
    if task is None or task.caller_id is None:
        return None
    return f"{task.caller_id} at step {task.caller_step}"


def json_rows(episode: Episode, step: int | None) -> list[JsonObject]:
    """Return calls and changes by the agent's own program, of one step or of all, in order."""
    items = [item for item in calls_in_order(episode) if step is None or item.start.step == step]
    rows = [_model_row(item) if isinstance(item, ModelCall) else _call_row(item) for item in items]
    between = [
        {
            "step": one.step,
            "actor": PROGRAM,
            "changes": _changes_of(one.part, one.changes, has_typed_paths=one.has_typed_paths),
        }
        for one in episode.transcript.program_changes
        if step is None or one.step == step
    ]
    # Behind the calls of their step, in whose course they may have been made.
    return sorted([*rows, *between], key=lambda row: row["step"])


def _model_row(item: ModelCall) -> JsonObject:
    # The tools are the same in each request and would fill the screen.
    parameters = {key: value for key, value in item.request.items() if key != "tools"}
    return {
        "step": item.start.step,
        "model_call": item.start.number,
        "parameters": to_json_value(parameters),
        "messages": to_json_value(item.messages),
        "answer": to_json_value(item.answer) if item.has_answer else None,
        "outcome": item.outcome,
        "error": _error(item),
    }


def _call_row(item: Attempt) -> JsonObject:
    has_result = bool(item.left_ns) if item.end is None else not item.end.is_raised
    retry_of = None
    if item.retry_of is not None:
        retry_of = f"step {item.retry_of[0]}, by {item.retry_by}"
    return {
        "step": item.start.step,
        "call": item.start.call,
        "attempt": item.start.attempt,
        "tool": item.tool,
        "arguments": to_json_value(item.arguments),
        "outcome": item.outcome,
        "result": to_json_value(item.result) if has_result else None,
        "error": _error(item),
        "retry_of": retry_of,
        "recovered_at": item.recovered_at,
        "latency_ms": None if item.latency_ms is None else round(item.latency_ms, 3),
        "finding": "; ".join(item.notes),
        "changes": _changes(item),
    }


def _changes(item: Attempt) -> list[JsonObject]:
    return [
        row
        for part, changes in item.changes.items()
        for row in _changes_of(part, changes, has_typed_paths=part not in item.open_paths)
    ]


def _changes_of(part: str, changes: list[Change], *, has_typed_paths: bool) -> list[JsonObject]:
    rows: list[JsonObject] = []
    for change in changes:
        row: JsonObject = {
            "part": part,
            "path": to_pointer(change.path),
            "keys": typed_keys(change.path) if has_typed_paths else None,
        }
        # A key that is absent says that there was no value; null is a value.
        if change.before is not MISSING:
            row["before"] = to_json_value(change.before)
        if change.after is not MISSING:
            row["after"] = to_json_value(change.after)
        rows.append(row)
    return rows


def _error(item: Attempt | ModelCall) -> str | None:
    if item.end is None or not item.end.error_type:
        return None
    return f"{item.end.error_type}: {item.end.message}"
