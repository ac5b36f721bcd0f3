"""Rewards by agent to rows: with several agents, a step has a reward and flags for each of them.

A list or vector of rewards is of several agents or objectives, by their place.
"""

from __future__ import annotations

import numpy as np

from trajrec.log.chunk import LogChunk
from trajrec.log.fields import field_values, sparse_values
from trajrec.types import Array, Info, Value
from trajrec.values import codec
from trajrec.values.real_numbers import real_number, reward_parts

# Stands for a flag that an agent does not have: NumPy's columns of integers have no NULL.
_UNKNOWN = -1

_TYPES = {
    "episode": np.uint32,
    "step": np.int32,
    "agent": np.object_,
    "reward": np.float64,
    "is_number": np.bool_,
    "terminated": np.int8,
    "truncated": np.int8,
}

# SQL of the table's columns from the columns that `agent_rewards` returns.
COLUMNS = "agent, CASE WHEN is_number THEN reward END, " + ", ".join(
    f"CASE WHEN {name} <> {_UNKNOWN} THEN {name} = 1 END" for name in ("terminated", "truncated")
)


def agent_rewards(chunk: LogChunk, episodes: Array, steps: Array) -> dict[str, Array] | None:
    """Return the rewards of a chunk's steps by agent, as columns; None if a reward has no parts.

    Args:
        chunk: A chunk with rewards that are no numbers.
        episodes: The number that stands for the episode of each step, (T,) uint32.
        steps: The number of each step, (T,) int32.
    """
    rewards: list[dict[Value, Value]] = []
    for reward in field_values(chunk, chunk.layout("reward"), 0, len(steps)):
        parts = reward_parts(reward)
        if parts is None:
            return None
        rewards.append(parts)
    rows: list[tuple[int, int, str, float, bool, int, int]] = []
    infos = _infos(chunk, len(steps))
    for number, step, reward, info in zip(
        episodes.tolist(), steps.tolist(), rewards, infos, strict=True
    ):
        terminations = info.get("terminations")
        truncations = info.get("truncations")
        for agent, value in reward.items():
            amount = real_number(value)
            rows.append(
                (
                    number,
                    step,
                    str(agent),
                    0.0 if amount is None else amount,
                    amount is not None,
                    _flag(terminations, agent),
                    _flag(truncations, agent),
                )
            )
    return {
        name: np.array([row[k] for row in rows], dtype)
        for k, (name, dtype) in enumerate(_TYPES.items())
    }


def _flag(flags: Value, agent: Value) -> int:
    """Return the flag of an agent as 0 or 1, or `_UNKNOWN`."""
    return int(bool(flags[agent])) if isinstance(flags, dict) and agent in flags else _UNKNOWN


def _infos(chunk: LogChunk, n: int) -> list[Info]:
    """Return the info of each step of a chunk."""
    infos: list[Info] = [{} for _ in range(n)]
    rows, values = sparse_values(chunk, "info", 0, n)
    for row, value in zip(rows, values, strict=True):
        infos[row] = value
    if chunk.record.irregular:
        irregular = {(number, step): data for number, step, data in chunk.record.irregular}
        for span in chunk.spans:
            segment = span.segment
            for k in range(segment.n_steps):
                data = irregular.get((segment.episode, segment.first_step + k))
                if data is not None:
                    infos[span.start + k] = codec.decode(data)
    return infos
