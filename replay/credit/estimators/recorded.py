"""The actions, rewards and end of a recorded episode, as the estimators need them."""

from __future__ import annotations

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between
from trajrec.replay.credit.sampling.conditions import as_number, is_single
from trajrec.replay.credit.sampling.context import recorded_calls
from trajrec.replay.execute.reach import check_step
from trajrec.types import Action


def recorded_actions(episode: Episode) -> dict[int, Action]:
    """Return the recorded actions by step, including those that raised.

    Raises:
        ReplayError: The log has lost some of them.
    """
    if episode.is_agent_episode:
        return recorded_calls(episode)
    check_step(episode, episode.end_step)
    first = episode.first_step
    path = path_between(episode, first, episode.end_step)
    return {first + k: action for k, (action, _) in enumerate(path)}


def recorded_rewards(episode: Episode) -> dict[int, float]:
    """Return the recorded rewards by step; none if steps have several, of agents or goals."""
    if not all(map(is_single, episode.reward_values)):
        return {}
    rewards = zip(episode.step_numbers, episode.reward_values, strict=True)
    return {int(step): as_number(reward) for step, reward in rewards}


def is_over(episode: Episode) -> bool:
    """Return whether the environment ended the episode, so that no reward can follow."""
    return episode.ending in ("terminated", "truncated")
