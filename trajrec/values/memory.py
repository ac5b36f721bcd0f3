"""Tells a process that is out of memory from bytes that are malformed."""

from __future__ import annotations

import errno
from collections.abc import Iterator

MAX_RAW_BYTES = 1 << 30
"""A decoder that runs out of memory at fewer bytes is not misled by them: the memory is short."""

_TEXTS = (
    "can't start new thread",
    "cannot allocate memory",
    "failed to map segment",
    "not enough memory",
)
"""What libraries and the system say, in errors that are no `MemoryError`."""


def is_out_of_memory(exc: BaseException) -> bool:
    """Return whether an exception, or the one that it was raised for, says that memory is short."""
    return any(map(_says_so, _chain(exc)))


def _says_so(exc: BaseException) -> bool:
    if isinstance(exc, MemoryError) or getattr(exc, "errno", None) == errno.ENOMEM:
        return True
    # By name: DuckDB is not loaded by commands that need none.
    if type(exc).__name__ == "OutOfMemoryException":
        return True
    text = str(exc).lower()
    return any(part in text for part in _TEXTS) and isinstance(
        exc, (OSError, RuntimeError, ImportError)
    )


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__
