"""Write replays as an HTML page that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from trajrec.corpus.scratch import replacing
from trajrec.replay.execute.report import ReplayReport, ReplaySummary
from trajrec.types import Value
from trajrec.values.json import describe_field

_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em auto;max-width:72em;padding:0 1em;"
    "color:#1a202c}"
    "svg{max-width:100%;height:auto}table{border-collapse:collapse;font-size:12px}"
    "td,th{padding:3px 10px 3px 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}"
    ".diverged,.refused{color:#c53030}.exact{color:#2f855a}code{font-size:11px}"
)

# The grades of a page's rows, the ones to act on first.
_ORDER = ("diverged", "refused", "observed-only", "partial", "state", "exact")

_COLUMNS = (
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


def page(
    title: str,
    paragraphs: Sequence[str],
    picture: str,
    names: Sequence[str],
    rows: Iterable[Sequence[Value]],
) -> str:
    """Return a page with a table.

    Args:
        title: The heading.
        paragraphs: The text above the table; it is escaped, as the cells are.
        picture: An SVG, which is not escaped, or "".
        names: The names of the table's columns.
        rows: The cells of each row. A float is shown with three digits, None as an empty cell.
    """
    text = "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{html.escape(title)}</h1>{text}{picture}"
        f"<table><tr>{head}</tr>{body}</table></html>\n"
    )


def write_html(path: Path, reports: Iterable[ReplayReport], name: str) -> None:
    """Write replays as a page with one row for each, those that diverged first.

    Args:
        path: The file; it is replaced when all is written.
        reports: The replays.
        name: The name of the replayed corpus.

    Raises:
        CorpusError: The file cannot be written.
    """
    summary = ReplaySummary()
    rows = []
    for report in sorted(reports, key=lambda report: _ORDER.index(report.grade)):
        summary.add(report)
        rows.append(_row(report))
    text = page(f"Replay of {name}", [str(summary)], "", _COLUMNS, rows)
    with replacing(path) as partial:
        partial.write_text(text, "utf-8", errors="backslashreplace")


def _row(report: ReplayReport) -> tuple[Value, ...]:
    first: tuple[Value, ...] = ("", "", "", "", "")
    if report.divergence is not None:
        divergence = report.divergence
        first = (
            divergence.step,
            describe_field(divergence.path) or divergence.field,
            *divergence.shown_values(),
            divergence.cause,
        )
    notes = "; ".join(report.remarks)
    return (report.episode_id, report.grade, report.n_steps, *first, notes)


def _cell(value: Value) -> str:
    text = "" if value is None else str(value)
    if isinstance(value, float):
        text = f"{value:.3f}"
    text = html.escape(text)
    # A grade is its own class, which has a colour.
    return f'<td class="{text}">{text}</td>' if text in _ORDER else f"<td>{text}</td>"
