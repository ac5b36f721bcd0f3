"""Scripted agents: one that solves a task, and others that fail in known ways.

Each takes an episode (or its rerun) and the calls that solve the task, and makes these calls, but for its fault. A call that is
refused is left at that: what was refused is the recording's to show.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

Call = tuple[str, dict[str, Any]]
Agent = Callable[[Any, Sequence[Call]], None]

LOOPS = 8


def solver(ep: Any, calls: Sequence[Call]) -> None:
    """Make all calls."""
    _make(ep, calls)
    ep.stop("done", claimed_done=True)


def wrong_argument(ep: Any, calls: Sequence[Call]) -> None:
    """Make a call with a wrong argument, and leave it at that."""
    k = _faulty(calls)
    _make(ep, [*calls[:k], _spoiled(calls[k]), *calls[k + 1 :]])
    ep.stop("done", claimed_done=True)


def skipped_step(ep: Any, calls: Sequence[Call]) -> None:
    """Leave a call out."""
    k = _faulty(calls)
    _make(ep, [*calls[:k], *calls[k + 1 :]])
    ep.stop("done", claimed_done=True)


def gives_up(ep: Any, calls: Sequence[Call]) -> None:
    """Stop where a call would change something for the first time."""
    _make(ep, calls[: _faulty(calls)])
    ep.stop("gave up", claimed_done=False)


def loops(ep: Any, calls: Sequence[Call]) -> None:
    """Make a call that is refused again and again, until its budget is spent."""
    k = _faulty(calls)
    _make(ep, [*calls[:k], *[_spoiled(calls[k])] * LOOPS])
    ep.stop("max_steps", claimed_done=False, truncated=True)


def recovers(ep: Any, calls: Sequence[Call]) -> None:
    """Make a call with a wrong argument, then with the right one, then go on."""
    k = _faulty(calls)
    _make(ep, [*calls[:k], _spoiled(calls[k]), *calls[k:]])
    ep.stop("done", claimed_done=True)


AGENTS: dict[str, Agent] = {
    agent.__name__: agent
    for agent in (solver, wrong_argument, skipped_step, gives_up, loops, recovers)
}


def _make(ep: Any, calls: Sequence[Call]) -> None:
    for name, arguments in calls:
        with contextlib.suppress(Exception):
            ep.call(name, **arguments)


def _faulty(calls: Sequence[Call]) -> int:
    """Return the first call that changes something: a tool's name says so."""
    reads = ("read", "list", "get", "find", "search", "run", "query")
    return next(k for k, (name, _) in enumerate(calls) if not name.startswith(reads))


def _spoiled(call: Call) -> Call:
    """Return a call with its first text argument, or else its first, made wrong."""
    name, arguments = call
    key = next(
        (key for key, value in arguments.items() if isinstance(value, str)), next(iter(arguments))
    )
    return name, {**arguments, key: "../nowhere" if isinstance(arguments[key], str) else -1}
