"""Signals that end a process, taken as Ctrl-C so that it can end what it has begun."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Take a signal that ends this process as Ctrl-C, within a block."""
    earlier = {}
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            number = getattr(signal, name)
            # As below `nohup`.
            if signal.getsignal(number) == signal.SIG_IGN:
                continue
            # Another thread than the main one may not handle signals.
            with contextlib.suppress(ValueError):
                earlier[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
