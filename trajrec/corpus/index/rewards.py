"""Rewards by agent to rows: where several agents act at once, each step has a reward, and flags, of each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trajrec.log.chunk import LogChunk
from trajrec.log.fields import field_values, sparse_values
from trajrec.values import codec

Array = np.ndarray[Any, Any]
_UNKNOWN = -1


def agent_rewards(chunk: LogChunk, episodes: Array, steps: Array) -> dict[str, Array] | None:
    """Return the rewards of a chunk's steps by agent, as columns; None where rewards are not dicts.

    Args:
        chunk: The chunk; not all of its rewards are numbers.
        episodes: Of each of its steps the number that stands for its episode.
        steps: The numbers of the steps.
    """
    rewards = field_values(chunk, chunk.layout("reward"), 0, len(steps))
    if not all(isinstance(reward, dict) for reward in rewards):
        return None
    rows: list[tuple[int, int, str, float, bool, int, int]] = []
    for number, step, reward, info in zip(
        episodes.tolist(), steps.tolist(), rewards, _infos(chunk, len(steps)), strict=True
    ):
        flags = [info.get(name) for name in ("terminations", "truncations")]
        for agent, value in reward.items():
            found = _as_float(value)
            known = [
                int(bool(flag[agent])) if isinstance(flag, dict) and agent in flag else _UNKNOWN
                for flag in flags
            ]
            rows.append((number, step, str(agent), found or 0.0, found is not None, *known))
    kinds = (np.uint32, np.int32, object, np.float64, np.bool_, np.int8, np.int8)
    names = ("episode", "step", "agent", "reward", "is_number", "terminated", "truncated")
    return {
        name: np.array([row[k] for row in rows], kind)
        for k, (name, kind) in enumerate(zip(names, kinds, strict=True))
    }


COLUMNS = "agent, CASE WHEN is_number THEN reward END, " + ", ".join(
    f"CASE WHEN {name} <> {_UNKNOWN} THEN {name} = 1 END" for name in ("terminated", "truncated")
)
"""What these columns are in SQL."""


def _infos(chunk: LogChunk, n: int) -> list[dict[Any, Any]]:
    """Return the info of each step of a chunk."""
    infos: list[dict[Any, Any]] = [{} for _ in range(n)]
    place, values = sparse_values(chunk, "info", 0, n)
    for row, value in zip(place, values, strict=True):
        infos[row] = value
    if chunk.record.irregular:
        odd = {(number, step): data for number, step, data in chunk.record.irregular}
        for span in chunk.spans:
            segment = span.segment
            for k in range(segment.n_steps):
                data = odd.get((segment.episode, segment.first_step + k))
                if data is not None:
                    infos[span.start + k] = codec.decode(data)
    return infos


def _as_float(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
