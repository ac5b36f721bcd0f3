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

    def break_off(self, reason: str) -> None:
        """Record why a capture ends the episode, and that nothing tells how its loop ended."""
        self.stop(reason)
        self._ending = "unknown"
