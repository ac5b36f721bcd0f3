"""Compare the executions of several short episodes at once.

A comparison of two columns costs the same few microseconds for ten rows as for a hundred, so that
episodes of ten steps are compared in a tenth of the time if they lie side by side in their log.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.replay.execute.column_compare import (
    has_same_digests,
    has_same_infos,
    has_same_observations,
    has_same_rewards,
    has_same_states,
    row_spans,
)
from trajrec.replay.execute.compare import compare_flags, has_same_reset_info
from trajrec.replay.execute.execution import Execution
from trajrec.types import Array, Value


def are_certainly_same(episodes: Sequence[Episode], executions: Sequence[Execution]) -> bool:
    """Return whether executions of whole episodes certainly returned the recorded values.

    A false result proves nothing: the caller then compares them one by one.

    Args:
        episodes: The episodes.
        executions: The values that their executions returned, in the same order.
    """
    pairs = list(zip(episodes, executions, strict=True))
    first = executions[0]
    if not all(
        _is_whole(episode, execution) and _is_alike(execution, first)
        for episode, execution in pairs
    ):
        return False
    spans = row_spans(episodes)
    rewards: list[Value] = []
    observations: list[Value] = []
    infos: dict[int, Value] = {}
    states: dict[int, Value] = {}
    for execution in executions:
        row = len(rewards)
        infos.update((row + number, info) for number, info in execution.infos.items())
        row = len(observations)
        states.update((row + number, state) for number, state in execution.whole_states.items())
        rewards += execution.rewards
        observations += execution.observations
    # Large observations were compared when they arrived.
    has_same = all(item is None for item in observations) or has_same_observations(
        spans, observations, first.template
    )
    if not (
        has_same and has_same_rewards(spans, rewards) and has_same_infos(spans, infos, len(rewards))
    ):
        return False
    if not first.has_states:
        return True
    if not has_same_states(spans, states, len(observations)):
        return False
    if not first.keeps_digests:
        return True
    digests = [execution.state_digests() for execution in executions]
    return has_same_digests(spans, np.concatenate(digests))


def _is_whole(episode: Episode, execution: Execution) -> bool:
    """Return whether all of an episode was executed, and ended as it was recorded."""
    return (
        execution.problem is None
        and execution.failure is None
        and execution.early_divergence is None
        and episode.has_reset
        and not episode.rows.irregular
        and not episode.agent_events
        and len(execution.rewards) == len(episode.actions)
        and len(execution.observations) == len(episode.actions) + 1
        and has_same_reset_info(episode, execution)
        and compare_flags(episode, execution) is None
    )


def _is_alike(execution: Execution, first: Execution) -> bool:
    """Return whether the values of two executions can be joined."""
    return (
        _is_same_form(execution.template, first.template)
        and execution.has_states == first.has_states
        and execution.keeps_digests == first.keeps_digests
    )


def _is_same_form(array: Array | None, other: Array | None) -> bool:
    if array is None or other is None:
        return array is other
    return (array.dtype, array.shape) == (other.dtype, other.shape)
