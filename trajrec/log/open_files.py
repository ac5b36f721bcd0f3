"""Keeps few files open: the one that was read longest ago is closed for another."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Protocol

MAX_OPEN = 128
"""Files that are open at once; systems admit 256 to 1,024 in a process, for all that it does."""


class Closable(Protocol):
    """A file that can be closed and opened again."""

    def try_let_go(self) -> bool:
        """Close the file until it is used again, unless it is in use; return whether it did."""
        ...


class OpenFiles:
    """The open files, in the order of their last use.

    Attributes:
        n_forks: The number of forks between the first process and this one.
    """

    def __init__(self) -> None:
        # Weak references: a file that nobody refers to is closed by its own finalizer.
        self._files: OrderedDict[int, weakref.ref[Closable]] = OrderedDict()
        # Re-entrant: a finalizer may run inside of each method.
        self._lock = threading.RLock()
        self.n_forks = 0

    def go_on_in_child(self) -> None:
        """Make a new lock in a forked child: the thread that held the old one is not there."""
        self._lock = threading.RLock()
        self.n_forks += 1

    def use(self, file: Closable) -> None:
        """Note that an open file is used now."""
        with self._lock:
            self._files[id(file)] = weakref.ref(file)
            self._files.move_to_end(id(file))
            if len(self._files) > MAX_OPEN:
                self._close_oldest()

    def forget(self, file: Closable) -> None:
        """Note that a file was closed for good."""
        with self._lock:
            self._files.pop(id(file), None)

    def let_go(self) -> bool:
        """Close all files that are not in use; return whether there were any."""
        with self._lock:
            n_before = len(self._files)
            while self._close_oldest():
                pass
            return len(self._files) < n_before

    def _close_oldest(self) -> bool:
        """Close the file that was used longest ago and is not in use; return whether one was."""
        for key, reference in list(self._files.items()):
            file = reference()
            if file is None or file.try_let_go():
                self._files.pop(key, None)
                return True
        return False
