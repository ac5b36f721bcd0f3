"""The logs of a recorder: one, or several that follow each other while old ones are deleted."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

import msgspec

from trajrec.log.journal import journal_path
from trajrec.log.remote import local_folder
from trajrec.log.schema import Header, StateRecord
from trajrec.log.writer import Durability, LogWriter, OnFull, Source, new_log_id

LOGS_OF_KEPT = 4
"""The last episodes that are kept lie in so many logs and the one that is written. More logs keep
fewer episodes beyond the last ones, and compress a little worse."""


class _Kept(NamedTuple):
    """A sealed log: its path, its size and the number of its episodes."""

    path: Path
    n_bytes: int
    n_episodes: int


class LogSeries:
    """Opens the logs of one recorder, one after the other.

    Args:
        folder: The corpus.
        header: The header of the first log. Later ones get other ids and times.
        name: The name of the first log without its suffix; its id if it is None.
        on_full: See `LogWriter`.
        durability: See `LogWriter`.
        max_bytes: The most bytes that the logs may take together; None for no limit.
        keep_last: The number of last episodes that are kept; None keeps all in one log.

    Raises:
        ValueError: The folder is an address.
    """

    def __init__(
        self,
        folder: Path,
        header: Header,
        *,
        name: str | None = None,
        on_full: OnFull,
        durability: Durability,
        max_bytes: int | None = None,
        keep_last: int | None = None,
    ) -> None:
        self._folder = local_folder(folder)
        self._header = header
        self._name = name
        self._on_full = on_full
        self._durability = durability
        self._max_bytes = max_bytes
        self._keep_last = keep_last
        self._kept: deque[_Kept] = deque()
        # The log that was opened last.
        self._opened = Path()
        self._process_id = os.getpid()

    def open(self, source: Source) -> LogWriter:
        """Open the next log.

        Raises:
            LogWriteError: It cannot be created.
        """
        header = self._header
        self._opened = self._folder / f"{self._name or header.log_id}.trj"
        return LogWriter(
            self._opened,
            header,
            source,
            on_full=self._on_full,
            durability=self._durability,
            max_bytes=self._rest_bytes(),
        )

    def begin_again(
        self, writer: LogWriter, state: StateRecord, n_episodes: int, created_ns: int
    ) -> None:
        """End a log, so that the next one has other states.

        A log in which nothing is recorded is deleted, and the next one has its name.
        """
        writer.close()
        if n_episodes:
            self._keep(writer, n_episodes)
            self._rename(created_ns)
            self._header = msgspec.structs.replace(self._header, state=state)
            return
        for path in (writer.path, journal_path(writer.path)):
            path.unlink(missing_ok=True)
        self._header = msgspec.structs.replace(self._header, state=state)

    def is_done(self, writer: LogWriter, n_episodes: int) -> bool:
        """Return whether a log has so many episodes that the next one belongs into another log."""
        if self._keep_last is None or writer.error is not None:
            return False
        if self._process_id != os.getpid():
            # The logs are those of the parent of this forked process.
            return False
        return writer.is_closed or n_episodes >= max(1, self._keep_last // LOGS_OF_KEPT)

    def finish(self, writer: LogWriter, n_episodes: int, created_ns: int) -> None:
        """Seal a log, and delete those logs whose episodes are all older than the last ones.

        Raises:
            LogWriteError: The log cannot be written, and `on_full` is "raise".
        """
        writer.close()
        self.delete_unused(writer)
        self._keep(writer, n_episodes)
        self._delete_old()
        self._rename(created_ns)

    def _keep(self, writer: LogWriter, n_episodes: int) -> None:
        """Count a sealed log among those that are kept."""
        if not self._kept or self._kept[-1].path != writer.path:
            try:
                size = writer.path.stat().st_size
            except OSError:
                # Somebody has deleted it: it takes no bytes, and keeps no episodes.
                self._kept.append(_Kept(writer.path, 0, 0))
            else:
                self._kept.append(_Kept(writer.path, size, n_episodes))

    def _rename(self, created_ns: int) -> None:
        """Give the next log an id and a name of its own."""
        self._name = None
        self._header = msgspec.structs.replace(
            self._header, log_id=new_log_id(), created_ns=created_ns
        )

    def delete_unused(self, writer: LogWriter) -> None:
        """Delete a log that was opened after this writer's, and whose use an exception prevented."""
        if self._keep_last is not None and self._opened != writer.path:
            for path in (self._opened, journal_path(self._opened)):
                with contextlib.suppress(OSError):
                    path.unlink()

    def _delete_old(self) -> None:
        """Delete the oldest logs as long as the others have enough episodes."""
        assert self._keep_last is not None
        while sum(log.n_episodes for log in self._kept) - self._kept[0].n_episodes >= (
            self._keep_last
        ):
            try:
                self._kept[0].path.unlink(missing_ok=True)
            except OSError:
                # On Windows a reader may hold it: it is deleted with the next one.
                return
            self._kept.popleft()

    def _rest_bytes(self) -> int | None:
        if self._max_bytes is None:
            return None
        return max(0, self._max_bytes - sum(log.n_bytes for log in self._kept))
