"""The recorded tool calls of an episode as answers: each call gets the one that it had."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeVar

from trajrec.agents.counters import CallPosition
from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.corpus.http_exchanges import HttpExchange
from trajrec.corpus.transcript import AttemptKey, ModelCall
from trajrec.corpus.wire_attempts import MALFORMED, is_gone_on_from
from trajrec.redaction.comparison import differences, redacted_like
from trajrec.redaction.redactor import Redactor
from trajrec.replay.agents.recorded_answers import asked_call, call_request
from trajrec.types import JsonObject, Value

Request = TypeVar("Request", Attempt, HttpExchange, ModelCall)


class UnknownCall(NamedTuple):
    """A call that the recording does not have.

    Attributes:
        recorded: The call that it has in its place, None if there is none.
        actual: The call.
    """

    recorded: Value
    actual: Value


class ToolAnswers:
    """Answers calls from recorded attempts, each of which answers once.

    Args:
        attempts: The recorded attempts.
        redactor: The redactor of the recording.

    Attributes:
        unused: The attempts that answered no call yet, in recorded order.
    """

    def __init__(self, attempts: Sequence[Attempt], redactor: Redactor) -> None:
        self.unused = list(attempts)
        self._keys = {attempt.key for attempt in attempts}
        self._redactor = redactor
        self._spans: list[tuple[int, int]] = []

    def of(self, tools: Collection[str]) -> ToolAnswers:
        """Return the answers of some tools alone."""
        return ToolAnswers([a for a in self.unused if a.tool in tools], self._redactor)

    @property
    def used_keys(self) -> frozenset[AttemptKey]:
        """Keys of the attempts that have answered."""
        return frozenset(self._keys - {attempt.key for attempt in self.unused})

    def take(
        self, position: CallPosition, tool: str, arguments: JsonObject, call_id: str
    ) -> Attempt | UnknownCall:
        """Return the attempt that answers a call, and use it up.

        Args:
            position: The position of the call.
            tool: Name of the tool.
            arguments: The arguments.
            call_id: Id that the model gave the call, if it is known.
        """
        actual = asked_call(tool, arguments)
        # The model's id tells a call from all others. Without one, calls of other steps are no
        # candidates, since an agent that skips a step has changed; within a step, concurrent calls
        # may come in any order.
        candidates = [a for a in self.unused if call_id and a.start.call_id == call_id]
        candidates = candidates or [
            attempt
            for attempt in self.unused
            if attempt.start.step == position.step and attempt.start.attempt == position.attempt
        ]
        for attempt in candidates:
            if self.is_recorded(call_request(attempt), actual):
                self.unused.remove(attempt)
                return attempt
        return UnknownCall(call_request(candidates[0]) if candidates else None, actual)

    def step_of(self, tool: str, arguments: JsonObject) -> int | None:
        """Return the step of the first unused attempt at an equal call, None if there is none."""
        actual = asked_call(tool, arguments)
        for attempt in self.unused:
            if attempt.tool == tool and self.is_recorded(call_request(attempt), actual):
                return attempt.start.step
        return None

    def excuse(self, attempt: Attempt) -> None:
        """Excuse the requests within a call, whose code does not run again: say a sub-agent's."""
        end_ns = attempt.left_ns if attempt.end is None else attempt.end.time_ns
        if end_ns:
            self._spans.append((attempt.start.time_ns, end_ns))

    def not_excused(self, requests: Sequence[Request]) -> list[Request]:
        """Return the requests that began outside of the calls that were excused."""
        return [
            request
            for request in requests
            if not any(start < request.start.time_ns < end for start, end in self._spans)
        ]

    def is_recorded(self, recorded: Value, actual: Value) -> bool:
        """Return whether a request is the recorded one, both without their secrets."""
        return not differences(recorded, redacted_like(recorded, actual, self._redactor))


def asked_unheld(episode: Episode, exchange: HttpExchange) -> str:
    """Return a tool that an answer asks for, and that nothing recorded as it ran; "" if none is.

    It ran if a later request tells its result. If the conversation went on and no request does, it
    may have run: a program can tell the model in words. A call that is not valid may have run too,
    since programs convert arguments and guess names, unless something records what runs.
    """
    end = exchange.end
    if end is None or end.status != 200 or end.error_type:
        return ""
    transcript = episode.transcript
    holds_any = any(not attempt.is_from_wire for attempt in transcript.attempts)
    asked = [
        attempt
        for attempt in transcript.attempts
        if attempt.is_from_wire
        and attempt.start.step == exchange.start.step
        and not (attempt.start.invalid if holds_any else attempt.start.invalid == MALFORMED)
    ]
    for attempt in asked:
        if attempt.end is not None:
            return attempt.tool
    if asked and _goes_on(transcript.model_calls, exchange):
        return asked[0].tool
    return ""


def _goes_on(calls: Sequence[ModelCall], exchange: HttpExchange) -> bool:
    """Return whether a later request goes on from the messages of an exchange."""
    wires = [call.wire for call in calls if call.wire is not None]
    numbers = [wire.exchange.start.model_call for wire in wires]
    if exchange.start.model_call not in numbers:
        return False
    place = numbers.index(exchange.start.model_call)
    return is_gone_on_from(wires[place], wires[place + 1 :])
