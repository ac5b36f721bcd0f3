"""The digest of a watched state while the changes of an episode are read."""

from __future__ import annotations

from trajrec.log.events import StateChange
from trajrec.tracking.parts import digest_of_parts


class WatchedState:
    """The digest of a state from those of its parts, computed only when it is asked for."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self._digest: str | None = None
        self._is_stale = False

    def change(self, event: StateChange) -> bool:
        """Take in a change; return whether the part has the known digest of before."""
        is_same = self._digests.get(event.part) == event.digest != ""
        self._digests[event.part] = event.digest
        self._is_stale = self._is_stale or not is_same
        return is_same

    def digest(self) -> str | None:
        """Return the digest, None before the first change."""
        if self._is_stale:
            self._digest = digest_of_parts(self._digests)
            self._is_stale = False
        return self._digest
