"""Re-execute recorded episodes, compare every step, and fork episodes at any step.

Each name is imported when it is first used: replay and forks run in many processes, and each
should load only the modules that it needs.
"""

from typing import TYPE_CHECKING

from trajrec._lazy import lazy_exports

if TYPE_CHECKING:
    from trajrec.replay import credit as credit
    from trajrec.replay.batch import replay_episodes as replay_episodes
    from trajrec.replay.diagnose.determinism import check_determinism as check_determinism
    from trajrec.replay.diagnose.determinism_report import DeterminismReport as DeterminismReport
    from trajrec.replay.differences import EpisodeDifference as EpisodeDifference
    from trajrec.replay.differences import first_difference as first_difference
    from trajrec.replay.execute.report import Divergence as Divergence
    from trajrec.replay.execute.report import ReplayReport as ReplayReport
    from trajrec.replay.execute.report import ReplaySummary as ReplaySummary
    from trajrec.replay.forks.batch import Branches as Branches
    from trajrec.replay.forks.batch import Controls as Controls
    from trajrec.replay.forks.branch import Branch as Branch
    from trajrec.replay.forks.fork import fork as fork
    from trajrec.replay.forks.fork import fork_many as fork_many
    from trajrec.replay.forks.forked_env import ForkedEnv as ForkedEnv
    from trajrec.replay.forks.options import ForkOptions as ForkOptions
    from trajrec.replay.options import ReplayOptions as ReplayOptions
    from trajrec.replay.replayer import Replayer as Replayer
    from trajrec.replay.replayer import replay_episode as replay_episode
    from trajrec.replay.whatif import changes as changes
    from trajrec.replay.whatif.ask import what_if as what_if
    from trajrec.replay.whatif.budget import Budget as Budget
    from trajrec.replay.whatif.result import WhatIfResult as WhatIfResult

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "Branch": "trajrec.replay.forks.branch:Branch",
        "Budget": "trajrec.replay.whatif.budget:Budget",
        "Branches": "trajrec.replay.forks.batch:Branches",
        "Controls": "trajrec.replay.forks.batch:Controls",
        "DeterminismReport": "trajrec.replay.diagnose.determinism_report:DeterminismReport",
        "Divergence": "trajrec.replay.execute.report:Divergence",
        "EpisodeDifference": "trajrec.replay.differences:EpisodeDifference",
        "ForkOptions": "trajrec.replay.forks.options:ForkOptions",
        "ForkedEnv": "trajrec.replay.forks.forked_env:ForkedEnv",
        "ReplayOptions": "trajrec.replay.options:ReplayOptions",
        "ReplayReport": "trajrec.replay.execute.report:ReplayReport",
        "Replayer": "trajrec.replay.replayer:Replayer",
        "ReplaySummary": "trajrec.replay.execute.report:ReplaySummary",
        "WhatIfResult": "trajrec.replay.whatif.result:WhatIfResult",
        "changes": "trajrec.replay.whatif.changes",
        "check_determinism": "trajrec.replay.diagnose.determinism:check_determinism",
        "credit": "trajrec.replay.credit",
        "first_difference": "trajrec.replay.differences:first_difference",
        "fork": "trajrec.replay.forks.fork:fork",
        "fork_many": "trajrec.replay.forks.fork:fork_many",
        "replay_episode": "trajrec.replay.replayer:replay_episode",
        "replay_episodes": "trajrec.replay.batch:replay_episodes",
        "what_if": "trajrec.replay.whatif.ask:what_if",
    },
)
