"""A request for rollouts from one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trajrec.replay.credit.sampling.rollout import ForcedActions
from trajrec.replay.forks.policies import AnyPolicy


class SampleRequest(NamedTuple):
    """Rollouts from one step.

    Attributes:
        step: The step.
        scenarios: One scenario for each rollout.
        forced_actions: Actions that are taken instead of the policy's.
        policy: A policy that chooses the first action instead; None takes the policy of the run.
    """

    step: int
    scenarios: Sequence[int]
    forced_actions: ForcedActions = ()
    policy: AnyPolicy | None = None
