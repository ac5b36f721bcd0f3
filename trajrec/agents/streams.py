"""Streamed answers: the pieces are passed on one by one, and recorded while they come."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeAlias

from trajrec.types import Value

OnPiece: TypeAlias = Callable[[Value], None]
OnEnd: TypeAlias = Callable[[BaseException | None], None]


def is_stream(answer: Value) -> bool:
    """Return whether an answer is a stream, sync or async."""
    # Of its class, as Python asks: an object may answer for any name, or raise.
    kind = type(answer)
    return hasattr(kind, "__anext__") or hasattr(kind, "__next__")


class Stream:
    """A stream, sync or async, that reports its pieces. Other attributes are the original's.

    Args:
        stream: The stream.
        on_piece: Called with each piece.
        on_end: Called once when the stream is over, with the exception that ended it or None.
    """

    # For the finalizer of a stream whose making was interrupted.
    _is_over = True

    def __init__(self, stream: Value, on_piece: OnPiece, on_end: OnEnd) -> None:
        self._stream = stream
        self._on_piece = on_piece
        self._on_end = on_end
        self._is_over = False

    def __getattr__(self, name: str) -> Value:
        attribute = getattr(self._stream, name)
        # These give the next piece as well.
        if name in ("send", "throw"):
            return functools.partial(self._resume, attribute)
        if name in ("asend", "athrow"):
            return functools.partial(self._aresume, attribute)
        return attribute

    def __iter__(self) -> Iterator[Value]:
        return self

    def __next__(self) -> Value:
        return self._resume(next, self._stream)

    def __aiter__(self) -> AsyncIterator[Value]:
        return self

    async def __anext__(self) -> Value:
        return await self._aresume(self._stream.__anext__)

    def __enter__(self) -> Stream:
        if hasattr(self._stream, "__enter__"):
            self._stream.__enter__()
        return self

    def __exit__(self, *exc: Value) -> Value:
        self._left(exc[1])
        return self._stream.__exit__(*exc) if hasattr(self._stream, "__exit__") else None

    async def __aenter__(self) -> Stream:
        if hasattr(self._stream, "__aenter__"):
            await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exc: Value) -> Value:
        self._left(exc[1])
        return await self._stream.__aexit__(*exc) if hasattr(self._stream, "__aexit__") else None

    def leave(self) -> bool:
        """End the stream; return whether it was open. Its event loop closes an async stream."""
        was_open = not self._is_over
        self._over(None)
        if was_open and hasattr(self._stream, "__next__") and hasattr(self._stream, "close"):
            self._stream.close()
        return was_open

    # A stream that is dropped before its end has answered too: its pieces so far are recorded.
    def __del__(self) -> None:
        self._over(None)

    def _resume(self, take: Callable[..., Value], *args: Value) -> Value:
        """Take the next piece, and report it or the end."""
        try:
            piece = take(*args)
        except BaseException as exc:
            self._over(exc)
            raise
        self._read(piece)
        return piece

    async def _aresume(self, take: Callable[..., Awaitable[Value]], *args: Value) -> Value:
        """Take the next piece of an async stream, and report it or the end."""
        try:
            piece = await take(*args)
        except BaseException as exc:
            self._over(exc)
            raise
        self._read(piece)
        return piece

    def _read(self, piece: Value) -> None:
        # A piece after an exception is not recorded: the answer has its end already.
        if not self._is_over:
            self._on_piece(piece)

    def _left(self, exc: BaseException | None) -> None:
        """End the stream with its block. An error of the stream itself has ended it before."""
        # What the program raises is no failure of the model; an interrupt gives the answer up.
        self._over(None if isinstance(exc, Exception) else exc)

    def _over(self, exc: BaseException | None) -> None:
        if not self._is_over:
            self._is_over = True
            # GeneratorExit: the reader closed the stream, which is no failure of the model.
            at_end = exc is None or isinstance(
                exc, (StopIteration, StopAsyncIteration, GeneratorExit)
            )
            self._on_end(None if at_end else exc)
