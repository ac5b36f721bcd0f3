"""HTTP exchanges of an agent: each attempt is recorded with its bytes, while they come."""

from __future__ import annotations

import copy
import threading
import time
from typing import NamedTuple
from urllib.parse import urljoin

from trajrec.agents.answer_redaction import TokenRedactor, answer_redactor
from trajrec.agents.counters import StepCounter
from trajrec.agents.exchange_memory import (
    Answer,
    ExchangeMemory,
    FailedAttempt,
    SentRequest,
    n_repeats_of,
)
from trajrec.agents.journal import Journal
from trajrec.agents.model_calls import enclosing_model_call
from trajrec.agents.state_recorder import StateRecorder
from trajrec.log.events import ExchangeEnd, ExchangePart, ExchangeStart, RetryBy
from trajrec.recording.error_text import NO_ERROR
from trajrec.redaction.request_bodies import BodyRedactor
from trajrec.values import codec
from trajrec.wire.deltas import BodyDeltas
from trajrec.wire.dialects.choose import dialect_of, is_model_request
from trajrec.wire.encodings import ContentDecoder
from trajrec.wire.exchange import (
    Headers,
    HttpAnswer,
    HttpRequest,
    header,
    kept_of_request,
    kept_of_response,
    plain_url,
)
from trajrec.wire.stored import RequestBody, ResponseNotes, encode_body, encode_notes

DRAIN_SECONDS = 0.25
"""The pieces of a response are searched and written this often, and at its end."""


_REDIRECTED = frozenset({307, 308})
"""Statuses after which a client sends the same request elsewhere; after others it sends none."""


class _Position(NamedTuple):
    step: int
    model_call: int
    attempt: int
    by: RetryBy


class ExchangeRecorder:
    """Records the HTTP exchanges of one episode.

    Args:
        journal: The episode's journal.
        steps: The episode's counter.
        states: Compares the watched state before each model call.

    Attributes:
        journal: The same.
        memory: The last exchanges, to find the episode of a request.
    """

    def __init__(self, journal: Journal, steps: StepCounter, states: StateRecorder) -> None:
        self.journal = journal
        self._states = states
        self._steps = steps
        self._redactor = BodyRedactor(journal.redactor)
        self._deltas = BodyDeltas()
        self.memory = ExchangeMemory()
        self._n_exchanges = 0
        self._open: dict[int, RecordedExchange] = {}

    def begin(self, request: HttpRequest) -> RecordedExchange:
        """Record a request that is about to be sent; return the exchange to report to."""
        journal = self.journal
        url = journal.text(plain_url(request.url))
        # Under the lock, because a body refers to that of an earlier exchange.
        with self._steps.lock:
            position = self._position(request)
            body, n_secrets = self._redactor.redact(request.body)
            delta = self._deltas.delta(body)
            number = self._n_exchanges
            data = encode_body(RequestBody(delta, len(body)), journal.store)
            journal.add(
                ExchangeStart(
                    episode=journal.number,
                    step=position.step,
                    number=number,
                    time_ns=time.time_ns(),
                    method=request.method,
                    url=url,
                    headers=self._without_secrets(kept_of_request(request.headers)),
                    body_data=data,
                    model_call=position.model_call,
                    attempt=position.attempt,
                    retry_by=position.by,
                    is_redacted=n_secrets > 0,
                )
            )
            # Not before: a later body must not refer to one that an exception has kept out.
            self._deltas.add(number, body, delta)
            self._n_exchanges = number + 1
        sent = self.memory.add_request(request.url, request.body)
        exchange = self._open[number] = RecordedExchange(
            self, number, position, request, sent, is_redacted=n_secrets > 0
        )
        return exchange

    def leave_open(self) -> None:
        """Record of each exchange that has no end what came of it, at the end of the episode."""
        for exchange in list(self._open.values()):
            exchange.left_open()

    def _position(self, request: HttpRequest) -> _Position:
        """Return the place of a request in the episode. A retry belongs to the step of the first."""
        enclosing = enclosing_model_call(self.journal)
        if enclosing is not None:
            return _Position(self._steps.step, enclosing, 0, "")
        if not is_model_request(request):
            return _Position(self._steps.step, -1, 0, "")
        failed = self.memory.take_failure(request)
        if failed is None:
            self._states.prepare_model_call()
            number, attempt, by = self._steps.next_model_call()
            self.memory.n_calls += 1
            return _Position(self._steps.step, number, attempt, by)
        number, by = self._steps.repeat_model_call()
        # A client that counts its retries from 0 again was called again by the agent's program.
        is_first = n_repeats_of(request) == 0
        own: RetryBy = "scaffold" if is_first and not failed.is_redirected else "transport"
        return _Position(failed.step, number, failed.attempt + 1, by or own)

    def _without_secrets(self, headers: Headers) -> Headers:
        return [(name, self.journal.text(value)) for name, value in headers]

    def add_end(
        self, number: int, status: int | None, headers: Headers, response: _Response
    ) -> None:
        """Record the end of an exchange, or what came of it until the end of the episode."""
        if not response.notes.is_open:
            self._open.pop(number, None)
        journal = self.journal
        exc = response.error
        error = NO_ERROR if exc is None else journal.describe(exc)
        journal.add(
            ExchangeEnd(
                episode=journal.number,
                number=number,
                time_ns=time.time_ns(),
                status=status,
                headers=self._without_secrets(kept_of_response(headers)),
                body_data=response.body_data,
                error_type=error.error_type,
                message=error.message,
                traceback=error.traceback,
                is_redacted=response.n_secrets > 0 or error.is_redacted,
                extra_data=encode_notes(response.notes),
            )
        )


class _Response(NamedTuple):
    """The rest of a response, as it is recorded at its end."""

    error: BaseException | None
    body_data: bytes | None
    n_secrets: int
    notes: ResponseNotes


class RecordedExchange:
    """One exchange that is being recorded; see `trajrec.wire.exchange.Exchange`.

    Attributes:
        answer: None: the request is to be sent.
    """

    answer: HttpAnswer | None = None
    sent_body: bytes | None = None
    sent_url: str | None = None

    def __init__(
        self,
        recorder: ExchangeRecorder,
        number: int,
        position: _Position,
        request: HttpRequest,
        sent: SentRequest,
        *,
        is_redacted: bool,
    ) -> None:
        self._request = request
        self._sent = sent
        # The body as it came, for what is remembered of it: secrets may be ids.
        self._received: list[bytes] = []
        self._recorder = recorder
        self._number = number
        self._position = position
        self._status: int | None = None
        self._headers: Headers = []
        self._decoder = ContentDecoder("")
        self._is_of_redacted = is_redacted
        self._redactor = self._redactor_of("")
        self._pieces: list[bytes] = []
        self._sizes: list[int] = []
        self._first_ns = 0
        self._drain_at = 0.0
        self._has_parts = False
        self._coding = ""
        self._is_over = False
        self._is_failure_known = False
        self._was_left = False
        # Re-entrant: a finalizer or a signal handler may end the exchange while it is written.
        self._lock = threading.RLock()

    def responded(self, status: int, headers: Headers) -> None:
        """Note the head of the response."""
        self._status = status
        self._headers = headers
        coding = header(headers, "content-encoding")
        self._decoder = ContentDecoder(coding)
        self._coding = "" if self._decoder.is_known else coding
        kind = header(headers, "content-type")
        self._redactor = self._redactor_of(kind)
        if status >= 400:
            # Before the client has it: its retry may come before the end of this exchange does.
            self._add_failure()

    def _redactor_of(self, kind: str) -> TokenRedactor:
        redactor = self._recorder.journal.redactor
        return answer_redactor(redactor, kind, is_of_redacted=self._is_of_redacted)

    def _add_failure(self) -> None:
        """Remember that the request has failed: the next one with the same bytes is its retry."""
        if not self._is_failure_known:
            self._is_failure_known = True
            failed = FailedAttempt(self._position.step, self._position.attempt)
            self._recorder.memory.add_failure(self._request, failed)

    def received(self, data: bytes) -> None:
        """Note a piece of the body."""
        self._pieces.append(data)
        now = time.monotonic()
        if now > self._drain_at:
            if self._drain_at:
                with self._lock:
                    self._drain()
            else:
                self._first_ns = time.time_ns()
                self._sent.has_begun = True
            self._drain_at = now + DRAIN_SECONDS

    def ended(self, error: BaseException | None) -> None:
        """Note the end of the exchange."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            # Its record says that it was open when the episode ended, if the log is closed by now.
            if not (self._was_left and self._recorder.journal.is_closed):
                self._end(error)

    def left_open(self) -> None:
        """Record what came until now, because the episode ends; see `trajrec.log.open_ends`."""
        with self._lock:
            if self._is_over:
                return
            self._was_left = True
            self._drain()
            own = self._recorder.journal.redactor
            # A copy: the body may be read on, and a secret may be cut here.
            redactor = copy.deepcopy(self._redactor, {id(own): own})
            rest = redactor.finish()
            response = self._response(None, rest, redactor.n_secrets, is_open=True)
            self._recorder.add_end(self._number, self._status, self._headers, response)

    def _response(
        self, error: BaseException | None, body: bytes | None, n_secrets: int, *, is_open: bool
    ) -> _Response:
        notes = ResponseNotes(
            # With marks in it, the pieces have other sizes.
            sizes=self._sizes if len(self._sizes) > 1 and not n_secrets else [],
            first_ns=self._first_ns,
            coding=self._coding,
            is_open=is_open,
        )
        has_body = self._status is not None and body is not None
        store = self._recorder.journal.store
        body_data = store(codec.encode(body)) if has_body else None
        return _Response(error, body_data, n_secrets, notes)

    def _end(self, error: BaseException | None) -> None:
        recorder = self._recorder
        self._drain()
        rest: bytes | None = self._redactor.finish()
        if self._has_parts:
            if rest:
                self._add_part(rest)
            rest = None
        response = self._response(error, rest, self._redactor.n_secrets, is_open=False)
        recorder.add_end(self._number, self._status, self._headers, response)
        if self._has_failed(error):
            self._add_failure()
        elif self._status in _REDIRECTED:
            # The client sends the same bytes to the address that it was given.
            moved = FailedAttempt(self._position.step, self._position.attempt, is_redirected=True)
            url = _redirected_url(self._request.url, header(self._headers, "location"))
            recorder.memory.add_failure(self._request._replace(url=url), moved)
        elif self._status is not None:
            answer = Answer(
                dialect=dialect_of(self._request.url, self._request.body),
                status=self._status,
                content_type=header(self._headers, "content-type"),
                body=b"".join(self._received),
            )
            recorder.memory.add_answer(self._sent, answer)

    def _has_failed(self, error: BaseException | None) -> bool:
        if error is not None:
            return isinstance(error, Exception)
        return self._status is not None and self._status >= 400

    def _drain(self) -> None:
        """Write the pieces that came, as far as no secret can begin in them."""
        # In this way, because another thread may append one meanwhile.
        pieces = self._pieces[:]
        del self._pieces[: len(pieces)]
        if not pieces or (self._was_left and self._recorder.journal.is_closed):
            return
        if not self._decoder.is_plain:
            try:
                pieces = [self._decoder.decode(piece) for piece in pieces]
            except ValueError:
                # Not in its coding after all: the rest is kept as it came, and said to be so.
                self._coding = header(self._headers, "content-encoding")
                self._decoder = ContentDecoder("")
        self._sizes += map(len, pieces)
        self._received += pieces
        data = self._redactor.add(b"".join(pieces))
        if data:
            self._add_part(data)

    def _add_part(self, data: bytes) -> None:
        journal = self._recorder.journal
        journal.add(ExchangePart(journal.number, self._number, time.time_ns(), data))
        self._has_parts = True


def _redirected_url(url: str, location: str) -> str:
    """Return the address that a redirection leads to; the same one if it leads nowhere."""
    try:
        return urljoin(url, location)
    except ValueError:
        return url
