"""A recorded answer as a socket, for the standard library's parser of responses."""

from __future__ import annotations

import io
import time
from typing import Any

from trajrec.taps.patching import AnswerFault
from trajrec.taps.raw_answers import HANG_S, head_of, pieces_of
from trajrec.wire.exchange import HttpAnswer


def require_response(answer: HttpAnswer) -> None:
    """Check that a recorded request was answered.

    Raises:
        BaseException: The recorded exception, if no response came.
        AnswerFault: The record has neither.
    """
    if answer.status:
        return
    if answer.hangs:
        time.sleep(HANG_S)
    if answer.error is None:
        raise AnswerFault("the recorded request has neither a response nor an exception")
    raise answer.error


class MemorySocket:
    """As much of a socket as the standard library's response needs."""

    def __init__(self, answer: HttpAnswer) -> None:
        self._answer = answer

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that a response is read from."""
        return io.BufferedReader(_AnswerFile(self._answer))


class _AnswerFile(io.RawIOBase):
    """A recorded answer as the bytes of HTTP/1.1, one piece for each read."""

    def __init__(self, answer: HttpAnswer) -> None:
        self._answer = answer
        self._pieces = iter([head_of(answer), *pieces_of(answer)])
        self._rest = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the next piece, or as much of it as fits; return its size.

        Raises:
            BaseException: The recorded exception, after the last piece.
        """
        data = self._rest or next(self._pieces, b"")
        if not data:
            if self._answer.hangs:
                time.sleep(HANG_S)
            if self._answer.error is not None:
                raise self._answer.error
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self._rest = data[size:]
        return size
