"""An HTTP exchange: one request and its response, as a tap sees them.

One exchange is one attempt. A client that retries makes several of them for one model call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias
from urllib.parse import urlsplit, urlunsplit

Headers: TypeAlias = list[tuple[str, str]]
"""Names, in lower case, and values."""


class HttpRequest(NamedTuple):
    """A request as it is sent.

    Attributes:
        method: "POST", mostly.
        url: The whole address.
        headers: The headers.
        body: The body; empty if it is a stream or has files, which a tap must not read.
    """

    method: str
    url: str
    headers: Headers
    body: bytes


class HttpAnswer(NamedTuple):
    """A recorded response, which a tap delivers instead of sending the request.

    Attributes:
        status: The HTTP status, 0 if no response came.
        headers: The headers that are kept; the body is decoded.
        chunks: The body, in the pieces in which it came.
        error: The exception after the pieces, or in place of a response.
        hangs: Whether the recorded request was given up before a response came: the tap waits until
            this one is given up too.
    """

    status: int
    headers: Headers
    chunks: list[bytes]
    error: BaseException | None = None
    hangs: bool = False


class Exchange(Protocol):
    """One exchange, as a tap reports it. No method raises.

    Attributes:
        answer: The answer to deliver; None if the request is to be sent.
        sent_body: The body to send in place of the request's own; None sends that.
        sent_url: The address to send it to in place of the request's own, on the same server; None
            sends it there.
    """

    answer: HttpAnswer | None
    sent_body: bytes | None
    sent_url: str | None

    def responded(self, status: int, headers: Headers) -> None:
        """Note the head of the response. `content-encoding` says how `received` is encoded."""

    def received(self, data: bytes) -> None:
        """Note a piece of the body, as it came."""

    def ended(self, error: BaseException | None) -> None:
        """Note the end: the body was read or left (None), or an exception came. Only once."""


_MODEL_PATH = re.compile(
    r"(?:/(?:chat/completions|completions|responses|messages|embeddings|api/chat|api/generate"
    r"|converse|converse-stream|invoke|invoke-with-response-stream)"
    r"|:(?:generateContent|streamGenerateContent|rawPredict|streamRawPredict))/?\Z"
)


def is_model_call(method: str, url: str) -> bool:
    """Return whether a request is a call of a model, by its path.

    >>> is_model_call("POST", "https://api.openai.com/v1/chat/completions?x=1")
    True
    >>> is_model_call("GET", "https://example.org/messages")
    False
    """
    if method != "POST":
        return False
    path = url.partition("?")[0].partition("#")[0]
    return _MODEL_PATH.search(path) is not None


# The others name the user, or change from call to call and say nothing.
_KEPT_OF_REQUESTS = frozenset({"content-type", "idempotency-key", "x-stainless-retry-count"})
_KEPT_OF_RESPONSES = frozenset(
    {
        "content-type",
        "location",
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "x-request-id",
        "request-id",
    }
)


def kept_of_request(headers: Sequence[tuple[str, str]]) -> Headers:
    """Return the headers of a request that a log keeps: none that may hold a key.

    >>> kept_of_request([("authorization", "Bearer x"), ("content-type", "application/json")])
    [('content-type', 'application/json')]
    """
    return [(name, value) for name, value in headers if name in _KEPT_OF_REQUESTS]


def kept_of_response(headers: Sequence[tuple[str, str]]) -> Headers:
    """Return the headers of a response that a log keeps: none that may hold a key.

    >>> kept_of_response([("location", "/v1/messages?key=1"), ("set-cookie", "a=1")])
    [('location', '/v1/messages')]
    """
    kept = [(name, value) for name, value in headers if name in _KEPT_OF_RESPONSES]
    return [(name, _plain_location(value) if name == "location" else value) for name, value in kept]


def _plain_location(location: str) -> str:
    """Return the place of a redirection as `plain_url` does; "" if it is no address."""
    try:
        return plain_url(location)
    except ValueError:
        return ""


def header(headers: Sequence[tuple[str, str]], name: str) -> str:
    """Return the first header of a name, "" if there is none."""
    return next((value for key, value in headers if key == name), "")


def plain_url(url: str) -> str:
    """Return an address without credentials, query and fragment, which may hold keys.

    >>> plain_url("https://me:secret@example.org:8000/v1/messages?key=1#a")
    'https://example.org:8000/v1/messages'
    >>> plain_url("../messages?key=1")
    '../messages'
    """
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
