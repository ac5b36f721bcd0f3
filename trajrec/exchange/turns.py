"""Writes the turns of an imported episode as model calls: each request repeats the one before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from trajrec.exchange.records import Message, Turn
from trajrec.exchange.values import ValueEncoder
from trajrec.log.events import ModelEnd, ModelStart, StepValues
from trajrec.log.schema import Event
from trajrec.log.source_facts import end_data, extra_data
from trajrec.types import JsonObject, Value
from trajrec.values import codec

REMEMBERED = 4
"""Requests that a new one is compared with: so many conversations may take turns."""

IMPORTED = "imported"
"""The function of a model call that was imported."""


class _Thread(msgspec.Struct):
    """A conversation.

    Attributes:
        base: The number of its last model call, -1 before the first.
        n: The number of the messages of that request.
        pending: The messages since then.
    """

    base: int = -1
    n: int = 0
    pending: list[bytes] = msgspec.field(default_factory=list)


class TurnWriter:
    """Writes the model calls of one episode.

    Args:
        add: Adds an event to the log.
        values: Encodes values.
        episode: The number of the episode.

    Attributes:
        step: The last step, -1 before the first.
    """

    def __init__(self, add: Callable[[Event], None], values: ValueEncoder, episode: int) -> None:
        self._add = add
        self._values = values
        self._episode = episode
        self._n_model_calls = 0
        self._n_held = 0
        self._threads: dict[str, _Thread] = {}
        self._thread = ""
        self._requests: list[tuple[int, list[Value]]] = []
        self.step = -1

    def hold(self, message: Message) -> None:
        """Hold a message for the next request."""
        data = self._values.message(self._episode, message.value)
        self._current.pending.append(data)
        self._n_held += 1
        if message.extra is not None or message.time_ns:
            facts: JsonObject = {
                "message": message.value.get("role", ""),
                "message_number": self._n_held - 1,
            }
            if message.time_ns:
                facts["time_ns"] = message.time_ns
            self._add(
                StepValues(
                    self._episode,
                    self.step,
                    self._values.data(self._episode, facts),
                    self._facts(message.extra),
                )
            )

    def pending_values(self) -> list[Value]:
        """Return the messages that no request has, as the log holds them."""
        pending = [data for thread in self._threads.values() for data in thread.pending]
        return list(map(codec.decode, pending))

    def write(self, turn: Turn) -> None:
        """Write a turn."""
        self._thread = turn.thread
        if not turn.attempt:
            self.step += 1
        message = turn.message
        if message is not None:
            message = self._values.lightened(self._episode, message)
        if not turn.is_model_call:
            said: JsonObject = {}
            if message is not None:
                said = {"turn": message, "messages_before": self._n_held}
            self._add(
                StepValues(
                    self._episode,
                    self.step,
                    self._values.data(self._episode, said),
                    self._facts(turn.extra),
                )
            )
        elif turn.request is not None:
            self._write_request(turn, message, turn.request)
            return
        else:
            self._write_call(turn, message)
        for said in turn.said or ([] if message is None else [message]):
            self._current.pending.append(self._values.message(self._episode, said))

    @property
    def _current(self) -> _Thread:
        return self._threads.setdefault(self._thread, _Thread())

    def _write_call(self, turn: Turn, message: JsonObject | None) -> None:
        """Write a model call whose request is the conversation so far."""
        thread = self._current
        if turn.begins_anew:
            thread.base = -1
            thread.n = 0
        kept = thread.n
        number = self._start(turn, thread.base, kept, thread.pending)
        thread.base = number
        thread.n = kept + len(thread.pending)
        thread.pending = []
        self._end(turn, message, number)

    def _write_request(self, turn: Turn, message: JsonObject | None, request: list[Value]) -> None:
        """Write a model call whose request the source has."""
        base = -1
        n_same = 0
        number = self._n_model_calls
        for earlier, messages in self._requests:
            n = n_common(messages, request)
            if n > n_same:
                base = earlier
                n_same = n
        encoded = [self._encode_message(item) for item in request[n_same:]]
        self._start(turn, base, n_same, encoded, is_reconstructed=False)
        kept = [item for item in self._requests if item[0] != base]
        self._requests = [*kept[1 - REMEMBERED :], (number, request)]
        self._current.pending = []
        self._end(turn, message, number)

    def _encode_message(self, message: Value) -> bytes:
        if type(message) is dict:
            return self._values.message(self._episode, message)
        return self._values.data(self._episode, message)

    def _start(
        self,
        turn: Turn,
        base: int,
        kept: int,
        messages: list[bytes],
        *,
        is_reconstructed: bool = True,
    ) -> int:
        number = self._n_model_calls
        self._n_model_calls += 1
        parameters = {} if turn.parameters is None else turn.parameters
        if turn.model:
            parameters = {"model": turn.model, **parameters}
        self._add(
            ModelStart(
                episode=self._episode,
                step=self.step,
                number=number,
                time_ns=turn.start_ns,
                function=IMPORTED,
                request_data=self._request(parameters),
                base=base,
                kept=kept,
                messages=messages,
                attempt=turn.attempt,
                retry_by=turn.retry_by,
                is_reconstructed=is_reconstructed,
                extra_data=self._facts(turn.extra),
            )
        )
        return number

    def _request(self, parameters: JsonObject) -> bytes:
        """Return the arguments of a request: large ones, such as tools, are stored once."""
        values = self._values
        stored = {name: values.inner(self._episode, value) for name, value in parameters.items()}
        return values.data(self._episode, {"args": [], "kwargs": stored})

    def _end(self, turn: Turn, message: JsonObject | None, number: int) -> None:
        if turn.is_open:
            return
        outcome: Literal["ok", "error"] = "error" if turn.error or turn.error_type else "ok"
        answer = _answer_of(turn, message)
        self._add(
            ModelEnd(
                episode=self._episode,
                number=number,
                time_ns=turn.end_ns,
                outcome=outcome,
                answer_data=None if answer is None else self._values.single(self._episode, answer),
                error_type=self._values.text(turn.error_type),
                message=self._values.text(turn.error),
                extra_data=end_data(is_unknown=False),
            )
        )

    def _facts(self, extra: Value) -> bytes | None:
        if extra is None:
            return None
        return extra_data(codec.decode(self._values.data(self._episode, extra)))


def _answer_of(turn: Turn, message: JsonObject | None) -> Value:
    """Return the whole answer of a turn; a message alone is put into the form of chats."""
    if turn.answer is not None or message is None:
        return turn.answer
    choice: JsonObject = {"index": 0, "message": message}
    if turn.finish_reason:
        choice["finish_reason"] = turn.finish_reason
    answer: JsonObject = {"choices": [choice]}
    if turn.model:
        answer["model"] = turn.model
    if turn.usage is not None:
        answer["usage"] = turn.usage
    return answer


def n_common(a: list[Value], b: list[Value]) -> int:
    """Return the number of messages that two requests have in common at their start.

    >>> n_common([1, 2, 3], [1, 2, 4, 5])
    2
    """
    n = min(len(a), len(b))
    # Nearly always one continues the other, and mostly they share the objects: compared in C.
    if a[:n] == b[:n]:
        return n
    return next(index for index in range(n) if a[index] != b[index])
