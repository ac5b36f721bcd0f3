"""Replay: re-execute recorded episodes in the real environment and prove every step the same, or name the first that is not.

Everything is imported when it is first used: the processes that replay and fork are many, and are to be small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOME = {
    "Branch": "branches",
    "Determinism": "determinism",
    "Divergence": "report",
    "EpisodeDifference": "differences",
    "ForkedEnv": "forking",
    "ReplayReport": "report",
    "Replayer": "engine",
    "Summary": "report",
    "check_determinism": "determinism",
    "first_difference": "differences",
    "fork": "forking",
    "replay_episode": "engine",
    "replay_episodes": "batch",
    "replay_world": "worlds",
}


def __getattr__(name: str) -> Any:
    if name == "credit":
        return importlib.import_module("trajrec.replay.credit")
    if name not in _HOME:
        raise AttributeError(f"module 'trajrec.replay' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"trajrec.replay.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
