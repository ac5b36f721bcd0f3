"""What every record is; and the records that only logs of agents hold, and those that are appended to a corpus later.

See trajrec.log.schema for the others and for the rules.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trajrec.protocols import Access


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What every record is."""


class TaskStart(Record, tag="task", frozen=True, kw_only=True):
    """What an agent was asked to do and where: follows the EpisodeStart of an agent's episode.

    `world` names the world's class as "module:Class", "" where there is none; `world_data` its arguments, None where unknown.
    `tools_data` lists (name, JSON schema or None, access); `parts` how each part of the state was captured, as (part, adapter,
    version). `caller_id` and `caller_step` say in which episode, at which step, this one was begun. With `held_seed` the
    clock was held at the time of the reset and of each call, and what draws unseeded was seeded from it and the call's place.
    """

    episode: int
    task: str
    goal_data: bytes | None
    world: str
    world_data: bytes | None
    tools_data: bytes
    parts: list[tuple[str, str, int]]
    interface_data: bytes | None
    metadata_data: bytes | None
    caller_id: str | None = None
    caller_step: int | None = None
    held_seed: int | None = None


RetryBy = Literal["", "agent", "scaffold", "transport", "harness"]


class CallStart(Record, tag="call", frozen=True, kw_only=True):
    """One attempt at a tool call. `call` counts the calls of a step, `attempt` the tries of a call.

    `invalid` says why the call could not be what the agent meant (an unknown tool, arguments that do not fit), "" where it
    could. `retry_by` says who tried again, for attempts beyond the first.
    """

    episode: int
    step: int
    call: int
    attempt: int
    time_ns: int
    tool: str
    call_id: str
    arguments_data: bytes
    access: Access
    invalid: str = ""
    retry_by: RetryBy = ""
    backoff_ns: int = 0
    is_redacted: bool = False


class CallEnd(Record, tag="result", frozen=True, kw_only=True):
    """What came of an attempt. Without one the attempt was open when the log ended.

    `outcome` "error" covers what the tool raised and what it returned as an error (`is_raised` tells them apart).
    """

    episode: int
    step: int
    call: int
    attempt: int
    time_ns: int
    outcome: Literal["ok", "error", "timeout", "cancelled"]
    result_data: bytes | None
    is_raised: bool = False
    origin: str = ""
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    is_redacted: bool = False
    is_async: bool = False


class StateChange(Record, tag="state", frozen=True, kw_only=True):
    """What an attempt changed in one part of the state; step -1 is the reset, where `data` holds the part whole.

    Otherwise `data` holds the changes, in the part's own form, or None where only the digest is known. `note` says what is
    remarkable: a tool that was declared to read wrote; the state could not be captured.
    """

    episode: int
    step: int
    call: int
    attempt: int
    part: str
    digest: str
    data: bytes | None
    note: str = ""


class ModelStart(Record, tag="model", frozen=True, kw_only=True):
    """One attempt at a model call, which opens a step. The messages are those of an earlier call of the episode and new ones:
    the first `kept` of model call `base` (-1: none), then `messages`. `request_data` holds the other arguments. Large values
    are references to blobs."""

    episode: int
    step: int
    number: int
    time_ns: int
    function: str
    request_data: bytes
    base: int
    kept: int
    messages: list[bytes]
    attempt: int = 0
    retry_by: RetryBy = ""
    is_redacted: bool = False


class ModelEnd(Record, tag="answer", frozen=True, kw_only=True):
    """What a model answered; streamed answers come as the list of their pieces."""

    episode: int
    number: int
    time_ns: int
    outcome: Literal["ok", "error", "cancelled"]
    answer_data: bytes | None
    is_streamed: bool = False
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    is_redacted: bool = False
    is_async: bool = False


class EffectValue(Record, tag="effect", frozen=True, kw_only=True):
    """A value that entered from outside the program: clock, random, network. Given back when the agent is run again."""

    episode: int
    step: int
    time_ns: int
    name: str
    arguments_data: bytes
    value_data: bytes | None
    error_type: str = ""
    message: str = ""
    is_redacted: bool = False


class Blob(Record, tag="blob", frozen=True):
    """A value stored once in a log; others refer to it by its digest (BLAKE2b-128 of `data`)."""

    episode: int
    digest: bytes
    data: bytes


class PostHocCheck(Record, tag="regrade", frozen=True, kw_only=True):
    """A check of an episode that was recorded before, in whatever log: `target` is its id. Nothing recorded is overwritten.

    The fields are those of `Check`; `episode` is -1, for it is none of this log's.
    """

    episode: int
    target: str
    step: int
    time_ns: int
    check_id: str
    version: str
    family: str
    status: Literal["ok", "error", "not_evaluated"]
    verdict: bool | None
    score: float | None
    evidence_data: bytes | None
    code_digest: str | None
    state_digest: str | None


class CreditRun(Record, tag="credit", frozen=True, kw_only=True):
    """Estimates for the steps of an episode, from rollouts of its forks.

    `target` is the episode's id; the episode may lie in another log, so `episode` is -1. Runs are
    only appended: a later run is another record. `estimates_data` and `rollouts_data` hold columns
    by name; docs/reference/log-format.md lists them.
    """

    episode: int
    target: str
    run_id: str
    time_ns: int
    policy: str
    noise: str
    root: int
    level: str
    notes: list[str]
    estimates_data: bytes
    rollouts_data: bytes


AgentEvent = (
    TaskStart
    | CallStart
    | CallEnd
    | StateChange
    | ModelStart
    | ModelEnd
    | EffectValue
    | Blob
    | PostHocCheck
    | CreditRun
)
"""What only logs of agents hold."""
