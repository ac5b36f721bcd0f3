"""The HTTP exchanges of an agent's episode, put together from their events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from trajrec.corpus.stored_values import StoredValues
from trajrec.log.events import AgentEvent, ExchangeEnd, ExchangePart, ExchangeStart
from trajrec.wire.exchange import Headers
from trajrec.wire.stored import NO_NOTES, ResponseNotes, decode_body, decode_notes

OF_EXCHANGES = frozenset((ExchangeStart, ExchangePart, ExchangeEnd))


@dataclass
class HttpExchange:
    """One exchange: an attempt of a model call, or another request that was recorded.

    Attributes:
        start: The recorded request.
        end: The recorded end; None if the log or the episode ends before it.
        open_end: What had come when the episode ended before the body was read to its end; None if
            nothing tells.
        is_read_on: Whether parts came after that.
        request_body: The body of the request; None if it is lost.
        response_body: The body of the response, as far as it came.
        notes: What else is known of the response.
        parts: The pieces of the body that were written while it came.
    """

    start: ExchangeStart
    end: ExchangeEnd | None
    request_body: bytes | None
    response_body: bytes = b""
    notes: ResponseNotes = NO_NOTES
    parts: list[bytes] = field(default_factory=list)
    open_end: ExchangeEnd | None = None
    is_read_on: bool = False

    @property
    def status(self) -> int | None:
        """The HTTP status, None if no response came."""
        end = self.end or self.open_end
        return None if end is None else end.status

    @property
    def headers(self) -> Headers:
        """The headers of the response, as far as they are kept."""
        end = self.end or self.open_end
        return [] if end is None else end.headers

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a good response."""
        end = self.end
        return end is not None and (bool(end.error_type) or end.status is None or end.status >= 400)

    @property
    def chunks(self) -> list[bytes]:
        """The body of the response in the pieces in which it came, as far as they are known."""
        body = self.response_body
        sizes = self.notes.sizes
        if sum(sizes) == len(body) and sizes:
            ends = accumulate(sizes, initial=0)
            return [body[start:end] for start, end in pairwise(ends)]
        return list(self.parts) or ([body] if body else [])


def read_exchanges(events: Iterable[AgentEvent], values: StoredValues) -> list[HttpExchange]:
    """Return the exchanges of an episode, in the order in which they began."""
    exchanges: dict[int, HttpExchange] = {}
    bodies: dict[int, bytes] = {}
    for event in events:
        if isinstance(event, ExchangeStart):
            if event.number in exchanges:
                values.report(event, f"a second start of exchange {event.number}")
                continue
            body = None
            if event.body_data is not None:
                body = decode_body(event.body_data, values.decode, bodies)
            if body is None:
                values.report(event, f"the body of exchange {event.number} is lost")
            else:
                bodies[event.number] = body
            exchanges[event.number] = HttpExchange(event, None, body)
        elif isinstance(event, (ExchangePart, ExchangeEnd)):
            exchange = exchanges.get(event.number)
            if exchange is None or exchange.end is not None:
                values.report(event, "a response to an exchange that is not open")
            elif isinstance(event, ExchangePart):
                exchange.parts.append(event.data)
                # Of a stream that is read on, the parts have what was held back before.
                exchange.is_read_on = exchange.open_end is not None
            else:
                _add_end(exchange, event, values)
    for exchange in exchanges.values():
        if exchange.parts and (exchange.open_end is None or exchange.is_read_on):
            exchange.response_body = b"".join(exchange.parts)
    return list(exchanges.values())


def _add_end(exchange: HttpExchange, event: ExchangeEnd, values: StoredValues) -> None:
    exchange.notes = decode_notes(event.extra_data)
    body = values.decode(event.body_data)
    if not isinstance(body, bytes):
        if body is not None:
            values.report(event, f"the response of exchange {event.number} is lost")
        body = b""
    if exchange.notes.is_open:
        exchange.open_end = event
        # What was held back in search of secrets follows the parts that were written.
        body = b"".join(exchange.parts) + body
    else:
        exchange.end = event
        exchange.open_end = None
    exchange.response_body = body
