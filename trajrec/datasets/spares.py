"""Arrays of earlier batches that nothing refers to any more, for the next batches."""

from __future__ import annotations

import sys
import threading

import numpy as np

from trajrec.types import Array, IntArray
from trajrec.values.per_process import renew_in_children

LARGE_BYTES = 1 << 22
"""Arrays from this size on are used again: NumPy asks the kernel for huge pages for them, and a
kernel that has to make room for such pages takes twenty times as long as the copying of the rows."""

MAX_SPARES = 3
"""The batch before, the one at hand, and one that a reader has asked for in advance."""


def _n_references(arrays: list[Array], index: int) -> int:
    return sys.getrefcount(arrays[index])


# Of an array that its list alone refers to; as it is counted in one place, for any Python.
_N_UNUSED = _n_references([np.zeros(0, np.uint8)], 0)


class Spares:
    """Takes rows into arrays that are used again once nothing refers to them.

    A view refers to the array that it is of, and so does a tensor that shares its memory: rows that
    anybody still holds are never written over. Threads may share it.
    """

    def __init__(self) -> None:
        self._arrays: list[Array] = []
        # Two threads must not find the same array unused.
        self._lock = threading.Lock()
        renew_in_children(self, Spares._renew_lock)

    def _renew_lock(self) -> None:
        """Begin with new arrays."""
        self._lock = threading.Lock()
        self._arrays = []

    def __reduce__(self) -> tuple[type[Spares], tuple[()]]:
        # They hold nothing that another process needs.
        return Spares, ()

    def take(self, rows: Array, numbers: IntArray) -> Array:
        """Return some rows, an array (*numbers.shape, *shape of a row) of its own.

        Raises:
            IndexError: There is no such row.
        """
        shape = (*numbers.shape, *rows.shape[1:])
        n_bytes = int(np.prod(shape, dtype=np.int64)) * rows.dtype.itemsize
        if n_bytes < LARGE_BYTES:
            return rows.take(numbers, axis=0)
        if int(numbers.min()) < 0 or int(numbers.max()) >= len(rows):
            raise IndexError(
                f"rows must be in [0, {len(rows)}), got {int(numbers.min())} to {int(numbers.max())}"
            )
        with self._lock:
            unused = self._unused(n_bytes)
        taken = unused[:n_bytes].view(rows.dtype).reshape(shape)
        # With the mode "raise", NumPy takes the rows into an array of its own first.
        return np.take(rows, numbers, axis=0, out=taken, mode="clip")

    def _unused(self, n_bytes: int) -> Array:
        """Return an array of bytes that nothing refers to, a new one if there is none."""
        for index in range(len(self._arrays)):
            if _n_references(self._arrays, index) == _N_UNUSED:
                if len(self._arrays[index]) < n_bytes:
                    self._arrays[index] = np.empty(n_bytes, np.uint8)
                return self._arrays[index]
        array: Array = np.empty(n_bytes, np.uint8)
        if len(self._arrays) < MAX_SPARES:
            self._arrays.append(array)
        return array
