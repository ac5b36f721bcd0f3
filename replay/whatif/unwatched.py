"""How far the effects of tools reach: which of them can be put back, and which must not happen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from trajrec.corpus.episode import Episode
from trajrec.protocols import Access, World
from trajrec.replay.agents.live_fork import FunctionTool
from trajrec.replay.whatif.changes import Change


def unwatched_effects(episode: Episode, at: int, change: Change) -> list[str]:
    """Return, in words, what the calls before a step did that cannot be put back.

    A tool that is declared `read` does nothing. One of a world, or of an episode that watched its
    state, is taken to act on that state, which the controls test. Others may have acted anywhere.

    Args:
        episode: The recorded episode.
        at: The step.
        change: The change, which tells whether the calls of the step itself were made.
    """
    transcript = episode.transcript
    task = transcript.task_start
    has_state = task is not None and bool(task.world or task.parts)
    end = at + (change.start == "after")
    lost: dict[str, None] = {}
    for attempt in transcript.attempts:
        start = attempt.start
        if start.step >= end or start.access == "read" or start.invalid:
            continue
        if start.access == "external":
            lost[f"the effects of {start.tool}, an external tool"] = None
        elif not has_state:
            lost[f"the effects of {start.tool}, which nothing watches"] = None
    return list(lost)


def access_of(
    tool: str, functions: Sequence[FunctionTool], world: World | None, episode: Episode
) -> Access:
    """Return the declared access of a tool: by its function, its world, or the recording.

    Args:
        tool: Its name.
        functions: The tools that are functions.
        world: The world of the live part.
        episode: The recorded episode.
    """
    for known in functions:
        if known.name == tool:
            return known.access
    for described in () if world is None else world.tools():
        if described.name == tool:
            return described.access
    task = episode.transcript.task_start
    rows = [] if task is None else episode.transcript.value(task.tools_data) or []
    return cast("Access", next((row[2] for row in rows if row[0] == tool), "unknown"))


def without_leave(tool: str) -> str:
    """Return why a live call of an external tool is refused."""
    return (
        f"the agent called {tool}, which is declared external, and must not run without leave: "
        f"allow it by --run-tools external, or give --stub {tool}=module:function"
    )
