"""The plan of an experiment: which step is changed, and the runs that compare it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.errors import RedactedError, ReplayError
from trajrec.replay.whatif.changes import Arguments, Change, change_of
from trajrec.types import JsonObject, Value
from trajrec.values.diff import diff
from trajrec.wire.edits import RequestEdit

Arm: TypeAlias = Literal["unchanged", "changed", "control"]
"""A run without the change, with it, or one that must do as recorded."""

ARMS: tuple[Arm, ...] = ("unchanged", "changed")

Stub: TypeAlias = Callable[..., Value]
"""A function that stands in for a tool."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run of an experiment.

    Attributes:
        experiment: The id that all runs of an experiment share.
        at: The step.
        call: The number of the changed call in the step.
        change: The change of the experiment.
        arm: The arm that the run belongs to.
        number: The number of the run in its arm.
        success: Id of the check that decides; "" stands for the primary check.
        runs_external: Whether tools that are declared `external` may run.
        stubs: Tool -> the function that stands in for it.
    """

    experiment: str
    at: int
    call: int
    change: Change
    arm: Arm
    number: int
    success: str = ""
    runs_external: bool = False
    stubs: Mapping[str, Stub] = field(default_factory=dict)

    @property
    def is_changed(self) -> bool:
        """Whether the run has the change."""
        return self.arm == "changed"

    @property
    def edit(self) -> RequestEdit | None:
        """The change of the requests of this run; None if they stay as they are."""
        return self.change.edit if self.is_changed else None

    def changed(self, arguments: JsonObject) -> JsonObject:
        """Return the arguments of the changed call."""
        assert isinstance(self.change, Arguments)
        return {**arguments, **self.change.arguments}

    def about(self) -> JsonObject:
        """Return the entry of the fork's record that describes the run."""
        return {
            "id": self.experiment,
            "at": self.at,
            "call": self.call,
            "change": self.change.to_json(),
            "arm": self.arm,
            "number": self.number,
            "success": self.success,
        }


def plan_of(about: Mapping[str, Any]) -> Plan:
    """Return the plan that `Plan.about` described."""
    return Plan(
        experiment=about["id"],
        at=about["at"],
        call=about["call"],
        change=change_of(about["change"]),
        arm=about["arm"],
        number=about["number"],
        success=about["success"],
    )


def changed_attempt(episode: Episode, at: int, call: int | None, change: Change) -> Attempt | None:
    """Return the recorded call that is changed, None if no call is.

    Args:
        episode: The recorded episode.
        at: The step.
        call: The number of the call in the step; None if the step has only one.
        change: The change.

    Raises:
        IndexError: The episode has no such step.
        ReplayError: The step has no such call, or several of which none is named.
        RedactedError: The call had a secret, which the log does not have.
    """
    if not episode.first_step <= at < episode.end_step:
        raise IndexError(
            f"episode {episode.id} has the steps {episode.first_step} to {episode.end_step - 1}, "
            f"got at={at}"
        )
    if change.start == "request":
        return None
    if change.start == "after" and at == episode.end_step - 1:
        raise ReplayError(
            f"step {at} is the last one: no recorded step follows on which another result could act",
            episode_id=episode.id,
        )
    attempts = [
        attempt
        for attempt in episode.transcript.attempts
        if attempt.start.step == at and not attempt.start.attempt
    ]
    if call is None and len(attempts) > 1:
        told = ", ".join(f"{a.start.call} {a.tool}" for a in attempts)
        raise ReplayError(
            f"step {at} has {len(attempts)} calls: {told}; name one by call= (--call)",
            episode_id=episode.id,
        )
    wanted = call or 0
    found = next((attempt for attempt in attempts if attempt.start.call == wanted), None)
    if found is None:
        has = "has no call" if call is None else f"has no call {call}"
        raise ReplayError(f"step {at} {has} that could be changed", episode_id=episode.id)
    if change.start == "after" and found.is_from_wire:
        raise ReplayError(
            f"nothing recorded the call {found.tool} of step {at} itself, only model calls tell of "
            "it, so another result cannot be given: change the arguments, the prompt, the message "
            "or the model, or record the tool by ep.tool in a Python program",
            episode_id=episode.id,
        )
    recorded = found.arguments
    if isinstance(change, Arguments) and not diff(recorded, {**recorded, **change.arguments}):
        raise ReplayError(
            f"the call {found.tool} of step {at} was recorded with these arguments: give others, "
            "or no change, which tells how certain the outcome was",
            episode_id=episode.id,
        )
    if isinstance(change, Arguments) and found.start.is_redacted:
        raise RedactedError(
            f"the call {found.tool} of step {at} had a secret, which the log does not have",
            episode_id=episode.id,
            step=at,
        )
    return found
