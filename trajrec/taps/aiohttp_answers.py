"""Recorded answers for aiohttp: a connection in memory, whose bytes aiohttp parses itself."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

from trajrec.taps.raw_answers import HANG_S, head_of, pieces_of
from trajrec.wire.exchange import HttpAnswer

Answers: TypeAlias = Any
"""The class of protocols that deliver an answer, made from a loop and the answer."""


def answer_class(module: ModuleType) -> Answers:
    """Return the class of protocols that deliver a recorded answer, for an aiohttp module."""
    base: Any = importlib.import_module(f"{module.__name__}.client_proto").ResponseHandler

    class AnswerProtocol(base):  # type: ignore[misc]
        """Plays a recorded answer: its head at once, each piece when a reader waits for it."""

        def __init__(self, loop: asyncio.AbstractEventLoop, answer: HttpAnswer) -> None:
            super().__init__(loop)
            self._answer = answer
            self._pieces = iter(pieces_of(answer))
            self.connection_made(_MemoryTransport(self))
            # Otherwise the connection would go back to the pool, and another request would take it.
            self.force_close()

        def set_response_params(self, **params: Any) -> None:
            super().set_response_params(**params)
            if self._answer.status:
                self._loop.call_soon(self.data_received, head_of(self._answer))

        async def deliver(self, reader: Any) -> None:
            """Feed the next piece to a reader that waits; after the last one, the end or the error."""
            # A real body, too, lets other tasks run before each piece.
            await asyncio.sleep(0)
            piece = next(self._pieces, None)
            if piece is not None:
                self.data_received(piece)
                return
            if self._answer.hangs:
                await asyncio.sleep(HANG_S)
            if self._answer.error is not None:
                reader.set_exception(self._answer.error)
                raise self._answer.error
            else:
                reader.feed_eof()

    return AnswerProtocol


class _MemoryTransport(asyncio.Transport):
    """A transport that sends nothing."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self._on_close: Callable[[None], None] | None = protocol.connection_lost
        self._loop: asyncio.AbstractEventLoop = protocol._loop

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the default: there is no socket."""
        return default

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self._on_close is None

    def close(self) -> None:
        """Close it; the protocol is told in the loop's next round."""
        if self._on_close is not None:
            self._loop.call_soon(self._on_close, None)
            self._on_close = None

    def abort(self) -> None:
        """Close it."""
        self.close()

    def write(self, data: Any) -> None:
        """Drop the bytes of a request, which is not sent."""

    def writelines(self, list_of_data: Any) -> None:
        """Drop them."""

    def write_eof(self) -> None:
        """Do nothing."""

    def can_write_eof(self) -> bool:
        """Return False."""
        return False

    def pause_reading(self) -> None:
        """Do nothing: a piece comes when a reader waits."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def is_reading(self) -> bool:
        """Return True."""
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing."""

    def get_write_buffer_size(self) -> int:
        """Return 0."""
        return 0
