"""Writes the records of an agent's episode: without secrets, and large values only once."""

from __future__ import annotations

import contextlib
import hashlib
import time
import traceback
from typing import Literal

from trajrec.agents.redaction import Redactor
from trajrec.errors import LogWriteError
from trajrec.log.schema import Event, Failure
from trajrec.recording.event_log import REFERRED_BYTES, EventLog
from trajrec.types import Value
from trajrec.values import codec

# Estimate of the size of an event without large values. The log flushes by the sum of such sizes.
EVENT_BYTES = 200

# Characters that are kept of a traceback, from its end, where the error is.
TRACEBACK_CHARS = 20_000


class Journal:
    """Writes the events of one episode into its log.

    Attributes:
        log: The log.
        redactor: Removes secrets.
        number: Number of the episode in its log.
    """

    def __init__(self, log: EventLog, redactor: Redactor) -> None:
        self.log = log
        self.redactor = redactor
        self.number = log.new_episode()

    def add(self, event: Event, size: int = EVENT_BYTES) -> None:
        """Add an event of about `size` bytes."""
        self.log.add(event, size)

    def encode(self, value: Value) -> tuple[bytes, bool]:
        """Return an encoded value, or a reference to a large one; and whether it had secrets."""
        data, is_redacted = self.redactor.encode(value)
        return self.store(data), is_redacted

    def data(self, value: Value) -> bytes:
        """Return an encoded value, or a reference to a large one."""
        return self.encode(value)[0]

    def store(self, data: bytes) -> bytes:
        """Return an encoded value, or a reference to it if it is large."""
        if len(data) <= REFERRED_BYTES:
            return data
        digest = hashlib.blake2b(data, digest_size=16).digest()
        self.log.refer(self.number, digest, data)
        return codec.encode(codec.Ref(digest))

    def refer(self, value: Value) -> Value:
        """Return a value without secrets, or a reference to it if it is large."""
        # Most arguments of a request are plain, and neither large nor secret.
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return codec.decode(self.data(value))

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self.redactor.text(text)

    def describe(self, exc: BaseException) -> tuple[str, str, str]:
        """Return an exception's type, message and traceback."""
        text = "".join(traceback.format_exception(exc))[-TRACEBACK_CHARS:]
        return codec.type_name(exc), self.text(_storable(str(exc))), self.text(_storable(text))

    def fail(
        self,
        step: int,
        phase: Literal["reset", "state", "check", "loop"],
        origin: Literal["agent", "env", "verifier"],
        exc: BaseException,
    ) -> None:
        """Add an exception that is neither a tool's nor a model's."""
        error_type, message, text = self.describe(exc)
        event = Failure(
            episode=self.number,
            step=step,
            attempt=0,
            time_ns=time.time_ns(),
            phase=phase,
            origin=origin,
            error_type=error_type,
            message=message,
            traceback=text,
        )
        self.add(event, len(text))

    def flush(self) -> None:
        """Write everything. An error of the log is raised at the episode's end, not here."""
        with contextlib.suppress(LogWriteError):
            self.log.flush()


def _storable(text: str) -> str:
    """Return a text without lone surrogates, which UTF-8 cannot store."""
    return text.encode("utf-8", "backslashreplace").decode()
