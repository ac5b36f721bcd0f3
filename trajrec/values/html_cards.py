"""Cards: what a notebook shows of an object, as HTML without scripts, names or styles of its own.

A card has the text colour of the page that it stands in, so that it can be read on light and dark
ones. All texts are escaped, cut, and made visible: a recorded text steers nothing.
"""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from trajrec.types import Value
from trajrec.values.visible import visible

MAX_CARD = 60_000
"""Characters of the largest card."""

MAX_ROWS = 12
"""Rows of a table in a card."""

MAX_CELL = 80
"""Characters of a text in a card."""

# Of middle lightness: three to one against white as well as against black.
OK = "#1f9d55"
FAILED = "#d64545"
IDLE = "#8a94a0"

_Self = TypeVar("_Self")


class Picture(str):
    """Markup that this module has made, which needs no escaping."""

    __slots__ = ()


def card_method(method: Callable[[_Self], str]) -> Callable[[_Self], str]:
    """Return a method that makes a card, and a plain text with the reason where that fails.

    A notebook would print a traceback in place of the object, and hide the object.
    """

    @functools.wraps(method)
    def make(self: _Self) -> str:
        try:
            text = method(self)
            reason = f"the card is larger than {MAX_CARD} characters"
        except Exception as exc:
            text = ""
            reason = f"{type(exc).__name__}: {exc}"
        if 0 < len(text) <= MAX_CARD:
            return text
        return f"<pre>{escaped(repr(self), 2_000)}</pre><p>No card: {escaped(reason, 500)}</p>"

    return make


def escaped(value: Value, length: int = MAX_CELL) -> str:
    """Return a text as HTML: cut, visible and escaped. None is an empty text.

    >>> escaped("<b>\\u202e")
    '&lt;b&gt;\\\\u202e'
    """
    if isinstance(value, Picture):
        return value
    text = "" if value is None else str(value)
    # Before the escapes, which make a long text longer still.
    cut = text if len(text) <= length else text[: length - 1] + "…"
    return html.escape(visible(cut))


def card(title: str, facts: Iterable[tuple[str, Value]], *parts: str) -> str:
    """Return a card.

    Args:
        title: Its head.
        facts: Name and value of each fact; facts without a value are left out.
        parts: Markup below the facts, from `table` and `lines`.

    >>> card("Episode 3f2a", [("steps", 9)])[-60:]
    'opacity:.7">steps</span> 9</span></div></div>'
    """
    shown = " ".join(
        f'<span style="margin-right:1em"><span style="opacity:.7">{escaped(name)}</span> '
        f"{escaped(value)}</span>"
        for name, value in facts
        if value not in (None, "")
    )
    return (
        '<div style="font:13px/1.5 system-ui,sans-serif;border:1px solid;border-color:#8888;'
        'border-radius:4px;padding:6px 10px;overflow-x:auto">'
        f'<div style="font-weight:600">{escaped(title, 200)}</div><div>{shown}</div>'
        f"{''.join(parts)}</div>"
    )


def lines(texts: Iterable[str]) -> str:
    """Return texts as lines below each other.

    >>> lines(["claim: noise floor"])
    '<div style="margin-top:4px">claim: noise floor</div>'
    """
    return "".join(f'<div style="margin-top:4px">{escaped(text, 400)}</div>' for text in texts)


def table(heads: Sequence[str], rows: Sequence[Sequence[Value]], *, n_rows: int = 0) -> str:
    """Return a table, "" without rows.

    Args:
        heads: The names of its columns.
        rows: The cells of each row, of which the first `MAX_ROWS` are shown.
        n_rows: How many rows there are in all, if these are not all.
    """
    if not rows:
        return ""
    cell = "padding:1px 12px 1px 0;text-align:left;vertical-align:top;white-space:nowrap;border:0;background:none"
    head = "".join(
        f'<th scope="col" style="{cell};font-weight:400;opacity:.7">{escaped(name)}</th>'
        for name in heads
    )
    body = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{escaped(value)}</td>' for value in row) + "</tr>"
        for row in rows[:MAX_ROWS]
    )
    n_more = max(len(rows), n_rows) - min(len(rows), MAX_ROWS)
    more = f'<div style="opacity:.7">and {n_more:,} more</div>' if n_more else ""
    return (
        '<table style="border-collapse:collapse;margin-top:4px;font-size:12px">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    )


def shares_picture(n_ok: int, n_failed: int, n: int) -> Picture:
    """Return a bar of successes, failures, and the rest.

    >>> shares_picture(1, 0, 2)[:30]
    '<svg role="img" aria-label="1 '
    """
    parts = ((n_ok, OK), (n_failed, FAILED), (n - n_ok - n_failed, IDLE))
    rects = []
    left = 0.0
    for count, colour in parts:
        width = 120 * count / max(n, 1)
        if count:
            rects.append(f'<rect x="{left:.2f}" width="{width:.2f}" height="8" fill="{colour}"/>')
        left += width
    words = f"{n_ok} succeeded, {n_failed} failed, {n - n_ok - n_failed} without a verdict"
    return _svg(120, 8, words, "".join(rects))


def steps_picture(n_steps: int, failed: Iterable[int], words: str) -> Picture:
    """Return a bar of an episode's steps, of which the failed ones are marked.

    Args:
        n_steps: Steps of the episode.
        failed: Those that failed, from 0.
        words: The same in words, for people who do not see it.
    """
    width = 300
    # Several steps may share a mark: no more marks than there are places for them.
    places = sorted({step * width // max(n_steps, 1) for step in failed if 0 <= step < n_steps})
    mark = max(2.0, width / max(n_steps, 1))
    rects = [f'<rect width="{width}" height="8" fill="{IDLE}" opacity=".5"/>']
    rects += [
        f'<rect x="{place}" width="{min(mark, width - place):.2f}" height="8" fill="{FAILED}"/>'
        for place in places
    ]
    return _svg(width, 8, words, "".join(rects))


def plot_limit(numbers: Iterable[float]) -> float:
    """Return the greatest distance from 0 of finite numbers; 1.0 if they have none.

    >>> plot_limit([0.2, -0.5, float("inf")])
    0.5
    """
    return max((abs(number) for number in numbers if math.isfinite(number)), default=0.0) or 1.0


def interval_picture(value: float, low: float, high: float, *, limit: float) -> Picture:
    """Return a number with its interval on an axis from -limit to +limit, 0 in the middle.

    An interval that holds 0 has a hollow point. An end that is not known reaches the axis's end,
    with an arrow.

    Args:
        value: The number.
        low: Lower end of its interval; minus infinity if it is not known.
        high: Upper end; infinity if it is not known.
        limit: The greatest distance that is drawn.
    """
    if not math.isfinite(value):
        return _svg(180, 14, "unknown", '<text x="86" y="11" fill="currentColor">?</text>')
    words = f"{value:+.3g}, interval {low:+.3g} to {high:+.3g}"
    left = _place(low, limit)
    right = _place(high, limit)
    shapes = [
        '<path d="M90 0V14" stroke="currentColor" opacity=".5"/>',
        f'<path d="M{left} 7H{right}" stroke="currentColor" stroke-width="1.5"/>',
    ]
    if low < -limit:
        shapes.append(f'<path d="M{left + 4} 4L{left} 7L{left + 4} 10" {_LINE}/>')
    if high > limit:
        shapes.append(f'<path d="M{right - 4} 4L{right} 7L{right - 4} 10" {_LINE}/>')
    fill = "none" if low <= 0 <= high else "currentColor"
    point = _place(value, limit)
    shapes.append(f'<circle cx="{point}" cy="7" r="3.5" fill="{fill}" stroke="currentColor"/>')
    return _svg(180, 14, words, "".join(shapes))


_LINE = 'fill="none" stroke="currentColor"'


def _place(number: float, limit: float) -> float:
    return round(90 + 85 * max(-1.0, min(1.0, number / limit)), 2)


def _svg(width: int, height: int, words: str, content: str) -> Picture:
    return Picture(
        f'<svg role="img" aria-label="{escaped(words)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" preserveAspectRatio="none">{content}</svg>'
    )
