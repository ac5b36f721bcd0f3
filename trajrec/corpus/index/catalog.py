"""The files and contents that the index knows, read from its tables as far as they are needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import duckdb

from trajrec.corpus.index.scan import FolderState, KnownFile
from trajrec.log.identity import Identity

DamageCell: TypeAlias = list[Any]
"""Offset, size, cause, and whether it is only a torn end."""


class Content(NamedTuple):
    """The contents of a log, as the index has read them.

    Attributes:
        log_key: The key of its rows.
        identity: The log and its seal.
        log_id: The log's id as its header writes it.
        size: The bytes that were read.
        n_frames: The frames that were read.
        last_frame: The digest of the last of them.
        last_item: The number of the last item in them.
        is_copy: Whether other contents of the log count instead.
        damage: What could not be read, as the table `logs` has it.
    """

    log_key: int
    identity: Identity
    log_id: str
    size: int
    n_frames: int
    last_frame: str
    last_item: int
    is_copy: bool
    damage: str

    @property
    def losses(self) -> list[DamageCell]:
        """The bytes that are lost; a torn tail does not count."""
        cells: list[DamageCell] = json.loads(self.damage)
        return [cell for cell in cells if not cell[3]]

    @property
    def is_sealed(self) -> bool:
        """Whether the log's writer closed it."""
        return bool(self.identity.seal)


_CONTENT = (
    "log_key, identity, seal, generation, log_id, size_bytes, n_frames, last_frame, "
    "last_item, is_copy, "
    "coalesce(damage, '[]')"
)


class OpenLog(NamedTuple):
    """A log that is not sealed.

    Attributes:
        log_key: The key of its rows.
        n_frames: The frames that were read.
        is_copy: Whether other contents of the log count instead.
    """

    log_key: int
    n_frames: int
    is_copy: bool


class Catalog:
    """Reads the tables of files and contents; `forget` after they have changed.

    Args:
        con: The connection.
        schema: The schema, or database, of the files and folders.
        contents: The table, or view, of the contents.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, schema: str, contents: str) -> None:
        self._con = con
        self._schema = schema
        self._contents = contents
        self._watched: dict[str, KnownFile] | None = None
        self._open: dict[str, OpenLog] | None = None
        # The files of the folders that were asked for last: a folder that has just changed is
        # listed at each query.
        self._listed: tuple[list[str], dict[str, KnownFile]] | None = None

    def forget(self) -> None:
        """Read again what was kept."""
        self._watched = None
        self._open = None
        self._listed = None

    def folders(self) -> dict[str, FolderState]:
        """Return the folders as they were listed last."""
        rows = self._rows(
            f"SELECT folder, mtime_ns, ctime_ns, inode, is_settled FROM {self._schema}.folders"
        )
        return {row[0]: FolderState(*row[1:]) for row in rows}

    def in_folders(self, folders: Iterable[str] | None) -> dict[str, KnownFile]:
        """Return the files right in some folders, or all."""
        if folders is None:
            return self._files("true")
        names = list(folders)
        if self._listed is None or self._listed[0] != names:
            self._listed = (names, self._files("folder IN (SELECT unnest(?))", [names]))
        return self._listed[1]

    def watched(self) -> dict[str, KnownFile]:
        """Return the files that may change in place, or become readable."""
        if self._watched is None:
            self._watched = self._files("is_watched")
        return self._watched

    def files_of(self, keys: Iterable[int]) -> dict[str, KnownFile]:
        """Return the files with some contents."""
        return self._files("log_key IN (SELECT unnest(?))", [list(keys)])

    def named(self, logs: Iterable[str]) -> dict[str, KnownFile]:
        """Return some files by path."""
        return self._files("log IN (SELECT unnest(?))", [list(logs)])

    def contents_of(self, logs: Iterable[str]) -> list[Content]:
        """Return all contents of some logs, by their ids in frames."""
        return self._contents_where("identity IN (SELECT unnest(?))", [list(logs)])

    def contents_with(self, keys: Iterable[int]) -> list[Content]:
        """Return contents by key."""
        return self._contents_where("log_key IN (SELECT unnest(?))", [list(keys)])

    def open_logs(self) -> dict[str, OpenLog]:
        """Return the logs that are not sealed, by path."""
        if self._open is None:
            rows = self._rows(
                f"SELECT f.log, log_key, n_frames, is_copy FROM {self._schema}.files f "
                f"JOIN {self._contents} USING (log_key) WHERE NOT is_sealed"
            )
            self._open = {row[0]: OpenLog(*row[1:]) for row in rows}
        return self._open

    def next_key(self) -> int:
        """Return the key of the next new contents."""
        row = self._con.execute(f"SELECT next_key FROM {self._schema}.index_state").fetchone()
        return 0 if row is None else int(row[0])

    def _files(self, condition: str, params: Sequence[Any] = ()) -> dict[str, KnownFile]:
        rows = self._rows(
            "SELECT log, folder, size_bytes, mtime_ns, log_key, is_original, is_link, "
            f"coalesce(problem, '') FROM {self._schema}.files WHERE {condition}",
            params,
        )
        return {row[0]: KnownFile(*row[1:]) for row in rows}

    def _contents_where(self, condition: str, params: Sequence[Any]) -> list[Content]:
        rows = self._rows(f"SELECT {_CONTENT} FROM {self._contents} WHERE {condition}", params)
        return [
            Content(key, Identity(log, seal or "", generation), *rest)
            for key, log, seal, generation, *rest in rows
        ]

    def _rows(self, query: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._con.execute(query, params).fetchall()
