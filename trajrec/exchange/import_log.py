"""Writes a log of imported episodes: whole, or not at all.

The log is written beside the corpus' index, where no reader looks for logs, and moved into the
corpus when it is sealed. An import that is killed leaves a file there that the next one removes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from trajrec.errors import LogWriteError
from trajrec.log.columns import Packer
from trajrec.log.folder import INDEX_FOLDER, SUFFIX
from trajrec.log.frame_writer import FrameWriter
from trajrec.log.locks import is_running
from trajrec.log.packing import Drained
from trajrec.log.record_encoder import encode_event
from trajrec.log.schema import Chunk, Event
from trajrec.recording.provenance import make_agents_header

FOLDER = "import"
"""The folder for unfinished logs, in the folder of the index."""

# An import waits for the compression, which a recorder does beside its loop: its level makes logs
# 1 to 2 % smaller, in nearly twice the time.
_LEVEL = 2

# As the frames of a recorder's events: readers take a frame at a time.
_CHUNK_BYTES = 1 << 20


def import_log_id(sha256: str, format_name: str) -> str:
    """Return the id of the log of a file: the same file always has the same log, anywhere.

    >>> import_log_id("00" * 32, "atif") == import_log_id("00" * 32, "atif")
    True
    """
    return hashlib.blake2b(f"import/{format_name}/{sha256}".encode(), digest_size=16).hexdigest()


def unfinished_path(folder: Path, log_id: str) -> Path:
    """Return the place of a log of this process that is not whole yet."""
    return folder / INDEX_FOLDER / FOLDER / f"{log_id}-{os.getpid()}{SUFFIX}"


class ImportLog:
    """A new log: a context manager, which deletes the log unless `finish` was called.

    Args:
        folder: The corpus.
        log_id: The log's id.

    Attributes:
        path: The log's place in the corpus.

    Raises:
        LogWriteError: The log cannot be written.
    """

    def __init__(self, folder: Path, log_id: str) -> None:
        self.path = folder / f"{log_id}{SUFFIX}"
        self._unfinished = unfinished_path(folder, log_id)
        header = make_agents_header(log_id, "imported: the source does not hold the environment")
        self._events: list[Event] = []
        self._raw: list[bytes] = []
        self._n_bytes = 0
        self._n_items = 0
        with self._translated():
            self._unfinished.unlink(missing_ok=True)
            self._file = FrameWriter(self._unfinished, header, Packer(_LEVEL))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._file.close()
        with contextlib.suppress(OSError):
            self._unfinished.unlink(missing_ok=True)

    def add(self, event: Event) -> None:
        """Add an event."""
        raw = encode_event(event)
        self._events.append(event)
        self._raw.append(raw)
        self._n_bytes += len(raw)
        if self._n_bytes > _CHUNK_BYTES:
            self._flush()

    def finish(self) -> None:
        """Seal the log and move it into the corpus.

        Raises:
            LogWriteError: The log cannot be written.
        """
        self._flush()
        with self._translated():
            self._file.seal()
            self._file.sync()
            self._file.close()
            os.replace(self._unfinished, self.path)

    def _flush(self) -> None:
        if not self._events:
            return
        self._n_items += len(self._events)
        chunk = Chunk(
            time_ns=time.time_ns(),
            segments=[],
            columns=[],
            layouts={},
            events=self._events,
            journal=self._n_items - 1,
        )
        with self._translated():
            self._file.write_chunk(Drained(chunk, [], {}, self._raw))
        self._events = []
        self._raw = []
        self._n_bytes = 0

    @contextlib.contextmanager
    def _translated(self):  # type: ignore[no-untyped-def]
        """Raise a LogWriteError for an error of the system."""
        try:
            yield
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
            raise LogWriteError(
                f"cannot be written: {reason}; nothing of the file was imported", path=self.path
            ) from exc


def remove_unfinished(folder: Path) -> None:
    """Remove the logs that killed imports have left, with their journals."""
    for path in (folder / INDEX_FOLDER / FOLDER).glob(f"*-*{SUFFIX}*"):
        if not is_running(path.name.partition(SUFFIX)[0].rpartition("-")[2]):
            with contextlib.suppress(OSError):
                path.unlink()
