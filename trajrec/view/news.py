"""What an open page lacks of an episode that has grown since, for the page's script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trajrec.types import JsonObject
from trajrec.view.episode_view import EpisodeView
from trajrec.view.links import Links
from trajrec.view.live import Listed, new_rows, places
from trajrec.view.pages import render
from trajrec.view.rows import StepRow


@dataclass(frozen=True, kw_only=True)
class News:
    """What is new.

    Attributes:
        rows: New and changed lines of the list.
        first: The step that the list is to begin at; None without steps.
        before: The last step before the list; None if it begins with the first one.
        after: The first step behind it; None if it ends with the last one.
    """

    rows: Sequence[StepRow]
    first: int | None
    before: int | None
    after: int | None


def read_news(view: EpisodeView, listed: Listed, earlier: EpisodeView | None) -> News:
    """Return what a page lacks.

    Args:
        view: The episode as it is now.
        listed: The part of its list that the page shows.
        earlier: The episode as the page shows it; None if that is not kept.
    """
    start, end = places(view.steps, listed)
    old = None
    if earlier is not None:
        shown = Listed(listed.first, listed.last, is_tail=False, follows=False)
        old = earlier.rows_at(*places(earlier.steps, shown))
    elif not view.is_agent:
        # The lines of an environment never change.
        start_new = places(view.steps, Listed(listed.last, listed.last, False, False))[0]
        return _news(view, view.rows_at(max(start, start_new), end), start, end)
    return _news(view, new_rows(view.rows_at(start, end), old), start, end)


def _news(view: EpisodeView, rows: Sequence[StepRow], start: int, end: int) -> News:
    steps = view.steps
    return News(
        rows=rows,
        first=steps[start] if start < len(steps) else None,
        before=steps[start - 1] if 0 < start <= len(steps) else None,
        after=steps[end] if end < len(steps) else None,
    )


def news_json(view: EpisodeView, news: News, links: Links) -> JsonObject:
    """Return news as the script takes it: fragments of the page, by the same templates."""
    values = {"view": view, "episode": view.episode, "links": links, "step": None}
    count = view.lanes[0].width if view.lanes else 1
    return {
        "version": view.growth.version,
        "isLive": view.recording is not None and view.recording.state != "interrupted",
        "live": render("live.html", **values),
        "facts": render("episode_facts.html", **values),
        "timeline": render("timeline.html", **values),
        "legend": render("legend.html", **values),
        "rows": [[row.step, render("new_row.html", row=row, **values)] for row in news.rows],
        "start": view.steps[0] if view.steps else 0,
        "count": count,
        "first": news.first,
        "before": news.before,
        "after": news.after,
        "last": view.steps[-1] if view.steps else None,
        "failed": view.failed_steps,
    }
