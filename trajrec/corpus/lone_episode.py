"""One episode of a log file, without a corpus around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trajrec.corpus.episode import Episode
from trajrec.log.reader import LogReader


def read_episode(path: Path, number: int, chunks: Sequence[int] | None = None) -> Episode:
    """Read one episode of a log file."""
    return Episode(LogReader(path), number, chunks)
