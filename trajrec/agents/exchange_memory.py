"""What is remembered of an episode's exchanges, to find the episode of a request without a mark."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from trajrec.types import Value
from trajrec.wire.contents import AnswerContent, Dialect, RequestContent, ToolCall
from trajrec.wire.dialects.choose import dialect_of
from trajrec.wire.exchange import HttpRequest, header, plain_url

REMEMBERED_REQUESTS = 4
"""Requests that a new one may go on from: so many conversations of one episode may take turns."""

REMEMBERED_ANSWERS = 64
"""Answers whose tool calls a request may bring results of. Older ones were read meanwhile."""


class FailedAttempt(NamedTuple):
    """A failed attempt that no other one has repeated yet, or one that was sent elsewhere.

    Attributes:
        step: Its step.
        attempt: Its number.
        is_redirected: Whether it is one that the server sent elsewhere.
        n_repeats: How often its client had repeated it, as the request says; None if it does not.
    """

    step: int
    attempt: int
    is_redirected: bool = False
    n_repeats: int | None = None


class Answer(NamedTuple):
    """An answer that was received.

    Its request is not kept: those of an agent that sends screenshots have tens of megabytes.
    """

    dialect: Dialect
    status: int
    content_type: str
    body: bytes


class ExchangeMemory:
    """The last exchanges of one episode. They are parsed when somebody asks.

    Attributes:
        n_calls: The model calls so far. A repeated attempt is not another call.
    """

    def __init__(self) -> None:
        self.n_calls = 0
        # By address and body. A digest of each body would take longer than all the rest.
        # Several samples of one prompt may fail at once.
        self._failed: dict[tuple[str, bytes], list[FailedAttempt]] = {}
        self._requests: deque[tuple[str, bytes]] = deque(maxlen=REMEMBERED_REQUESTS)
        self._answers: deque[Answer] = deque(maxlen=REMEMBERED_ANSWERS)
        self._first_request: tuple[str, bytes] | None = None
        # The last answer, if no request has followed it: its tool calls may run now.
        self._last_answer: Answer | None = None
        self._parsed: dict[bytes, list[Value]] = {}
        # By id: a provider may give equal ones to the calls of several conversations.
        self._calls: dict[str, set[str]] = {}
        self._response_ids: set[str] = set()

    def add_failure(self, request: HttpRequest, failed: FailedAttempt) -> None:
        """Remember a failed attempt, until a request with the same bytes repeats it."""
        if not (request.body or failed.is_redirected):
            # A tap could not read it, so that nothing tells whether another one repeats it.
            return
        same = self._failed.setdefault(_key(request), [])
        same.append(failed._replace(n_repeats=n_repeats_of(request)))
        del same[:-REMEMBERED_ANSWERS]
        if len(self._failed) > REMEMBERED_ANSWERS:
            del self._failed[next(iter(self._failed))]

    def has_failed(self, request: HttpRequest) -> bool:
        """Return whether a request repeats a failed one."""
        return bool(self._failed) and _key(request) in self._failed

    def is_next_try(self, request: HttpRequest) -> bool:
        """Return whether a request repeats a failed one by the count of its client."""
        return bool(self._failed_before(request))

    def _failed_before(self, request: HttpRequest) -> list[FailedAttempt]:
        n_repeats = n_repeats_of(request)
        same = self._failed.get(_key(request), [])
        return [failed for failed in same if n_repeats and failed.n_repeats == n_repeats - 1]

    def take_failure(self, request: HttpRequest) -> FailedAttempt | None:
        """Return the failed attempt that a request repeats, None if it repeats none; forget it."""
        key = _key(request)
        same = self._failed.get(key)
        if not same:
            return None
        failed = (self._failed_before(request) or same)[0]
        same.remove(failed)
        if not same:
            del self._failed[key]
        return failed

    def add_request(self, url: str, body: bytes) -> None:
        """Remember a request."""
        self._requests.append((url, body))
        self._first_request = self._first_request or (url, body)
        self._last_answer = None

    def add_answer(self, answer: Answer) -> None:
        """Remember an answer."""
        if len(self._answers) == REMEMBERED_ANSWERS:
            self._read_answers()
        self._answers.append(answer)
        self._last_answer = answer

    def running_calls(self) -> list[ToolCall]:
        """Return the tool calls that the last answer asked for, if no request has followed it."""
        answer = self._last_answer
        return [] if answer is None else list(_content_of(answer).calls)

    def told_texts(self) -> list[str]:
        """Return the texts of the first request and the last ones: what the agent itself was told."""
        requests = {*self._requests} | ({self._first_request} if self._first_request else set())
        return [text for url, body in requests for text in texts_of(url, body)]

    def gave_call(self, call_ids: set[str]) -> bool:
        """Return whether an answer asked for a tool call of one of these ids."""
        self._read_answers()
        return not self._calls.keys().isdisjoint(call_ids)

    def n_given(self, calls: Iterable[ToolCall]) -> int:
        """Return how many of the calls that a request repeats an answer asked for."""
        self._read_answers()
        return sum(_text_of(call) in self._calls.get(call.call_id or "", ()) for call in calls)

    def gave_response(self, response_id: str) -> bool:
        """Return whether an answer had this id."""
        self._read_answers()
        return response_id in self._response_ids

    def n_continued(self, content: RequestContent) -> tuple[int, bool]:
        """Return the number of the messages of a remembered request that a longer one goes on from.

        Returns:
            The largest such number, 0 if it goes on from none; and whether that was the last one.
        """
        messages = list(content.messages)
        best = (0, False)
        # A copy, because another thread may add one meanwhile.
        requests = [*self._requests]
        for url, body in requests:
            earlier = self._parsed.get(body)
            if earlier is None:
                earlier = list(dialect_of(url, body).request(url, body).messages)
                self._parsed[body] = earlier
            n = len(earlier)
            if n < len(messages) and messages[:n] == earlier:
                best = max(best, (n, body is requests[-1][1]))
        bodies = {body for _, body in requests}
        self._parsed = {body: found for body, found in self._parsed.items() if body in bodies}
        return best if best[0] else (0, False)

    def _read_answers(self) -> None:
        while True:
            try:
                answer = self._answers.popleft()
            except IndexError:
                # Not asked before: another thread may take the last one.
                return
            content = _content_of(answer)
            for call in content.calls:
                if call.call_id:
                    self._calls.setdefault(call.call_id, set()).add(_text_of(call))
            if content.response_id:
                self._response_ids.add(content.response_id)


def _text_of(call: ToolCall) -> str:
    return json.dumps([call.name, call.arguments], sort_keys=True)


def n_repeats_of(request: HttpRequest) -> int | None:
    """Return how often a client has repeated a request, as it says; None if it says nothing."""
    count = header(request.headers, "x-stainless-retry-count")
    # The digits of ASCII: others, such as a superscript, are no number to `int`.
    is_number = count.isascii() and count.isdigit() and len(count) < 10
    return int(count) if is_number else None


def texts_of(url: str, body: bytes) -> list[str]:
    """Return the texts of the messages of a request, the system's among them."""
    dialect = dialect_of(url, body)
    content = dialect.request(url, body)
    texts = [dialect.message(message).text for message in content.messages]
    return [text.strip() for text in [content.system or "", *texts]]


def _content_of(answer: Answer) -> AnswerContent:
    return answer.dialect.answer(answer.status, answer.content_type, answer.body)


def _key(request: HttpRequest) -> tuple[str, bytes]:
    return plain_url(request.url), request.body
