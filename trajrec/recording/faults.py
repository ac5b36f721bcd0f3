"""The component whose fault ended an episode: infra, env, or none that is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from trajrec.envstate.spaces import accepts
from trajrec.types import Action, AnyEnv

Fault = Literal["", "infra", "env"]

StepPart = Literal["env", "scaffold"]
"""What raised in a step: the environment, or the recorder around it."""

INFRA_STATUSES = (408, 425, 429, *range(500, 600))
"""Statuses of HTTP that say nothing about the request: time-outs, too many requests, server errors."""


def fault_of(exc: BaseException, *, is_of_env: bool) -> Fault:
    """Return the fault that an exception shows by its root: an agent's own error often wraps it.

    Args:
        exc: The exception that ended the episode.
        is_of_env: Whether the environment, the world or one of its tools raised it.
    """
    if not isinstance(exc, Exception):
        # Ctrl-C and the like: the user's decision.
        return ""
    if any(map(is_infra, causes_of(exc))):
        return "infra"
    return "env" if is_of_env else ""


def fault_of_step(exc: BaseException, part: StepPart, *, env: AnyEnv, action: Action) -> Fault:
    """Return the fault that an exception in a step shows.

    An environment may refuse an action that is none of its own. That is the agent's doing: left
    out of comparisons as a fault of the environment, it would make the agent look better.

    Args:
        exc: The exception.
        part: What raised it.
        env: The environment.
        action: The action that it was given.
    """
    return fault_of(exc, is_of_env=part == "env" and accepts(env, action))


def is_infra(exc: BaseException) -> bool:
    """Return whether an exception comes from the network or from a service that failed."""
    if isinstance(exc, (ConnectionError, TimeoutError)):
        return True
    status = getattr(exc, "status_code", None)
    return isinstance(status, int) and status in INFRA_STATUSES


def causes_of(exc: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from, the root last."""
    seen = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
