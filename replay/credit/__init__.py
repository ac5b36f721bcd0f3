"""Credit: which step of an episode earned or lost its outcome, by rollouts from forks, with intervals that hold."""

from trajrec.replay.credit.estimators.advantage import scan
from trajrec.replay.credit.estimators.counterfactual import substitute
from trajrec.replay.credit.estimators.decisive import Decision, decisive_step
from trajrec.replay.credit.estimators.groups import group
from trajrec.replay.credit.estimators.hindsight import hindsight
from trajrec.replay.credit.estimators.no_return import NoReturn, point_of_no_return
from trajrec.replay.credit.estimators.pooling import pooled
from trajrec.replay.credit.estimators.shapley import shapley
from trajrec.replay.credit.exporting import export
from trajrec.replay.credit.results.estimates import Budget, Credit, Estimate, Split
from trajrec.replay.credit.results.plot import can_plot, plot
from trajrec.replay.credit.sampling.agent_policy import AgentPolicy
from trajrec.replay.credit.sampling.noise import Noise
from trajrec.replay.credit.sampling.options import How
from trajrec.replay.forks.policies import (
    FunctionPolicy,
    Policy,
    RandomPolicy,
    StableBaselines3Policy,
    TabularPolicy,
)

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
