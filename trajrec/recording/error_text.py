"""Exceptions as texts without secrets, as logs store them."""

from __future__ import annotations

import functools
from typing import NamedTuple

from trajrec.log.record_encoder import storable
from trajrec.recording.traceback_text import format_traceback
from trajrec.redaction.redactor import Redactor
from trajrec.values import codec

TRACEBACK_CHARS = 20_000
"""Of a longer traceback the end is stored: the error stands there, and a recursion fills the
rest."""

_CUT_CHARS = 5_000
"""Characters before those in which a secret may begin that the cut would leave the end of."""


class ErrorText(NamedTuple):
    """An exception as texts.

    Attributes:
        error_type: Module and qualified name of its class.
        message: Its message.
        traceback: Its traceback.
        is_redacted: Whether secrets were removed from the texts.
    """

    error_type: str
    message: str
    traceback: str
    is_redacted: bool


NO_ERROR = ErrorText("", "", "", False)


def message_of(exc: BaseException) -> str:
    """Return an exception's message as a log has it, with its secrets.

    Its own code may fail, which must not hide the exception.
    """
    try:
        return storable(str(exc))
    except Exception:
        # As Python's own tracebacks have it.
        return "<exception str() failed>"


def describe_error(exc: BaseException, redactor: Redactor) -> ErrorText:
    """Return an exception's type, message and traceback, without secrets."""
    frames, error = format_traceback(exc)
    if len(frames) + len(error) > TRACEBACK_CHARS:
        frames, error = "", (frames + error)[-TRACEBACK_CHARS - _CUT_CHARS :]
    frames = storable(frames)
    error = storable(error)
    message = message_of(exc)
    cleaned_frames = _clean_frames(redactor, frames)
    cleaned_error = redactor.text(error)
    # The traceback ends with the message, so it need not be searched a second time.
    has_secret = cleaned_error != error
    if has_secret or message not in error:
        cleaned_message = redactor.text(message)
        has_secret = has_secret or cleaned_message != message
        message = cleaned_message
    return ErrorText(
        error_type=codec.type_name(exc),
        message=message,
        traceback=(cleaned_frames + cleaned_error)[-TRACEBACK_CHARS:],
        is_redacted=has_secret or cleaned_frames != frames,
    )


# An error that comes again has the same frames.
@functools.lru_cache(maxsize=64)
def _clean_frames(redactor: Redactor, frames: str) -> str:
    return redactor.text(frames)
