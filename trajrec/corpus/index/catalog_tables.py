"""The tables of the index that say which files and which contents its rows come from.

Rows belong to contents, and contents to files: a log that is moved or copied changes a row of
`files` and nothing else. Users see both as the table `logs`.
"""

from __future__ import annotations

FILES = {
    "log": "VARCHAR",
    "folder": "VARCHAR",
    "size_bytes": "BIGINT",
    "mtime_ns": "BIGINT",
    "log_key": "INTEGER",
    "is_original": "BOOLEAN",
    "is_link": "BOOLEAN",
    "is_watched": "BOOLEAN",
    "problem": "VARCHAR",
}
"""A file: its path and folder, relative to the corpus; its size and time when it was looked at; the
key of its contents, NULL if it cannot be read; whether these contents are read from it and not from
another file; whether it is a link; whether it may change unseen
by its folder; and why it cannot be read."""

CONTENTS = {
    "log_key": "INTEGER",
    "identity": "VARCHAR",
    "log_id": "VARCHAR",
    "seal": "VARCHAR",
    "generation": "INTEGER",
    "size_bytes": "BIGINT",
    "n_frames": "BIGINT",
    "last_frame": "VARCHAR",
    "last_item": "BIGINT",
    "is_sealed": "BOOLEAN",
    "is_copy": "BOOLEAN",
    "damage": "VARCHAR",
    "problem": "VARCHAR",
    "header": "VARCHAR",
}
"""The contents of a log: its id in frames and in its header, its seal, the bytes and frames that
were read, a digest of the last frame and the number of the last item in it, whether other contents
with this id count instead, what is damaged, and how it contradicts those others."""

FOLDERS = {
    "folder": "VARCHAR",
    "mtime_ns": "BIGINT",
    "ctime_ns": "BIGINT",
    "inode": "UBIGINT",
    "is_settled": "BOOLEAN",
}
"""A folder as it was listed; see `FolderState`."""

STATE = {"version": "INTEGER", "next_key": "INTEGER"}
"""One row: the version of the tables, and the key that the next contents get. None is used twice."""

CATALOG = {"files": FILES, "contents": CONTENTS, "folders": FOLDERS, "index_state": STATE}
"""Table -> its columns, with their types."""
