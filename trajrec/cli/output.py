"""How results are printed: tables, JSON lines, progress."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from trajrec.episodes import Episode


def print_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their names, numbers to the right, long texts cut to the terminal where there is one."""
    texts = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in texts)]) for i, name in enumerate(names)]
    limit = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else sum(widths) + 2 * len(widths)
    while sum(widths) + 2 * len(widths) > limit and max(widths) > 12:
        widest = widths.index(max(widths))
        widths[widest] -= 1
    right = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) and bool(rows) for i in range(len(names))]
    for line in (list(names), *texts):
        cells = [_fit(text, width, to_right) for text, width, to_right in zip(line, widths, right, strict=True)]
        print("  ".join(cells).rstrip())


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
        print(f"\nfailure at {where} ({failure.phase}, {failure.origin}): {failure.error_type}: {failure.message}")
    for check in episode.checks:
        verdict = {True: "passed", False: "failed", None: check.status}[check.verdict]
        score = "" if check.score is None else f", score {check.score:g}"
        print(f"\ncheck {check.check_id} version {check.version}: {verdict}{score}")
