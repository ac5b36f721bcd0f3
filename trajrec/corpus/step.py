"""One step of an episode, as its readers see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from trajrec.log.schema import Failure
from trajrec.types import Action, Info, Observation, Value
from trajrec.values import codec


class Step(NamedTuple):
    """One decision of the agent and its consequences.

    Attributes:
        step: Number of the step.
        action: The action.
        observation: The observation after the action; None if the step raised.
        reward: The reward; None if the step raised.
        info: The info.
        failure: The exception of the step; None if it raised none.
    """

    step: int
    action: Action
    observation: Observation
    reward: Value
    info: Info
    failure: Failure | None = None


def failed_action(failure: Failure) -> Action:
    """Return the action of a step that raised."""
    return None if failure.action_data is None else codec.decode(failure.action_data)


def unrecorded_steps(failures: Iterable[Failure]) -> list[int]:
    """Return the steps that an environment took, and of which the log has no result.

    The recorder could not store the result, or was interrupted before it did.
    """
    return [
        failure.step
        for failure in failures
        if failure.phase == "step" and failure.origin == "scaffold"
    ]


def failed_step(failure: Failure) -> Step:
    """Return the step of an exception."""
    return Step(
        step=failure.step,
        action=failed_action(failure),
        observation=None,
        reward=None,
        info={},
        failure=failure,
    )


def in_order(
    rows: Iterable[tuple[int, Action, Observation, Value, Info]], failures: Iterable[Failure]
) -> list[Step]:
    """Return the steps of an episode by number: those with rows, and those that raised."""
    raised = {failure.step: failure for failure in failures if failure.phase == "step"}
    steps = [Step(*row) for row in rows]
    return sorted([*steps, *map(failed_step, raised.values())], key=lambda step: step.step)
