"""Signals that a test sends, also if whoever runs the tests ignores them, as `nohup` does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def taken(number: int) -> Iterator[None]:
    """Take a signal as Ctrl-C; programs that start meanwhile are ended by it."""
    earlier = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, earlier)
