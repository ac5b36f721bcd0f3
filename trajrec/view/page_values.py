"""The values that the templates of an episode name, the same for the viewer and a report."""

from __future__ import annotations

from trajrec.types import Value
from trajrec.view.episode_view import EpisodeView
from trajrec.view.links import Links


def page_values(view: EpisodeView, step: int | None, links: Links) -> dict[str, Value]:
    """Return the values of an episode's page without those of its step."""
    rows = [] if step is None else view.rows(step)
    return {
        "view": view,
        "step": step,
        "rows": rows,
        "links": links,
        "before": rows[0].step - 1 if rows and rows[0].step > view.steps[0] else None,
        "after": rows[-1].step + 1 if rows and rows[-1].step < view.steps[-1] else None,
    }


def pane_values(view: EpisodeView, step: int, links: Links, *, has_state: bool) -> dict[str, Value]:
    """Return the values of a step.

    Args:
        view: The episode.
        step: The step.
        links: The addresses.
        has_state: Whether the whole state after the step is shown.
    """
    tree, reason = view.state(step) if has_state else (None, "")
    return {
        "view": view,
        "step": step,
        "links": links,
        "pane": view.pane(step),
        "has_state": has_state,
        "tree": tree,
        "reason": reason,
    }
