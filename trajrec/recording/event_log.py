"""One log per folder, and options, for all agents of a process: their episodes lie side by side."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from trajrec.errors import LogWriteError
from trajrec.log.columns import Packer
from trajrec.log.events import Blob
from trajrec.log.flusher import are_other_threads
from trajrec.log.items import Entry
from trajrec.log.journal import EVENT, EVENT_HALF_BYTES
from trajrec.log.packing import Drained
from trajrec.log.record_encoder import encode_event
from trajrec.log.remote import local_folder
from trajrec.log.schema import Chunk, EpisodeEnd, Event
from trajrec.log.writer import Durability, LogWriter, OnFull, new_log_id
from trajrec.recording.provenance import make_agents_header

REFERRED_BYTES = 256
"""Values larger than this are stored once per log, and referred to by their digest. A reference
takes 20 bytes or so, so for smaller values it would save little."""


class Pending:
    """The items of a log that may not be in it yet.

    Each change is one operation on one list, so that no exception can leave half of it: the list
    begins with the number of its first item, and `items[:n] = [number]` drops n - 1 items.
    """

    def __init__(self) -> None:
        self._items: list[Any] = [0]

    def append(self, entry: Entry) -> None:
        """Append an item."""
        self._items.append(entry)

    def get(self, number: int) -> Entry | None:
        """Return an item, None if it was dropped or does not exist yet."""
        first = self._items[0]
        try:
            entry = self._items[1 + number - first] if number >= first else None
        except IndexError:
            return None
        # Another thread may have dropped items meanwhile.
        return entry if self._items[0] == first else self.get(number)

    def after(self, number: int) -> list[Entry]:
        """Return the items after an item."""
        items = list(self._items)
        return items[max(1, 2 + number - items[0]) :]

    def clear(self) -> None:
        """Drop all items."""
        self.drop(self._items[0] + len(self._items) - 2)

    def drop(self, number: int) -> None:
        """Drop the items up to and with an item."""
        n_dropped = number + 1 - self._items[0]
        if n_dropped > 0:
            self._items[: n_dropped + 1] = [number + 1]


class EventLog:
    """A log of agents' episodes. It takes events from any thread, in the order of the calls."""

    def __init__(self, folder: Path, on_full: OnFull, durability: Durability) -> None:
        folder = local_folder(folder)
        header = make_agents_header(
            new_log_id(), "a log of agents: each episode names its own world"
        )
        self.log_id = header.log_id
        self.path = folder / f"{header.log_id}.trj"
        # Re-entrant: a stream that is collected while an event is added adds its own event.
        self._lock = threading.RLock()
        self._pending = Pending()
        self._blobs: set[bytes] = set()
        self._n_episodes = itertools.count()
        self._n_open = 0
        self._has_warned = False
        self._process_id = os.getpid()
        self.writer = LogWriter(
            self.path,
            header,
            self,
            on_full=on_full,
            durability=durability,
            half_bytes=EVENT_HALF_BYTES,
        )
        # The number of the next event in the journal, and its offset: one object, which changes at
        # once.
        self._at = (0, self.writer.journal.start)

    def new_episode(self) -> int:
        """Return the number of a new episode."""
        with self._lock:
            self._n_open += 1
        return next(self._n_episodes)

    @property
    def has_open_episodes(self) -> bool:
        """Whether an episode has not ended."""
        return self._n_open > 0

    def add(self, event: Event) -> None:
        """Add an event. It is in the journal when this returns.

        Raises:
            LogWriteError: There was no room in the journal, the log cannot be written, and
                `on_full` is "raise".
        """
        if self.writer.is_closed:
            self._warn_not_recorded()
            return
        if self.writer.error is not None:
            self.writer.raise_error()
            return
        self._pending.append(Entry(event, encode_event(event)))
        with self._lock:
            if isinstance(event, EpisodeEnd):
                self._n_open -= 1
            self._write_journal()

    def refer(self, episode: int, digest: bytes, data: bytes) -> None:
        """Store a value once; events that are added later may refer to it by its digest."""
        if digest not in self._blobs:
            self.add(Blob(episode, digest, data))
            self._blobs.add(digest)

    def flush(self) -> None:
        """Hand everything to the operating system now."""
        self.writer.flush()

    def drain(
        self, packer: Packer, last_written: int, *, only_full: bool, max_items: int
    ) -> Iterator[Drained]:
        """Yield the pending events as one chunk."""
        self._pending.drop(last_written)
        entries = self._pending.after(last_written)[:max_items]
        if entries:
            last_item = last_written + len(entries)
            chunk = Chunk(
                time_ns=time.time_ns(),
                segments=[],
                columns=[],
                layouts={},
                events=[entry.event for entry in entries],
                journal=last_item,
            )
            yield Drained(chunk, [], {}, [entry.raw for entry in entries])
            # After the chunk was written: events of a failed write stay pending.
            self._pending.drop(last_item)

    def discard(self) -> None:
        """Drop the pending events, because the log cannot be written any more."""
        self._pending.clear()

    def journal_paused(self) -> None:
        """Do nothing: an event that finds no room in the journal begins it anew."""

    def _write_journal(self) -> None:
        """Write all events that the journal does not have.

        Each round begins anew from `_at`, and a record that is written twice is the same. So this
        may be interrupted, or called again by a finalizer that runs inside of it.
        """
        writer = self.writer
        journal = writer.journal
        while True:
            at = self._at
            number, position = at
            entry = self._pending.get(number)
            if entry is None and number > writer.last_written:
                return
            if entry is not None:
                end = journal.put(position, number, EVENT, entry.raw)
                if end:
                    following = (number + 1, end)
                    # Not if a finalizer has come further meanwhile.
                    if self._at is at:
                        self._at = following
                    continue
                if position > journal.start and journal.can_switch(writer.last_written):
                    self._at = (number, journal.switch(number))
                    writer.hand_over(0)
                    continue
                # The flusher cannot keep up, or the event is larger than a half.
                writer.flush()
                if writer.error is not None or writer.is_closed:
                    return
            # The log has all events.
            number = writer.last_written + 1
            self._at = (number, writer.restart_journal(number, EVENT_HALF_BYTES))

    def _warn_not_recorded(self) -> None:
        """Warn once that an event is not recorded."""
        if self._has_warned:
            return
        self._has_warned = True
        is_forked = self._process_id != os.getpid()
        reason = (
            "a forked process cannot write its parent's log" if is_forked else "the log was closed"
        )
        warnings.warn(
            f"{self.path}: {reason}; begin an episode of its own with trajrec.episode(...)",
            RuntimeWarning,
            # The caller of the agent's method that added the event.
            stacklevel=4,
        )


_Key: TypeAlias = tuple[int, str, OnFull, Durability]

_open_logs: dict[_Key, EventLog] = {}
"""Process id, folder and options -> the log that is written there so.

With other options the log is another one: a label that must be stored, or raise, would else be lost
with a warning in the log of an agent that stops recording when the disk is full."""

# Re-entrant: an exception inside of it must not lock its own thread out.
_open_logs_lock = threading.RLock()


def open_event_log(folder: str | Path, on_full: OnFull, durability: Durability) -> EventLog:
    """Return this process's log in a folder; a new one if the last was closed or failed.

    Raises:
        LogWriteError: The log cannot be created. With `on_full="stop-recording"`, a log that failed
            stays in the place of one that cannot be created: recording has stopped, with a warning.
    """
    key: _Key = (os.getpid(), str(Path(folder).resolve()), on_full, durability)
    with _open_logs_lock:
        log = _open_logs.get(key)
        if log is not None and not log.writer.is_closed:
            if log.writer.error is None:
                return log
            if on_full == "stop-recording":
                with contextlib.suppress(LogWriteError):
                    log = EventLog(Path(folder), on_full, durability)
                _open_logs[key] = log
                return log
        log = _open_logs[key] = EventLog(Path(folder), on_full, durability)
        return log


def close_logs() -> None:
    """Seal the agents' logs that this process writes; the next episode begins a new log."""
    _close_logs([key for key in _open_logs if key[0] == os.getpid()])


@atexit.register
def _close_at_exit() -> None:
    """Seal the logs at the end of the program, but not under the threads that still record."""
    is_shared = are_other_threads()
    _close_logs(
        [
            key
            for key, log in _open_logs.copy().items()
            if key[0] == os.getpid() and not (is_shared and log.has_open_episodes)
        ]
    )


def _close_logs(keys: Sequence[_Key]) -> None:
    with _open_logs_lock:
        for key in keys:
            # Another thread may have closed the log meanwhile.
            if key in _open_logs:
                with contextlib.suppress(LogWriteError):
                    _open_logs[key].writer.close()
            # Not before: after an interrupt the log is closed by the next call.
            _open_logs.pop(key, None)


def _begin_in_child() -> None:
    """Leave the open logs to the parent, and a lock that one of its threads may hold."""
    global _open_logs_lock
    _open_logs_lock = threading.RLock()
    _open_logs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
