"""The recorded requests of an agent, and their answers as the agent got them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trajrec.corpus.episode import Episode
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.corpus.transcript import Attempt, ModelCall
from trajrec.errors import ReplayError
from trajrec.log.reader import LogReader
from trajrec.log.schema import EpisodeStart
from trajrec.paths import fixed_path
from trajrec.replay.agents.agent_difference import RequestKind
from trajrec.replay.agents.wire_answers import LEFT_OPEN
from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.recorded import (
    RecordedStream,
    deliver,
    deliver_error,
    rehydrate,
)
from trajrec.values.recorded_errors import as_exception
from trajrec.wire.json_bodies import NOT_JSON, read_json

_NO_CALL_END = "the recorded call was open when its log ended"
_NO_MODEL_END = "the recorded model call was open when its log ended"


def as_stored(value: Value) -> Value:
    """Return a value as a log gives it back."""
    try:
        return codec.decode(codec.encode(value, opaque=True))
    except Exception as exc:
        return codec.left_out(value, exc)


def recorded_goal(episode: Episode) -> Value:
    """Return the goal of an agent's episode."""
    task = episode.transcript.task_start
    if task is None or task.goal_data is None:
        return None
    return rehydrate(episode.transcript.value(task.goal_data))


def only_episode(path: Path) -> Episode:
    """Return the episode of a log that holds only one.

    Raises:
        ValueError: It holds none, or several.
    """
    reader = LogReader(fixed_path(path))
    numbers = {
        event.episode
        for chunk in reader.chunks()
        for event in chunk.record.events
        if isinstance(event, EpisodeStart)
    }
    if len(numbers) != 1:
        raise ValueError(
            f"{path} holds {len(numbers)} episodes, not one; "
            "give an episode: trajrec.open(folder).episode(id)"
        )
    return Episode(reader, numbers.pop())


def check_unchanged(episode: Episode) -> None:
    """Refuse the run of an experiment with a change: its program did not ask for the change itself.

    Raises:
        ReplayError: The episode is such a run.
    """
    if episode.fork is None:
        return
    about = episode.value(episode.fork.metadata_data)
    what_if = about.get("what_if") if isinstance(about, dict) else None
    if what_if and what_if["arm"] == "changed" and what_if["change"]["name"] != "nothing":
        raise ReplayError(
            f"this is a what-if run, which was given a change at step {what_if['at']} that its "
            "program did not ask for; rerun the episode that it was forked from, "
            f"{episode.fork.parent_id}",
            episode_id=episode.id,
        )


def call_request(attempt: Attempt) -> JsonObject:
    """Return the request of a tool call."""
    return {"tool": attempt.tool, "arguments": attempt.arguments}


def asked_call(tool: str, arguments: JsonObject) -> Value:
    """Return the request of a tool call that an agent makes, as a log gives it back."""
    # The name may be a member of an enum, and the arguments any mapping.
    return as_stored({"tool": str.__str__(tool), "arguments": dict(arguments)})


def call_result(attempt: Attempt) -> Value:
    """Return the recorded result of a tool call, or raise its recorded exception."""
    end = attempt.end
    if end is None:
        raise as_exception("builtins.TimeoutError", _NO_CALL_END)
    if end.is_raised:
        error = as_exception(end.error_type, end.message)
        return deliver_error(error, end.is_async, hangs=_was_given_up(attempt))
    return deliver(rehydrate(attempt.result), end.is_async)


def call_items(attempt: Attempt) -> RecordedStream:
    """Return the recorded items of a generator, which raises at their end if it did."""
    end = attempt.end
    result = rehydrate(attempt.result)
    items = result if isinstance(result, list) else []
    if end is None:
        reason = LEFT_OPEN if attempt.left_ns else _NO_CALL_END
        return RecordedStream(items, as_exception("builtins.TimeoutError", reason))
    error = as_exception(end.error_type, end.message) if end.is_raised else None
    return RecordedStream(items, error, hangs=_was_given_up(attempt))


def _was_given_up(attempt: Attempt) -> bool:
    """Return whether the agent's own program has cancelled a call."""
    end = attempt.end
    return end is not None and end.outcome == "cancelled" and end.origin == "agent"


def model_request(call: ModelCall) -> JsonObject:
    """Return the request of a model call."""
    return {"messages": call.messages, **call.request}


def model_answer(call: ModelCall) -> Value:
    """Return the recorded answer of a model, or raise its recorded exception."""
    end = call.end
    if end is None:
        left = call.open_end
        cut_off = as_exception(
            "builtins.TimeoutError", _NO_MODEL_END if left is None else LEFT_OPEN
        )
        if call.answer is None:
            raise cut_off
        pieces = RecordedStream(rehydrate(call.answer), cut_off)
        return deliver(pieces, left is not None and left.is_async)
    error = as_exception(end.error_type, end.message) if end.error_type else None
    if end.answer_data is None:
        given_up = as_exception(end.error_type, end.message)
        return deliver_error(given_up, end.is_async, hangs=end.outcome == "cancelled")
    answer = rehydrate(call.answer)
    if end.is_streamed:
        answer = RecordedStream(answer, error, hangs=end.outcome == "cancelled")
    return deliver(answer, end.is_async)


def exchange_request(exchange: HttpExchange) -> Value:
    """Return the request of an HTTP exchange: its JSON, or else its text."""
    return body_value(exchange.request_body or b"")


def body_value(body: bytes) -> Value:
    """Return the body of a request: its JSON, or else its text."""
    value = read_json(body)
    return body.decode("utf-8", "backslashreplace") if value is NOT_JSON else value


def first_unmade(
    model_calls: Sequence[ModelCall], exchanges: Sequence[HttpExchange], attempts: Sequence[Attempt]
) -> tuple[int, RequestKind, Value] | None:
    """Return step, kind and request of the first recorded request that an agent did not make.

    Args:
        model_calls: Those that were not made.
        exchanges: The same for HTTP exchanges.
        attempts: The same for tool calls.
    """
    for call in model_calls:
        return call.start.step, "end", {"messages": call.messages[-1:], **call.request}
    for exchange in exchanges:
        return exchange.start.step, "end", exchange_request(exchange)
    for attempt in attempts:
        return attempt.start.step, "end", call_request(attempt)
    return None
