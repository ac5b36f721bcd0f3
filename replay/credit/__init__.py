"""Credit: which step of an episode earned or lost its outcome, by rollouts from forks, with intervals that hold."""

from trajrec.replay.credit.decisive import Decision, decisive_step
from trajrec.replay.credit.estimates import Budget, Credit, Estimate, Split
from trajrec.replay.credit.groups import group
from trajrec.replay.credit.hindsight import hindsight
from trajrec.replay.credit.noise import Noise
from trajrec.replay.credit.policies import FunctionPolicy, Policy, RandomPolicy, StableBaselines3Policy, TabularPolicy
from trajrec.replay.credit.pooling import pooled
from trajrec.replay.credit.scanning import scan
from trajrec.replay.credit.setting import How
from trajrec.replay.credit.sharing import shapley
from trajrec.replay.credit.substitution import substitute

__all__ = [
    "Budget",
    "Credit",
    "Decision",
    "Estimate",
    "FunctionPolicy",
    "How",
    "Noise",
    "Policy",
    "RandomPolicy",
    "Split",
    "StableBaselines3Policy",
    "TabularPolicy",
    "decisive_step",
    "group",
    "hindsight",
    "pooled",
    "scan",
    "shapley",
    "substitute",
]
