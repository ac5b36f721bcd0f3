"""Pages of HTML that need nothing from elsewhere: what was replayed, for people."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trajrec.replay.execute.report import ReplayReport, ReplaySummary, short

_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;color:#1a202c}"
    "svg{max-width:100%;height:auto}table{border-collapse:collapse;font-size:12px}"
    "td,th{padding:3px 10px 3px 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
    ".diverged,.refused{color:#c53030}.exact{color:#2f855a}code{font-size:11px}"
)
_ORDER = ("diverged", "refused", "partial", "state", "exact")


def page(
    title: str,
    paragraphs: Sequence[str],
    picture: str,
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
) -> str:
    """Return a page.

    Args:
        title: Its heading.
        paragraphs: What is said above.
        picture: An SVG, or "".
        names: The table's columns.
        rows: Its cells; a float is shown with three digits.
    """
    said = "".join(f"<p>{html.escape(text)}</p>" for text in paragraphs)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{html.escape(title)}</h1>{said}{picture}<table><tr>{head}</tr>{body}</table></html>\n"
    )


def write_html(path: Path, reports: Iterable[ReplayReport], name: str) -> None:
    """Write replays as a page: a row each, what diverged first.

    Args:
        path: The file.
        reports: The replays.
        name: What was replayed.
    """
    kept = sorted(reports, key=lambda report: _ORDER.index(report.grade))
    summary = ReplaySummary()
    rows = []
    for report in kept:
        summary.add(report)
        d = report.divergence
        where = (
            ("", "", "", "", "")
            if d is None
            else (d.step, d.field, short(d.expected), short(d.actual), d.cause)
        )
        rows.append(
            (report.episode_id, report.grade, report.n_steps, *where, "; ".join(report.remarks))
        )
    names = (
        "episode",
        "grade",
        "steps",
        "first at step",
        "field",
        "recorded",
        "now",
        "likely cause",
        "notes",
    )
    path.write_text(page(f"Replay of {name}", [str(summary)], "", names, rows), "utf-8")


def _cell(value: Any) -> str:
    text = html.escape(
        f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
    )
    return f'<td class="{text}">{text}</td>' if text in _ORDER else f"<td>{text}</td>"
