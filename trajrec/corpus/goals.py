"""The goals of agents' episodes as text."""

from __future__ import annotations

from abc import ABC, abstractmethod

from trajrec.corpus.episode import Episode
from trajrec.errors import LogError
from trajrec.values.json import to_json


class GoalReads(ABC):
    """Reads the goals of a corpus."""

    @abstractmethod
    def episode(self, episode_id: str) -> Episode:
        """Return an episode."""

    def goal_text(self, episode_id: str) -> str | None:
        """Return the goal of an agent's episode as text, JSON if it is none.

        None if it has no goal, or if the log has lost it.
        """
        episode = self.episode(episode_id)
        start = episode.task_start
        if start is None or start.goal_data is None:
            return None
        try:
            goal = episode.value(start.goal_data)
        except LogError:
            return None
        return goal if isinstance(goal, str) else to_json(goal)
