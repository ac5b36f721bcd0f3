"""Signals that a process takes while it has something to end, or to pass them on to."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType


@contextlib.contextmanager
def taken(
    numbers: Iterable[int], handle: Callable[[int, FrameType | None], object]
) -> Iterator[None]:
    """Handle signals within a block, but for those that this process ignores, as below `nohup`.

    Args:
        numbers: The signals.
        handle: Is called with the number of each that comes.
    """
    earlier = {}
    try:
        for number in numbers:
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
            # Another thread than the main one may not handle signals.
            with contextlib.suppress(ValueError, OSError):
                earlier[number] = signal.signal(number, handle)
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
