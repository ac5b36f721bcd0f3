"""An agent's own loop as a policy: the function that was recorded, run against what it has done so far."""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np

from trajrec.agents.arguments import arguments_of, request_of, tool_name
from trajrec.agents.context import current_episode
from trajrec.agents.counters import Exceptions, Steps, Tries
from trajrec.agents.redaction import Redactor, differences
from trajrec.agents.streams import Stream, record_stream
from trajrec.errors import AgentDivergedError
from trajrec.protocols import Tool, Verdict
from trajrec.replay.credit.sampling.context import (
    Answers,
    Call,
    Context,
    RecordedAnswer,
    ToolCall,
    calls_of,
    request_digest,
    told_key,
)
from trajrec.values import codec
from trajrec.values.recorded import (
    RecordedStream,
    as_exception,
    deliver,
    deliver_error,
    rehydrate,
)

_REPLACED = "a call was put in the place of what it asked for: what would have been said with it is not known"
_OPEN = "it was still being answered when the agent went on to a call: what would have been said is not known"


class AgentPolicy:
    """A function of an episode, as `trajrec.episode` records it and `trajrec.rerun` runs it again.

    To act, it is run from its beginning. What it did before is answered as it was answered then: calls with what came of them,
    models and effects with what they said in the recording and, beyond the step that rollouts begin at, with what they said in
    this rollout. So each model is asked once for each answer that a rollout needs, and never for what was recorded.

    What it does next is its action: a step, as they are counted in a recording. A model call begins one, with all calls after
    it up to the next; the agent is run once more after each of them. So the steps of rollouts have the numbers of recorded
    ones, and calls of one step are known by their order.

    It must do the same where it is answered the same, and goes on only from what it would have done itself: an alternative that
    its model did not ask for leads nowhere. Where it raises, the rollout has ended by an error, and counts for nothing.

    Args:
        agent: Takes an episode: `goal`, `call`, `execute`, `tool`, `model`, `side_effect`, `step`, `attempts`, `stop` and
            `check` are there, and clients of `trajrec.openai` and `trajrec.mcp` find it. A sync function.
        id: What it is called in the corpus; by default the function's name.
        is_seeded: Whether its models answer the same each time: where they do not, noise is fresh, and labelled so. None takes
            them to do so only where it was recorded to ask none. Where they only seem to, it may be found out.
    """

    def __init__(
        self, agent: Callable[[Any], Any], id: str = "", *, is_seeded: bool | None = None
    ) -> None:
        if inspect.iscoroutinefunction(agent):
            raise TypeError("an async agent cannot be a policy: give a sync function that runs it")
        self._agent, self.is_seeded = agent, is_seeded
        self.id = (
            id or f"{agent.__module__}:{getattr(agent, '__qualname__', type(agent).__qualname__)}"
        )
        self._told: Answers | None = None

    def reset(self) -> None:
        """Forget what was said; what the recording has is known again."""
        self._told = None

    def snapshot(self) -> Answers | None:
        """Return what was said so far; None where that is what the recording has."""
        return None if self._told is None else _copied(self._told)

    def restore(self, told: Answers | None) -> None:
        """Take back what `snapshot` returned."""
        self._told = None if told is None else _copied(told)

    def memory_key(self, context: Context) -> bytes:
        """Return a digest of what was said up to a context."""
        return told_key(self._at(context))

    def observe(self, context: Context, action: Any) -> None:
        """Note an action that it was not asked for: what was said with it is known where it is the recorded one, or another
        agent's."""
        if isinstance(action, _Step):
            self._told = action.hand_over()
            return
        if action is None:
            return  # it is over: nothing more is asked
        told, recorded = self._at(context), context.recorded
        is_as_then = recorded is not None and told_key(told) == told_key(
            recorded.answers_before(context.step)
        )
        if recorded is not None and is_as_then and recorded.did(context, calls_of(action)):
            self._told = recorded.answers_before(context.step + 1)
        elif any(told.values()) or (recorded is not None and recorded.has_told):
            self._told = {kind: [*rows, _REPLACED] for kind, rows in told.items()}

    def act(self, context: Context, rng: np.random.Generator) -> list[Call] | None:
        """Return the agent's next step; None when it is done.

        Raises:
            AgentDivergedError: It does not do what was done.
        """
        step = _Step(self._agent, self._at(context))
        self._told = step.told
        return step if step.go_on(context) else None

    def _at(self, context: Context) -> Answers:
        """Return what was said up to a context."""
        if self._told is not None:
            return self._told
        return (
            {"model": [], "effect": []}
            if context.recorded is None
            else context.recorded.answers_before(context.step)
        )


class _Step(list[Call]):
    """A step of an agent, found out as it is taken: its calls so far.

    Attributes:
        told: What was said up to here; it grows with the step.
        outside: Names of the tools that are the agent's own, not the world's.
    """

    # No attributes that would be taken for a part of the action.
    __slots__ = (
        "_agent",
        "_error",
        "_is_lent",
        "_is_over",
        "_n_before",
        "_number",
        "outside",
        "told",
    )

    def __init__(self, agent: Callable[[Any], Any], told: Answers) -> None:
        super().__init__()
        self._agent, self.told, self.outside = agent, _copied(told), frozenset[str]()
        self._n_before = {kind: len(rows) for kind, rows in told.items()}
        self._number: int | None = None
        self._error: BaseException | None = None
        self._is_over = self._is_lent = False

    def more(self, context: Context) -> list[Call]:
        """Return the call that follows, given what came of those before; none where the step is over.

        Raises:
            Exception: What the agent's loop raised.
        """
        n = len(self)
        if not self._is_over:
            self.go_on(context)
        if self._error is not None:
            raise self._error
        return self[n:]

    def go_on(self, context: Context) -> bool:
        """Run the agent to its next call; say whether it did anything that is of this step."""
        # What was said before this step was compared when it began.
        episode = _PlaybackEpisode(
            context, self.told, self._number, {} if self._number is None else self._n_before
        )
        outer = current_episode.set(episode)
        try:
            try:
                self._agent(episode)
            finally:
                episode.close()
        except BaseException as exc:
            if isinstance(exc, KeyboardInterrupt):
                raise
            if not episode.has_left:  # else the agent was told to leave, whatever it made of that
                if not isinstance(exc, (Exception, SystemExit)):
                    raise
                self._error = (
                    exc
                    if isinstance(exc, Exception)
                    else RuntimeError(f"the agent's loop left by {exc!r}")
                )
        finally:
            current_episode.reset(outer)
            for kind, rows in episode.told.items():
                self.told[kind][:] = rows
        if episode.changed is not None:
            raise episode.changed
        self._number, self.outside = episode.number, frozenset(episode.outside)
        self._is_over = episode.asked is None
        if episode.asked is not None:
            self.append(episode.asked)
        if self._is_lent:
            self.hand_over()
        return self._number is not None or self._error is not None

    def hand_over(self) -> Answers:
        """Let another agent go on from here, whatever itself would have asked in this step; return what was said to it."""
        self._is_lent = True
        for kind, rows in self.told.items():
            n = self._n_before[kind]
            rows[n:] = [
                row if isinstance(row, str) else row._replace(request=b"") for row in rows[n:]
            ]
        return self.told


class _StopAgent(BaseException):
    """What comes next has no answer yet, or is not to be asked. Not an Exception: agents catch those."""


class _PlaybackEpisode:
    """An episode that answers what was asked before, up to the first call that was not made yet.

    Args:
        context: What was done before.
        told: What was said before.
        number: The agent's own number of the step that is being taken; None where it has not begun.
        n_compared: How many requests of each kind need not be compared with what they were.

    Attributes:
        told: What was said, with what was said now.
        number: As given, or found.
        asked: The call; None where there is none in this step.
        has_left: Whether the agent was told to leave; it may not have listened.
        changed: What it does not do as it did; None where it does.
        outside: Names of tools that are functions, or that the agent executes itself.
    """

    world = None

    def __init__(
        self, context: Context, told: Answers, number: int | None, n_compared: dict[str, int]
    ) -> None:
        self.id = "" if context.recorded is None else context.recorded.id
        self.goal, self._made, self._n = rehydrate(context.goal), context.made, 0
        self.told, self.number, self._n_asked = _copied(told), number, dict.fromkeys(told, 0)
        self.asked: Call | None = None
        self._n_compared = n_compared
        self.has_left, self.changed = False, None
        self.outside: set[str] = set()
        self._redactor = Redactor() if context.recorded is None else context.recorded.redactor
        self._steps = Steps()
        self._streams: list[tuple[list[RecordedAnswer | str], int, Stream]] = []
        self._given: list[Coroutine[Any, Any, Any]] = []

    changed: AgentDivergedError | None

    @property
    def n_steps(self) -> int:
        """Steps so far."""
        return self._steps.step + 1

    def call(self, tool: str, /, **arguments: Any) -> Any:
        return self.execute(tool, arguments)

    def execute(
        self,
        tool: str,
        arguments: dict[str, Any],
        *,
        call_id: str = "",
        run: Callable[[], Any] | None = None,
    ) -> Any:
        self._check_running()
        place = self._steps.place_call()
        if run is not None:
            self.outside.add(tool)
        if self._n == len(self._made):
            if self._is_of_this_step(place.step):
                self.asked = (
                    tool,
                    copy.deepcopy(arguments),
                )  # a copy: the agent may go on with what it gave
            self._leave()
        made = self._made[self._n]
        self._check_call(made, tool, arguments)
        self._n += 1
        if made.error:
            type_name, _, message = made.error.partition(": ")
            return self._awaitable(deliver_error(as_exception(type_name, message), made.is_async))
        return self._awaitable(deliver(rehydrate(made.result), made.is_async))

    def _check_call(self, made: ToolCall, tool: str, arguments: dict[str, Any]) -> None:
        if codec.encode([made.tool, made.arguments], opaque=True) == codec.encode(
            [tool, arguments], opaque=True
        ):
            return
        then, now = (self._redactor.plain(value) for value in (made.arguments, arguments))
        if made.tool != tool or differences(then, now):
            raise self._change(
                f"call {self._n} of the agent is {tool}({now}), and was {made.tool}({then})"
            )

    def tool(self, function: Callable[..., Any], *, name: str = "", **_: Any) -> Callable[..., Any]:
        tool = name or tool_name(function)
        self.outside.add(tool)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            return self.execute(tool, arguments_of(function, args, kwargs))

        return recorded

    def model(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self._check_running()
        with self._steps.lock:
            self._steps.place_model()
        return self._ask("model", request_of(args, kwargs), lambda: function(*args, **kwargs))

    def side_effect(self, name: str, function: Callable[..., Any], /, *args: Any) -> Any:
        self._check_running()
        return self._ask("effect", {"name": name, "arguments": list(args)}, lambda: function(*args))

    def _ask(self, kind: str, request: Any, ask: Callable[[], Any]) -> Any:
        """Return what was said to this request; ask, where it was not made yet."""
        rows, n = self.told[kind], self._n_asked[kind]
        self._n_asked[kind] += 1
        if n == len(rows):
            if kind == "model" and not self._is_of_this_step(self._steps.step):
                self._leave()  # the step is over; whether there is another one, others say
            return self._ask_now(rows, self._redactor.encode(request)[0], ask)
        said = rows[n]
        if isinstance(said, str):
            raise self._change(f"{kind} request {n} of the agent: {said}")
        if said.request and n >= self._n_compared.get(kind, 0):
            self._check_request(f"{kind} request {n} of the agent", said, request)
        error = as_exception(said.error_type, said.message) if said.error_type else None
        if said.is_streamed:
            pieces: Any = rehydrate(codec.decode(said.answer or codec.encode([])))
            beyond = self._beyond(f"{kind} request {n} of the agent") if said.is_left else ()
            return self._awaitable(
                deliver(RecordedStream(itertools.chain(pieces, beyond), error), said.is_async)
            )
        if error is not None:
            return self._awaitable(deliver_error(error, said.is_async))
        return self._awaitable(
            deliver(rehydrate(codec.decode(said.answer or codec.encode(None))), said.is_async)
        )

    def _check_request(self, which: str, said: RecordedAnswer, request: Any) -> None:
        data = self._redactor.encode(request)[0]  # as the recorder kept it
        if said.request == request_digest(data):
            return
        if said.recorded is None:
            raise self._change(
                f"{which} is not the one that it made in this place before: it does not do the same each time"
            )
        changes = differences(self._redactor.plain(said.recorded), codec.decode(data))
        if changes:
            what = f"{changes[0].path}: recorded {changes[0].before!r}, now {changes[0].after!r}"
            raise self._change(f"{which} is not the recorded one: {what}")

    def _beyond(self, which: str) -> Iterator[Any]:
        """Tell an agent that reads a stream further than it had when it made a call; nothing is known of that."""
        self._check_running()
        raise self._change(
            f"{which}: its answer was streamed, and closed when the agent made a call; now it reads on"
        )
        yield

    def _ask_now(
        self, rows: list[RecordedAnswer | str], request: bytes, ask: Callable[[], Any]
    ) -> Any:
        n, is_async = len(rows), False
        rows.append(_OPEN)

        def said(answer: Any, exc: BaseException | None, is_streamed: bool) -> None:
            data = codec.encode(answer, opaque=True) if exc is None or is_streamed else None
            error = ("", "") if exc is None else (codec.type_name(exc), str(exc))
            rows[n] = RecordedAnswer.of(
                request, data, error, is_streamed=is_streamed, is_async=is_async
            )

        def came(answer: Any) -> Any:
            found = record_stream(answer, said)
            if isinstance(found, Stream):
                self._streams.append((rows, n, found))
            return found

        async def later(answer: Any) -> Any:
            try:
                return came(await answer)
            except Exception as exc:
                said(None, exc, False)
                raise

        try:
            answer = ask()
        except Exception as exc:
            said(None, exc, False)
            raise
        is_async = inspect.isawaitable(answer)
        return later(answer) if is_async else came(answer)

    def step(self) -> contextlib.AbstractContextManager[int]:
        return self._steps.grouped()

    def attempts(self, plan: Any = 3, *, wait: float = 0.0, on: Exceptions = Exception) -> Tries:
        return Tries(plan, 0.0, on)

    def register_tool(self, tool: Tool) -> None:
        """What a tool is, the world knows."""

    def stop(self, reason: str, **_: Any) -> None:
        """The loop is over; what it says of itself is not asked."""

    def check(self, *_: Any) -> Verdict:
        return Verdict(None)

    def close(self) -> None:
        """Close what the agent did not read to its end, and what it did not wait for: what came of a stream is its answer."""
        for coroutine in self._given:
            coroutine.close()
        for rows, n, stream in self._streams:
            if stream.leave():
                said = rows[n]
                assert isinstance(said, RecordedAnswer)
                rows[n] = said._replace(is_left=True)

    def _is_of_this_step(self, step: int) -> bool:
        """Say whether what was not asked before is of the step that is being taken; the first such thing begins it."""
        if self.number is None:
            self.number = step
        return step == self.number

    def _check_running(self) -> None:
        """Let an agent that did not leave when it was told to do nothing more."""
        if self.changed is not None:
            raise self.changed
        if self.has_left:
            raise _StopAgent

    def _leave(self) -> None:
        self.has_left = True
        raise _StopAgent

    def _change(self, what: str) -> AgentDivergedError:
        self.has_left, self.changed = True, AgentDivergedError(what, episode_id=self.id)
        return self.changed

    def _awaitable(self, value: Any) -> Any:
        if inspect.iscoroutine(value):
            self._given.append(value)
        return value


def _copied(told: Answers) -> Answers:
    return {kind: list(rows) for kind, rows in told.items()}
