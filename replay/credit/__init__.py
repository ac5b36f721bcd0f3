"""Credit: which step of an episode earned or lost its outcome, by rollouts from forks, with intervals that hold."""

from trajrec.replay.credit.agents import AgentPolicy
from trajrec.replay.credit.decisive import Decision, decisive_step
from trajrec.replay.credit.estimates import Budget, Credit, Estimate, Split
from trajrec.replay.credit.exporting import export
from trajrec.replay.credit.groups import group
from trajrec.replay.credit.hindsight import hindsight
from trajrec.replay.credit.no_return import NoReturn, point_of_no_return
from trajrec.replay.credit.noise import Noise
from trajrec.replay.credit.plotting import can_plot, plot
from trajrec.replay.credit.pooling import pooled
from trajrec.replay.credit.scanning import scan
from trajrec.replay.credit.setting import How
from trajrec.replay.credit.sharing import shapley
from trajrec.replay.credit.substitution import substitute
from trajrec.replay.policies import FunctionPolicy, Policy, RandomPolicy, StableBaselines3Policy, TabularPolicy

__all__ = [
    "AgentPolicy",
    "Budget",
    "Credit",
    "Decision",
    "Estimate",
    "FunctionPolicy",
    "How",
    "NoReturn",
    "Noise",
    "Policy",
    "RandomPolicy",
    "Split",
    "StableBaselines3Policy",
    "TabularPolicy",
    "can_plot",
    "decisive_step",
    "export",
    "group",
    "hindsight",
    "plot",
    "point_of_no_return",
    "pooled",
    "scan",
    "shapley",
    "substitute",
]
