"""The base class of all records, and the events of agents.

`trajrec.log.schema` has the other records and the rules for changing one.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from trajrec.log.bounds import Count, CountOrNone, Time
from trajrec.protocols import Access


class Record(msgspec.Struct, frozen=True, array_like=True):
    """The base class of all records: immutable, and stored as an array of its fields."""


class TaskStart(Record, tag="task", frozen=True, kw_only=True):
    """The task of an episode. It follows the EpisodeStart, and each episode of an agent has one.

    Attributes:
        world: The class of the world as "module:Class", "" if there is no world.
        world_data: The world's arguments, None if they are unknown.
        tools_data: A list of [name, JSON schema or None, access, description].
        parts: The watched parts of the state, as (part, adapter, version of the adapter).
        caller_id: The episode in which this one was begun.
        caller_step: The last step of the caller when this episode was begun, -1 before the first.
        held_seed: If not None, the clock stood still during the reset and each call, and unseeded
            generators were seeded from this number and the position of the call.
        task_revision: The version of the task, "" if unknown.
        goal_digest: BLAKE2b-128 of `goal_data` after redaction, None if unknown.
        tools_digest: The same of `tools_data`.
        system_digest: The same of the system prompt.
    """

    episode: Count
    task: str = ""
    goal_data: bytes | None = None
    world: str = ""
    world_data: bytes | None = None
    tools_data: bytes | None = None
    parts: list[tuple[str, str, int]] = msgspec.field(default_factory=list)
    interface_data: bytes | None = None
    metadata_data: bytes | None = None
    caller_id: str | None = None
    caller_step: CountOrNone | None = None
    held_seed: int | None = None
    task_revision: str = ""
    goal_digest: bytes | None = None
    tools_digest: bytes | None = None
    system_digest: bytes | None = None
    extra_data: bytes | None = None


RetryBy = Literal["", "agent", "scaffold", "transport", "harness"]

Actor = Literal["agent", "user", "env", "scaffold", "system"]
"""Who acted: the agent, a user or a simulated one, the environment, the agent's program, or the
system that runs it."""

PROGRAM: Final = "scaffold"
"""The actor of a change of the state that was made while no recorded call ran."""


class CallStart(Record, tag="call", frozen=True, kw_only=True):
    """The start of one attempt at a tool call.

    Attributes:
        call: The number of the call in its step.
        attempt: The number of the attempt at this call.
        invalid: Why the call cannot be meant (an unknown tool, wrong arguments), "" if it can.
        retry_by: Who retried, for attempts after the first.
    """

    episode: Count
    step: Count
    call: Count
    attempt: Count
    time_ns: Time
    tool: str
    call_id: str
    arguments_data: bytes
    access: Access
    invalid: str = ""
    retry_by: RetryBy = ""
    backoff_ns: Time = 0
    is_redacted: bool = False
    actor: Actor = "agent"
    extra_data: bytes | None = None


class CallEnd(Record, tag="result", frozen=True, kw_only=True):
    """The end of an attempt. An attempt without one was open when the log ended.

    A provisional one (`trajrec.log.open_ends`) has the items of a generator that was open when the
    episode ended. Another end may come after it, which replaces it.

    Attributes:
        outcome: "error" stands for a raised exception and for a result that reports an error.
        is_raised: Whether the tool raised.
        extra_data: The parts of the state that were not compared, see `trajrec.log.assumptions`, or
            that the end is provisional.
    """

    episode: Count
    step: Count
    call: Count
    attempt: Count
    time_ns: Time
    outcome: Literal["ok", "error", "timeout", "cancelled"]
    result_data: bytes | None
    is_raised: bool = False
    origin: str = ""
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    is_redacted: bool = False
    is_async: bool = False
    extra_data: bytes | None = None


class StateChange(Record, tag="state", frozen=True, kw_only=True):
    """The change of one part of the state by an attempt, or (step -1) the part at the reset.

    A change by the actor `PROGRAM` was made between the calls. Its step is the last one that had
    begun, -1 before the first, and its call and attempt say nothing.

    Attributes:
        data: The whole part at the reset, later the changes in the part's own form. None if only
            the digest is known, or if the part was compared and had not changed.
        note: A warning: a tool that is declared to read has written, or the state could not be
            captured.
        actor: Who made the change.
        origin: "observed" by the recorder, or "reported" by an imported record: a reported change
            proves nothing in a replay.
        extra_data: The calls that it may come from, see `trajrec.log.assumptions`.
    """

    episode: Count
    step: CountOrNone
    call: Count
    attempt: Count
    part: str
    digest: str
    data: bytes | None
    note: str = ""
    actor: Actor = "agent"
    origin: Literal["observed", "reported"] = "observed"
    extra_data: bytes | None = None


class ModelStart(Record, tag="model", frozen=True, kw_only=True):
    """The start of one attempt at a model call, which opens a step. Large values are references.

    A conversation grows with each call, so only new messages are stored: the request had the first
    `kept` messages of model call `base` (-1: none), then `messages`.

    Attributes:
        request_data: The other arguments of the call.
        is_reconstructed: Whether the request was put together from a conversation, because the
            imported record has none.
    """

    episode: Count
    step: Count
    number: Count
    time_ns: Time
    function: str
    request_data: bytes
    base: CountOrNone
    kept: Count
    messages: list[bytes]
    attempt: Count = 0
    retry_by: RetryBy = ""
    is_redacted: bool = False
    actor: Actor = "agent"
    is_reconstructed: bool = False
    extra_data: bytes | None = None


class ModelEnd(Record, tag="answer", frozen=True, kw_only=True):
    """The answer to a model call. A provisional one is as in `ExchangeEnd`.

    A streamed answer is the list of its pieces; the first ones may be in AnswerParts.
    """

    episode: Count
    number: Count
    time_ns: Time
    outcome: Literal["ok", "error", "cancelled"]
    answer_data: bytes | None
    is_streamed: bool = False
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    is_redacted: bool = False
    is_async: bool = False
    extra_data: bytes | None = None


class AnswerPart(Record, tag="answer_part", frozen=True):
    """Some pieces of a streamed answer, in order. The ModelEnd has those after the last part.

    Attributes:
        data: The list of the pieces.
    """

    episode: Count
    number: Count
    time_ns: Time
    data: bytes


class SideEffect(Record, tag="side_effect", frozen=True, kw_only=True):
    """A value from outside the program: of a clock, a generator, a network.

    A rerun of the agent gets the recorded value.
    """

    episode: Count
    step: CountOrNone
    time_ns: Time
    name: str
    arguments_data: bytes
    value_data: bytes | None
    error_type: str = ""
    message: str = ""
    is_redacted: bool = False
    actor: Actor = "agent"
    extra_data: bytes | None = None


class Blob(Record, tag="blob", frozen=True):
    """A value that is stored once in a log. References name the BLAKE2b-128 digest of `data`."""

    episode: Count
    digest: bytes
    data: bytes


class ExchangeStart(Record, tag="exchange", frozen=True, kw_only=True):
    """An HTTP request: one attempt of a model call or of another exchange with a server.

    Attributes:
        number: The number of the exchange in its episode.
        model_call: The number of the model call that it belongs to, -1 if none is known.
        url: Without query and credentials.
        headers: Names and values, as far as they are kept.
        body_data: The decoded bytes of the body, or a reference.
    """

    episode: Count
    step: CountOrNone
    number: Count
    time_ns: Time
    method: str
    url: str
    headers: list[tuple[str, str]]
    body_data: bytes | None
    model_call: CountOrNone = -1
    attempt: Count = 0
    retry_by: RetryBy = ""
    is_redacted: bool = False
    actor: Actor = "agent"
    extra_data: bytes | None = None


class ExchangePart(Record, tag="exchange_part", frozen=True):
    """Some bytes of a streamed response, in the order in which they came."""

    episode: Count
    number: Count
    time_ns: Time
    data: bytes


class ExchangeEnd(Record, tag="response", frozen=True, kw_only=True):
    """The response to a request. A request without one was open when the log ended.

    A provisional one (`trajrec.log.open_ends`) says what had come when the episode ended. Its body
    is what follows the parts. Parts and an end may come after it, which replace it.

    Attributes:
        status: The HTTP status, None if no response came.
        body_data: The bytes of the body, or a reference; None if its parts are stored.
    """

    episode: Count
    number: Count
    time_ns: Time
    status: CountOrNone | None
    headers: list[tuple[str, str]]
    body_data: bytes | None
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    is_redacted: bool = False
    extra_data: bytes | None = None


class StepValues(Record, tag="values", frozen=True):
    """Named values of a step that nobody acts on: log-probabilities, value estimates, notes.

    Attributes:
        values_data: A map from names to values.
    """

    episode: Count
    step: CountOrNone
    values_data: bytes
    extra_data: bytes | None = None


class Redaction(Record, tag="redaction", frozen=True):
    """Says that a field of a step does not hold the value that was there.

    Attributes:
        step: The step, -1 for the reset.
        field: "action", "obs", "state", "info", "options" or another field of the step.
        n: The number of the places that were replaced.
    """

    episode: Count
    step: CountOrNone
    field: str
    n: Count


AgentEvent = (
    TaskStart
    | CallStart
    | CallEnd
    | StateChange
    | ModelStart
    | ModelEnd
    | AnswerPart
    | SideEffect
    | Blob
    | ExchangeStart
    | ExchangePart
    | ExchangeEnd
    | StepValues
    | Redaction
)
"""Events of agents' episodes. Environments' episodes may have some of them too."""


def is_at_reset(event: StateChange) -> bool:
    """Return whether a change is the whole part at the reset."""
    return event.step < 0 and event.actor != PROGRAM


def step_of_request(event: object) -> int:
    """Return the step of a call of a tool or a model, -1 for any other event.

    Of the exchanges, those that are no model calls belong to a step that another call has begun.
    """
    if isinstance(event, (CallStart, ModelStart, ExchangeStart)):
        return -1 if event.step is None else event.step
    return -1
