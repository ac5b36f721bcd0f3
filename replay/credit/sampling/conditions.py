"""The conditions of a run: allowed options, seeded policies, endless rollouts, shares of processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.sampling.context import Recording
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.request import SampleRequest
from trajrec.types import Value
from trajrec.values.presented import presented
from trajrec.values.real_numbers import real_number

# Without a time limit a rollout may have no end. It is taken for endless if it is so many times as
# long as the recorded episode, and at least so long.
ENDLESS_FACTOR = 100
LEAST_ENDLESS_STEP = 20_000


def check_agent_options(config: RolloutConfig) -> None:
    if config.noise.mode == "recorded":
        raise ValueError(
            "noise must be 'shared' or 'fresh' for a tool world, got 'recorded': a world has no "
            "recorded noise"
        )
    if isinstance(config.policy, str) and config.policy == "random":
        raise ValueError(
            "policy must be a function of a Context for a tool world, got 'random': a world has no "
            "action space to sample"
        )
    if config.restore == "os_fork":
        raise ValueError(
            "restore must be 'auto', 'snapshot' or 'reexecute' for a tool world, got 'os_fork'"
        )


def check_rewards(episode: Episode) -> None:
    """Refuse an episode whose rewards have no sum.

    Raises:
        ValueError: Each of its agents has a reward of its own, or each step several ones.
    """
    if any(isinstance(reward, dict) for reward in episode.reward_values):
        raise ValueError(
            f"success must be given for episode {episode.id}: each of its players has a reward of "
            "its own"
        )
    kinds = {type(reward): reward for reward in episode.reward_values}
    for kind, reward in kinds.items():
        if not is_single(reward):
            raise ValueError(
                f"success must be given for episode {episode.id}: its steps have several rewards "
                f"({kind.__name__} of {np.size(reward)}); or record it with a wrapper that makes "
                "one number of them"
            )


def as_number(reward: Value) -> float:
    """Return the reward of a step as a float; NaN if it is no number, so that the return is none."""
    number = real_number(reward)
    return math.nan if number is None else number


def is_single(reward: Value) -> bool:
    """Return whether the reward of a step is one, not one for each agent or goal.

    An array of one number is that number, as in `Episode.total_reward`.
    """
    if real_number(reward) is not None:
        return True
    return not isinstance(reward, dict) and not np.ndim(presented(reward))


def is_seeded(policy: Value, episode: Episode) -> bool:
    """Return whether a policy claims that all its draws come from the given generator."""
    claim = getattr(policy, "is_seeded", True)
    if claim is None:
        # Answers of models and of the outside are draws that no scenario fixes.
        return not (episode.is_agent_episode and Recording(episode).has_answers)
    return bool(claim)


def has_workers(config: RolloutConfig) -> bool:
    """Return whether rollouts run in other processes, unless processes are forked for them."""
    return config.jobs > 1 or config.backend == "ray"


def share_requests(
    requests: Sequence[SampleRequest], config: RolloutConfig
) -> list[list[SampleRequest]]:
    """Split requests by their scenarios: in every call, one process has the same scenarios."""
    n_shares = config.jobs

    def owner(position: int, scenario: int) -> int:
        # Fresh scenarios are random numbers, so the position shares them more evenly.
        return (position if config.noise.mode == "fresh" else scenario) % n_shares

    return [
        [
            request._replace(
                scenarios=tuple(
                    scenario
                    for position, scenario in enumerate(request.scenarios)
                    if owner(position, scenario) == share
                )
            )
            for request in requests
        ]
        for share in range(n_shares)
    ]


def endless_step(episode: Episode, config: RolloutConfig) -> int | None:
    """Return the step that no rollout reaches if its environment ends; None if it has a limit."""
    if config.last_step(episode) is not None or episode.header.env.max_episode_steps is not None:
        return None
    return max(ENDLESS_FACTOR * episode.end_step, LEAST_ENDLESS_STEP)
