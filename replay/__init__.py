"""Replay: re-execute recorded episodes in the real environment and prove every step the same, or name the first that is not."""

from trajrec.replay.engine import Replayer, replay_episode, replay_episodes
from trajrec.replay.report import Divergence, ReplayReport, Summary
from trajrec.replay.worlds import replay_world

__all__ = ["Divergence", "ReplayReport", "Replayer", "Summary", "replay_episode", "replay_episodes", "replay_world"]
