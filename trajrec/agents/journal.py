"""What an episode of an agent is written through: values without secrets, large ones once, exceptions as text."""

from __future__ import annotations

import contextlib
import hashlib
import time
import traceback
from typing import Any, Literal

from trajrec.agents.redaction import Redactor
from trajrec.errors import LogWriteError
from trajrec.log.schema import Event, Failure
from trajrec.recording.event_log import REFERRED_BYTES, EventLog
from trajrec.values import codec


class Journal:
    """One episode's way into its log.

    Attributes:
        number: Which episode of the log.
    """

    def __init__(self, sink: EventLog, redactor: Redactor) -> None:
        self.sink, self.redactor, self.number = sink, redactor, sink.new_episode()

    def add(self, event: Event, size: int = 200) -> None:
        """Add an event of about `size` bytes."""
        self.sink.add(event, size)

    def encode(self, value: Any) -> tuple[bytes, bool]:
        """Return a value encoded, large ones as a reference, and whether secrets were taken out of it."""
        data, is_redacted = self.redactor.encode(value)
        return self.store(data), is_redacted

    def data(self, value: Any) -> bytes:
        """Return a value encoded."""
        return self.encode(value)[0]

    def store(self, data: bytes) -> bytes:
        """Return an encoded value, or a reference to it where it is large."""
        if len(data) <= REFERRED_BYTES:
            return data
        digest = hashlib.blake2b(data, digest_size=16).digest()
        self.sink.refer(self.number, digest, data)
        return codec.encode(codec.Ref(digest))

    def refer(self, value: Any) -> Any:
        """Return a value without secrets, or a reference to it where it is large."""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return codec.decode(self.data(value))

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self.redactor.text(text)

    def describe(self, exc: BaseException) -> tuple[str, str, str]:
        """Return an exception's type, message and traceback."""
        text = "".join(traceback.format_exception(exc))[-20_000:]
        message, text = (t.encode("utf-8", "backslashreplace").decode() for t in (str(exc), text))
        return codec.type_name(exc), self.text(message), self.text(text)

    def fail(
        self,
        step: int,
        phase: Literal["reset", "state", "check", "loop"],
        origin: Literal["agent", "env", "verifier"],
        exc: BaseException,
    ) -> None:
        """Add an exception that is not a tool's or a model's."""
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
        """Hand everything to the operating system; a log that cannot be written is raised at the episode's end."""
        with contextlib.suppress(LogWriteError):
            self.sink.flush()
