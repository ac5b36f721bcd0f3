"""Calls of models to rows: an answer is read by the names of the OpenAI and the Anthropic API."""

from __future__ import annotations

from trajrec.corpus.attempts import milliseconds_between
from trajrec.corpus.index.cells import to_timestamp
from trajrec.corpus.index.rows import EpisodeRow, FailureRow, ModelCallRow
from trajrec.corpus.transcript import ModelCall, Transcript
from trajrec.types import Value
from trajrec.values.codec import Plain
from trajrec.values.json import stored_to_json, to_json


def model_call_row(episode: EpisodeRow, call: ModelCall) -> ModelCallRow:
    """Return the row of a call of a model."""
    start = call.start
    end = call.end
    answer = _answer(call)
    usage = _usage(call)
    # By the names of the OpenAI API first, then by those of the Anthropic API.
    choices = _get(answer, "choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    model = _get(answer, "model") or call.request.get("model")
    parameters = {
        key: value
        for key, value in call.request.items()
        if isinstance(value, (str, int, float, bool))
    }
    return ModelCallRow(
        episode_id=episode.episode_id,
        kind=episode.kind,
        number=start.number,
        step=start.step,
        model=model if isinstance(model, str) else None,
        n_messages=len(call.messages),
        parameters=to_json(parameters),
        answer=stored_to_json(call.answer) if call.has_answer else None,
        finish_reason=_text(_get(first, "finish_reason") or _get(answer, "stop_reason")),
        input_tokens=_count(_get(usage, "prompt_tokens"), _get(usage, "input_tokens")),
        output_tokens=_count(_get(usage, "completion_tokens"), _get(usage, "output_tokens")),
        cost=_cost(_get(usage, "cost")),
        outcome=call.outcome,
        error_type=(end.error_type or None) if end else None,
        message=(end.message or None) if end else None,
        retry_by=start.retry_by or None,
        latency_ms=None if end is None else milliseconds_between(start.time_ns, end.time_ns),
        is_streamed=call.is_streamed,
        started_at=to_timestamp(start.time_ns),
    )


# Roles of messages with instructions, and arguments that hold them in other APIs.
_INSTRUCTING_ROLES = ("system", "developer")
_INSTRUCTING_FIELDS = ("system", "instructions", "system_instruction")


def system_prompt(transcript: Transcript) -> Value:
    """Return the system prompt of the first model call, None if it has none."""
    for call in transcript.model_calls[:1]:
        for message in call.messages:
            if _get(message, "role") in _INSTRUCTING_ROLES:
                return _get(message, "content")
        for name in _INSTRUCTING_FIELDS:
            if call.request.get(name) is not None:
                return call.request[name]
    return None


def failed_model_call_row(episode: EpisodeRow, call: ModelCall) -> FailureRow:
    """Return the row of the failure of such a call."""
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
        failed_at=to_timestamp(end.time_ns),
    )


def _usage(call: ModelCall) -> Value:
    """Return the token counts and cost of an answer; in a stream, the last chunk that has any."""
    pieces = call.answer if call.is_streamed and isinstance(call.answer, list) else [call.answer]
    return next(
        (usage for piece in reversed(pieces) if (usage := _get(piece, "usage")) is not None), None
    )


def _cost(value: Value) -> float | None:
    return float(value) if type(value) in (int, float) else None


def _answer(call: ModelCall) -> Value:
    """Return the answer; of a stream the last chunk with choices, which says how it ended."""
    if call.is_streamed and isinstance(call.answer, list):
        return next((piece for piece in reversed(call.answer) if _get(piece, "choices")), None)
    return call.answer


def _get(value: Value, name: str) -> Value:
    if isinstance(value, Plain):
        return value.fields.get(name)
    return value.get(name) if isinstance(value, dict) else None


def _count(*values: Value) -> int | None:
    return next((value for value in values if type(value) is int), None)


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) else None
