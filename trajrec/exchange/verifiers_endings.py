"""How a trace of verifiers began and ended: its task, run, times, errors, and whose fault they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from trajrec.exchange.account import Account
from trajrec.exchange.reading import Place, dicts_of, text_of, texts_by_key
from trajrec.exchange.records import Ending, Fault, ImportedEpisode
from trajrec.types import JsonObject

ERROR = frozenset(("type", "message", "traceback"))

_LIMITS = frozenset(
    ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "compaction_failed")
)

# The parts that an error may have crossed, by its class.
_INFRA = frozenset(
    ("ProviderError", "SandboxError", "InterceptionError", "TunnelError", "ToolsetError")
)


def last_end(timing: JsonObject, account: Account) -> int:
    """Return the end of the last stage that has one."""
    ends = (texts_by_key(stage).get("end") for stage in timing.values())
    return max((account.time(end) for end in ends if end), default=0)


def add_standing(episode: ImportedEpisode, record: JsonObject, whole: JsonObject) -> None:
    """Add the task, run and ending of a trace, or of an episode without one."""
    task = texts_by_key(record.get("task"))
    data = texts_by_key(task.get("data"))
    env = text_of(texts_by_key(whole.get("env")).get("id"))
    name = text_of(data.get("name")) or text_of(data.get("idx")) or text_of(task.get("key"))
    episode.task = f"{env}/{name}" if env and name else name
    episode.task_revision = text_of(task.get("hash"))
    group = texts_by_key(whole.get("group")).get("id") or task.get("key")
    metadata = {
        "run": texts_by_key(whole.get("run")).get("id"),
        "group": group,
        "agent": texts_by_key(record.get("agent")).get("name"),
    }
    episode.metadata = {name: value for name, value in metadata.items() if type(value) is str}
    errors = record.get("errors")
    last = texts_by_key(errors[-1]) if type(errors) is list and errors else {}
    is_ok = record.get("ok") is True
    episode.stop_reason = text_of(record.get("stop_condition"))
    episode.ending = _ending(record, has_failed=bool(last) and not is_ok)
    if episode.ending == "error":
        episode.fault = _fault_of(text_of(last.get("type")), record)


def _ending(record: JsonObject, *, has_failed: bool) -> Ending:
    if has_failed:
        return "error"
    if record.get("is_timeout") is True or record.get("stop_condition") in _LIMITS:
        return "truncated"
    return "terminated" if record.get("is_completed") is True else "unknown"


def _fault_of(kind: str, record: JsonObject) -> Literal["", "infra", "verifier", "env"]:
    """Return the component that an error of a class is the fault of, "" if it may be the agent."""
    if kind in _INFRA:
        return "infra"
    if kind == "TaskError":
        # Of code of the task: its hooks, or its rewards.
        scoring = texts_by_key(texts_by_key(record.get("timing")).get("scoring"))
        return "verifier" if scoring.get("start") else "env"
    return "env" if kind == "EnvError" else ""


def faults_of(
    record: JsonObject, place: Place, account: Account, *, is_retried: bool
) -> Iterator[Fault]:
    """Yield the errors of all attempts; the trace is that of the last one."""
    for error in dicts_of(place, record.get("errors"), "errors"):
        rest = account.take(error, "error", ERROR) or {}
        kind = text_of(error.get("type"))
        yield Fault(
            origin="infra" if kind in _INFRA else "scaffold",
            error_type=kind,
            message=text_of(error.get("message")),
            traceback=text_of(error.get("traceback")),
            extra={**rest, "is_retried": True} if is_retried else rest or None,
        )
