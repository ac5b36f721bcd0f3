"""The file of ids: finds an episode among millions by a binary search, without a query.

It lies beside the index, has the episodes of sealed logs in the order of their ids, and is made
again when a tenth of them is missing. It may be old, so nothing in it is believed: a log that it
names is read only if it has the seal that stands beside the name, and the id is a digest of the
log's id and the episode's number.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np

from trajrec.corpus.index.links import has_links
from trajrec.log.folder import is_inside
from trajrec.types import Array

IDS_NAME = "ids.bin"

_ID = re.compile("[0-9a-f]{16}")

_MAGIC = b"trjIDS1\n"
_HEADER = np.dtype([("magic", "S8"), ("n", "<u8"), ("n_keys", "<u8"), ("n_bytes", "<u8")])
# The ids stand together, for the search. Behind the other columns come the logs: the ends of their
# paths, by key, and the paths as UTF-8.
_COLUMNS = {
    "id": "<u8",
    "seal": "<u8",
    "log_key": "<i4",
    "number": "<i4",
    "first_frame": "<i4",
    "last_frame": "<i4",
}

# A query finds an episode among so few as fast.
_MIN_EPISODES = 2_000

_QUERY = """
SELECT ('0x' || episode_id)::UBIGINT AS id, ('0x' || seal[:16])::UBIGINT AS seal,
    log_key, number::INTEGER AS number, first_frame::INTEGER AS first_frame,
    all_episodes.last_frame::INTEGER AS last_frame
FROM all_episodes JOIN contents USING (log_key)
WHERE kind <> 'copy' AND seal IS NOT NULL ORDER BY id
"""


class IdRow(NamedTuple):
    """The place of an episode.

    Attributes:
        log: Its log, relative to the corpus.
        seal: The first 16 digits of the log's seal.
    """

    log: str
    seal: str
    number: int
    first_frame: int
    last_frame: int


class IdFile:
    """A file of ids, open for reading.

    Attributes:
        n: The number of its episodes; 0 if there is no file.
        n_keys: The number of the keys of logs when it was made; 0 if there is no file.
    """

    def __init__(self, path: Path) -> None:
        self.n = 0
        self.n_keys = 0
        self._columns: dict[str, Array] = {}
        with contextlib.suppress(OSError, ValueError):
            if not has_links(path.parent.parent):
                self._open(path)

    def _open(self, path: Path) -> None:
        data = np.memmap(path, np.uint8, "r")
        header = data[: _HEADER.itemsize].view(_HEADER)[0]
        n, n_keys, n_bytes = (int(header[name]) for name in ("n", "n_keys", "n_bytes"))
        sizes = dict.fromkeys(_COLUMNS, n) | {"ends": n_keys, "paths": n_bytes}
        parts = _COLUMNS | {"ends": "<u8", "paths": "u1"}
        total = sum(sizes[name] * np.dtype(parts[name]).itemsize for name in parts)
        if header["magic"] != _MAGIC or len(data) != _HEADER.itemsize + total:
            return
        start = _HEADER.itemsize
        for name, dtype in parts.items():
            end = start + sizes[name] * np.dtype(dtype).itemsize
            self._columns[name] = data[start:end].view(dtype)
            start = end
        self.n = n
        self.n_keys = n_keys

    def find(self, episode_id: str) -> IdRow | None:
        """Return the place of an episode, None if it is not in the file."""
        if not self.n or not _ID.fullmatch(episode_id):
            return None
        number = np.uint64(int(episode_id, 16))
        ids = self._columns["id"]
        at = int(np.searchsorted(ids, number))
        if at == self.n or ids[at] != number:
            return None
        log = self._path(int(self._columns["log_key"][at]))
        if not is_inside(log):
            return None
        seal = f"{int(self._columns['seal'][at]):016x}"
        names = ("number", "first_frame", "last_frame")
        return IdRow(log, seal, *(int(self._columns[name][at]) for name in names))

    def _path(self, key: int) -> str:
        """Return the path of a log, "" if it has none."""
        if not 0 <= key < self.n_keys:
            return ""
        ends = self._columns["ends"]
        start = int(ends[key - 1]) if key else 0
        return bytes(self._columns["paths"][start : int(ends[key])]).decode("utf-8", "replace")


def write_ids(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Make the file again if many episodes are missing in it, or too many are gone.

    Args:
        con: A connection to the index file.
        path: The file of ids.
    """
    row = con.execute("SELECT count(*) FROM all_episodes").fetchone()
    n_episodes = 0 if row is None else int(row[0])
    n_listed = IdFile(path).n
    if n_episodes < _MIN_EPISODES or 0.9 * n_episodes < n_listed < 1.1 * n_episodes:
        return
    columns = con.execute(_QUERY).fetchnumpy()
    paths = dict(con.execute("SELECT log_key, log FROM files WHERE is_original").fetchall())
    n_keys = max(paths) + 1
    encoded = [paths.get(key, "").encode() for key in range(n_keys)]
    ends = np.cumsum([len(path) for path in encoded])
    header = np.array([(_MAGIC, len(columns["id"]), n_keys, ends[-1])], _HEADER)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(header.tobytes())
            for name, dtype in _COLUMNS.items():
                file.write(columns[name].astype(dtype).tobytes())
            file.write(ends.astype("<u8").tobytes())
            file.writelines(encoded)
        temporary.replace(path)
    except OSError:
        # It only saves time. Windows does not replace a file that is read.
        with contextlib.suppress(OSError):
            temporary.unlink()
