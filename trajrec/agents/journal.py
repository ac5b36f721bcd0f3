"""Writes the records of an agent's episode: without secrets, and large values only once."""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import Literal

from trajrec.errors import LogWriteError
from trajrec.log.events import Redaction
from trajrec.log.schema import Event, Failure
from trajrec.recording.error_text import ErrorText, describe_error
from trajrec.recording.event_log import REFERRED_BYTES, EventLog
from trajrec.redaction.redactor import Redactor
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.plain import PLAIN_TYPES

# Estimate of the size of an event without large values. The log flushes by the sum of such sizes.
EVENT_BYTES = 200


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

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be recorded."""
        return self.log.writer.is_closed

    def add(self, event: Event, size: int = EVENT_BYTES) -> None:
        """Add an event."""
        self.log.add(event)

    def encode(self, value: Value) -> tuple[bytes, bool]:
        """Return an encoded value, or a reference to a large one; and whether it had secrets."""
        try:
            data, is_redacted = self.redactor.encode(value)
        except Exception as exc:
            if not self._raises(value):
                # Not by the value: by a signal handler, for instance, and for the agent to see.
                raise
            # A cycle, or foreign code that raises: an agent's own value must not stop it.
            data, is_redacted = self.redactor.encode(codec.left_out(value, exc))
        return self.store(data), is_redacted

    def _raises(self, value: Value) -> bool:
        """Return whether a value raises when it is encoded once more."""
        try:
            self.redactor.encode(value)
        except Exception:
            return True
        return False

    def snapshot(self, value: Value) -> Value:
        """Return a value as it is now, to be encoded later: the agent may change it meanwhile."""
        if type(value) in PLAIN_TYPES:
            return value
        try:
            return codec.decode(codec.encode(value, opaque=True))
        except Exception as exc:
            if not self._raises(value):
                raise
            return codec.left_out(value, exc)

    def data(self, value: Value) -> bytes:
        """Return an encoded value, or a reference to a large one."""
        return self.encode(value)[0]

    def noted(self, value: Value, field: str, step: int = -1) -> bytes:
        """Return an encoded value as `data` does, and add an event if secrets were removed."""
        cleaned, n = self.redactor.redacted(value)
        self.note(field, step, n)
        return self.store(codec.encode(cleaned, opaque=True))

    def note(self, field: str, step: int, n: int) -> None:
        """Add an event about secrets that were removed from a field of a step, if there are any."""
        if n:
            self.add(Redaction(self.number, step, field, n))

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

    def describe(self, exc: BaseException) -> ErrorText:
        """Return an exception's type, message and traceback."""
        return describe_error(exc, self.redactor)

    def fail(
        self,
        step: int,
        phase: Literal["reset", "state", "check", "loop"],
        origin: Literal["agent", "env", "verifier"],
        exc: BaseException,
    ) -> None:
        """Add an exception that is neither a tool's nor a model's."""
        error = self.describe(exc)
        event = Failure(
            episode=self.number,
            step=step,
            attempt=0,
            time_ns=time.time_ns(),
            phase=phase,
            origin=origin,
            error_type=error.error_type,
            message=error.message,
            traceback=error.traceback,
        )
        self.add(event, len(error.traceback))

    def flush(self) -> None:
        """Write everything. An error of the log is raised at the episode's end, not here."""
        with contextlib.suppress(LogWriteError):
            self.log.flush()
