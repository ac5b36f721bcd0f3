"""The episode against which an agent's loop runs again: it gives the earlier answers."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, NoReturn

from trajrec.agents.arguments import request_of
from trajrec.agents.counters import StepCounter
from trajrec.agents.retries import AttemptLoop, Exceptions, RetryPlan
from trajrec.agents.streams import Stream, is_stream
from trajrec.agents.tool_wrappers import (
    AnsweredStream,
    NamedGenerators,
    ToolDecorator,
    ToolFunction,
    ToolStream,
)
from trajrec.errors import AgentDivergedError
from trajrec.protocols import Access, Tool, Verdict
from trajrec.recording.error_text import message_of
from trajrec.redaction.comparison import differences
from trajrec.redaction.redactor import Redactor
from trajrec.replay.credit.sampling.answers import (
    EXCHANGE,
    MODEL,
    OPEN,
    SIDE_EFFECT,
    Answers,
    RecordedAnswer,
    are_certainly_same,
    copy_answers,
    digest_request,
)
from trajrec.replay.credit.sampling.context import Call, Context, ToolCall
from trajrec.replay.credit.sampling.exchanges import ExchangePlayback
from trajrec.replay.credit.sampling.unknown_verdicts import UnknownVerdicts
from trajrec.taps.exceptions import is_cancellation
from trajrec.types import JsonObject, Value
from trajrec.values import codec
from trajrec.values.json import describe_path
from trajrec.values.plain import PLAIN_TYPES
from trajrec.values.recorded import RecordedStream, deliver, deliver_error, rehydrate
from trajrec.values.recorded_errors import as_exception
from trajrec.values.shown import short_pair
from trajrec.wire.exchange import Exchange, HttpRequest


class StopAgent(BaseException):
    """Ends the agent's function at a request that has no answer yet.

    It is no `Exception`, because agents catch these.
    """


class PlaybackEpisode(ToolDecorator):
    """An episode that answers the requests of a history and stops the agent at the next call.

    Args:
        context: The calls of the history.
        answers: The answers of models and of the outside so far.
        step_number: The agent's own number of the current step; None if the step has not begun.
        n_compared: For each kind, the number of requests that need no comparison any more.

    Attributes:
        answers: The answers, those of this run included.
        step_number: The agent's own number of the current step.
        next_call: The call at which the agent was stopped; None if it made none in this step.
        is_stopped: Whether the agent was told to stop. It may continue nevertheless.
        divergence: The difference, if the agent does not repeat its history; else None.
        outside: Names of the tools that are functions, or that the agent executes itself.
    """

    world = None

    def __init__(
        self,
        context: Context,
        answers: Answers,
        *,
        step_number: int | None,
        n_compared: dict[str, int],
    ) -> None:
        recording = context.recording
        self.id = "" if recording is None else recording.id
        self.goal = rehydrate(context.goal)
        self.answers = copy_answers(answers)
        self.step_number = step_number
        self.next_call: Call | None = None
        self.is_stopped = False
        self._has_ended = False
        self._verdicts = UnknownVerdicts()
        self.divergence: AgentDivergedError | None = None
        self.outside: set[str] = set()
        self._generators = NamedGenerators()
        self._calls = context.calls
        self._n_called = 0
        self._n_asked = dict.fromkeys(answers, 0)
        self._n_compared = n_compared
        self._redactor = Redactor() if recording is None else recording.redactor
        self._steps = StepCounter()
        self._exchanges = ExchangePlayback(
            self.answers[EXCHANGE], self._redactor, self._steps, n_compared.get(EXCHANGE, 0)
        )
        self._streams: list[tuple[list[RecordedAnswer | str], int, Stream]] = []
        self._coroutines: list[Coroutine[Any, Any, Any]] = []

    @property
    def has_ended(self) -> bool:
        """Whether its agent's loop is over. An agent may keep it, and later requests are not its."""
        return self._has_ended

    @property
    def n_steps(self) -> int:
        """Number of steps so far."""
        return self._steps.step + 1

    @property
    def last_step(self) -> int:
        """Number of the last step; -1 before the first."""
        return self._steps.step

    def call(self, tool: str, /, **arguments: Value) -> Value:
        """Return the recorded result of a tool call; see `AgentEpisode.call`."""
        begun = self._generators.begun(self, tool, arguments, "")
        return self.execute(tool, arguments) if begun is None else begun

    def execute(
        self,
        tool: str,
        arguments: JsonObject,
        *,
        call_id: str = "",
        run: Callable[[], Value] | None = None,
    ) -> Value:
        """Return the recorded result of a tool call; stop the agent at a new one."""
        recorded = self._recorded_call(tool, arguments, has_code=run is not None)
        error, given_up = _error_of(recorded)
        if error is not None:
            return self._track(deliver_error(error, recorded.is_async, hangs=given_up))
        return self._track(deliver(rehydrate(recorded.result), recorded.is_async))

    def _recorded_call(self, tool: str, arguments: JsonObject, *, has_code: bool) -> ToolCall:
        """Return the recorded call that answers one; stop the agent at a new one."""
        self._check_running()
        position = self._steps.next_call()
        # A tool that the agent executes itself is not the world's: the world must not be asked.
        if has_code:
            self.outside.add(tool)
        if self._n_called == len(self._calls):
            if refusal := self._verdicts.refusal(tool):
                self._diverge(refusal)
            if self._is_in_step(position.step):
                # A copy, since the agent may continue to use its arguments.
                self.next_call = (tool, copy.deepcopy(arguments))
            self._stop()
        recorded = self._calls[self._n_called]
        self._compare_call(recorded, tool, dict(arguments))
        self._n_called += 1
        return recorded

    def _add_tool(
        self, function: ToolFunction, *, name: str, schema: JsonObject | None, access: Access
    ) -> None:
        self.outside.add(name)
        self._generators.add(name, function)

    def open_stream(self, tool: str, arguments: JsonObject, call_id: str = "") -> ToolStream:
        """Return the recorded items of a generator that is a tool; stop the agent at a new call."""
        recorded = self._recorded_call(tool, arguments, has_code=True)
        error, given_up = _error_of(recorded)
        # Those before an exception as well.
        items = rehydrate(recorded.result) if isinstance(recorded.result, list) else []
        return AnsweredStream(RecordedStream(items, error, hangs=given_up))

    def model(self, function: Callable[..., Value], /, *args: Value, **kwargs: Value) -> Value:
        """Return the earlier answer of a model; call it if the request is new."""
        self._check_running()
        with self._steps.lock:  # an agent may call models from several threads
            self._steps.next_model_call()
        return self._ask(MODEL, request_of(args, kwargs), lambda: function(*args, **kwargs))

    def begin_exchange(self, request: HttpRequest) -> Exchange | None:
        """Answer an HTTP request as before; send it if it is new."""
        self._check_running()
        found = self._exchanges.begin(request, self._is_in_step)
        if found is None:
            self._stop()  # the step is over, and the next one may never be taken
        if not isinstance(found, str):
            return found
        # An Exception would be taken for a failure of the network.
        with contextlib.suppress(AgentDivergedError):
            self._diverge(found)
        raise StopAgent

    @property
    def exchange_memory(self) -> None:
        """No memory: a thread of the agent finds this episode as the only one that is open."""

    def side_effect(self, name: str, function: Callable[..., Value], /, *args: Value) -> Value:
        """Return the earlier value of a side effect; call the function if the request is new."""
        self._check_running()
        request = {"name": name, "arguments": list(args)}
        return self._ask(SIDE_EFFECT, request, lambda: function(*args))

    def step(self) -> contextlib.AbstractContextManager[int]:
        """Make one step of all calls in a block; see `AgentEpisode.step`."""
        return self._steps.grouped()

    def attempts(
        self, plan: RetryPlan = 3, *, wait: float = 0.0, on: Exceptions = Exception
    ) -> AttemptLoop:
        """Yield attempts as the recorded agent had them, without waiting between them."""
        return AttemptLoop(plan, 0.0, on)

    def register_tool(self, tool: Tool) -> None:
        """Ignore the description of a tool: the world has one."""

    def stop(
        self, reason: str, *, claimed_done: bool | None = None, truncated: bool = False
    ) -> None:
        """Ignore the agent's own statement of why it stops."""

    def check(self, verifier: Callable[..., Value], *args: Value) -> Verdict:
        """Return an empty verdict: the success function of the rollout decides."""
        return self._verdicts.verdict()

    def close(self) -> None:
        """Close the coroutines and streams that the agent left open.

        The pieces of a stream that the agent did read are its answer.
        """
        self._has_ended = True
        for coroutine in self._coroutines:
            coroutine.close()
        for rows, position, stream in self._streams:
            if stream.leave():
                answer = rows[position]
                assert isinstance(answer, RecordedAnswer)
                rows[position] = answer._replace(is_partial=True)

    def _compare_call(self, recorded: ToolCall, tool: str, arguments: JsonObject) -> None:
        # A run of an agent repeats all calls before, so most calls are the same ones; encoding
        # takes longer than that look, and redaction the longest.
        if recorded.tool == tool and are_certainly_same(recorded.arguments, arguments):
            return
        if codec.encode([recorded.tool, recorded.arguments], opaque=True) == codec.encode(
            [tool, arguments], opaque=True
        ):
            return
        before = self._redactor.plain(recorded.arguments)
        live = self._redactor.plain(arguments)
        if recorded.tool != tool or differences(before, live):
            self._diverge(
                f"call {self._n_called} of the agent is {tool}({live}), and was "
                f"{recorded.tool}({before})"
            )

    def _ask(self, kind: str, request: Value, ask: Callable[[], Value]) -> Value:
        """Return the earlier answer to a request; ask if there is none."""
        rows = self.answers[kind]
        number = self._n_asked[kind]
        self._n_asked[kind] += 1
        if number == len(rows):
            if kind == MODEL and not self._is_in_step(self._steps.step):
                self._stop()  # the step is over, and the next one may never be taken
            return self._ask_live(rows, self._redactor.encode(request)[0], ask)
        name = f"{kind} request {number} of the agent"
        answer = rows[number]
        if isinstance(answer, str):
            self._diverge(f"{name}: {answer}")
        if answer.request_digest and number >= self._n_compared.get(kind, 0):
            self._compare_request(name, answer, request)
        return self._track(self._give(name, answer))

    def _give(self, name: str, answer: RecordedAnswer) -> Value | Awaitable[Value]:
        error = None
        if answer.error_type:
            error = as_exception(answer.error_type, answer.message)
        if answer.is_streamed:
            pieces = rehydrate(codec.decode(answer.answer or codec.encode([])))
            unknown = self._unknown_pieces(name) if answer.is_partial else ()
            stream = RecordedStream(itertools.chain(pieces, unknown), error)
            return deliver(stream, answer.is_async)
        if error is not None:
            given_up = is_cancellation(answer.error_type)
            return deliver_error(error, answer.is_async, hangs=given_up)
        value = rehydrate(codec.decode(answer.answer or codec.encode(None)))
        return deliver(value, answer.is_async)

    def _compare_request(self, name: str, answer: RecordedAnswer, request: Value) -> None:
        encoded = self._redactor.encode(request)[0]  # redacted, as the recorder stored it
        if answer.request_digest == digest_request(encoded):
            return
        if answer.request is None:
            self._diverge(
                f"{name} differs from the request that it made at this place before: "
                "the agent does not do the same each time"
            )
        changes = differences(self._redactor.plain(answer.request), codec.decode(encoded))
        if changes:
            change = changes[0]
            before, after = short_pair(change.before, change.after)
            self._diverge(
                f"{name} is not the recorded one: {describe_path(change.path)}: recorded "
                f"{before}, now {after}"
            )

    def _unknown_pieces(self, name: str) -> Iterator[Value]:
        """Diverge if the agent reads further in a stream than it did before its next call."""
        self._check_running()
        self._diverge(
            f"{name}: its answer was streamed, and closed when the agent made a call; now the "
            "agent reads further"
        )
        yield  # makes this a generator, so that it runs only when a piece is read

    def _ask_live(
        self, rows: list[RecordedAnswer | str], request: bytes, ask: Callable[[], Value]
    ) -> Value:
        """Ask for an answer and append it; the row is filled when the answer has ended."""
        position = len(rows)
        is_async = False
        # At once, not at the answer's end: the rows are in the order of the requests.
        rows.append(OPEN)

        def keep(value: Value, exc: BaseException | None, is_streamed: bool) -> None:
            has_value = exc is None or is_streamed
            rows[position] = RecordedAnswer.from_request(
                request,
                codec.encode(value, opaque=True) if has_value else None,
                ("", "") if exc is None else (codec.type_name(exc), message_of(exc)),
                is_streamed=is_streamed,
                is_async=is_async,
            )

        def watch(value: Value) -> Value:
            if not is_stream(value):
                keep(value, None, False)
                return value
            pieces: list[Value] = []
            stream = Stream(value, pieces.append, lambda exc: keep(pieces, exc, True))
            self._streams.append((rows, position, stream))
            return stream

        async def watch_async(awaitable: Awaitable[Value]) -> Value:
            try:
                return watch(await awaitable)
            except Exception as exc:
                keep(None, exc, False)
                raise

        try:
            answer = ask()
        except Exception as exc:
            keep(None, exc, False)
            raise
        is_async = inspect.isawaitable(answer)
        return watch_async(answer) if is_async else watch(answer)

    def _is_in_step(self, step: int) -> bool:
        """Return whether a new request belongs to the current step; the first one begins it."""
        if self.step_number is None:
            self.step_number = step
        return step == self.step_number

    def _check_running(self) -> None:
        """Stop an agent again that continued after it was stopped."""
        if self.divergence is not None:
            raise self.divergence
        if self.is_stopped:
            raise StopAgent

    def _stop(self) -> NoReturn:
        self.is_stopped = True
        raise StopAgent

    def _diverge(self, difference: str) -> NoReturn:
        self.is_stopped = True
        self.divergence = AgentDivergedError(difference, episode_id=self.id)
        raise self.divergence

    def _track(self, value: Value) -> Value:
        """Remember a coroutine, which the agent may never await."""
        if type(value) not in PLAIN_TYPES and inspect.iscoroutine(value):
            self._coroutines.append(value)
        return value


def _error_of(recorded: ToolCall) -> tuple[BaseException | None, bool]:
    """Return the exception of a recorded call, and whether the agent had given the call up."""
    if not recorded.error:
        return None, False
    type_name, _, message = recorded.error.partition(": ")
    return as_exception(type_name, message), is_cancellation(type_name)
