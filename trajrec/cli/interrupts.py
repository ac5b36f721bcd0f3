"""Signals that end a process, taken as Ctrl-C so that it can end what it has begun."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager

from trajrec.proxies.signals import taken

# Windows has only the first.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def interrupted_by_signals() -> AbstractContextManager[None]:
    """Take a signal that ends this process as Ctrl-C, within a block."""
    return taken(_ENDING, signal.default_int_handler)
