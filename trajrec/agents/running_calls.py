"""The tool calls of an episode that run, and which of them have called which."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import NamedTuple, TypeAlias

from trajrec.agents.counters import CallPosition
from trajrec.protocols import Tool

_Link: TypeAlias = "tuple[weakref.ref[RunningCalls], CallPosition]"

# The calls that led here, the outermost first: their `RunningCalls`, and their position. Those that
# have ended are left out when it is read, as a call may end in another context. Not by the id of
# their `RunningCalls`: another episode may have the same one later.
_CHAIN: ContextVar[tuple[_Link, ...]] = ContextVar("trajrec_calls", default=())


def is_read(tool: Tool | None) -> bool:
    """Return whether a tool is declared to change nothing."""
    return tool is not None and tool.access == "read"


class RunningCall(NamedTuple):
    """A call that runs.

    Attributes:
        position: Its position in the episode.
        tool: The tool's name.
        is_read: Whether the tool is declared `read`.
    """

    position: CallPosition
    tool: str
    is_read: bool


class RunningCalls:
    """The calls that run. Its user holds a lock meanwhile."""

    def __init__(self) -> None:
        self._calls: dict[CallPosition, RunningCall] = {}
        self._self = weakref.ref(self)

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def is_writing(self) -> bool:
        """Whether a tool runs that is not declared `read`, so that the state may change."""
        return any(not call.is_read for call in self._calls.values())

    def begin(self, position: CallPosition, tool: Tool | None) -> None:
        """Note that a call begins."""
        name = "" if tool is None else tool.name
        self._calls[position] = RunningCall(position, name, is_read(tool))

    def enter(self, position: CallPosition) -> None:
        """Note that what runs in this context from here on is the code of a call that has begun."""
        if position in self._calls:
            _CHAIN.set((*_running_chain(), (self._self, position)))

    def leave(self, position: CallPosition) -> None:
        """Note that it is not any more, and the call goes on: its awaitable may run anywhere."""
        if position in self._calls:
            own = (self._self, position)
            _CHAIN.set(tuple(link for link in _running_chain() if link != own))

    def end(self, position: CallPosition) -> None:
        """Note that a call has ended."""
        self._calls.pop(position, None)

    def has(self, position: CallPosition) -> bool:
        """Return whether the call at a position runs."""
        return position in self._calls

    def innermost(self) -> RunningCall | None:
        """Return the call whose own code runs; None if it may be another one's, or the program's.

        It is known if all calls that run have led to this context, each by calling the next.
        """
        own = [position for owner, position in _running_chain() if owner is self._self]
        if own and len(own) == len(self._calls):
            return self._calls[own[-1]]
        if len(self._calls) == 1:
            (only,) = self._calls.values()
            return None if only.is_read else only
        return None


def _running_chain() -> list[_Link]:
    """Return the calls that led here and have not ended, of all episodes."""
    return [
        (reference, position)
        for reference, position in _CHAIN.get()
        if (owner := reference()) is not None and owner.has(position)
    ]
