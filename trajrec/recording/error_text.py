"""Exceptions as texts without secrets, as logs store them."""

from __future__ import annotations

import traceback
from typing import NamedTuple

from trajrec.log.record_encoder import storable
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


def describe_error(exc: BaseException, redactor: Redactor) -> ErrorText:
    """Return an exception's type, message and traceback, without secrets."""
    whole = "".join(traceback.format_exception(exc))
    text = storable(whole[-TRACEBACK_CHARS - _CUT_CHARS :])
    message = storable(str(exc))
    cleaned = redactor.text(text)
    # The traceback ends with the message, so it need not be searched a second time.
    is_redacted = cleaned != text
    if is_redacted or message not in text:
        cleaned_message = redactor.text(message)
        is_redacted = is_redacted or cleaned_message != message
        message = cleaned_message
    return ErrorText(codec.type_name(exc), message, cleaned[-TRACEBACK_CHARS:], is_redacted)
