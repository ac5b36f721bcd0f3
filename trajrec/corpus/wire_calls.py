"""Model calls, and the tool calls in them, as the bytes of HTTP exchanges tell them."""

from __future__ import annotations

from trajrec.corpus.cached import cached_property
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.log.events import ModelEnd, ModelStart
from trajrec.types import JsonObject, Value
from trajrec.wire.body_reader import BodyReader
from trajrec.wire.contents import AnswerContent, Dialect, Read, RequestContent
from trajrec.wire.dialects.choose import dialect_of
from trajrec.wire.exchange import header
from trajrec.wire.json_bodies import NOT_JSON

CANCELLATIONS = frozenset(
    {
        "asyncio.exceptions.CancelledError",
        "builtins.GeneratorExit",
        "builtins.KeyboardInterrupt",
        "builtins.SystemExit",
        "trio.Cancelled",
    }
)
"""The exceptions by which an agent gives up a request; they are no failure of the model."""


class WireCall:
    """One exchange with a model, read when it is asked for.

    Args:
        exchange: The exchange.
        read: Returns the value of JSON bytes, which may share parts with other values.
    """

    def __init__(self, exchange: HttpExchange, read: Read) -> None:
        self.exchange = exchange
        self._read = read

    @cached_property
    def dialect(self) -> Dialect:
        """The form of the call."""
        return dialect_of(self.exchange.start.url, self.exchange.request_body or b"")

    @cached_property
    def request(self) -> RequestContent:
        """The contents of the request."""
        exchange = self.exchange
        return self.dialect.request(exchange.start.url, exchange.request_body or b"", self._read)

    @cached_property
    def answer(self) -> AnswerContent | None:
        """The contents of the answer; None if no response came."""
        exchange = self.exchange
        if not exchange.response_body and exchange.status is None:
            return None
        if exchange.notes.coding:
            # Nothing can be read in it, not even whether it is whole.
            return AnswerContent(None)
        kind = header(exchange.headers, "content-type")
        return self.dialect.answer(exchange.status or 200, kind, exchange.response_body)

    @property
    def arguments(self) -> JsonObject:
        """The request without its messages, by name."""
        value = self.request.value
        if not isinstance(value, dict):
            return {}
        return {name: item for name, item in value.items() if item is not self.request.messages}

    def start_event(self) -> ModelStart:
        """Return the begin of the call, as `ep.model` would have recorded it."""
        start = self.exchange.start
        return ModelStart(
            episode=start.episode,
            step=-1 if start.step is None else start.step,
            number=start.model_call,
            time_ns=start.time_ns,
            function=start.url,
            request_data=b"",
            base=-1,
            kept=0,
            messages=[],
            attempt=start.attempt,
            retry_by=start.retry_by,
            is_redacted=start.is_redacted,
            actor=start.actor,
        )

    def end_event(self) -> ModelEnd | None:
        """Return the end of the call; None if the log ends before it."""
        end = self.exchange.end
        if end is None:
            return None
        error_type = end.error_type
        message = end.message
        if error_type in CANCELLATIONS and end.status is not None and end.status >= 400:
            # The server had failed before the client left: many read no more than the status.
            error_type = ""
        outcome = "ok"
        if error_type:
            outcome = "cancelled" if error_type in CANCELLATIONS else "error"
        answer = self.answer
        told = None if answer is None else answer.error
        has_failed = self.exchange.has_failed or told is not None
        if not error_type and has_failed:
            outcome = "error"
            error_type = f"http.{end.status}"
            message = "" if told is None else told.message or told.kind or ""
        return ModelEnd(
            episode=end.episode,
            number=self.exchange.start.model_call,
            time_ns=end.time_ns,
            outcome=outcome,  # type: ignore[arg-type]
            answer_data=None if answer is None or self.exchange.notes.coding else b"",
            is_streamed=answer is not None and answer.is_streamed,
            error_type=error_type,
            message=message,
            traceback=end.traceback,
            is_redacted=end.is_redacted,
        )


def wire_calls(exchanges: list[HttpExchange], others: set[int]) -> list[WireCall]:
    """Return the model calls among exchanges.

    Args:
        exchanges: The exchanges of an episode.
        others: Numbers of the model calls that are recorded by `ep.model`. Exchanges within them
            are no calls of their own.
    """
    read = BodyReader().read
    return [
        WireCall(exchange, read)
        for exchange in exchanges
        if exchange.start.model_call >= 0 and exchange.start.model_call not in others
    ]


def answer_value(call: WireCall) -> Value:
    """Return the whole answer of a call, None if there is none; the text of one that is no JSON."""
    if call.answer is None:
        return None
    value = call.answer.value
    if value is not NOT_JSON:
        return value
    return call.exchange.response_body.decode("utf-8", "backslashreplace")
