"""The values that a log stores once: their frames, and the bytes of the last ones used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from trajrec.log import frames
from trajrec.log.events import Blob
from trajrec.log.schema import Event

CACHE_BYTES = 1 << 26
"""The most bytes of values that are kept; others are read again from their frames."""


class StoredBlobs:
    """The values of one log by their digests.

    Attributes:
        frames: The number of the frame that has a value, by digest.
    """

    def __init__(self) -> None:
        self.frames: dict[bytes, int] = {}
        # The first one was not used for longest.
        self._cache: dict[bytes, bytes] = {}
        self._n_bytes = 0
        self._verified: set[bytes] = set()
        # Values of a journal, which has no frames.
        self._kept: dict[bytes, bytes] = {}

    def get(self, digest: bytes) -> bytes | None:
        """Return a value, None if it is not in memory."""
        data = self._cache.pop(digest, None)
        if data is None:
            return self._kept.get(digest)
        self._cache[digest] = data
        return data

    def is_verified(self, digest: bytes, data: bytes) -> bool:
        """Return whether a value has its digest; it is computed once."""
        if digest not in self._verified:
            if hashlib.blake2b(data, digest_size=frames.ID_BYTES).digest() != digest:
                return False
            self._verified.add(digest)
        return True

    def note(self, events: Iterable[Event], frame: int) -> None:
        """Note the values among the events of a frame."""
        # By type: each event of a log is asked.
        for blob in [event for event in events if type(event) is Blob]:
            self.frames.setdefault(blob.digest, frame)
            self._add(blob.digest, blob.data)

    def keep(self, events: Iterable[Event]) -> None:
        """Keep the values among the events of a journal."""
        self._kept.update((event.digest, event.data) for event in events if type(event) is Blob)

    def _add(self, digest: bytes, data: bytes) -> None:
        if digest in self._cache:
            return
        self._cache[digest] = data
        self._n_bytes += len(data)
        while self._n_bytes > CACHE_BYTES and len(self._cache) > 1:
            oldest = next(iter(self._cache))
            self._n_bytes -= len(self._cache.pop(oldest))
            self._verified.discard(oldest)
