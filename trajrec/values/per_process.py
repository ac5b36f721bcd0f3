"""What a forked process must make anew, since it has only a copy without threads and locks."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A thing that each process makes for itself: at once here, and later in forked ones.

    The copy that a forked process inherits is never ended there. To end a database is to wait for
    its threads, which only the parent has: the system ends a process that tries.

    Args:
        make: Makes the thing.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._thing = make()
        self._owner = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this process has made its own."""
        return self._owner == os.getpid()

    def get(self) -> T:
        """Return the thing of this process."""
        if not self.is_here:
            keep_for_good(self._thing)
            self._thing = self._make()
            self._owner = os.getpid()
        return self._thing


def keep_for_good(thing: object) -> None:
    """Let Python never end an object, not even as the process ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


# Not methods of the objects: Python complains of `WeakMethod` as a program ends.
_renewals: weakref.WeakKeyDictionary[object, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def renew_in_children(thing: T, renew: Callable[[T], None]) -> None:
    """Have an object renew its lock in each process that is forked from this one.

    A thread that only the parent has may hold the old one.

    Args:
        thing: The object, which is not kept alive.
        renew: The method by which it takes a new lock, and forgets what such a thread was changing.
    """
    _renewals[thing] = renew


def _renew_all() -> None:
    for thing, renew in list(_renewals.items()):
        renew(thing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
