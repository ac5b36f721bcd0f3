"""The hooks in smolagents: around a call of a tool, and around the calls of one answer.

The framework runs the calls of one answer in threads, gives its tools no ids, and tells the model
the first error that any of them has. So the hook around the answer says which call has which id,
and errors are handed on in the order in which the ends are recorded: a rerun does the same.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextvars import ContextVar
from types import ModuleType
from typing import NamedTuple

from trajrec.agents.routing import router
from trajrec.instrument.calls import around, call
from trajrec.taps.patching import Replacement
from trajrec.types import Value

TESTED = "1.26"


def replacements(module: ModuleType) -> list[Replacement]:
    """Return the replacements in the module `smolagents.agents`."""
    agent = module.ToolCallingAgent
    hooks = [around(agent, "execute_tool_call", _hook, package="smolagents", tested=TESTED)]
    # Releases that run the calls of an answer in turn have neither.
    if "process_tool_calls" in vars(agent) and "as_completed" in vars(module):
        hooks.append(Replacement(agent, "process_tool_calls", _answer_hook))
        hooks.append(Replacement(module, "as_completed", _order_hook))
    return hooks


class _Asked(NamedTuple):
    """A call that an answer asked for.

    Attributes:
        call_id: The model's id of it.
        name: Name of the tool.
        arguments: The object that the framework hands to the call.
        is_unknown: Whether there is no such tool. Nothing runs then, and nothing is recorded.
    """

    call_id: str
    name: str
    arguments: Value
    is_unknown: bool


class _Answer:
    """The calls of one answer of a model.

    Attributes:
        asked: The calls, by their ids.
        lock: Held from the end of a call until that is recorded.
        ended: Ids of the calls that have ended, in the order in which that was recorded.
    """

    def __init__(self, asked: Sequence[_Asked]) -> None:
        # The framework keeps one call of each id, too.
        self.asked = {one.call_id: one for one in asked}
        self.lock = threading.Lock()
        self.ended: list[str] = []

    def id_of(self, name: str, arguments: Value) -> str:
        """Return the id of a call, "" if it cannot be told: the framework hands on no id."""
        named = [one for one in self.asked.values() if one.name == name]
        same = [one for one in named if one.arguments is arguments]
        # In place of arguments that are empty it hands on another object.
        found = same or [one for one in named if not one.arguments and not arguments]
        return found[0].call_id if len(found) == 1 else ""


_ANSWER: ContextVar[_Answer | None] = ContextVar("trajrec_smolagents_answer", default=None)


def _answer_hook(original: Value) -> Value:
    @functools.wraps(original)
    def process_tool_calls(self: Value, chat_message: Value, *args: Value, **kw: Value) -> Value:
        asked = [
            _Asked(
                call_id=one.id,
                name=one.function.name,
                arguments=one.function.arguments,
                is_unknown=not _is_known(self, one.function.name),
            )
            for one in chat_message.tool_calls or ()
        ]
        token = _ANSWER.set(_Answer(asked))
        try:
            yield from original.__get__(self)(chat_message, *args, **kw)
        finally:
            # A generator may be closed in another context.
            with contextlib.suppress(ValueError):
                _ANSWER.reset(token)

    return process_tool_calls


def _is_known(agent: Value, name: str) -> bool:
    return name in agent.tools or name in agent.managed_agents


def _hook(original: Value) -> Value:
    @functools.wraps(original)
    def execute_tool_call(
        self: Value, tool_name: str, arguments: Value, *args: Value, **kw: Value
    ) -> Value:
        answer = _ANSWER.get()
        call_id = "" if answer is None else answer.id_of(tool_name, arguments)
        run = functools.partial(original.__get__(self), tool_name, arguments, *args, **kw)
        if not _is_known(self, tool_name):
            # No tool runs: the model calls tell of the call.
            return run()
        with _ending(answer, call_id) as locked:
            return _recorded(tool_name, arguments, call_id, locked(run))

    return execute_tool_call


def _recorded(name: str, arguments: Value, call_id: str, run: Callable[[], Value]) -> Value:
    results: list[Value] = []
    has_run = False

    def plain() -> Value:
        nonlocal has_run
        has_run = True
        result = run()
        results.append(result)
        # The framework wraps texts in a class of its own.
        return str(result) if isinstance(result, str) else result

    # A tool runs even with malformed arguments, if it takes a single text.
    given = arguments if isinstance(arguments, dict) else {"raw": arguments}
    try:
        result = call(name, given, call_id, plain)
    except Exception as error:
        if not has_run and not hasattr(error, "message"):
            # A recorded one is made without the framework's constructor.
            error.message = str(error)  # type: ignore[attr-defined]
        raise
    return results[0] if results else _wrapped(result)


@contextlib.contextmanager
def _ending(
    answer: _Answer | None, call_id: str
) -> Iterator[Callable[[Callable[[], Value]], Callable[[], Value]]]:
    """Note that a call of an answer has ended, when its end is recorded.

    The block gets a function that makes another run a call: it returns at the end of the call, with
    the lock that keeps the ends in one order until the block ends.
    """
    is_held = False

    def locked(run: Callable[[], Value]) -> Callable[[], Value]:
        def run_locked() -> Value:
            nonlocal is_held
            try:
                return run()
            finally:
                if answer is not None:
                    answer.lock.acquire()
                    is_held = True

        return run_locked

    try:
        yield locked
    finally:
        if answer is not None:
            answer.ended.append(call_id)
            if is_held:
                answer.lock.release()


def _order_hook(original: Value) -> Value:
    @functools.wraps(original)
    def as_completed(futures: Value, *args: Value, **kw: Value) -> Value:
        answer = _ANSWER.get()
        submitted = list(futures)
        if answer is None or len(submitted) != len(answer.asked):
            return original(submitted, *args, **kw)
        # The framework submits the calls in the order of the answer.
        by_id = dict(zip(answer.asked, submitted, strict=True))
        recorded = _recorded_order(answer)
        if recorded is not None:
            return _in_order(by_id, recorded)
        return _as_ended(by_id, answer, original(submitted, *args, **kw))

    return as_completed


def _recorded_order(answer: _Answer) -> list[str] | None:
    """Return the ids of the calls in the order of their recorded ends; None while recording."""
    episode = router.of_tool_call(next(iter(answer.asked)))
    ends: dict[str, int] | None = getattr(episode, "recorded_ends", None)
    if ends is None:
        return None
    # Those of unknown tools have no record of their own, and come first, as in `_as_ended`.
    return sorted(answer.asked, key=lambda call_id: ends.get(call_id, 0))


def _in_order(futures: dict[str, Future[Value]], order: Sequence[str]) -> Iterator[Future[Value]]:
    """Yield the futures of some calls in an order."""
    wait(futures.values())
    for call_id in order:
        yield futures[call_id]


def _as_ended(
    futures: dict[str, Future[Value]], answer: _Answer, done: Iterator[Future[Value]]
) -> Iterator[Future[Value]]:
    """Yield the futures of some calls as they end, in the order in which that was recorded.

    A call of an unknown tool ends at once, and is not recorded: these come first.
    """
    waiting = dict(futures)
    unknown = [waiting.pop(one.call_id) for one in answer.asked.values() if one.is_unknown]
    for future in unknown:
        wait([future])
        yield future
    for future in done:
        if future in unknown:
            continue
        ended = [call_id for call_id in answer.ended if call_id in waiting]
        # Without the end of a call, the framework itself has failed before it.
        chosen = ended or [call_id for call_id, one in waiting.items() if one is future]
        if chosen:
            wait([waiting[chosen[0]]])
            yield waiting.pop(chosen[0])
    yield from waiting.values()


def _wrapped(result: Value) -> Value:
    """Return a recorded result as the framework hands it on."""
    return importlib.import_module("smolagents.agent_types").handle_agent_output_types(result)
