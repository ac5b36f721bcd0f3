"""Estimate which step of an episode earned or lost its outcome, by rollouts from forks."""

from typing import TYPE_CHECKING

from trajrec._lazy import lazy_exports

if TYPE_CHECKING:
    from trajrec.replay.credit.estimators.advantage import estimate as estimate
    from trajrec.replay.credit.estimators.counterfactual import counterfactual as counterfactual
    from trajrec.replay.credit.estimators.decision import Decision as Decision
    from trajrec.replay.credit.estimators.decisive import decisive_step as decisive_step
    from trajrec.replay.credit.estimators.groups import group_advantages as group_advantages
    from trajrec.replay.credit.estimators.hindsight import hindsight_credit as hindsight_credit
    from trajrec.replay.credit.estimators.no_return import PointOfNoReturn as PointOfNoReturn
    from trajrec.replay.credit.estimators.no_return import point_of_no_return as point_of_no_return
    from trajrec.replay.credit.estimators.pooling import pooled_advantages as pooled_advantages
    from trajrec.replay.credit.estimators.shapley import shapley_values as shapley_values
    from trajrec.replay.credit.exporting import export as export
    from trajrec.replay.credit.results.budget import Budget as Budget
    from trajrec.replay.credit.results.estimates import Estimate as Estimate
    from trajrec.replay.credit.results.plot import plot as plot
    from trajrec.replay.credit.results.table import CreditTable as CreditTable
    from trajrec.replay.credit.results.table import SkillLuckSplit as SkillLuckSplit
    from trajrec.replay.credit.sampling.agent_policy import AgentPolicy as AgentPolicy
    from trajrec.replay.credit.sampling.noise import Noise as Noise
    from trajrec.replay.credit.sampling.options import RolloutOptions as RolloutOptions
    from trajrec.replay.forks.policies import FunctionPolicy as FunctionPolicy
    from trajrec.replay.forks.policies import Policy as Policy
    from trajrec.replay.forks.policies import RandomPolicy as RandomPolicy
    from trajrec.replay.forks.policies import TabularPolicy as TabularPolicy
    from trajrec.replay.forks.sb3_policy import StableBaselines3Policy as StableBaselines3Policy

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "AgentPolicy": "trajrec.replay.credit.sampling.agent_policy:AgentPolicy",
        "Budget": "trajrec.replay.credit.results.budget:Budget",
        "CreditTable": "trajrec.replay.credit.results.table:CreditTable",
        "Decision": "trajrec.replay.credit.estimators.decision:Decision",
        "Estimate": "trajrec.replay.credit.results.estimates:Estimate",
        "FunctionPolicy": "trajrec.replay.forks.policies:FunctionPolicy",
        "Noise": "trajrec.replay.credit.sampling.noise:Noise",
        "PointOfNoReturn": "trajrec.replay.credit.estimators.no_return:PointOfNoReturn",
        "Policy": "trajrec.replay.forks.policies:Policy",
        "RandomPolicy": "trajrec.replay.forks.policies:RandomPolicy",
        "RolloutOptions": "trajrec.replay.credit.sampling.options:RolloutOptions",
        "SkillLuckSplit": "trajrec.replay.credit.results.table:SkillLuckSplit",
        "StableBaselines3Policy": "trajrec.replay.forks.sb3_policy:StableBaselines3Policy",
        "TabularPolicy": "trajrec.replay.forks.policies:TabularPolicy",
        "counterfactual": "trajrec.replay.credit.estimators.counterfactual:counterfactual",
        "decisive_step": "trajrec.replay.credit.estimators.decisive:decisive_step",
        "estimate": "trajrec.replay.credit.estimators.advantage:estimate",
        "export": "trajrec.replay.credit.exporting:export",
        "group_advantages": "trajrec.replay.credit.estimators.groups:group_advantages",
        "hindsight_credit": "trajrec.replay.credit.estimators.hindsight:hindsight_credit",
        "plot": "trajrec.replay.credit.results.plot:plot",
        "point_of_no_return": "trajrec.replay.credit.estimators.no_return:point_of_no_return",
        "pooled_advantages": "trajrec.replay.credit.estimators.pooling:pooled_advantages",
        "shapley_values": "trajrec.replay.credit.estimators.shapley:shapley_values",
    },
)
