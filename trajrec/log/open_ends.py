"""Provisional ends: the episode ended while a stream was held open and not read to its end.

Such an end has the pieces that came until then. If the stream is read on later, its own end follows
in the log and replaces this one.
"""

from __future__ import annotations

from functools import lru_cache

from trajrec.log.source_facts import facts_of
from trajrec.values import codec

IS_OPEN = "is_open"
"""The fact in the `extra_data` of a provisional end."""


@lru_cache(maxsize=1)
def open_data() -> bytes:
    """Return the `extra_data` of a provisional end."""
    return codec.encode({IS_OPEN: True})


def is_open_end(data: bytes | None) -> bool:
    """Return whether an end is provisional.

    >>> is_open_end(open_data()), is_open_end(None)
    (True, False)
    """
    # Nearly all records have none.
    return data is not None and facts_of(data).get(IS_OPEN) is True
