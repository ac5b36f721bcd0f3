"""Calls of models to rows: an answer is read by the names of the OpenAI and the Anthropic API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trajrec.corpus.attempts import milliseconds_between
from trajrec.corpus.call_contents import content_of, cost_of, system_of, usage_of
from trajrec.corpus.index.cells import to_timestamp
from trajrec.corpus.index.rows import EpisodeRow, FailureRow, ModelCallRow
from trajrec.corpus.transcript import ModelCall, Transcript
from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.values.json import stored_to_json, to_json
from trajrec.wire.contents import Usage


def model_call_row(
    episode: EpisodeRow, call: ModelCall, tools: str | None, extra: str | None = None
) -> ModelCallRow:
    """Return the row of a call of a model.

    Args:
        episode: The row of its episode.
        call: The call.
        tools: The names of the tools on offer as JSON.
        extra: Facts of an imported call without a column, as JSON.
    """
    start = call.start
    end = call.end
    told = _told(call)
    parameters = {
        key: value
        for key, value in call.request.items()
        if isinstance(value, (str, int, float, bool))
    }
    wire = call.wire
    return ModelCallRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        number=start.number,
        step=start.step,
        attempt=start.attempt,
        model=told.model,
        dialect=None if wire is None else wire.dialect.name,
        tools=tools,
        n_messages=len(call.messages),
        parameters=to_json(parameters),
        answer=stored_to_json(call.answer) if call.has_answer else None,
        finish_reason=told.finish_reason,
        is_complete=told.is_complete,
        input_tokens=told.usage.input,
        output_tokens=told.usage.output,
        cached_tokens=told.usage.cached,
        cache_write_tokens=told.usage.cache_write,
        reasoning_tokens=told.usage.reasoning,
        cost=told.cost,
        outcome=call.outcome,
        status=None if wire is None else wire.exchange.status,
        error_type=(end.error_type or None) if end else None,
        message=(end.message or None) if end else None,
        retry_by=start.retry_by or None,
        latency_ms=None if end is None else milliseconds_between(start.time_ns, end.time_ns),
        is_streamed=call.is_streamed,
        is_reconstructed=start.is_reconstructed,
        extra=extra,
        started_at=to_timestamp(start.time_ns),
    )


class _Told(NamedTuple):
    """What an answer tells of the call."""

    model: str | None
    finish_reason: str | None
    is_complete: bool | None
    usage: Usage
    cost: float | None


def _told(call: ModelCall) -> _Told:
    wire = call.wire
    if wire is not None:
        content = content_of(call).answer
        if content is None:
            return _Told(wire.request.model, None, None, Usage(), None)
        return _Told(
            model=content.model or wire.request.model,
            finish_reason=content.finish_reason,
            is_complete=content.is_complete,
            usage=content.usage,
            cost=cost_of(_get(content.value, "usage")),
        )
    answer = _answer(call)
    usage = _usage(call)
    # By the names of the OpenAI API first, then by those of the Anthropic API.
    choices = _get(answer, "choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    model = _get(answer, "model") or call.request.get("model")
    return _Told(
        model=_text(model),
        finish_reason=_text(_get(first, "finish_reason") or _get(answer, "stop_reason")),
        is_complete=None,
        usage=usage_of(usage),
        cost=cost_of(usage),
    )


# Roles of messages with instructions.
_INSTRUCTING_ROLES = ("system", "developer")


def system_prompt(transcript: Transcript) -> Value:
    """Return the system prompt of the first model call, None if it has none."""
    for call in transcript.model_calls[:1]:
        if call.wire is not None:
            return call.wire.request.system
        for message in call.messages:
            if _get(message, "role") in _INSTRUCTING_ROLES:
                return _get(message, "content")
        return system_of(call.request)
    return None


def failed_model_call_row(
    episode: EpisodeRow, call: ModelCall, recovery: ModelCall | None
) -> FailureRow:
    """Return the row of the failure of such a call.

    Args:
        episode: The row of its episode.
        call: The call.
        recovery: The attempt that succeeded after it, None if none did.
    """
    end = call.end
    assert end is not None
    return FailureRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        step=call.start.step,
        attempt=call.start.attempt,
        phase="model",
        failure_kind=end.outcome,
        origin="infra",
        error_type=end.error_type,
        message=end.message,
        traceback=end.traceback,
        recovered_at=None if recovery is None else recovery.start.step,
        recovered_by=None if recovery is None else recovery.start.retry_by or None,
        failed_at=to_timestamp(end.time_ns),
    )


def recoveries(calls: Sequence[ModelCall]) -> dict[int, ModelCall]:
    """Return the attempt that overcame each failed one, by the number of the failed one.

    The attempts at one call of a model are in one step, and are numbered. Those of another call
    begin at 0 again.
    """
    found: dict[int, ModelCall] = {}
    failed: dict[int, list[ModelCall]] = {}
    for call in calls:
        step = call.start.step
        if not call.start.attempt:
            failed[step] = []
        elif call.outcome == "ok":
            for earlier in failed.pop(step, ()):
                if earlier.start.attempt < call.start.attempt:
                    found[earlier.start.number] = call
        if call.end is not None and call.outcome != "ok":
            failed.setdefault(step, []).append(call)
    return found


def _usage(call: ModelCall) -> Value:
    """Return the token counts and cost of an answer; in a stream, the last chunk that has any."""
    pieces = call.answer if call.is_streamed and isinstance(call.answer, list) else [call.answer]
    return next(
        (usage for piece in reversed(pieces) if (usage := _get(piece, "usage")) is not None), None
    )


def _answer(call: ModelCall) -> Value:
    """Return the answer; of a stream the last chunk with choices, which says how it ended."""
    if call.is_streamed and isinstance(call.answer, list):
        return next((piece for piece in reversed(call.answer) if _get(piece, "choices")), None)
    return call.answer


def _get(value: Value, name: str) -> Value:
    if isinstance(value, Plain):
        return value.fields.get(name)
    return value.get(name) if isinstance(value, dict) else None


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) else None
