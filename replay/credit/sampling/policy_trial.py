"""A trial of the first rollout: what it depends on, and whether rollouts can be merged."""

from __future__ import annotations

from trajrec.replay.credit.sampling.allowance import Allowance
from trajrec.replay.credit.sampling.policy_state import (
    memory_refusal,
    own_generators,
    pristine_copy,
    state_digest,
)
from trajrec.replay.credit.sampling.rollout import have_equal_results
from trajrec.replay.credit.sampling.runner import RolloutRunner
from trajrec.replay.forks.outside import watched
from trajrec.replay.forks.policies import as_policy
from trajrec.types import Value


def try_rollout(
    runner: RolloutRunner,
    policy: Value,
    scenario: int,
    allowance: Allowance,
    *,
    is_seeded: bool,
) -> bool:
    """Return whether a scenario determines a rollout: run twice, it gives equal results.

    If the rollout acts outside of this process, merging ends: its state may lie there, and two
    rollouts that look the same are not.

    Args:
        runner: The runner, at a step.
        policy: The policy of the options.
        scenario: The scenario.
        allowance: Counts the cost as that of checks.
        is_seeded: Whether a scenario may determine a rollout; if not, none is run for it.

    Raises:
        ValueError: The policy has a memory that cannot be restored.
    """
    n_env_steps = allowance.n_env_steps
    n_policy_calls = allowance.n_policy_calls
    with watched() as notes:
        check_rollouts_apart(runner, policy, scenario)
        is_determined = is_seeded and runner.is_determined(scenario)
    allowance.n_check_steps += allowance.n_env_steps - n_env_steps
    allowance.n_check_calls += allowance.n_policy_calls - n_policy_calls
    if notes:
        runner.stop_merging()
    return is_determined


def check_rollouts_apart(runner: RolloutRunner, policy: Value, scenario: int) -> None:
    """Check by an experiment that a policy does not remember its earlier rollouts.

    Only a policy without snapshots that a rollout has changed is tried. Two new copies must give
    equal rollouts of one scenario, or else other randomness is at work and nothing is shown. A
    copy that has acted before must then give the same rollout too.

    Args:
        runner: The runner, at a step.
        policy: The policy of the options.
        scenario: The scenario.

    Raises:
        ValueError: The policy has a memory that cannot be restored.
    """
    if isinstance(policy, str) or hasattr(policy, "snapshot") or own_generators(policy):
        return
    acting = runner.policy
    fresh = [pristine_copy(policy) for _ in range(2)]
    used = pristine_copy(policy)
    if used is None:
        return
    digest = state_digest(used)
    try:
        runs = []
        for copied in (used, used, *fresh):
            runner.policy = as_policy(copied)
            runs.append(runner.run_apart(scenario))
            if len(runs) == 1 and state_digest(used) == digest:
                return
            if len(runs) == 1:
                # One call more, so that a memory that counts modulo the length is seen too.
                runner.act_once(scenario)
    finally:
        runner.policy = acting
    _, second, *pristine = runs
    if have_equal_results(*pristine) and not have_equal_results(second, pristine[0]):
        raise ValueError(memory_refusal(policy))
