"""Make the simulators and the runner of an episode from the options of a run."""

from __future__ import annotations

import functools

from trajrec.corpus.episode import Episode
from trajrec.replay.credit.sampling.env_simulator import (
    EnvSimulator,
    RecordedNoise,
    recorded_noise,
)
from trajrec.replay.credit.sampling.options import RolloutConfig
from trajrec.replay.credit.sampling.runner import RolloutRunner
from trajrec.replay.credit.sampling.simulator import Simulator
from trajrec.replay.credit.sampling.tool_world import WorldSimulator
from trajrec.replay.forks.options import RestoreChoice
from trajrec.replay.forks.policies import as_policy
from trajrec.types import Value

MAX_SIMULATORS = 32
"""Most environments that run at the same time for a policy that is asked in batches."""


def make_runner(
    episode: Episode, config: RolloutConfig, *, restore: RestoreChoice, n_slots: int
) -> RolloutRunner:
    """Return a runner of rollouts for an episode.

    Args:
        episode: The episode.
        config: The options of the rollouts.
        restore: How steps are reached.
        n_slots: Rollouts that a policy with `act_batch` is asked for in one call, at most
            `MAX_SIMULATORS`.
    """
    recorded = noise_of_episode(episode, config)

    def make_simulator() -> Simulator:
        return _make_simulator(episode, config, restore, recorded)

    simulators = [make_simulator()]
    policy = as_policy(config.policy, action_space_of(simulators[0]))
    # A policy with memory is asked for one action at a time: it has one memory.
    if hasattr(policy, "act_batch") and not hasattr(policy, "snapshot"):
        simulators += [make_simulator() for _ in range(min(MAX_SIMULATORS, n_slots) - 1)]
    return RolloutRunner(
        simulators,
        policy,
        config.noise,
        gamma=config.gamma,
        max_steps=config.last_step(episode),
        merge_rollouts=config.merge_rollouts,
        keeps_visits=config.keeps_visits,
        resample_hidden=config.resample_hidden,
    )


def _make_simulator(
    episode: Episode, config: RolloutConfig, restore: RestoreChoice, recorded: RecordedNoise
) -> Simulator:
    if episode.is_agent_episode:
        return WorldSimulator(
            episode,
            functools.partial(config.source.make_world, episode),
            noise=config.noise,
            success=config.success,
            by_history=not hasattr(config.policy, "memory"),
            reexecutes=restore == "reexecute",
            tolerance=config.source.tolerance,
        )
    return EnvSimulator(
        episode,
        functools.partial(config.source.make_handle, episode),
        restore=restore,
        noise=config.noise,
        success=config.success,
        recorded=recorded,
        # Visits are pooled by the state as the environment defines it.
        own_state=config.keeps_visits,
    )


def noise_of_episode(episode: Episode, config: RolloutConfig) -> RecordedNoise:
    """Return the recorded noise of an episode; empty unless the options ask for it."""
    if config.noise.mode != "recorded" or episode.is_agent_episode:
        return {}
    return recorded_noise(episode, functools.partial(config.source.make_handle, episode))


def action_space_of(simulator: object) -> Value:
    """Return the action space of a simulator; None for a tool world, which has none."""
    return getattr(simulator, "action_space", None)
