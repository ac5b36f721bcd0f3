"""Scripted agents: one solves a task, the others fail in known ways.

Each agent takes an episode (or its rerun) and the calls that solve the task. It makes these calls,
apart from its own fault. A refused call is not repeated; the recording shows the refusal.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from trajrec.types import JsonObject, Value

Call = tuple[str, JsonObject]

# Enough for the refusal to look like a loop, few enough for a quick test.
LOOPS = 8


class CallingEpisode(Protocol):
    """The part of an episode that a scripted agent uses."""

    def call(self, name: str, /, **arguments: Value) -> Value:
        """Call a tool."""
        ...

    def stop(
        self, reason: str = "", *, claimed_done: bool | None = None, truncated: bool = False
    ) -> None:
        """End the episode."""
        ...


Agent = Callable[[CallingEpisode, Sequence[Call]], None]


def solver(ep: CallingEpisode, calls: Sequence[Call]) -> None:
    """Make all calls."""
    _make(ep, calls)
    ep.stop("done", claimed_done=True)


def wrong_argument(ep: CallingEpisode, calls: Sequence[Call]) -> None:
    """Make the first changing call with a wrong argument, and do not correct it."""
    k = _first_write(calls)
    _make(ep, [*calls[:k], _spoiled(calls[k]), *calls[k + 1 :]])
    ep.stop("done", claimed_done=True)


def skipped_step(ep: CallingEpisode, calls: Sequence[Call]) -> None:
    """Leave the first changing call out."""
    k = _first_write(calls)
    _make(ep, [*calls[:k], *calls[k + 1 :]])
    ep.stop("done", claimed_done=True)


def gives_up(ep: CallingEpisode, calls: Sequence[Call]) -> None:
    """Stop before the first call that would change something."""
    _make(ep, calls[: _first_write(calls)])
    ep.stop("gave up", claimed_done=False)


def loops(ep: CallingEpisode, calls: Sequence[Call]) -> None:
    """Repeat a refused call until the budget is spent."""
    k = _first_write(calls)
    _make(ep, [*calls[:k], *[_spoiled(calls[k])] * LOOPS])
    ep.stop("max_steps", claimed_done=False, truncated=True)


def recovers(ep: CallingEpisode, calls: Sequence[Call]) -> None:
    """Make a call with a wrong argument, then with the right one, then continue."""
    k = _first_write(calls)
    _make(ep, [*calls[:k], _spoiled(calls[k]), *calls[k:]])
    ep.stop("done", claimed_done=True)


AGENTS: dict[str, Agent] = {
    agent.__name__: agent
    for agent in (solver, wrong_argument, skipped_step, gives_up, loops, recovers)
}


def _make(ep: CallingEpisode, calls: Sequence[Call]) -> None:
    for name, arguments in calls:
        with contextlib.suppress(Exception):
            ep.call(name, **arguments)


def _first_write(calls: Sequence[Call]) -> int:
    """Return the index of the first call that changes something, judged by the tool's name."""
    reads = ("read", "list", "get", "find", "search", "run", "query")
    return next(k for k, (name, _) in enumerate(calls) if not name.startswith(reads))


def _spoiled(call: Call) -> Call:
    """Return the call with a wrong value for its first number, or else for its first argument."""
    name, arguments = call
    # A call with the right key and a wrong number is one that a later call may repeat rightly.
    numbers = (key for key, value in arguments.items() if isinstance(value, int))
    key = next(numbers, next(iter(arguments)))
    wrong = "../nowhere" if isinstance(arguments[key], str) else -1
    return name, {**arguments, key: wrong}
