"""The parts of a corpus's logs that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from trajrec.corpus.index.live import LiveIndex
from trajrec.log.reader import LogReader


class Problem(NamedTuple):
    """A part of a log that cannot be read.

    Attributes:
        log: The log's path, relative to the corpus.
        reason: The damage, or why the whole file cannot be read.
        is_tail: Whether only the last write of its writer is incomplete.
    """

    log: str
    reason: str
    is_tail: bool


def list_problems(
    folder: Path, index: LiveIndex, readers: Mapping[str, LogReader]
) -> list[Problem]:
    """Return the problems that an index knows of, and those that readers have met.

    Args:
        folder: The corpus.
        index: Its index.
        readers: Open readers, by log.
    """
    rows = index.rows(
        "SELECT log, problem, damage FROM logs "
        "WHERE problem IS NOT NULL OR damage IS NOT NULL ORDER BY log"
    )
    problems = []
    for log, problem, damage in rows:
        if problem is not None:
            text = problem.removeprefix(str(folder / log)).lstrip(" :")
            problems.append(Problem(log, text, is_tail=False))
            continue
        for offset, size, cause, is_tail in json.loads(damage):
            # A log that is being written may end within a frame.
            if not (is_tail and index.running.get(log)):
                problems.append(_problem(log, offset, size, cause, is_tail))
    # The index stores no rows of journals, and does not decode observations and states.
    for log, reader in {**index.tail_readers, **readers}.items():
        problems += [
            problem
            for problem in (_problem(log, *damage) for damage in reader.damage)
            if not problem.is_tail and problem not in problems
        ]
    return sorted(problems)


def _problem(log: str, offset: int, size: int, reason: str, is_tail: bool) -> Problem:
    return Problem(log, f"byte {offset}, {size} bytes: {reason}", is_tail)
