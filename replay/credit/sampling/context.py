"""What a policy of an agent's world goes by: what it was asked, the calls that were made, what the recording has of both."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trajrec.agents.redaction import Redactor, differences
from trajrec.corpus.episode import Episode
from trajrec.corpus.history import recorded_requests
from trajrec.corpus.transcript import Attempt, Transcript
from trajrec.values import codec

Call = tuple[str, dict[str, Any]]
"""A tool and its arguments."""


class RecordedAnswer(NamedTuple):
    """What a model, or the outside, said to what.

    Attributes:
        request: Digest of the request; empty where any request is answered so.
        answer: What came back, encoded; of a stream the list of its pieces. None where nothing did.
        error_type: Type of what it raised; "" where it did not.
        message: Its message.
        is_streamed: Whether it was streamed.
        is_async: Whether it was awaited.
        is_left: Whether it was still being streamed when a call was made, and ends there.
        recorded: The request, where it is of the recording, to show how another one differs.
        key: Digest of all of that.
    """

    request: bytes
    answer: bytes | None
    error_type: str
    message: str
    is_streamed: bool
    is_async: bool
    is_left: bool
    recorded: Any
    key: bytes

    @classmethod
    def of(
        cls,
        request: bytes,
        answer: bytes | None,
        error: tuple[str, str] = ("", ""),
        *,
        is_streamed: bool = False,
        is_async: bool = False,
        recorded: Any = None,
    ) -> RecordedAnswer:
        """Make one, of the request encoded."""
        digest = request_digest(request)
        key = hashlib.blake2b(
            codec.encode([digest, answer, *error, is_streamed]), digest_size=16
        ).digest()
        return cls(digest, answer, *error, is_streamed, is_async, False, recorded, key)


def request_digest(request: bytes) -> bytes:
    """Return what a request is known by, given it encoded."""
    return hashlib.blake2b(request, digest_size=16).digest()


Answers = dict[str, list[RecordedAnswer | str]]
"""What was said by models ("model") and the outside ("effect"), in order; a text, where nobody knows, says why."""


def told_key(answers_before: Answers) -> bytes:
    """Return a digest of what was said."""
    digest = hashlib.blake2b(digest_size=16)
    for rows in answers_before.values():
        for row in rows:
            digest.update(row.encode() if isinstance(row, str) else row.key)
        digest.update(b"/")
    return digest.digest()


class ToolCall(NamedTuple):
    """A call that was made.

    Attributes:
        step: The step that it belongs to.
        tool: The tool.
        arguments: Its arguments.
        result: What it returned; None where it failed.
        error: What it raised, as "type: message"; "" where it did not.
        is_async: Whether it was awaited.
    """

    step: int
    tool: str
    arguments: dict[str, Any]
    result: Any
    error: str
    is_async: bool = False


@dataclass(frozen=True)
class Context:
    """What a policy of an agent's world sees: what it was asked, and what it has done.

    Its action is a call, (tool, arguments), or several in a list; None when it is done.

    Attributes:
        goal: What the world's reset returned.
        step: The step that it is at.
        made: The calls that were made, in order.
        history_key: All that a policy can know, hashable: rollouts meet only where it is the same.
        recorded: What else the recording knows of what the agent did.
    """

    goal: Any
    step: int
    made: tuple[ToolCall, ...]
    history_key: bytes = b""
    recorded: Recording | None = field(default=None, repr=False, compare=False)

    def after(self, made: ToolCall) -> Context:
        """Return the context with a call more, in the same step."""
        data = codec.encode(
            [made.step, made.tool, made.arguments, made.result, made.error],
            opaque=True,
            canonical=True,
        )
        key = hashlib.blake2b(self.history_key + data).digest()
        return Context(self.goal, self.step, (*self.made, made), key, self.recorded)


class Recording:
    """What was recorded of an agent, as a policy would see it.

    Attributes:
        id: The episode's id.
        goal: What the agent was asked.
        tools: Names of the tools that there were: at the beginning, and functions that were called as tools later.
        made: The calls that were made, in order. Of a fork, what led to it in its parent comes first: `n_before` of them.
    """

    def __init__(self, episode: Episode) -> None:
        self._episode, self.id = episode, episode.id
        transcript: Transcript = episode.transcript
        task = transcript.task_start
        self.goal = None if task is None else transcript.value(task.goal_data)
        self.held_seed = None if task is None else task.held_seed
        self.tools = (
            set() if task is None else {row[0] for row in transcript.value(task.tools_data)}
        )
        self._begin = 0 if episode.start is None else episode.start.time_ns
        self._models, attempts, self._effects = recorded_requests(episode)
        ended = [
            attempt
            for attempt in attempts
            if attempt.end is not None and attempt.end.outcome != "cancelled"
        ]
        self.tools |= {attempt.tool for attempt in attempts if not attempt.start.invalid}
        own = {attempt.place for attempt in transcript.attempts}
        self.made = [_made(attempt) for attempt in ended]
        self.n_before = sum(attempt.place not in own for attempt in ended)
        self._times: dict[int, int] = {}
        for attempt in ended:
            self._times.setdefault(attempt.start.step, attempt.start.time_ns)

    def context(self, step: int) -> Context:
        """Return what the agent knew before a step."""
        found = Context(self.goal, step, (), recorded=self)
        for made in self._until(step - 1):
            found = found.after(made)
        return found

    def did(self, context: Context, calls: list[Call]) -> bool:
        """Say whether calls at a context are those that were made, after all that was made before them."""
        n, there = len(context.made), self._until(context.step)
        was = [[made.tool, made.arguments] for made in there[n:]]
        return self._are_same(context.made, there) and self.is_same(
            was, [list(call) for call in calls]
        )

    def _until(self, step: int) -> list[ToolCall]:
        """Return the calls up to the end of a step, and all that a fork begins with."""
        return [made for k, made in enumerate(self.made) if k < self.n_before or made.step <= step]

    def answers_before(self, step: int) -> Answers:
        """Return what models and the outside said before a step."""
        return {kind: [row for at, row in rows if at < step] for kind, rows in self._told.items()}

    @property
    def has_told(self) -> bool:
        """Whether they said anything in this episode."""
        return any(self._told.values())

    @functools.cached_property
    def _told(self) -> dict[str, list[tuple[int, RecordedAnswer]]]:
        found: dict[str, list[tuple[int, RecordedAnswer]]] = {"model": [], "effect": []}
        transcript, first = self._episode.transcript, self._episode.first_step
        n_before = len(self._models) - len(transcript.model_calls)
        for k, call in enumerate(self._models):
            request, end = {"messages": call.messages, **call.request}, call.end
            data = codec.encode(request)
            if end is None:
                why = "builtins.TimeoutError", "the recorded model call was open when its log ended"
                row = RecordedAnswer.of(data, None, why, recorded=request)
            else:
                answer = None if end.answer_data is None else codec.encode(call.answer)
                how = {"is_streamed": end.is_streamed, "is_async": end.is_async}
                row = RecordedAnswer.of(
                    data, answer, (end.error_type, end.message), recorded=request, **how
                )
            found["model"].append((first - 1 if k < n_before else call.start.step, row))
        steps = transcript.side_effect_steps
        steps = [first - 1] * (len(self._effects) - len(steps)) + steps
        for step, (event, of) in zip(steps, self._effects, strict=True):
            request = {"name": event.name, "arguments": of.value(event.arguments_data)}
            answer = None if event.value_data is None else codec.encode(of.value(event.value_data))
            row = RecordedAnswer.of(
                codec.encode(request), answer, (event.error_type, event.message), recorded=request
            )
            found["effect"].append((step, row))
        return found

    def time_ns(self, step: int) -> int:
        """Return when a step began; beyond the last, when that did."""
        return next((self._times[k] for k in range(step, -1, -1) if k in self._times), self._begin)

    def answer(
        self, before: Sequence[ToolCall], tool: str, arguments: dict[str, Any]
    ) -> ToolCall | None:
        """Return what came of a call, if all before it was as recorded; None where it was never made so.

        By their order: which step a call belongs to, the agent alone knows.
        """
        if len(before) >= len(self.made) or not self._are_same(before, self.made):
            return None
        made = self.made[len(before)]
        return made if self.is_same([made.tool, made.arguments], [tool, arguments]) else None

    def _are_same(self, made: Sequence[ToolCall], recorded: Sequence[ToolCall]) -> bool:
        """Say whether calls, and what came of them, are the first of those that were recorded."""
        pairs = zip(made, recorded, strict=False)
        return len(made) <= len(recorded) and all(
            a is b or self.is_same(list(b[1:5]), list(a[1:5])) for a, b in pairs
        )

    @functools.cached_property
    def redactor(self) -> Redactor:
        """What keeps secrets out of what is compared and shown."""
        return Redactor()

    def is_same(self, recorded: Any, now: Any) -> bool:
        """Say whether a recorded value is one of now, as it would have been recorded."""
        if codec.encode(recorded, opaque=True) == codec.encode(now, opaque=True):
            return True
        return not differences(self.redactor.plain(recorded), self.redactor.plain(now))


def _made(attempt: Attempt) -> ToolCall:
    start, end = attempt.start, attempt.end
    assert end is not None
    error = f"{end.error_type}: {end.message}" if end.is_raised else ""
    return ToolCall(
        start.step,
        start.tool,
        attempt.arguments,
        None if error else attempt.result,
        error,
        end.is_async,
    )


def recorded_calls(episode: Episode) -> dict[int, Any]:
    """Return what an agent did, by step: its calls as (tool, arguments), every try of them."""
    found: dict[int, Any] = {step: [] for step in range(episode.first_step, episode.n_steps)}
    recorded = Recording(episode)
    for made in recorded.made[recorded.n_before :]:
        found[made.step].append((made.tool, made.arguments))
    return found


def calls_of(action: Any) -> list[Call]:
    """Return an action as a list of calls.

    Raises:
        TypeError: It is none.
    """
    calls = (
        [action]
        if isinstance(action, tuple) and len(action) == 2 and isinstance(action[0], str)
        else list(action)
    )
    for call in calls:
        if not (
            isinstance(call, (tuple, list))
            and len(call) == 2
            and isinstance(call[0], str)
            and isinstance(call[1], dict)
        ):
            raise TypeError(
                f"an action in a world is (tool, arguments), a list of such, or None, got {action!r}"
            )
    return [(tool, arguments) for tool, arguments in calls]
