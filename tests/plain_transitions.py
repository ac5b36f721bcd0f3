"""Transitions from `Episode`, one by one: an independent reading to compare datasets with."""

from __future__ import annotations

from typing import Any

import numpy as np

from trajrec.corpus.episode import Episode


def plain_transitions(episode: Episode, *, with_failed: bool = False) -> list[dict[str, Any]]:
    """Return the transitions of an episode, step by step."""
    end = episode.end
    failed = {failure.step for failure in episode.failures if failure.phase == "step"}
    observations = dict(_observations(episode))
    values = list(episode.steps())
    recorded = {step.step for step in values if step.failure is None}
    found = []
    for step in values:
        if step.failure is not None:
            continue
        before = step.step
        while before - 1 in failed:
            before -= 1
        after_failure = before != step.step
        if before not in observations or (after_failure and not with_failed):
            continue
        is_end = end is not None and step.step + 1 == end.n_steps
        terminated = is_end and end.terminated
        truncated = is_end and end.truncated
        found.append(
            {
                "obs": observations[before],
                "action": step.action,
                "reward": step.reward,
                "next_obs": step.observation,
                "terminated": terminated,
                "truncated": truncated,
                "cut": step.step + 1 not in recorded and not (terminated or truncated),
                "after_failure": after_failure,
                "episode": episode.id,
                "step": step.step,
            }
        )
    return found


def _observations(episode: Episode) -> list[tuple[int, Any]]:
    """Return the observation before each step that has one, by the number of the step."""
    pairs = []
    if episode.has_reset:
        pairs.append((episode.first_step, episode.observation_at(0)))
    return pairs + [
        (step.step + 1, step.observation) for step in episode.steps() if step.failure is None
    ]


def assert_same(batch: dict[str, Any], row: int, transition: dict[str, Any], source: Any) -> None:
    """Assert that a row of a batch is a transition, bit for bit."""
    for name, column in batch.items():
        value = column[row]
        field, *path = name.split("/")
        expected = transition[field]
        for key in path:
            expected = expected[int(key) if isinstance(expected, tuple) else key]
        if name == "episode":
            value = source.episode_ids[value]
        elif name.removeprefix("next_") in source.texts:
            value = source.texts[name.removeprefix("next_")][value]
        if isinstance(expected, np.ndarray):
            assert (value.dtype, value.shape) == (expected.dtype, expected.shape), name
            assert value.tobytes() == expected.tobytes(), (name, value, expected)
        else:
            assert value == expected or (value != value and expected != expected), (name, value)
            if isinstance(expected, float | np.floating):
                assert np.signbit(value) == np.signbit(expected)
