"""The rows of `state_changes` for the episodes of agents."""

from __future__ import annotations

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.index.cells import json_or_none
from trajrec.corpus.index.rows import StateChangeRow
from trajrec.corpus.index.views import EpisodeKind
from trajrec.corpus.program_changes import joined_changes
from trajrec.corpus.transcript import Transcript
from trajrec.log.events import PROGRAM
from trajrec.values.diff import MISSING, Change
from trajrec.values.json import stored_to_json, to_keys, to_pointer, typed_keys


def changes_json(changes: list[Change]) -> str:
    """Return changes as [JSON Pointer, before, after, keys]; null stands for a missing value."""
    return stored_to_json(
        [
            [
                to_pointer(change.path),
                None if change.before is MISSING else change.before,
                None if change.after is MISSING else change.after,
                typed_keys(change.path),
            ]
            for change in changes
        ]
    )


def attempt_changes(episode_id: str, kind: EpisodeKind, attempt: Attempt) -> list[StateChangeRow]:
    """Return a row for each value that an attempt changed."""
    return [
        StateChangeRow(
            episode_id=episode_id,
            kind=kind,
            step=attempt.start.step,
            call=attempt.start.call,
            attempt=attempt.start.attempt,
            part=part,
            path=to_pointer(change.path),
            keys=None if part in attempt.open_paths else to_keys(change.path),
            before=json_or_none(change.before),
            after=json_or_none(change.after),
        )
        for part, changes in attempt.changes.items()
        for change in changes
    ]


def changes_between_calls(
    episode_id: str, kind: EpisodeKind, transcript: Transcript
) -> list[StateChangeRow]:
    """Return a row for each value that the agent's program changed between the calls of a step.

    A value that it changed several times has one row: before the first, and after the last.
    """
    by_part: dict[tuple[int, str], list[Change]] = {}
    untyped: set[tuple[int, str]] = set()
    for between in transcript.program_changes:
        key = (between.step, between.part)
        by_part[key] = joined_changes(by_part.get(key, []), between.changes)
        if not between.has_typed_paths:
            untyped.add(key)
    return [
        StateChangeRow(
            episode_id=episode_id,
            kind=kind,
            step=step,
            actor=PROGRAM,
            part=part,
            path=to_pointer(change.path),
            keys=None if (step, part) in untyped else to_keys(change.path),
            before=json_or_none(change.before),
            after=json_or_none(change.after),
        )
        for (step, part), changes in by_part.items()
        for change in changes
    ]
