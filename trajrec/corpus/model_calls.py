"""Model calls from their events, or from the HTTP exchanges that a tap has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.corpus.stored_values import LOST, StoredValues
from trajrec.corpus.wire_calls import WireCall, answer_value, wire_calls
from trajrec.log.events import AgentEvent, AnswerPart, ExchangeStart, ModelEnd, ModelStart
from trajrec.log.open_ends import is_open_end
from trajrec.types import JsonObject, Value
from trajrec.values.codec import Opaque

OF_MODELS = frozenset((ModelStart, ModelEnd, AnswerPart, ExchangeStart))


@dataclass
class ModelCall:
    """One attempt at a model call.

    Attributes:
        start: The recorded begin.
        end: The recorded end; None if the log or the episode ends before it.
        messages: All messages of the request.
        request: The other arguments, by name; positional ones under "args".
        answer: The answer; a list of pieces if it was streamed, without the last ones if the log
            ends before the stream; None if there is none. Of an exchange, the whole answer, which
            the pieces of a stream are put together to.
        wire: The exchange that it was seen as; None of a call by `ep.model`.
        taken: The numbers of the alternatives of the answer that the agent went on from, mostly the
            only one, 0; none if it is unknown. See `trajrec.corpus.alternatives`.
        open_end: What of a stream was held back in search of secrets when the episode ended before
            it; None if nothing tells.
    """

    start: ModelStart
    end: ModelEnd | None
    messages: list[Value]
    request: JsonObject
    answer: Value
    wire: WireCall | None = None
    taken: tuple[int, ...] = (0,)
    open_end: ModelEnd | None = None

    @property
    def outcome(self) -> str:
        """One of ok, error and cancelled; open if the log or the episode ends before the call."""
        return "open" if self.end is None else self.end.outcome

    @property
    def is_streamed(self) -> bool | None:
        """Whether the answer was streamed; None if the log ends before that shows."""
        if self.end is None:
            return None if self.answer is None else True
        return self.end.is_streamed

    @property
    def has_answer(self) -> bool:
        """Whether there is an answer, or the first pieces of one."""
        return self.answer is not None if self.end is None else self.end.answer_data is not None


def read_model_calls(
    events: Sequence[AgentEvent], values: StoredValues, exchanges: list[HttpExchange]
) -> list[ModelCall]:
    """Return the model calls of an episode, in the order of their numbers.

    Args:
        events: The episode's events, in order.
        values: Decodes their values.
        exchanges: The exchanges of the episode.
    """
    calls: dict[int, ModelCall] = {}
    for event in events:
        if isinstance(event, ModelStart):
            if event.number in calls:
                values.report(event, f"a second start of model call {event.number}")
                continue
            calls[event.number] = ModelCall(
                start=event,
                end=None,
                messages=_messages(event, calls, values),
                request=_request(event, values),
                answer=None,
            )
        elif isinstance(event, (AnswerPart, ModelEnd)):
            call = calls.get(event.number)
            if call is None or call.end is not None:
                values.report(event, "an answer to a model call that is not open")
            else:
                _add_answer(call, event, values)
    for call in calls.values():
        if call.end is None and call.open_end is not None:
            _add_pieces(call, call.open_end.answer_data, values)
    if not exchanges:
        return list(calls.values())
    for wire in wire_calls(exchanges, set(calls)):
        start = wire.start_event()
        if start.number in calls:
            # Attempts may share the number of their call: each has a number of its own here.
            start = msgspec.structs.replace(start, number=max(calls) + 1)
        calls[start.number] = ModelCall(
            start=start,
            end=wire.end_event(),
            messages=list(wire.request.messages),
            request=wire.arguments,
            answer=answer_value(wire),
            wire=wire,
        )
    return [calls[number] for number in sorted(calls)]


def _add_answer(call: ModelCall, event: AnswerPart | ModelEnd, values: StoredValues) -> None:
    if isinstance(event, AnswerPart):
        _add_pieces(call, event.data, values)
        # Of a stream that is read on, the parts have what was held back before.
        call.open_end = None
        return
    if is_open_end(event.extra_data):
        call.open_end = event
        return
    call.end = event
    # Of a long stream, the parts come before.
    if event.is_streamed and call.answer is not None:
        call.answer = [*call.answer, *values.decode_as(list, event.answer_data, [])]
    else:
        call.answer = values.decode(event.answer_data)


def _add_pieces(call: ModelCall, data: bytes | None, values: StoredValues) -> None:
    # In place: a copy for each part would make long streams quadratic.
    call.answer = [] if call.answer is None else call.answer
    call.answer += values.decode_as(list, data, [])


def _messages(
    event: ModelStart, calls: Mapping[int, ModelCall], values: StoredValues
) -> list[Value]:
    """Return the messages of a request, of which an earlier one has the first."""
    base = calls.get(event.base)
    repeated = [] if base is None else base.messages[: event.kept]
    if len(repeated) != event.kept:
        values.report(
            event, f"a request that repeats {event.kept} messages of model call {event.base}"
        )
        missing = Opaque(LOST, "the messages that the request repeats")
        repeated = [*repeated, missing]
    return [*repeated, *(values.decode(message) for message in event.messages)]


def _request(event: ModelStart, values: StoredValues) -> JsonObject:
    """Return the other arguments of a request."""
    request = values.decode_as(dict, event.request_data, {})
    fields = request.get("kwargs")
    if not isinstance(fields, dict):
        values.report(event, "the request has no arguments")
        fields = {}
    if request.get("args"):
        fields = {**fields, "args": request["args"]}
    return fields
