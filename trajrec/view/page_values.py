"""The values that the templates of an episode name, the same for the viewer and a report."""

from __future__ import annotations

from bisect import bisect_left

from trajrec.types import Value
from trajrec.view.commands import episode_commands, step_commands
from trajrec.view.credit_view import MEANINGS
from trajrec.view.episode_view import EpisodeView
from trajrec.view.film import Thumbnail
from trajrec.view.links import Links


def page_values(
    view: EpisodeView, step: int | None, links: Links, *, folder: str
) -> dict[str, Value]:
    """Return the values of an episode's page without those of its step.

    Args:
        view: The episode.
        step: The step that it opens at; None without steps.
        links: The addresses.
        folder: The folder of logs, as commands name it.
    """
    rows = [] if step is None else view.rows(step)
    start = bisect_left(view.steps, rows[0].step) if rows else 0
    end = start + len(rows)
    return {
        "view": view,
        "step": step,
        "rows": rows,
        "links": links,
        "strip": [
            Thumbnail(at, f"{links.step(view.id, at)}/frame.png?small=1", links.step(view.id, at))
            for at in ([] if links.is_report else view.strip)
        ],
        "commands": episode_commands(folder, view.id, is_agent=view.is_agent),
        # Of a forged or damaged log, the numbers of the steps may have gaps.
        "before": view.steps[start - 1] if start else None,
        "after": view.steps[end] if rows and end < len(view.steps) else None,
    }


def pane_values(
    view: EpisodeView, step: int, links: Links, *, folder: str, has_state: bool
) -> dict[str, Value]:
    """Return the values of a step.

    Args:
        view: The episode.
        step: The step.
        links: The addresses.
        folder: The folder of logs, as commands name it.
        has_state: Whether the whole state after the step is shown.
    """
    pane = view.pane(step)
    commands = step_commands(
        folder, view.id, step, is_agent=view.is_agent, has_call=bool(pane.attempts)
    )
    # Without a watched state there is none, not even an empty one.
    has_state = has_state and not (view.is_agent and pane.state_note)
    tree, reason = view.state(step) if has_state else (None, "")
    return {
        "view": view,
        "step": step,
        "links": links,
        "pane": pane,
        "credit": view.credit_of(step),
        "labels": view.evidence.labels_of(step),
        "meanings": MEANINGS,
        "step_commands": commands,
        "has_state": has_state,
        "tree": tree,
        "reason": reason,
    }
