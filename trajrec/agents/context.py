"""The episode that a task or thread is in, and the interface that all such episodes share."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from typing import Protocol, TypeAlias, overload

from trajrec.agents.exchange_memory import ExchangeMemory
from trajrec.agents.retries import AttemptLoop, Exceptions, RetryPlan
from trajrec.agents.tool_wrappers import AnyFunction, ToolFunction
from trajrec.protocols import Access, Tool, Verdict
from trajrec.types import JsonObject, Value
from trajrec.wire.exchange import Exchange, HttpRequest


class EpisodeSession(Protocol):
    """An episode as an agent's own code sees it.

    `trajrec.episode` records one, `trajrec.rerun` answers from a recording, and credit's rollouts
    do both. An agent that uses only these names runs in each of them.
    """

    @property
    def id(self) -> str:
        """Id of the episode."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can be recorded in it."""
        ...

    @property
    def goal(self) -> Value:
        """The agent's goal."""
        ...

    @property
    def world(self) -> Value:
        """The world in which the tools act; None without one."""
        ...

    @property
    def n_steps(self) -> int:
        """Number of steps so far."""
        ...

    @property
    def last_step(self) -> int:
        """Number of the last step; -1 before the first."""
        ...

    def call(self, tool: str, /, **arguments: Value) -> Value:
        """Call a tool."""
        ...

    def execute(
        self,
        tool: str,
        arguments: JsonObject,
        *,
        call_id: str = "",
        run: Callable[[], Value] | None = None,
    ) -> Value:
        """Call a tool with its arguments as a dict."""
        ...

    @overload
    def tool(
        self,
        function: AnyFunction,
        *,
        name: str = "",
        schema: JsonObject | None = None,
        access: Access = "unknown",
    ) -> AnyFunction: ...

    @overload
    def tool(
        self,
        function: None = None,
        *,
        name: str = "",
        schema: JsonObject | None = None,
        access: Access = "unknown",
    ) -> Callable[[AnyFunction], AnyFunction]: ...

    def tool(
        self,
        function: ToolFunction | None = None,
        *,
        name: str = "",
        schema: JsonObject | None = None,
        access: Access = "unknown",
    ) -> ToolFunction:
        """Make a function a tool, and return it as a function whose calls are recorded."""
        ...

    def register_tool(self, tool: Tool) -> None:
        """Describe a tool that neither the world nor `tool` knows."""
        ...

    def model(self, function: Callable[..., Value], /, *args: Value, **kwargs: Value) -> Value:
        """Call a model."""
        ...

    def begin_exchange(self, request: HttpRequest) -> Exchange | None:
        """Take a request that a tap has seen; None if nobody records it."""
        ...

    @property
    def exchange_memory(self) -> ExchangeMemory | None:
        """The last exchanges, by which a request without a context finds its episode; or None."""
        ...

    def side_effect(self, name: str, function: Callable[..., Value], /, *args: Value) -> Value:
        """Return a value that comes from outside the program."""
        ...

    def step(self) -> AbstractContextManager[int]:
        """Make the calls of a block one step."""
        ...

    def attempts(
        self, plan: RetryPlan = 3, *, wait: float = 0.0, on: Exceptions = Exception
    ) -> AttemptLoop:
        """Retry the calls of a block."""
        ...

    def check(self, verifier: Callable[..., Value], *args: Value) -> Verdict:
        """Run a verifier."""
        ...

    def stop(
        self, reason: str, *, claimed_done: bool | None = None, truncated: bool = False
    ) -> None:
        """Give the reason for the end of the loop."""
        ...


# A weak reference: if an exception comes before the episode's block has begun, for instance by
# Ctrl-C, nobody leaves the episode. It is gone then, and the next one is not inside of it.
CurrentEpisode: TypeAlias = "weakref.ref[EpisodeSession] | None"
EpisodeToken: TypeAlias = "Token[CurrentEpisode]"

_CURRENT: ContextVar[CurrentEpisode] = ContextVar("trajrec_episode", default=None)


class _RunningCall:
    """A tool call that runs. A task that it starts keeps its context, also when the call is over.

    Attributes:
        episode: Its episode.
        is_over: Whether it has ended.
    """

    def __init__(self, episode: EpisodeSession) -> None:
        self.episode = weakref.ref(episode)
        self.is_over = False


# The tool call that runs here. A conversation of a capture has no block that would make it the
# current episode.
_CALLING: ContextVar[_RunningCall | None] = ContextVar("trajrec_running_call", default=None)

# By identity, for requests from threads without a context. Not a WeakSet, which cannot be read while
# another thread adds an episode.
_OPEN: weakref.WeakValueDictionary[int, EpisodeSession] = weakref.WeakValueDictionary()


def current_episode() -> EpisodeSession | None:
    """Return the episode that this task or thread is in; None outside of episodes.

        episode = trajrec.current_episode()
        if episode is not None:
            episode.side_effect("deploy", deploy, version)

    It is the one that `trajrec.episode` or `trajrec.rerun` has begun here. Python gives new threads
    no context: run their functions by `contextvars.copy_context().run`, as `asyncio.to_thread` does.
    """
    reference = _CURRENT.get()
    episode = None if reference is None else reference()
    return None if episode is None or episode.has_ended else episode


def calling_episode() -> EpisodeSession | None:
    """Return the episode in which one that begins here is nested; None if it is in none.

    It is the current one, or the one that runs a tool call here.
    """
    episode = current_episode()
    running = _CALLING.get()
    if episode is None and running is not None and not running.is_over:
        episode = running.episode()
    return None if episode is None or episode.has_ended else episode


def enter_tool_call(episode: EpisodeSession) -> None:
    """Note that all that follows in this context is made in a tool call of an episode."""
    _CALLING.set(_RunningCall(episode))


@contextlib.contextmanager
def in_tool_call(episode: EpisodeSession) -> Iterator[None]:
    """Note that a tool call of an episode runs in a block: an agent in it is a sub-agent."""
    running = _RunningCall(episode)
    token = _CALLING.set(running)
    try:
        yield
    finally:
        running.is_over = True
        # An async generator may be closed in another context.
        with contextlib.suppress(ValueError):
            _CALLING.reset(token)


def open_episodes(exclude: Iterable[EpisodeSession] = ()) -> list[EpisodeSession]:
    """Return the episodes of this process that have not ended, in any task or thread.

    The live part of a rerun is not among them: the rerun takes its requests and tool calls.
    """
    excluded = set(map(id, exclude))
    return [
        episode
        for reference in _OPEN.valuerefs()
        if (episode := reference()) is not None
        and not episode.has_ended
        and not getattr(episode, "is_live_part", False)
        and id(episode) not in excluded
    ]


def enter_episode(episode: EpisodeSession) -> EpisodeToken:
    """Make an episode the current one; return the token that `leave_episode` takes."""
    _OPEN[id(episode)] = episode
    return _CURRENT.set(weakref.ref(episode))


def leave_episode(token: EpisodeToken) -> None:
    """Make the episode current again that was so before `enter_episode`."""
    # A generator or a task may leave an episode in another context than it entered it in, which has
    # no such token.
    with contextlib.suppress(ValueError):
        _CURRENT.reset(token)
