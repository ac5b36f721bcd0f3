"""The result of one execution of an agent's episode."""

from __future__ import annotations

from typing import NamedTuple

from trajrec.replay.execute.report import Divergence


class ExecutionResult(NamedTuple):
    """The result of one execution of an episode.

    Attributes:
        divergence: The first divergence; None if there is none.
        n_steps: Number of executed steps.
        notes: Facts that a reader of the report must know.
        ignored: Names of ignored differences.
        differing_steps: The steps that differ by themselves, if states were restored.
        is_proved: Whether all of it could be compared; if not, nothing is proved from some step on.
        has_same_changes: Whether the first state and all changes are the recorded ones by their
            values, so that the recorded changes lead to the recorded digests as the live ones do.
    """

    divergence: Divergence | None
    n_steps: int
    notes: tuple[str, ...]
    ignored: frozenset[str]
    differing_steps: tuple[int, ...]
    is_proved: bool
    has_same_changes: bool
