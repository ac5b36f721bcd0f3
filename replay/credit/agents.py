"""An agent's own loop as a policy: the function that was recorded, run against what it has done so far."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from trajrec import codec
from trajrec.agents.current import CURRENT
from trajrec.agents.redaction import Redactor, differences
from trajrec.agents.steps import Exceptions, Tries
from trajrec.agents.streams import record_stream
from trajrec.errors import AgentChangedError
from trajrec.protocols import Tool, Verdict
from trajrec.recorded import RecordedStream, as_exception, as_objects
from trajrec.replay.credit.contexts import Call, Context, Told, calls_of

_UNKNOWN: list[Any] = []
"""A row of what was said where nobody knows it."""


class AgentPolicy:
    """A function of an episode, as `trajrec.episode` records it and `trajrec.rerun` runs it again.

    To act, it is run from its beginning. What it did before is answered as it was answered then: calls with what came of them,
    models and effects with what they said in the recording and, beyond the step that rollouts begin at, with what they said in
    this rollout. So each model is asked once for each answer that a rollout needs, and never for what was recorded. The first
    call that was not made yet is the action. It must do the same where it is answered the same, and goes on only from what it
    would have done itself: an alternative that its model did not ask for leads nowhere.

    Args:
        agent: Takes an episode: `goal`, `call`, `execute`, `tool`, `model`, `effect`, `step`, `retrying`, `stop` and `check`
            are there, and clients of `trajrec.openai` and `trajrec.mcp` find it. A sync function.
        id: What it is called in the corpus; by default the function's name.
        is_seeded: False where its models answer otherwise each time: noise is then fresh, and labelled so. Where they only
            seem not to, it is found out.
    """

    def __init__(self, agent: Callable[[Any], Any], id: str = "", *, is_seeded: bool = True) -> None:
        if inspect.iscoroutinefunction(agent):
            raise TypeError("an async agent cannot be a policy: give a sync function that runs it")
        self._agent, self.is_seeded = agent, is_seeded
        self.id = id or f"{agent.__module__}:{getattr(agent, '__qualname__', type(agent).__qualname__)}"
        self._told: dict[str, Told] | None = None

    def reset(self) -> None:
        """Forget what was said; what the recording has is known again."""
        self._told = None

    def snapshot(self) -> dict[str, Told] | None:
        """Return what was said so far; None where that is what the recording has."""
        return None if self._told is None else {kind: list(rows) for kind, rows in self._told.items()}

    def restore(self, told: dict[str, Told] | None) -> None:
        """Take back what `snapshot` returned."""
        self._told = None if told is None else {kind: list(rows) for kind, rows in told.items()}

    def observe(self, context: Context, action: Any) -> None:
        """Note an action that it was not asked for: what was said with it is known where it is the recorded one."""
        if isinstance(action, _Asked):
            self._told = action.told
            return
        told, recorded = self._at(context), context.recorded
        is_recorded = recorded is not None and told == recorded.told(context.step) and recorded.did(context, calls_of(action))
        if recorded is not None and is_recorded:
            self._told = recorded.told(context.step + 1)
        elif any(told.values()) or (recorded is not None and recorded.has_told):
            self._told = {kind: [*rows, _UNKNOWN] for kind, rows in told.items()}

    def act(self, context: Context, rng: np.random.Generator) -> Call | None:
        """Return the agent's next call; None when it is done.

        Raises:
            AgentChangedError: It does not do what was done.
        """
        episode = _Answered(context, self._at(context))
        outer = CURRENT.set(episode)
        try:
            self._agent(episode)
        except _AskedError as asked:
            return _Asked(asked.call, episode.told)
        finally:
            CURRENT.reset(outer)
            self._told = episode.told
        return None

    def _at(self, context: Context) -> dict[str, Told]:
        """Return what was said up to a context."""
        if self._told is not None:
            return self._told
        return {"model": [], "effect": []} if context.recorded is None else context.recorded.told(context.step)


class _Asked(tuple[str, dict[str, Any]]):
    """A call with what was said before it: whoever goes on from it, where it takes another's place, has to know."""

    told: dict[str, Told]

    def __new__(cls, call: Call, told: dict[str, Told]) -> _Asked:
        self = super().__new__(cls, call)
        self.told = told
        return self

    def __getnewargs__(self) -> tuple[Call, dict[str, Told]]:
        return tuple(self), self.told  # type: ignore[return-value]


class _AskedError(BaseException):
    """A call that has no answer yet. Not an Exception: agents catch those."""

    def __init__(self, call: Call) -> None:
        self.call = call


class _Said(NamedTuple):
    request: bytes
    answer: bytes | None
    error_type: str
    message: str
    is_streamed: bool


class _Answered:
    """An episode that answers what was asked before."""

    world = None

    def __init__(self, context: Context, told: dict[str, Told]) -> None:
        self.goal, self._made, self._n = as_objects(context.goal), context.made, 0
        self.told = {kind: list(rows) for kind, rows in told.items()}
        self._n_asked = dict.fromkeys(told, 0)
        self._redactor = Redactor()

    def call(self, tool: str, /, **arguments: Any) -> Any:
        return self.execute(tool, arguments)

    def execute(self, tool: str, arguments: dict[str, Any], *, call_id: str = "", run: Callable[[], Any] | None = None) -> Any:
        if self._n == len(self._made):
            raise _AskedError((tool, arguments))
        made = self._made[self._n]
        if (made.tool, made.arguments) != (tool, arguments):
            now, then = f"{tool}({arguments})", f"{made.tool}({made.arguments})"
            raise AgentChangedError(f"call {self._n} of the agent is {now}, and was {then}", episode_id="")
        self._n += 1
        if made.error:
            type_name, _, message = made.error.partition(": ")
            raise as_exception(type_name, message)
        return as_objects(made.result)

    def tool(self, function: Callable[..., Any], *, name: str = "", **_: Any) -> Callable[..., Any]:
        tool = name or function.__name__

        def recorded(*args: Any, **kwargs: Any) -> Any:
            return self.execute(tool, {**inspect.signature(function).bind(*args, **kwargs).arguments} if args else kwargs)

        return recorded

    def model(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        messages = kwargs.get("messages")
        is_list = isinstance(messages, (list, tuple))
        fields = {key: value for key, value in kwargs.items() if key != "messages" or not is_list}
        request = {"messages": list(messages) if is_list else [], **fields, **({"args": list(args)} if args else {})}  # type: ignore[arg-type]
        return self._ask("model", request, function, args, kwargs)

    def effect(self, name: str, function: Callable[..., Any], /, *args: Any) -> Any:
        return self._ask("effect", {"name": name, "arguments": list(args)}, function, args, {})

    def _ask(self, kind: str, request: Any, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return what was said to this request; ask, where it was not made yet."""
        rows, n = self.told[kind], self._n_asked[kind]
        self._n_asked[kind] += 1
        asked = self._redactor.encode(request)[0]  # as the recorder kept it
        if n == len(rows):
            return self._ask_now(rows, asked, function, args, kwargs)
        if not rows[n]:
            what = "a call was put in the place of what it asked for: what would have been said with it is not known"
            raise AgentChangedError(f"{kind} request {n} of the agent: {what}", episode_id="")
        said = _Said(*rows[n])
        changes = differences(codec.decode(said.request), codec.decode(asked))
        if changes:
            first = changes[0]
            what = f"{first.path}: recorded {first.before!r}, now {first.after!r}"
            raise AgentChangedError(f"{kind} request {n} of the agent is not the recorded one: {what}", episode_id="")
        error = as_exception(said.error_type, said.message) if said.error_type else None
        if said.is_streamed:
            return RecordedStream(as_objects(codec.decode(said.answer or codec.encode([]))), error)
        if error is not None:
            raise error
        return as_objects(codec.decode(said.answer or codec.encode(None)))

    def _ask_now(
        self, rows: Told, asked: bytes, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
    ) -> Any:
        row: list[Any] = []
        rows.append(row)  # now: a stream may be left before its end, and is then not known

        def said(answer: Any, exc: BaseException | None, is_streamed: bool) -> None:
            data = codec.encode(answer, opaque=True) if exc is None or is_streamed else None
            error = ("", "") if exc is None else (codec.type_name(exc), str(exc))
            row.extend([asked, data, *error, is_streamed])

        try:
            answer = function(*args, **kwargs)
        except Exception as exc:
            said(None, exc, False)
            raise
        if inspect.isawaitable(answer):
            raise TypeError("an async model cannot be asked by a sync agent")
        return record_stream(answer, said)

    def step(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def retrying(self, plan: Any = 3, *, wait: float = 0.0, on: Exceptions = Exception) -> Tries:
        return Tries(plan, 0.0, on)

    def describe(self, tool: Tool) -> None:
        """What a tool is, the world knows."""

    def stop(self, reason: str, **_: Any) -> None:
        """The loop is over; what it says of itself is not asked."""

    def check(self, *_: Any) -> Verdict:
        return Verdict(None)
