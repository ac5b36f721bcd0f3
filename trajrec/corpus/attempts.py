"""Attempts at tool calls: which one retries which, and which retry succeeded."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trajrec.log.events import CallEnd, CallStart
from trajrec.types import JsonObject, Value
from trajrec.values.diff import Change, diff

AttemptKey = tuple[int, int, int]
"""Step, call and attempt."""


# An index makes one of each call: a struct takes a third of the time of a dataclass.
class Attempt(msgspec.Struct, kw_only=True):
    """One attempt at executing a tool call.

    Attributes:
        start: The recorded begin.
        end: The recorded end; None if the log ends before it.
        arguments: The arguments, by name.
        result: The returned value; None if the attempt raised.
        retry_of: The failed attempt that this one repeats; None if it repeats none.
        retry_by: Who retried: agent, scaffold, transport or harness; "" if it is no retry.
        recovered_at: The step at which a retry of this failed attempt succeeded; None if none did.
        recovered_by: Who made that retry.
        changes: The changes that it made, by part of the state.
        digests: The digests afterwards of the parts that changed, or that were compared late.
        open_paths: Parts of the state in whose changes the types of keys are unknown: the paths
            hold them as texts. Only logs of format 1 have such paths.
        notes: Findings, e.g. a tool that was declared to read changed the state.
        state_digest: Digest of all watched parts after it, as checks store it; None if it has not
            ended, if nothing was watched, or if a part is unknown.
        unproved: Names of the parts that were not compared after it, because its tool is declared
            `read`, and of which no later comparison proved that they had not changed.
    """

    start: CallStart
    end: CallEnd | None
    arguments: JsonObject
    result: Value = None
    retry_of: AttemptKey | None = None
    retry_by: str = ""
    recovered_at: int | None = None
    recovered_by: str = ""
    changes: dict[str, list[Change]] = msgspec.field(default_factory=dict)
    digests: dict[str, str] = msgspec.field(default_factory=dict)
    open_paths: set[str] = msgspec.field(default_factory=set)
    notes: list[str] = msgspec.field(default_factory=list)
    state_digest: str | None = None
    unproved: frozenset[str] = frozenset()

    @property
    def key(self) -> AttemptKey:
        """Step, call and attempt."""
        return self.start.step, self.start.call, self.start.attempt

    @property
    def tool(self) -> str:
        """The tool's name."""
        return self.start.tool

    @property
    def outcome(self) -> str:
        """One of ok, error, timeout and cancelled; open if the log ends before the attempt."""
        return "open" if self.end is None else self.end.outcome

    @property
    def has_failed(self) -> bool:
        """Whether the attempt ended without success."""
        return self.end is not None and self.end.outcome != "ok"

    @property
    def latency_ms(self) -> float | None:
        """Duration in milliseconds; None if the attempt is open, or a time is unknown."""
        return (
            None if self.end is None else milliseconds_between(self.start.time_ns, self.end.time_ns)
        )


def milliseconds_between(start_ns: int, end_ns: int) -> float | None:
    """Return the milliseconds between two times, None if one of them is unknown (0)."""
    return (end_ns - start_ns) / 1e6 if start_ns and end_ns else None


def link_retries(attempts: Sequence[Attempt]) -> None:
    """Mark the retries of the agent: a call of a tool whose last call failed."""
    last: dict[str, Attempt] = {}
    for attempt in attempts:
        tool = attempt.start.tool
        before = last.get(tool)
        # In this order: most calls follow none that failed.
        if before is not None and before.has_failed and attempt.retry_of is None:
            key = before.key
            if key[:2] != attempt.key[:2]:
                attempt.retry_of = key
                attempt.retry_by = "agent"
        last[tool] = attempt


def mark_recoveries(attempts: Sequence[Attempt]) -> None:
    """Mark the failed attempts in whose line of retries one succeeded."""
    by_key = _by_key(attempts)
    for attempt in attempts:
        if attempt.retry_of is None or attempt.outcome != "ok":
            continue
        failed = by_key.get(attempt.retry_of)
        # Marked attempts end the line: a log that contradicts itself may have a circle.
        while failed is not None and failed.has_failed and failed.recovered_at is None:
            failed.recovered_at = attempt.start.step
            failed.recovered_by = attempt.retry_by
            failed = by_key.get(failed.retry_of) if failed.retry_of else None


def argument_changes(attempts: Sequence[Attempt]) -> dict[AttemptKey, list[Change]]:
    """Return the changes from the arguments of a failed attempt to those of its retry, by retry."""
    by_key = _by_key(attempts)
    return {
        attempt.key: diff(by_key[attempt.retry_of].arguments, attempt.arguments)
        for attempt in attempts
        if attempt.retry_of in by_key
    }


def _by_key(attempts: Sequence[Attempt]) -> dict[AttemptKey, Attempt]:
    """Return the attempts by key, of which only retries make use: {} if there are none."""
    if all(attempt.retry_of is None for attempt in attempts):
        return {}
    return {attempt.key: attempt for attempt in attempts}
