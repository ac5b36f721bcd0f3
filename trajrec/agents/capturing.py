"""`trajrec.capture`: records the model calls of a whole process, without a mark in its code."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from trajrec.agents.captured_episode import CapturedEpisode
from trajrec.agents.routing import connect_taps, router
from trajrec.agents.stand_ins import stand_in_for
from trajrec.log.remote import local_folder
from trajrec.log.writer import Durability, OnFull
from trajrec.protocols import Tool
from trajrec.recording.event_log import close_logs
from trajrec.redaction.redactor import Redactor
from trajrec.task_options import check_metadata
from trajrec.types import Value

_lock = threading.RLock()
_current: Capture | None = None


class Capture:
    """The capture of this process: a context manager, or `stop` ends it.

    Attributes:
        folder: The corpus.
    """

    def __init__(self, folder: Path, options: Mapping[str, Value]) -> None:
        self.folder = folder
        self._options = options
        self._is_over = False
        self._n_blocks = 0
        self._process_id = os.getpid()
        self._disconnect: Callable[[], object] = bool

    @property
    def n_missed(self) -> int:
        """Model calls that were not recorded, because they fit several open episodes."""
        return router.n_missed

    def stop(self) -> None:
        """End the capture, and the episodes that it made. A second time does nothing."""
        self._stop(None)

    def _stop(self, failure: BaseException | None) -> None:
        global _current
        with _lock:
            if self._is_over or self._process_id != os.getpid():
                return
            self._is_over = True
            _current = None
            router.stop(_name_of(failure))
            self._disconnect()

    def __enter__(self) -> Self:
        self._n_blocks += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._n_blocks -= 1
        # The inner block of two around one capture does not end the outer one's.
        if not self._n_blocks:
            self._stop(exc)

    def _new_episode(self) -> CapturedEpisode:
        # An experiment runs no conversations, and refuses them here.
        stand_in_for(self.folder, self._options, is_conversation=True)
        return CapturedEpisode(self.folder, **self._options)


def capture(
    folder: str | Path,
    *,
    task: str = "",
    tools: Sequence[Tool] | Literal[False] = (),
    interface: Value = None,
    metadata: Mapping[str, Value] | None = None,
    redact: bool | Redactor = True,
    on_full: OnFull = "stop-recording",
    durability: Durability = "process",
) -> Capture:
    """Record every model call of this process from here on, of any client.

        trajrec.capture("runs/")

    Calls within `trajrec.episode` are recorded there. Of the others, each conversation becomes an
    episode: a request belongs to the conversation whose tool calls it answers, whose response it
    names, or whose messages it begins with.

    Args:
        folder: The corpus.
        task: Id of the task of the conversations; see `trajrec.episode`.
        tools: See `trajrec.episode`.
        interface: See `trajrec.episode`.
        metadata: See `trajrec.episode`.
        redact: See `trajrec.episode`.
        on_full: See `trajrec.episode`.
        durability: See `trajrec.record`.

    Returns:
        The capture. It ends with the process, by `stop`, or at the end of a `with` block. While one
        runs, the same call returns it again.

    Raises:
        ValueError: Another capture runs, with another folder or other options, or the folder is an
            address.
    """
    global _current
    check_metadata(metadata)
    options = {
        "task": task,
        "tools": tools,
        "interface": interface,
        "metadata": metadata,
        "redact": redact,
        "on_full": on_full,
        "durability": durability,
    }
    where = local_folder(folder)
    with _lock:
        if _current is not None:
            if _current.folder.resolve() != where.resolve() or _current._options != options:
                raise ValueError(
                    f"a capture into {str(_current.folder)!r} runs already; end it with its "
                    "stop(), or give the same arguments"
                )
            return _current
        begun = Capture(where, options)
        try:
            router.start(begun._new_episode)
            begun._disconnect = connect_taps(begun)
        except BaseException:
            # An interrupt. Kept, it would be returned to the next call, and see nothing.
            router.stop()
            raise
        _current = begun
        return begun


@atexit.register
def _stop() -> None:
    """End the capture before the logs are closed."""
    if _current is not None:
        # Where code is typed in, an earlier line may have raised the last exception.
        is_typed_in = hasattr(sys, "ps1") or sys.flags.interactive
        _current._stop(None if is_typed_in else getattr(sys, "last_value", None))
    close_logs()


def _name_of(failure: BaseException | None) -> str:
    """Return the name of the exception that ended a program, "" if it ended as it should."""
    if failure is None or (isinstance(failure, SystemExit) and not failure.code):
        return ""
    return type(failure).__name__


def _continue_in_child() -> None:
    """Go on in a forked process, which writes a log of its own."""
    global _lock
    # A thread of the parent may hold it.
    _lock = threading.RLock()
    if _current is not None:
        _current._process_id = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_continue_in_child)
