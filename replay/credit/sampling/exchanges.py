"""HTTP exchanges of an agent whose loop is run again: earlier answers, and new ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from trajrec.agents.counters import StepCounter
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.recording.error_text import message_of
from trajrec.redaction.digests import without_digests_in_bytes
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.request_bodies import BodyRedactor
from trajrec.replay.agents.wire_answers import AnsweredExchange, answer_of
from trajrec.replay.credit.sampling.answers import OPEN, RecordedAnswer, digest_request
from trajrec.taps.exceptions import name_of, rebuild_error
from trajrec.values import codec
from trajrec.wire.dialects.choose import is_model_request
from trajrec.wire.encodings import ContentDecoder
from trajrec.wire.exchange import (
    Exchange,
    Headers,
    HttpAnswer,
    HttpRequest,
    header,
    kept_of_response,
    plain_url,
)
from trajrec.wire.keys import RequestKeys

FIRST_FAILURE = 400
"""The lowest status of a failure."""


def encode_exchange_request(url: str, body: bytes) -> bytes:
    """Return a request, without secrets, as its answer is found by."""
    return RequestKeys(plain_url(url), without_digests_in_bytes(body)).loose


def recorded_exchange(exchange: HttpExchange) -> RecordedAnswer:
    """Return the answer to a recorded request."""
    answer = answer_of(exchange)
    end = exchange.end
    error = ("", "")
    if end is None:
        error = ("builtins.TimeoutError", str(answer.error))
    elif answer.error is not None:
        error = (end.error_type, end.message)
    body = exchange.request_body or b""
    return _as_answer(encode_exchange_request(exchange.start.url, body), answer, error)


def _as_answer(request: bytes, answer: HttpAnswer, error: tuple[str, str]) -> RecordedAnswer:
    stored = [answer.status, answer.headers, answer.chunks, answer.hangs]
    return RecordedAnswer.from_request(request, codec.encode(stored), error)


def http_answer(answer: RecordedAnswer) -> HttpAnswer:
    """Return an earlier answer as a tap delivers it."""
    stored: Any = codec.decode(answer.answer or codec.encode([0, [], [], False]))
    status, headers, chunks, hangs = stored
    error = rebuild_error(answer.error_type, answer.message) if answer.error_type else None
    pairs = [(str(name), str(value)) for name, value in headers]
    return HttpAnswer(status, pairs, chunks, error, hangs=hangs)


def has_failed(answer: RecordedAnswer) -> bool:
    """Return whether a client may repeat the request of an answer."""
    return bool(answer.error_type) or http_answer(answer).status >= FIRST_FAILURE


class LiveExchange:
    """A request that is sent, because it has no earlier answer; its answer is kept.

    Args:
        request: The request, as `encode_exchange_request` gives it.
        keep: Called with the answer at its end.
    """

    answer: HttpAnswer | None = None
    sent_body: bytes | None = None
    sent_url: str | None = None

    def __init__(self, request: bytes, keep: Callable[[RecordedAnswer], None]) -> None:
        self._request = request
        self._keep = keep
        self._status = 0
        self._headers: Headers = []
        self._chunks: list[bytes] = []
        self._coding = ""
        self._is_over = False

    def responded(self, status: int, headers: Headers) -> None:
        """Note the head of the response."""
        self._status = status
        self._headers = kept_of_response(headers)
        self._coding = header(headers, "content-encoding")

    def received(self, data: bytes) -> None:
        """Note a piece of the body."""
        self._chunks.append(data)

    def ended(self, error: BaseException | None) -> None:
        """Keep the answer."""
        if self._is_over:
            return
        self._is_over = True
        told = ("", "") if error is None else (name_of(error), message_of(error))
        headers, chunks = self._decoded()
        answer = HttpAnswer(self._status, headers, chunks)
        self._keep(_as_answer(self._request, answer, told))

    def _decoded(self) -> tuple[Headers, list[bytes]]:
        """Return the headers and the decoded body; a body that is not decoded keeps its coding."""
        decoder = ContentDecoder(self._coding)
        if decoder.is_known:
            with contextlib.suppress(ValueError):
                return self._headers, [decoder.decode(chunk) for chunk in self._chunks]
        return [*self._headers, ("content-encoding", self._coding)], self._chunks


class ExchangePlayback:
    """Answers the HTTP requests of a loop that is run again, in the order in which it made them.

    Args:
        rows: The answers so far; new ones are appended.
        redactor: The redactor of the recording.
        steps: The loop's counter.
        n_compared: The number of requests that need no comparison any more.
    """

    def __init__(
        self,
        rows: list[RecordedAnswer | str],
        redactor: Redactor,
        steps: StepCounter,
        n_compared: int,
    ) -> None:
        self._rows = rows
        self._bodies = BodyRedactor(redactor)
        self._steps = steps
        self._n_compared = n_compared
        self._n_asked = 0
        # Requests that failed: the next equal one repeats it, in the same step.
        self._failed: set[bytes] = set()

    def begin(
        self, request: HttpRequest, is_in_step: Callable[[int], bool]
    ) -> Exchange | str | None:
        """Return the exchange to report to.

        Args:
            request: The request.
            is_in_step: Returns whether a new request in a step may be sent.

        Returns:
            The exchange; a text if the loop does not do the same as before; None if the request is
            new and belongs to a later step.
        """
        asked = encode_exchange_request(request.url, self._bodies.redact(request.body)[0])
        with self._steps.lock:
            number = self._n_asked
            self._n_asked += 1
            is_of_model = is_model_request(request)
            if asked in self._failed:
                self._failed.remove(asked)
                self._steps.repeat_model_call()
            elif is_of_model:
                self._steps.next_model_call()
        if number < len(self._rows):
            return self._earlier(number, asked)
        # Another request begins no step: like a side effect, it is made in the present one.
        if is_of_model and not is_in_step(self._steps.step):
            return None
        self._rows.append(OPEN)

        def keep(answer: RecordedAnswer) -> None:
            self._rows[number] = answer
            if has_failed(answer):
                self._failed.add(asked)

        return LiveExchange(asked, keep)

    def _earlier(self, number: int, asked: bytes) -> Exchange | str:
        answer = self._rows[number]
        name = f"HTTP request {number} of the agent"
        if isinstance(answer, str):
            return f"{name}: {answer}"
        is_compared = bool(answer.request_digest) and number >= self._n_compared
        if is_compared and answer.request_digest != digest_request(asked):
            return f"{name} differs from the request that it made at this place before"
        if has_failed(answer):
            self._failed.add(asked)
        return AnsweredExchange(http_answer(answer))
