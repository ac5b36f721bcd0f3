"""Tracebacks as `traceback.format_exception` writes them, faster for errors that come again.

An agent retries, so the same line raises again and again. To find the source line of a frame and
the part of it that is marked takes 20 us, and an error has three frames or more.
"""

from __future__ import annotations

import traceback
from types import CodeType, TracebackType
from typing import NamedTuple

# Errors whose text has more than type and message: a suggestion, a position, further errors.
_SPECIAL = (SyntaxError, NameError, AttributeError, ImportError, BaseExceptionGroup)

_MAX_FRAMES = 50
"""A deeper traceback is a recursion, which Python shortens."""

_MAX_CHAIN = 10
"""Errors that led to each other. A longer chain may be a cycle."""

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"

_MAX_CACHED = 1_000
"""Frames whose texts are kept. A program has few places that raise; the limit is for others."""

# With the file: copies of a module have equal code.
_frame_texts: dict[tuple[CodeType, int, str], str] = {}


class TracebackText(NamedTuple):
    """A traceback in two parts.

    Attributes:
        frames: The frames of the error, and everything before them. It is the same each time that
            an error comes from one place.
        error: The last line: type and message.
    """

    frames: str
    error: str


def format_traceback(exc: BaseException) -> TracebackText:
    """Return the text of an exception as `traceback.format_exception` gives it."""
    frames = _format_frames(exc, 0)
    error = None if frames is None else _format_error(exc)
    if frames is None or error is None:
        return TracebackText("", "".join(traceback.format_exception(exc)))
    return TracebackText(frames, error)


def _format_frames(exc: BaseException, depth: int) -> str | None:
    """Return everything before the error's own line, None if that takes Python's own way."""
    if isinstance(exc, _SPECIAL) or depth > _MAX_CHAIN:
        return None
    earlier = exc.__cause__
    link = _CAUSE
    if earlier is None and not exc.__suppress_context__:
        earlier = exc.__context__
        link = _CONTEXT
    before = ""
    if earlier is not None:
        frames = _format_frames(earlier, depth + 1)
        error = _format_error(earlier)
        if frames is None or error is None:
            return None
        before = frames + error + link
    if exc.__traceback__ is None:
        return before
    own = _format_stack(exc.__traceback__)
    return None if own is None else f"{before}Traceback (most recent call last):\n{own}"


def _format_stack(entry: TracebackType | None) -> str | None:
    texts: list[str] = []
    while entry is not None:
        if len(texts) == _MAX_FRAMES:
            return None
        code = entry.tb_frame.f_code
        key = (code, entry.tb_lasti, code.co_filename)
        text = _frame_texts.get(key)
        if text is None:
            (text,) = traceback.format_list(traceback.extract_tb(entry, limit=1))
            if len(_frame_texts) >= _MAX_CACHED:
                _frame_texts.clear()
            _frame_texts[key] = text
        # Of frames that repeat Python writes three and a count.
        if texts[-3:] == [text] * 3:
            return None
        texts.append(text)
        entry = entry.tb_next
    return "".join(texts)


def _format_error(exc: BaseException) -> str | None:
    """Return the line of type and message, None if there are more lines."""
    if getattr(exc, "__notes__", None):
        return None
    cls = type(exc)
    name = cls.__qualname__
    if cls.__module__ not in ("__main__", "builtins"):
        name = f"{cls.__module__}.{name}"
    try:
        message = str(exc)
    except Exception:
        # Foreign code: Python has a text for this.
        return None
    return f"{name}: {message}\n" if message else f"{name}\n"
