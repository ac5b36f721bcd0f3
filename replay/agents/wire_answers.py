"""The recorded HTTP exchanges of an episode as answers: each request gets the one that it had."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.corpus.wire_calls import CANCELLATIONS
from trajrec.log.events import ExchangeEnd
from trajrec.redaction.digests import without_digests_in_bytes
from trajrec.redaction.redactor import Redactor
from trajrec.redaction.request_bodies import BodyRedactor
from trajrec.taps.exceptions import rebuild_error
from trajrec.wire.exchange import Headers, HttpAnswer, HttpRequest, plain_url
from trajrec.wire.keys import Nearest, RequestKeys, nearest

KEYS = ("exact", "canonical", "loose")
"""The keys by which requests are matched, each weaker than the one before."""

_NO_END = "the recorded request was open when its log ended"

LEFT_OPEN = "the agent stopped reading the recorded stream before its episode ended: what followed is unknown"
"""Why a rerun cannot go on with a stream that was left open."""

# The statuses at which clients wait and try again.
_RETRIED = frozenset({408, 409, 429})


def patterns_of(ignore: Iterable[str | re.Pattern[str]]) -> list[re.Pattern[str]]:
    """Return the compiled patterns of texts that do not count.

    Raises:
        TypeError: They are one pattern, each letter of which would be a pattern.
    """
    if isinstance(ignore, (str, re.Pattern)):
        raise TypeError(f"ignore must be a list of regular expressions, got {ignore!r}")
    return [re.compile(text) for text in ignore]


class Miss(NamedTuple):
    """A request that the recording does not have.

    Attributes:
        body: Its body, without secrets.
        nearest: The unused recorded exchange that is most like it, None if none is left.
        differences: How it differs from that one.
    """

    body: bytes
    nearest: HttpExchange | None
    differences: Nearest | None


class WireAnswers:
    """Answers requests from recorded exchanges, each of which answers once.

    Equal requests are answered in the recorded order, so that a failure and its retry come back in
    turn; different ones in any order.

    Args:
        exchanges: The recorded exchanges.
        redactor: The redactor of the recording.
        ignore: Patterns whose matches in texts do not count, e.g. dates in prompts.

    Attributes:
        n_matched: How many requests were matched by each of `KEYS`.
    """

    def __init__(
        self,
        exchanges: Sequence[HttpExchange],
        redactor: Redactor,
        ignore: Sequence[re.Pattern[str]] = (),
    ) -> None:
        self.n_matched: Counter[str] = Counter()
        self._exchanges = list(exchanges)
        self._used: set[int] = set()
        self._ignore = ignore
        self._has_marks = any(exchange.start.is_redacted for exchange in exchanges)
        self._redactor = BodyRedactor(redactor)
        self._places: dict[str, dict[bytes, list[int]]] = {}

    def take(self, request: HttpRequest) -> HttpExchange | None:
        """Return the exchange that answers a request, and use it up; None if there is none."""
        found = self._find(request)
        if found is None:
            return None
        place, name = found
        self._used.add(place)
        self.n_matched[name] += 1
        return self._exchanges[place]

    def find(self, request: HttpRequest) -> HttpExchange | None:
        """Return the exchange that would answer a request, without using it up."""
        found = self._find(request)
        return None if found is None else self._exchanges[found[0]]

    def _find(self, request: HttpRequest) -> tuple[int, str] | None:
        """Return the place of the exchange that answers a request, and the key that found it."""
        url = plain_url(request.url)
        keys = RequestKeys(url, self._comparable(request.body), self._ignore)
        for name in KEYS:
            for place in self._by_key(name).get(getattr(keys, name), ()):
                if place not in self._used:
                    return place, name
        return None

    def miss(self, request: HttpRequest) -> Miss:
        """Return what is to be said of a request that the recording does not have."""
        body = self._comparable(request.body)
        unused = self.unused
        found = nearest(body, [_body_of(exchange) for exchange in unused], self._ignore)
        return Miss(body, None if found is None else unused[found.number], found)

    @property
    def unused(self) -> list[HttpExchange]:
        """The exchanges that answered no request yet, in recorded order."""
        return [
            exchange for place, exchange in enumerate(self._exchanges) if place not in self._used
        ]

    @property
    def used_places(self) -> list[int]:
        """Places among the given exchanges of those that have answered."""
        return sorted(self._used)

    def _by_key(self, name: str) -> dict[bytes, list[int]]:
        """Return the places of the exchanges by one of their keys. Few runs need the weaker ones."""
        if name not in self._places:
            places: defaultdict[bytes, list[int]] = defaultdict(list)
            for place, exchange in enumerate(self._exchanges):
                keys = RequestKeys(exchange.start.url, _body_of(exchange), self._ignore)
                places[getattr(keys, name)].append(place)
            self._places[name] = places
        return self._places[name]

    def _comparable(self, body: bytes) -> bytes:
        """Return a body as the recorder would have stored it, but for digests of secrets."""
        if not self._has_marks:
            return body
        return without_digests_in_bytes(self._redactor.redact(body)[0])


def _body_of(exchange: HttpExchange) -> bytes:
    body = exchange.request_body or b""
    return without_digests_in_bytes(body) if exchange.start.is_redacted else body


def answer_of(exchange: HttpExchange) -> HttpAnswer:
    """Return a recorded response as a tap delivers it, without waits between retries."""
    end = exchange.end
    if end is None and exchange.open_end is not None:
        return _open_answer(exchange, exchange.open_end)
    if end is None:
        # A head may have come. Without one, the pieces cannot be delivered either.
        return HttpAnswer(0, [], [], TimeoutError(_NO_END))
    if end.status is None:
        hangs = end.error_type in CANCELLATIONS
        error = rebuild_error(end.error_type, end.message)
        return HttpAnswer(0, [], [], error, hangs=hangs)
    is_left = end.error_type in CANCELLATIONS
    error_after = None
    if end.error_type and not is_left:
        error_after = rebuild_error(end.error_type, end.message)
    return HttpAnswer(
        status=end.status,
        headers=_answered_headers(exchange, end.status, end.headers),
        chunks=exchange.chunks,
        error=error_after,
        hangs=is_left,
    )


def _open_answer(exchange: HttpExchange, left: ExchangeEnd) -> HttpAnswer:
    """Return what had come of a response when its episode ended."""
    if left.status is None:
        return HttpAnswer(0, [], [], TimeoutError(_NO_END), hangs=True)
    return HttpAnswer(
        status=left.status,
        headers=_answered_headers(exchange, left.status, left.headers),
        chunks=exchange.chunks,
        # Not an end, which would pass for that of the answer; and no wait, since who reads on does
        # something else than was recorded. No TimeoutError, whose text urllib3 replaces.
        error=ConnectionError(LEFT_OPEN),
    )


def _answered_headers(exchange: HttpExchange, status: int, recorded: Headers) -> Headers:
    """Return the headers of a recorded response, for a client that may ask another address."""
    headers = [
        (name, _beside(value, exchange.start.url) if name == "location" else value)
        for name, value in _without_waits(status, recorded)
    ]
    # A body that was kept in its coding is decoded by the client again.
    coding = exchange.notes.coding
    return [*headers, ("content-encoding", coding)] if coding else headers


def _beside(location: str, url: str) -> str:
    """Return the place of a redirection from an address; relative to it, if on the same server.

    >>> _beside("http://a.example/v1/b/messages", "http://a.example/v1/messages")
    './b/messages'
    >>> _beside("/v1/messages/", "http://a.example/v1/messages")
    './messages/'
    """
    asked = urlsplit(url)
    moved = urlsplit(urljoin(url, location))
    if moved[:2] != asked[:2]:
        return location
    path = moved.path or "/"
    # By folders, since a path may end in a slash or not. With a dot before, a colon in a name ends no
    # scheme.
    folder, _, name = path.rpartition("/")
    start = asked.path.rpartition("/")[0] or "/"
    relative = posixpath.relpath(folder or "/", start)
    dot = "" if relative in (".", "..") or relative.startswith("../") else "./"
    return f"{dot}{relative}/{name}"


def _without_waits(status: int, headers: Headers) -> Headers:
    """Return headers that make a client try again at once."""
    if status not in _RETRIED and status < 500:
        return list(headers)
    kept = [(name, value) for name, value in headers if not name.startswith("retry-after")]
    # Not 0, which OpenAI's client ignores.
    return [*kept, ("retry-after-ms", "1")]


class AnsweredExchange:
    """An exchange that is answered from a recording, so that nothing is noted of it.

    Args:
        answer: The answer.
    """

    sent_body: bytes | None = None
    sent_url: str | None = None

    def __init__(self, answer: HttpAnswer | None) -> None:
        self.answer = answer

    def responded(self, status: int, headers: Headers) -> None:
        """Do nothing: the response is the recorded one."""

    def received(self, data: bytes) -> None:
        """Do nothing."""

    def ended(self, error: BaseException | None) -> None:
        """Do nothing."""
