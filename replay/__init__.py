"""Replay: re-execute recorded episodes in the real environment and prove every step the same, or name the first that is not."""

from trajrec.replay.branches import Branch
from trajrec.replay.engine import Replayer, replay_episode, replay_episodes
from trajrec.replay.forking import ForkedEnv, fork
from trajrec.replay.report import Divergence, ReplayReport, Summary
from trajrec.replay.worlds import replay_world

__all__ = [
    "Branch",
    "Divergence",
    "ForkedEnv",
    "ReplayReport",
    "Replayer",
    "Summary",
    "fork",
    "replay_episode",
    "replay_episodes",
    "replay_world",
]
