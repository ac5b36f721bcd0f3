"""A trial of the first rollout: what it depends on, and whether rollouts can be merged."""

from __future__ import annotations

import operator
from collections.abc import Callable

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.sampling.allowance import Allowance
from trajrec.replay.credit.sampling.held_state import HeldState
from trajrec.replay.credit.sampling.noise import PolicyNoise
from trajrec.replay.credit.sampling.policy_state import memory_refusal, own_generators
from trajrec.replay.credit.sampling.rollout import Rollout, have_equal_results
from trajrec.replay.credit.sampling.runner import RolloutRunner
from trajrec.replay.forks.outside import watched
from trajrec.replay.forks.policies import as_policy
from trajrec.types import Observation, Value
from trajrec.values import codec

TRIAL_STEPS = 64
"""Recorded observations that a policy is shown in the trial of its actions."""


class RolloutTrial:
    """The trial of a rollout, which is run a few times.

    Args:
        runner: The runner, at a step.
        episode: The episode.
        policy: The policy of the options.
        scenario: The scenario.
    """

    def __init__(
        self, runner: RolloutRunner, episode: Episode, policy: Value, scenario: int
    ) -> None:
        self._runner = runner
        self._episode = episode
        self._policy = policy
        self._scenario = scenario

    def run(self, allowance: Allowance, *, is_seeded: bool) -> bool:
        """Return whether a scenario determines a rollout: run twice, it gives equal results.

        If the rollout acts outside of this process, merging ends: its state may lie there, and two
        rollouts that look the same are not.

        Args:
            allowance: Counts the cost as that of checks.
            is_seeded: Whether a scenario may determine a rollout; if not, none is run for it.

        Raises:
            ValueError: The policy has a memory that cannot be restored.
        """
        if not is_seeded:
            return False
        n_env_steps = allowance.n_env_steps
        n_policy_calls = allowance.n_policy_calls
        with watched() as notes:
            check_rollouts_apart(
                self._policy, self._rollout, self._act_once, are_equal=have_equal_results
            )
            is_determined = have_equal_results(self._rollout(), self._rollout())
        allowance.n_check_steps += allowance.n_env_steps - n_env_steps
        allowance.n_check_calls += allowance.n_policy_calls - n_policy_calls
        if notes:
            self._runner.stop_merging()
        return is_determined

    def _rollout(self) -> Rollout:
        return self._runner.run_apart(self._scenario)

    def _act_once(self) -> None:
        self._runner.act_once(self._scenario, self._other_observation())

    def _other_observation(self) -> Observation:
        """Return an observation that differs from that at the start, if the recording has one."""
        here = self._runner.simulators[0].observation
        episode = self._episode
        if episode.is_agent_episode:
            return here
        encoded = codec.encode(here, opaque=True)
        for row in range(min(4, episode.end_step - episode.first_step + 1)):
            other = episode.observation_at(row)
            if codec.encode(other, opaque=True) != encoded:
                return other
        return here


def check_rollouts_apart(
    policy: Value,
    run: Callable[[], Value],
    act_once: Callable[[], object],
    *,
    are_equal: Callable[[Value, Value], bool] = operator.eq,
) -> None:
    """Check by an experiment that a policy does not remember its earlier rollouts.

    Only a policy without snapshots that a rollout has changed is tried. If all that it holds is put
    back, a rollout of one scenario must be as before, or else other randomness is at work and
    nothing is shown. It must then be the same rollout too after a rollout and a call more, and
    after one call: a memory that counts modulo some number shows in one of them.

    Args:
        policy: The policy of the options.
        run: Runs a rollout; always in the same scenario.
        act_once: Asks the policy for an action that is not taken.
        are_equal: Compares two rollouts.

    Raises:
        ValueError: The policy has a memory that cannot be restored.
    """
    if isinstance(policy, str) or hasattr(policy, "snapshot"):
        return
    held = HeldState(policy)
    first = run()
    if not held.changed():
        return
    act_once()
    used = run()
    if not held.put_back():
        return
    again = run()
    if held.put_back() and are_equal(first, again):
        act_once()
        shifted = run()
        held.put_back()
        if not are_equal(first, used) or not are_equal(first, shifted):
            raise ValueError(memory_refusal(policy))


def check_actions_apart(policy: Value, episode: Episode) -> None:
    """Check that a policy does not remember earlier calls, by its actions in recorded states.

    Args:
        policy: The policy.
        episode: An episode of an environment, whose observations the policy is shown.

    Raises:
        ValueError: The policy has a memory that cannot be restored.
    """
    if policy is None or isinstance(policy, str) or hasattr(policy, "snapshot"):
        return
    if episode.is_agent_episode or not getattr(policy, "is_seeded", True):
        return
    observations = episode.observation_values[:TRIAL_STEPS]
    acting = as_policy(policy)
    noise = PolicyNoise(0, own=own_generators(policy))

    def run() -> list[bytes]:
        return [
            codec.encode(acting.act(observation, noise.seed(0, step)), opaque=True)
            for step, observation in enumerate(observations)
        ]

    def act_once() -> None:
        acting.act(observations[min(1, len(observations) - 1)], noise.seed(0, 0))

    if observations:
        check_rollouts_apart(policy, run, act_once)
