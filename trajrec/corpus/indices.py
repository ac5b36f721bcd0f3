"""Numbers of steps and rows that an episode does not have."""

from __future__ import annotations


def check_index(name: str, number: int, first: int, last: int, episode_id: str) -> None:
    """Check that an episode has a step, or a row.

    Raises:
        IndexError: It has none with this number.
    """
    if first <= number <= last:
        return
    if first > last:
        raise IndexError(f"episode {episode_id} has no {name}s at all, got {name} {number}")
    raise IndexError(f"{name} must be in [{first}, {last}] for episode {episode_id}, got {number}")
