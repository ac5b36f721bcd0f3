"""Print results: tables, JSON lines and progress."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trajrec.cli.colors import HEADING, color_of, has_colors, print_colored
from trajrec.cli.safe_stream import escaped_json, one_line
from trajrec.types import JsonObject, Value
from trajrec.values.json import to_json

if TYPE_CHECKING:
    from trajrec.corpus.episode import Episode

# The width below which a shortened text says nothing; a narrower terminal gets another layout.
MIN_TEXT_WIDTH = 12

# The width that is assumed if the terminal does not tell its own.
DEFAULT_SIZE = (120, 24)

# A bar for a short task would only flicker, and more than ten updates a second are not seen.
PROGRESS_AFTER_S = 0.5
PROGRESS_EVERY_S = 0.1
BAR_WIDTH = 30


def print_table(
    names: Sequence[str], rows: Sequence[Sequence[Value]], *, is_list: bool = False
) -> None:
    """Print rows under their column names, with numbers aligned to the right.

    On a terminal that is too narrow, long texts are cut. If that is not enough, each row is printed
    whole, one value a line; a list keeps one line a row and leaves its last columns out.
    """
    names = list(map(_cell, names))
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in texts)]) for i, name in enumerate(names)]
    is_number = [
        bool(rows) and all(isinstance(row[i], (int, float)) or row[i] is None for row in rows)
        for i in range(len(names))
    ]
    if sys.stdout.isatty():
        limit = shutil.get_terminal_size(DEFAULT_SIZE).columns
        fitting = _shrink(widths, is_number, limit)
        if fitting is None and is_list:
            fitting = widths_that_fit(widths, is_number, limit)
        if fitting is None and rows:
            _print_upright(names, texts)
            return
        widths = fitting or widths
    is_colored = has_colors()
    for number, line in enumerate((names, *texts)):
        # `widths` is shorter than a line if columns were left out.
        cells = [
            _fit(text, width, to_right)
            for text, width, to_right in zip(line, widths, is_number, strict=False)
        ]
        if is_colored:
            colors = [
                color_of(*pair) if number else HEADING for pair in zip(names, cells, strict=False)
            ]
            print_colored(list(zip(cells, colors, strict=True)))
        else:
            print("  ".join(cells).rstrip())


def room_beside(names: Sequence[str], rows: Sequence[Sequence[Value]]) -> int:
    """Return the columns of the terminal that a table leaves for one more; many without one."""
    if not sys.stdout.isatty():
        return sys.maxsize
    columns = zip(names, *rows, strict=True)
    used = sum(max(len(_cell(value)) for value in column) + 2 for column in columns)
    return shutil.get_terminal_size(DEFAULT_SIZE).columns - used


def widths_that_fit(widths: list[int], is_number: list[bool], limit: int) -> list[int]:
    """Return the widths of columns, smaller if need be, and without the last ones if need be."""
    fitting = None
    while fitting is None and len(widths) > 1:
        fitting = _shrink(widths, is_number, limit)
        widths = widths[:-1]
    return fitting or widths


def _shrink(widths: list[int], is_number: list[bool], limit: int) -> list[int] | None:
    """Return widths that fit, taken from the widest texts first, or None if no widths fit."""
    widths = list(widths)
    texts = [i for i in range(len(widths)) if not is_number[i]]
    while sum(widths) + 2 * (len(widths) - 1) > limit:
        widest = max(texts, key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= MIN_TEXT_WIDTH:
            return None
        widths[widest] -= 1
    return widths


def _print_upright(names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Print each row as lines of a name and a value, without the empty values."""
    width = max(map(len, names))
    for number, row in enumerate(texts):
        if number:
            print()
        for name, text in zip(names, row, strict=True):
            if text:
                print(f"{name.ljust(width)}  {text}")


def print_json(record: JsonObject) -> None:
    """Print one JSON object on one line.

    NaN and infinities are strings, as in the JSON columns of SQL: JSON has no such numbers.
    """
    print(escaped_json(to_json(record)))


def print_facts(facts: JsonObject) -> None:
    """Print names and values, without the empty values."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in (None, "", []):
            print(f"{name:<{width}}  {one_line(_fact(value))}")
    print()


def print_findings(episode: Episode) -> None:
    """Print an episode's exceptions and verdicts."""
    for failure in episode.failures:
        place = "reset" if failure.step < 0 else f"step {failure.step}"
        # A tool that is declared `read` and wrote has raised nothing.
        error = f"{failure.error_type}: " if failure.error_type else ""
        text = f"({failure.phase}, {failure.origin}): {error}{failure.message}"
        print(f"\nfailure at {place} {one_line(text)}")
    for check in episode.checks:
        verdict = {True: "passed", False: "failed", None: check.status}[check.verdict]
        score = "" if check.score is None else f", score {check.score:g}"
        version = f" version {check.version}" if check.version else ""
        print(f"\ncheck {one_line(check.check_id + version)}: {verdict}{score}")


def say(text: str) -> None:
    """Print a message for the user on stderr, apart from the results."""
    print(one_line(text), file=sys.stderr, flush=True)


class Progress:
    """A progress bar on a terminal, for tasks of more than half a second.

    A context manager, and a callback (done, total). Behind its block it draws nothing: a corpus
    keeps its callback, and indexes new forks after the results are printed.

    Args:
        task: The task, e.g. "indexing".
        unit: Stands behind the numbers, e.g. " bytes".
    """

    def __init__(self, task: str, unit: str = "") -> None:
        self._task = task
        self._unit = unit
        self._is_terminal = sys.stderr.isatty()
        self._start = time.monotonic()
        self._last = self._start
        self._was_shown = False
        self._is_over = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over = True
        if self._was_shown:
            _draw("\r\033[K")

    def __call__(self, done: int, total: int) -> None:
        if self._is_over:
            return
        time_s = time.monotonic()
        is_early = time_s - self._start < PROGRESS_AFTER_S
        if not self._is_terminal or is_early or time_s - self._last < PROGRESS_EVERY_S:
            return
        self._last = time_s
        self._was_shown = True
        left_s = (time_s - self._start) * (total - done) / done if done else 0.0
        n_filled = BAR_WIDTH * done // total if total else 0
        bar = "#" * n_filled + "." * (BAR_WIDTH - n_filled)
        text = f"\r\033[K{self._task} [{bar}] {done}/{total}{self._unit} {left_s:.0f} s left"
        _draw(text)


def _draw(text: str) -> None:
    """Write a text that moves the cursor."""
    stream = getattr(sys.stderr, "stream", sys.stderr)
    print(text, end="", file=stream, flush=True)


def _fact(value: Value) -> Value:
    return to_json(value) if isinstance(value, (dict, tuple)) else value


def _cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split())


def _fit(text: str, width: int, to_right: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.rjust(width) if to_right else text.ljust(width)
