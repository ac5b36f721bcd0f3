"""The base class of all records, the events of agents, and the records that are appended later.

`trajrec.log.schema` has the other records and the rules for changing one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trajrec.protocols import Access


class Record(msgspec.Struct, frozen=True, array_like=True):
    """The base class of all records: immutable, and stored as an array of its fields."""


class TaskStart(Record, tag="task", frozen=True, kw_only=True):
    """The task of an agent's episode. It follows the EpisodeStart.

    Attributes:
        world: The class of the world as "module:Class", "" if there is no world.
        world_data: The world's arguments, None if they are unknown.
        tools_data: A list of [name, JSON schema or None, access, description].
        parts: The watched parts of the state, as (part, adapter, version of the adapter).
        caller_id: The episode in which this one was begun.
        caller_step: The step of the caller at which this episode was begun.
        held_seed: If not None, the clock stood still during the reset and each call, and unseeded
            generators were seeded from this number and the position of the call.
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
    """The start of one attempt at a tool call.

    Attributes:
        call: The number of the call in its step.
        attempt: The number of the attempt at this call.
        invalid: Why the call cannot be meant (an unknown tool, wrong arguments), "" if it can.
        retry_by: Who retried, for attempts after the first.
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
    """The end of an attempt. An attempt without one was open when the log ended.

    Attributes:
        outcome: "error" stands for a raised exception and for a result that reports an error.
        is_raised: Whether the tool raised.
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
    """The change of one part of the state by an attempt, or (step -1) the part at the reset.

    Attributes:
        data: The whole part at the reset, later the changes in the part's own form. None if only
            the digest is known.
        note: A warning: a tool that is declared to read has written, or the state could not be
            captured.
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
    """The start of one attempt at a model call, which opens a step. Large values are references.

    A conversation grows with each call, so only new messages are stored: the request had the first
    `kept` messages of model call `base` (-1: none), then `messages`.

    Attributes:
        request_data: The other arguments of the call.
    """

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
    """The answer to a model call. A streamed answer is the list of its pieces."""

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
    """A value from outside the program: of a clock, a generator, a network.

    A rerun of the agent gets the recorded value.
    """

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
    """A value that is stored once in a log. References name the BLAKE2b-128 digest of `data`."""

    episode: int
    digest: bytes
    data: bytes


class PostHocCheck(Record, tag="regrade", frozen=True, kw_only=True):
    """A later check of a recorded episode, whose own checks stay as they are.

    The other fields are those of `trajrec.log.schema.Check`.

    Attributes:
        episode: -1, since the episode is not in this log.
        target: The id of the episode.
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
    """Estimates for the steps of a recorded episode. A later run is another record.

    Attributes:
        episode: -1, since the episode is not in this log.
        target: The id of the episode.
        estimates_data: Columns by name: docs/reference/log-format.md lists them.
        rollouts_data: Columns by name, with one value for each rollout.
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
"""Events that only logs of agents, and logs of later checks and estimates, hold."""
