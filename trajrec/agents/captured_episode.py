"""An episode that is seen from outside: of a captured conversation, or of a captured command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trajrec.agents.episode import AgentEpisode


class CapturedEpisode(AgentEpisode):
    """An episode of a capture. The taps are the capture's, and nothing stands in for it.

    Args:
        folder: The corpus.
        options: See `trajrec.episode`.
    """

    def __init__(self, folder: str | Path, **options: Any) -> None:
        super().__init__(folder, wire=False, **options)

    def end(self, reason: str, *, is_known: bool) -> None:
        """End the episode.

        Args:
            reason: Why the capture ends it.
            is_known: Whether its loop has ended as it should. Else nothing tells how it ended.
        """
        self.stop(reason)
        if not is_known:
            self._ending = "unknown"
        self.__exit__(None, None, None)
