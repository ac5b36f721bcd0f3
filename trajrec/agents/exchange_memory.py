"""What is remembered of an episode's exchanges, to find the episode of a request without a mark."""

from __future__ import annotations

import functools
import json
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from trajrec.types import Value
from trajrec.wire.alternatives import alternatives_in
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


class Continued(NamedTuple):
    """How well a request goes on from an earlier one: the larger, the better.

    Attributes:
        n: The number of messages of the earlier request, with which this one begins; 0 if it goes
            on from none.
        agreement: 3 if the answer of the earlier one follows, 2 if only the beginning of that answer
            is known, 1 if something else follows, as after a program that edits what models say. 0 if
            no answer has come: nobody can go on from it.
        is_last: Whether the earlier request was the last one of its episode.
    """

    n: int
    agreement: int
    is_last: bool


_NOT_CONTINUED = Continued(0, 0, False)


_Said: TypeAlias = tuple[str, list[str]]
"""What a model said: a text, and texts of the calls that it asks for."""


class Asking:
    """A request whose episode is searched for.

    Attributes:
        messages: Its messages.
    """

    def __init__(self, content: RequestContent, dialect: Dialect) -> None:
        self.messages = list(content.messages)
        self._dialect = dialect
        self._said: dict[int, _Said] = {}

    def said_after(self, n: int) -> _Said:
        """Return what the messages of the model behind the first `n` say."""
        if n not in self._said:
            text = ""
            calls: list[str] = []
            # Some dialects write the text and the calls of an answer as messages of their own.
            for value in self.messages[n:]:
                message = self._dialect.message(value)
                if message.role != "assistant":
                    break
                text += message.text
                calls += map(_text_of, message.calls)
            self._said[n] = (text.strip(), calls)
        return self._said[n]


class SentRequest:
    """A request that was sent, and what is known of its answer.

    Attributes:
        has_begun: Whether a piece of the answer came.
        answer: The answer, when it is whole.
    """

    def __init__(self, url: str, body: bytes) -> None:
        self.url = url
        self.body = body
        self.has_begun = False
        self.answer: Answer | None = None

    @functools.cached_property
    def messages(self) -> list[Value]:
        """The messages."""
        return list(dialect_of(self.url, self.body).request(self.url, self.body).messages)

    def continued_by(self, asking: Asking, *, is_last: bool) -> Continued:
        """Return how well another request goes on from this one.

        Args:
            asking: The other request.
            is_last: Whether this one is the last one of its episode.
        """
        n = len(self.messages)
        if not 0 < n < len(asking.messages) or asking.messages[:n] != self.messages:
            return _NOT_CONTINUED
        if self.answer is None:
            return Continued(n, 2 if self.has_begun else 0, is_last)
        return Continued(n, 3 if asking.said_after(n) in self._answered else 1, is_last)

    @functools.cached_property
    def _answered(self) -> list[_Said]:
        """What the alternatives of the answer say. It is asked for when there is an answer."""
        assert self.answer is not None
        content = _content_of(self.answer)
        read = self.answer.dialect.message
        others = alternatives_in(content.value, lambda value: (read(value), value))
        if others:
            return [
                (other.message.text.strip(), list(map(_text_of, other.message.calls)))
                for other in others
            ]
        return [((content.text or "").strip(), list(map(_text_of, content.calls)))]


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
        self._requests: deque[SentRequest] = deque(maxlen=REMEMBERED_REQUESTS)
        self._answers: deque[Answer] = deque(maxlen=REMEMBERED_ANSWERS)
        self._first_request: SentRequest | None = None
        # The last answer, if no request has followed it: its tool calls may run now.
        self._last_answer: Answer | None = None
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

    def add_request(self, url: str, body: bytes) -> SentRequest:
        """Remember a request, and return what is remembered of it."""
        sent = SentRequest(url, body)
        self._requests.append(sent)
        self._first_request = self._first_request or sent
        self._last_answer = None
        return sent

    def add_answer(self, sent: SentRequest, answer: Answer) -> None:
        """Remember the answer of a request."""
        sent.answer = answer
        if len(self._answers) == REMEMBERED_ANSWERS:
            self._read_answers()
        self._answers.append(answer)
        self._last_answer = answer

    def running_calls(self) -> list[ToolCall]:
        """Return the tool calls that the last answer asked for, if no request has followed it."""
        answer = self._last_answer
        return [] if answer is None else list(_content_of(answer).calls)

    def is_in_the_middle(self) -> bool:
        """Return whether it was to go on: the last request has no answer, or a call of one none."""
        if not self._requests:
            return False
        # Of several requests at once, an earlier one may be answered last.
        return self._requests[-1].answer is None or bool(self.running_calls())

    def told_texts(self) -> list[str]:
        """Return the texts of the first request and the last ones: what the agent itself was told."""
        first = self._first_request
        requests = [*self._requests]
        if first is not None and first not in requests:
            requests.append(first)
        return [text for sent in requests for text in texts_of(sent.url, sent.body)]

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

    def continued(self, asking: Asking) -> Continued:
        """Return how well a request goes on from a remembered one: the best of them."""
        # A copy, because another thread may add one meanwhile.
        requests = [*self._requests]
        ranks = (sent.continued_by(asking, is_last=sent is requests[-1]) for sent in requests)
        return max(ranks, default=_NOT_CONTINUED)

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
