"""An imported episode: what a format's module makes of a file, before one writer logs it.

The items of an episode stand in the order of the source. A *turn* is one answer of a model, and
becomes a step; a source may have turns that no model gave.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from trajrec.log.events import Actor, RetryBy
from trajrec.types import JsonObject, Value

Outcome: TypeAlias = Literal["ok", "error", "timeout", "cancelled", "unknown", "open"]
"""The outcome of a call: "unknown" if the source does not say it, "open" if the source says that
the call has not ended."""

Ending: TypeAlias = Literal["terminated", "truncated", "error", "unknown"]
"""The ending of an episode: "unknown" if the source does not say it."""


class Message(msgspec.Struct, kw_only=True):
    """A message of the conversation that is no answer of the model.

    Attributes:
        value: The message, in the form of the API of chats or of another one.
        time_ns: Its time, 0 if unknown.
        extra: Facts that have no place of their own.
    """

    value: JsonObject
    time_ns: int = 0
    extra: JsonObject | None = None


class Turn(msgspec.Struct, kw_only=True):
    """One answer of a model, which begins a step.

    Attributes:
        message: The answer as a message, as the next request repeats it; None if there is none.
        said: The messages that the next request repeats, if they are several.
        model: The name of the model, "" if unknown.
        usage: Tokens and cost, by the names of OpenAI's or Anthropic's API.
        finish_reason: Why the model stopped, "" if unknown.
        parameters: Arguments of the request: temperature, seed, tools.
        answer: The whole answer, if the source has it; by default it is made of the others.
        request: All messages of the request, if the source has them: they replace those of the
            conversation so far.
        start_ns: The time of the request, 0 if unknown.
        end_ns: The time of the answer, 0 if unknown.
        error: The error of the call, "" if there was none.
        error_type: The type of the error.
        attempt: The number of the attempt; another one than 0 begins no step.
        retry_by: Who retried.
        is_model_call: Whether a model gave it; if not, the step has no model call.
        is_open: Whether no answer came.
        thread: The conversation, if several take turns.
        begins_anew: Whether the conversation begins anew: after its compaction, for instance.
        extra: Facts that have no place of their own.
    """

    message: JsonObject | None
    said: list[JsonObject] | None = None
    model: str = ""
    usage: JsonObject | None = None
    finish_reason: str = ""
    parameters: JsonObject | None = None
    answer: Value = None
    request: list[Value] | None = None
    start_ns: int = 0
    end_ns: int = 0
    error: str = ""
    error_type: str = ""
    attempt: int = 0
    retry_by: RetryBy = ""
    is_model_call: bool = True
    is_open: bool = False
    thread: str = ""
    begins_anew: bool = False
    extra: JsonObject | None = None


class Call(msgspec.Struct, kw_only=True):
    """A call of a tool, in the step of the last turn.

    Attributes:
        has_result: Whether the source has a result.
        invalid: Why the call cannot be meant, "" if it can.
        origin: Who is to blame for an error: "tool", "agent", "user", "infra", "scaffold".
        error_type: The class of the error.
        error: Its message.
        is_raised: Whether the tool raised, so that there is no result.
        result_extra: Facts about the result that have no place of their own.
    """

    tool: str
    arguments: JsonObject
    call_id: str = ""
    actor: Actor = "agent"
    start_ns: int = 0
    end_ns: int = 0
    invalid: str = ""
    has_result: bool = False
    result: Value = None
    outcome: Outcome = "unknown"
    origin: str = ""
    error_type: str = ""
    error: str = ""
    is_raised: bool = False
    extra: JsonObject | None = None
    result_extra: JsonObject | None = None


class Verdict(msgspec.Struct, kw_only=True):
    """A check of the episode, or of one step.

    Attributes:
        step: The step that it judges, None for the end.
    """

    check_id: str
    version: str = ""
    family: str = ""
    phase: Literal["step", "terminal", "post-hoc"] = "terminal"
    status: Literal["ok", "error", "not_evaluated"] = "ok"
    verdict: bool | None = None
    score: float | None = None
    evidence: Value = None
    step: int | None = None
    time_ns: int = 0
    is_primary: bool = False
    extra: JsonObject | None = None


class Fault(msgspec.Struct, kw_only=True):
    """An exception that is no error of a call.

    Attributes:
        step: The step, None for the last one so far.
    """

    phase: Literal["reset", "step", "state", "check", "loop"] = "loop"
    origin: Literal["agent", "env", "tool", "scaffold", "infra", "verifier"] = "scaffold"
    error_type: str = ""
    message: str = ""
    traceback: str = ""
    step: int | None = None
    time_ns: int = 0
    extra: JsonObject | None = None


class Note(msgspec.Struct, kw_only=True):
    """Facts about the last step so far: events of the environment, for instance.

    Attributes:
        values: Named values of the step.
        extra: Facts that have no place of their own.
    """

    values: JsonObject
    extra: JsonObject | None = None


class Change(msgspec.Struct, kw_only=True):
    """A change of the state that the source reports. It proves nothing in a replay."""

    part: str
    value: Value
    actor: Actor = "env"
    extra: JsonObject | None = None


class Effect(msgspec.Struct, kw_only=True):
    """A value from outside the program that the source reports."""

    name: str
    arguments: Value
    value: Value
    actor: Actor = "agent"
    time_ns: int = 0
    error: str = ""
    extra: JsonObject | None = None


Item: TypeAlias = Message | Turn | Call | Verdict | Fault | Note | Change | Effect


class ImportedEpisode(msgspec.Struct, kw_only=True):
    """An episode of another tool.

    Attributes:
        position: Its place in the file, unique there: "samples/3", "line 17".
        version: The version of the format that it states, "" if none.
        task: The id of the task.
        goal: The instructions of the agent.
        tools: The tools as the source describes them: [name, schema, access, description].
        system: The system prompt, if it is known and is no message.
        interface: Fields of `trajrec.interface`.
        metadata: Plain data, as `trajrec.episode` takes it.
        stop_reason: Why the loop ended, "" if unknown.
        claimed_done: Whether the agent claimed to be done, None if unknown.
        fault: The component whose fault ended it: "infra", "verifier", "env".
        reported: Totals that the source states: tokens, cost.
        caller: The position of the episode that it was begun in, None if there was none.
        caller_step: The last step of that episode before it.
        fork: The position of the episode that it branches off, and its first step.
    """

    position: str
    version: str = ""
    task: str = ""
    task_revision: str = ""
    goal: Value = None
    tools: list[list[Value]] | None = None
    interface: JsonObject | None = None
    metadata: JsonObject | None = None
    seed: int | None = None
    start_ns: int = 0
    end_ns: int = 0
    items: list[Item] = msgspec.field(default_factory=list)
    ending: Ending = "unknown"
    stop_reason: str = ""
    claimed_done: bool | None = None
    fault: Literal["", "infra", "verifier", "env"] = ""
    reported: JsonObject | None = None
    extra: JsonObject | None = None
    caller: str | None = None
    caller_step: int = -1
    fork: tuple[str, int] | None = None
