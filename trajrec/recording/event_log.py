"""One log per folder for all agents of a process; their episodes lie in it side by side."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from trajrec.errors import LogWriteError
from trajrec.log.columns import Packer
from trajrec.log.events import Blob
from trajrec.log.schema import Chunk, EnvRecord, Event, StateRecord
from trajrec.log.writer import Drained, Durability, LogWriter, OnError, new_log_id
from trajrec.recording.provenance import make_header
from trajrec.redaction.redactor import Redactor

HAND_OVER_BYTES = 1 << 18
"""Pending events above this size are handed to the flusher before its next tick."""

BLOCKING_BYTES = 1 << 22
"""Pending events above this size are written in the caller's thread: the flusher cannot keep up,
and memory must stay bounded."""

REFERRED_BYTES = 256
"""Values larger than this are stored once per log, and referred to by their digest. A reference
takes 20 bytes or so, so for smaller values it would save little."""

EVENT_BYTES = 200
"""The size of an event whose size is not given; most are smaller. It only decides when to flush."""


class EventLog:
    """A log of agents' episodes. It takes events from any thread, in the order of the calls."""

    def __init__(self, folder: Path, on_error: OnError, durability: Durability) -> None:
        no_env = EnvRecord(
            env_id="",
            entry_point="",
            kwargs_data=b"",
            max_episode_steps=None,
            spec_fields={},
            wrappers=[],
            class_name="",
            recreatable="a log of agents: each episode names its own world",
        )
        header = make_header(
            log_id=new_log_id(),
            created_ns=time.time_ns(),
            env=no_env,
            state=StateRecord(),
            keep_states="auto",
            # The log is shared by episodes, which may have other ones.
            redactor=Redactor(),
        )
        self.log_id = header.log_id
        self.path = folder / f"{header.log_id}.trj"
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._bytes = 0
        self._blobs: set[bytes] = set()
        self._n_episodes = 0
        self._has_warned = False
        self._process_id = os.getpid()
        self.writer = LogWriter(self.path, header, self, on_error=on_error, durability=durability)

    def new_episode(self) -> int:
        """Return the number of a new episode."""
        with self._lock:
            self._n_episodes += 1
            return self._n_episodes - 1

    def add(self, event: Event, size: int = EVENT_BYTES) -> None:
        """Add an event of about `size` bytes."""
        if self.writer.is_closed:
            self._warn_not_recorded()
            return
        # No lock: `append` is atomic, and only `drain` removes events, from the front.
        self._events.append(event)
        self._bytes += size
        if self._bytes > HAND_OVER_BYTES:
            self._hand_over()

    def refer(self, episode: int, digest: bytes, data: bytes) -> None:
        """Store a value once; events that are added later may refer to it by its digest."""
        with self._lock:
            if digest in self._blobs:
                return
            self.add(Blob(episode, digest, data), len(data))
            self._blobs.add(digest)

    def flush(self) -> None:
        """Hand everything to the operating system now."""
        self.writer.flush()

    def drain(self, packer: Packer) -> Iterator[Drained]:
        """Yield the pending events as one chunk."""
        n_events = len(self._events)
        if n_events:
            events = self._events[:n_events]
            self._bytes = 0
            chunk = Chunk(
                time_ns=time.time_ns(), segments=[], columns=[], layouts={}, events=events
            )
            yield Drained(chunk, [], {})
            # After the chunk was written: events of a failed write stay pending.
            del self._events[:n_events]

    def discard(self) -> None:
        """Drop the pending events, because the log cannot be written any more."""
        self._events.clear()

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

    def _hand_over(self) -> None:
        if self._bytes > BLOCKING_BYTES:
            self.writer.flush()
        else:
            self.writer.hand_over(0)


_open_logs: dict[tuple[int, str], EventLog] = {}
"""Process id and folder -> the log that is written there."""

_open_logs_lock = threading.Lock()


def open_event_log(folder: str | Path, on_error: OnError, durability: Durability) -> EventLog:
    """Return this process's log in a folder; a new one if the last was closed or failed."""
    key = (os.getpid(), str(Path(folder).resolve()))
    with _open_logs_lock:
        log = _open_logs.get(key)
        if log is None or log.writer.is_closed or log.writer.error is not None:
            log = _open_logs[key] = EventLog(Path(folder), on_error, durability)
        return log


@atexit.register
def close_logs() -> None:
    """Seal the agents' logs that this process writes; the next episode begins a new log."""
    with _open_logs_lock:
        for key in [key for key in _open_logs if key[0] == os.getpid()]:
            with contextlib.suppress(LogWriteError):
                _open_logs.pop(key).writer.close()


# A child process must not write to the logs that it inherits.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_logs.clear)
