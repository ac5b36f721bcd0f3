"""One log a folder for all the agents of a process: their episodes lie in it side by side."""

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
from trajrec.log.schema import Chunk, EnvRecord, Event, Header, StateRecord
from trajrec.log.writer import Drained, Durability, LogWriter, OnError, new_log_id
from trajrec.recording.provenance import describe_runtime, hostname
from trajrec.version import __version__

HANDED_BYTES = 1 << 18
WAITING_BYTES = 1 << 22
"""Pending events beyond the first are handed to the flusher early, beyond the second written in the caller's thread."""

REFERRED_BYTES = 256
"""Values larger than this are stored once a log."""


class EventLog:
    """A log of agents' episodes: takes events from any thread, in the order in which they come."""

    def __init__(self, folder: Path, on_error: OnError, durability: Durability) -> None:
        runtime = describe_runtime()
        header = Header(
            log_id=new_log_id(),
            created_ns=time.time_ns(),
            writer=f"trajrec {__version__}",
            env=EnvRecord(
                env_id="",
                entry_point="",
                kwargs_data=b"",
                max_episode_steps=None,
                spec_fields={},
                wrappers=[],
                class_name="",
                recreatable="a log of agents: each episode names its own world",
            ),
            state=StateRecord(),
            record="default",
            runtime=runtime,
            process_id=os.getpid(),
            host=hostname(),
        )
        self.log_id, self.path = header.log_id, folder / f"{header.log_id}.trj"
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._bytes = 0
        self._blobs: set[bytes] = set()
        self._n_episodes = 0
        self._has_warned, self._process_id = False, os.getpid()
        self.writer = LogWriter(self.path, header, self, on_error=on_error, durability=durability)

    def new_episode(self) -> int:
        """Return the number of a new episode."""
        with self._lock:
            self._n_episodes += 1
            return self._n_episodes - 1

    def add(self, event: Event, size: int = 200) -> None:
        """Add an event of about `size` bytes."""
        if self.writer.is_closed:
            self._refuse()
            return
        self._events.append(event)
        self._bytes += size
        if self._bytes > HANDED_BYTES:
            self._hand_over()

    def refer(self, episode: int, digest: bytes, data: bytes) -> None:
        """Store a value once; the events after it may refer to it by its digest."""
        with self._lock:
            if digest in self._blobs:
                return
            self.add(Blob(episode, digest, data), len(data))
            self._blobs.add(digest)

    def flush(self) -> None:
        """Hand everything to the operating system now."""
        self.writer.flush()

    def drain(self, packer: Packer) -> Iterator[Drained]:
        """Yield what is pending."""
        n = len(self._events)
        if n:
            events = self._events[:n]
            self._bytes = 0
            yield Drained(
                Chunk(time_ns=time.time_ns(), segments=[], columns=[], layouts={}, events=events),
                [],
            )
            # Only now: a chunk that could not be written must not look as if it had been.
            del self._events[:n]

    def discard(self) -> None:
        """Drop what is pending: the log cannot be written any more."""
        self._events.clear()

    def _refuse(self) -> None:
        """Say once that nothing more is recorded: a child process has only a copy of its parent's log."""
        if not self._has_warned:
            self._has_warned = True
            why = (
                "the log was closed"
                if self._process_id == os.getpid()
                else "a forked process cannot write its parent's log"
            )
            text = f"{self.path}: {why}; begin an episode of its own with trajrec.episode(...)"
            warnings.warn(text, RuntimeWarning, stacklevel=4)

    def _hand_over(self) -> None:
        if self._bytes > WAITING_BYTES:
            self.writer.flush()
        else:
            self.writer.hand_over(0)


_OPEN: dict[tuple[int, str], EventLog] = {}
_OPEN_LOCK = threading.Lock()


def open_event_log(folder: str | Path, on_error: OnError, durability: Durability) -> EventLog:
    """Return this process's log in a folder, a new one where there is none yet or the last cannot be written any more."""
    key = (os.getpid(), str(Path(folder).resolve()))
    with _OPEN_LOCK:
        sink = _OPEN.get(key)
        if sink is None or sink.writer.is_closed or sink.writer.error is not None:
            sink = _OPEN[key] = EventLog(Path(folder), on_error, durability)
        return sink


@atexit.register
def close_logs() -> None:
    """Seal the logs of agents that this process writes; the next episode begins a new one."""
    with _OPEN_LOCK:
        for key in [key for key in _OPEN if key[0] == os.getpid()]:
            with contextlib.suppress(LogWriteError):
                _OPEN.pop(key).writer.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OPEN.clear)
