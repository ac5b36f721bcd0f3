"""Replay: re-execute recorded episodes in the real environment and prove every step the same, or name the first that is not."""

from trajrec.replay import credit
from trajrec.replay.batch import replay_episodes
from trajrec.replay.branches import Branch
from trajrec.replay.determinism import Determinism, check_determinism
from trajrec.replay.differences import EpisodeDifference, first_difference
from trajrec.replay.engine import Replayer, replay_episode
from trajrec.replay.forking import ForkedEnv, fork
from trajrec.replay.report import Divergence, ReplayReport, Summary
from trajrec.replay.worlds import replay_world

__all__ = [
    "Branch",
    "Determinism",
    "Divergence",
    "EpisodeDifference",
    "ForkedEnv",
    "ReplayReport",
    "Replayer",
    "Summary",
    "check_determinism",
    "credit",
    "first_difference",
    "fork",
    "replay_episode",
    "replay_episodes",
    "replay_world",
]
