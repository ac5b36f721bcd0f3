"""Which logs of a folder are new, grown, changed or copies, as against the index."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import duckdb

from trajrec.log.folder import LogFile
from trajrec.log.reader import LogReader
from trajrec.log.source import UNREADABLE


class IndexedLog(NamedTuple):
    """A log as the index has it.

    Attributes:
        is_unreadable: Whether the system refused to open or to read it.
    """

    log_id: str | None
    size: int
    mtime_ns: int
    n_frames: int
    is_sealed: bool
    is_unreadable: bool = False


def read_indexed_logs(con: duckdb.DuckDBPyConnection, schema: str) -> dict[str, IndexedLog]:
    """Return the logs that a schema's tables have read."""
    rows = con.execute(
        "SELECT log, log_id, size_bytes, mtime_ns, n_frames, is_sealed, "
        f"coalesce(contains(problem, '{UNREADABLE}'), false) FROM {schema}.logs"
    ).fetchall()
    return {row[0]: IndexedLog(*row[1:]) for row in rows}


def is_current(
    folder: Path, stats: Mapping[str, LogFile], indexed: Mapping[str, IndexedLog]
) -> bool:
    """Return whether the tables have read exactly these files of a folder, as they are."""
    return stats.keys() == indexed.keys() and not any(
        is_changed(folder / log, stat, indexed[log]) for log, stat in stats.items()
    )


def is_replaced(stat: LogFile, indexed: IndexedLog) -> bool:
    """Return whether a file is not the indexed one, grown: a sealed log changed, or it shrank."""
    if indexed.is_sealed:
        return (stat.size, stat.mtime_ns) != (indexed.size, indexed.mtime_ns)
    return stat.size < indexed.size


def copies_of(logs: Collection[str], indexed: Mapping[str, IndexedLog]) -> set[str]:
    """Return the logs that have copies among all logs: another one may be the original now."""
    ids = {indexed[log].log_id for log in logs if log in indexed}
    members: dict[str, list[str]] = {}
    for log, before in indexed.items():
        if before.log_id is not None and before.log_id in ids:
            members.setdefault(before.log_id, []).append(log)
    return {log for group in members.values() if len(group) > 1 for log in group}


def is_changed(path: Path, stat: LogFile, before: IndexedLog | None) -> bool:
    """Return whether a file is new, or not as the index has read it."""
    if before is None or (stat.size, stat.mtime_ns) != (before.size, before.mtime_ns):
        return True
    # A permission changes neither size nor time.
    return before.is_unreadable and not stat.problem and os.access(path, os.R_OK)


def is_appended(reader: LogReader, stat: LogFile, before: IndexedLog) -> bool:
    """Return whether a log only grew: then its first frames are those read before."""
    if before.is_sealed or before.n_frames == 0 or len(reader.frames) < before.n_frames:
        return False
    return reader.frames[before.n_frames - 1].end <= before.size <= stat.size
