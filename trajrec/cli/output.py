"""How results are printed: tables, JSON lines, progress."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from trajrec.corpus.episode import Episode

NARROW = 12
"""Characters that a text keeps at least, however narrow the terminal."""


def print_table(
    names: Sequence[str], rows: Sequence[Sequence[Any]], *, is_list: bool = False
) -> None:
    """Print rows under their names, numbers to the right.

    On a terminal that is too narrow long texts are cut. Where that is not enough, each row is printed whole, as lines of its
    own; of a list, a row of which is to stay a line, the last columns are left out.
    """
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in texts)]) for i, name in enumerate(names)]
    right = [
        all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) and bool(rows)
        for i in range(len(names))
    ]
    if sys.stdout.isatty():
        limit = shutil.get_terminal_size((120, 24)).columns
        fitting = _shrink(widths, right, limit)
        while fitting is None and is_list and len(widths) > 1:
            del widths[-1]
            fitting = _shrink(widths, right, limit)
        if fitting is None and rows:
            _print_upright(names, texts)
            return
        widths = fitting or widths
    for line in (list(names), *texts):
        cells = [
            _fit(text, width, to_right)
            for text, width, to_right in zip(line, widths, right, strict=False)
        ]
        print("  ".join(cells).rstrip())


def _shrink(widths: list[int], is_number: list[bool], limit: int) -> list[int] | None:
    """Return widths of columns that fit, taken from the widest texts first; None where there are none."""
    widths = list(widths)
    texts = [i for i in range(len(widths)) if not is_number[i]]
    while sum(widths) + 2 * (len(widths) - 1) > limit:
        widest = max(texts, key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= NARROW:
            return None
        widths[widest] -= 1
    return widths


def _print_upright(names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
    """Print each row as lines of a name and a value, those without a value left out."""
    width = max(map(len, names))
    for number, row in enumerate(texts):
        if number:
            print()
        for name, text in zip(names, row, strict=True):
            if text:
                print(f"{name.ljust(width)}  {text}")


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(record, default=str, allow_nan=True))


def say(text: str) -> None:
    """Talk to the person, apart from the results."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A line that shows how far a long work is: on a terminal only, and only after half a second. A context manager."""

    def __init__(self, what: str, unit: str = "") -> None:
        self._what, self._unit = what, unit
        self._is_shown = sys.stderr.isatty()
        self._begin = self._last = time.monotonic()
        self._was_shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._was_shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._is_shown or now - self._begin < 0.5 or now - self._last < 0.1:
            return
        self._last, self._was_shown = now, True
        left = (now - self._begin) * (total - done) / done if done else 0.0
        filled = 30 * done // total if total else 0
        bar = "#" * filled + "." * (30 - filled)
        text = f"\r\033[K{self._what} [{bar}] {done}/{total}{self._unit} {left:.0f} s left"
        print(text, end="", file=sys.stderr, flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return " ".join(str(value).split())


def _fit(text: str, width: int, to_right: bool) -> str:
    if len(text) > width:
        text = text[: width - 1] + "…"
    return text.rjust(width) if to_right else text.ljust(width)


def print_facts(facts: dict[str, Any]) -> None:
    """Print names and values, without those that say nothing."""
    width = max(map(len, facts))
    for name, value in facts.items():
        if value not in (None, "", []):
            print(f"{name:<{width}}  {value}")
    print()


def print_findings(episode: Episode) -> None:
    """Print an episode's exceptions and verdicts."""
    for failure in episode.failures:
        where = "reset" if failure.step < 0 else f"step {failure.step}"
        print(
            f"\nfailure at {where} ({failure.phase}, {failure.origin}): {failure.error_type}: {failure.message}"
        )
    for check in episode.checks:
        verdict = {True: "passed", False: "failed", None: check.status}[check.verdict]
        score = "" if check.score is None else f", score {check.score:g}"
        print(f"\ncheck {check.check_id} version {check.version}: {verdict}{score}")
