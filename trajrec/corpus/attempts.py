"""Attempts at tool calls: which one retries which, and which retry succeeded."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from trajrec.log.events import CallEnd, CallStart
from trajrec.log.source_facts import is_unknown
from trajrec.types import JsonObject, Value
from trajrec.values.diff import Change, diff

AttemptKey = tuple[int, int, int]
"""Step, call and attempt."""


# An index makes one of each call: a struct takes a third of the time of a dataclass.
class Attempt(msgspec.Struct, kw_only=True):
    """One attempt at executing a tool call.

    Attributes:
        start: The recorded begin.
        end: The recorded end; None if the log or the episode ends before it.
        arguments: The arguments, by name.
        result: The returned value; None if the attempt raised. Of a generator, the list of its
            items, also if it has no end.
        retry_of: The failed attempt that this one repeats; None if it repeats none.
        followed_by: The next call of the tool after this failed attempt, if it is no retry.
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
        left_ns: The time at which the episode ended before a generator did; 0 if it did not.
        is_from_wire: Whether it is known from the model calls alone: its tool was not recorded.
        is_outcome_known: Whether it is known if it failed: many model calls tell no more than a
            text.
        unproved: Names of the parts that were not compared after it, because its tool is declared
            `read`, and of which no later comparison proved that they had not changed.
    """

    start: CallStart
    end: CallEnd | None
    arguments: JsonObject
    result: Value = None
    retry_of: AttemptKey | None = None
    followed_by: AttemptKey | None = None
    retry_by: str = ""
    recovered_at: int | None = None
    recovered_by: str = ""
    changes: dict[str, list[Change]] = msgspec.field(default_factory=dict)
    digests: dict[str, str] = msgspec.field(default_factory=dict)
    open_paths: set[str] = msgspec.field(default_factory=set)
    notes: list[str] = msgspec.field(default_factory=list)
    state_digest: str | None = None
    left_ns: int = 0
    is_from_wire: bool = False
    is_outcome_known: bool = True
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
        """One of ok, error, timeout, cancelled and unknown; open if the log or episode ends first."""
        if self.end is None:
            return "open"
        if not self.is_outcome_known or is_unknown(self.end.extra_data):
            return "unknown"
        return self.end.outcome

    @property
    def has_failed(self) -> bool:
        """Whether the attempt ended without success."""
        return self.end is not None and self.end.outcome != "ok"

    @property
    def latency_ms(self) -> float | None:
        """Duration in milliseconds; None if the attempt is open, or its times do not tell it."""
        return (
            None if self.end is None else milliseconds_between(self.start.time_ns, self.end.time_ns)
        )


def milliseconds_between(start_ns: int, end_ns: int) -> float | None:
    """Return the milliseconds between two times, None if one of them is unknown (0).

    None too if the end lies before the start: the machine's clock was put back between them.
    """
    return (end_ns - start_ns) / 1e6 if start_ns and start_ns <= end_ns else None


MAX_OPEN_FAILURES = 64
"""Failed attempts of a tool that a later call may retry: with more, an episode of nothing but
failures would take time by its square."""

KEY_WORDS = """
account city cmd code command customer email file filename id ids item key name number order path
pattern phone product query question recipient ref sku ticket title uri url user username
"""
"""The last word of the name of an argument that says what a call is about.

Not what holds many such things, such as a folder, a day or a place of departure: two calls that
have it in common may be about two things.
"""

_KEY_WORDS = frozenset(KEY_WORDS.split())
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")


def is_key_like(name: str, value: Value) -> bool:
    """Return whether an argument says what a call is about: a text or number by such a name.

    >>> is_key_like("orderId", "O1"), is_key_like("cents", 540), is_key_like("path", ["a"])
    (True, False, False)
    """
    words = _WORD.findall(name)
    return type(value) in (str, int) and bool(words) and words[-1].lower() in _KEY_WORDS


def link_retries(attempts: Sequence[Attempt]) -> None:
    """Mark the retries of the agent, and the calls that only follow a failed one.

    A retry is a call of the same tool that began after the failed one had ended, in a later step:
    calls of one answer of a model are never retries of each other. It has the same arguments, or
    changed ones of which a key-like one is the same. Any other call of the tool says nothing of
    whether the failure was overcome: it is `followed_by`. Each failure has one retry at most.
    """
    failed: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        tool = attempt.start.tool
        # In this order: most calls follow none that failed.
        open_failures = failed.get(tool)
        if open_failures and attempt.retry_of is None:
            _link(attempt, open_failures)
        if attempt.has_failed:
            failed.setdefault(tool, []).append(attempt)
            del failed[tool][:-MAX_OPEN_FAILURES]


def _link(attempt: Attempt, open_failures: list[Attempt]) -> None:
    """Mark which of some failures an attempt retries or follows."""
    # An attempt that was repeated by the program has its retry already: the last one counts.
    earlier = [
        other
        for other in open_failures
        if other.key[:2] != attempt.key[:2] and _has_ended_before(other, attempt)
    ]
    same = [other for other in earlier if _have_same_arguments(other, attempt)]
    alike = same or [other for other in earlier if _shares_key(other, attempt)]
    if alike:
        retried = alike[-1]
        attempt.retry_of = retried.key
        attempt.retry_by = "agent"
        open_failures.remove(retried)
    elif earlier and earlier[-1].followed_by is None:
        earlier[-1].followed_by = attempt.key


def _has_ended_before(other: Attempt, attempt: Attempt) -> bool:
    if other.start.step >= attempt.start.step:
        return False
    end = other.end
    # A time of 0 is unknown: the steps alone tell.
    if end is None or not end.time_ns or not attempt.start.time_ns:
        return True
    return end.time_ns <= attempt.start.time_ns


def _have_same_arguments(other: Attempt, attempt: Attempt) -> bool:
    # Bytes first. Values that differ in the order of keys alone are the same.
    same_bytes = other.start.arguments_data == attempt.start.arguments_data
    return same_bytes or not diff(other.arguments, attempt.arguments)


def _shares_key(other: Attempt, attempt: Attempt) -> bool:
    """Return whether two calls have a key-like argument in common."""
    return any(
        is_key_like(name, value)
        and type(attempt.arguments.get(name)) is type(value)
        and attempt.arguments[name] == value
        for name, value in other.arguments.items()
    )


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
