"""Cells and rows that only imported records fill: leftovers, events beside steps, reported changes."""

from __future__ import annotations

from trajrec.corpus.attempts import Attempt
from trajrec.corpus.episode import Episode
from trajrec.corpus.index.rows import EpisodeRow, StateChangeRow
from trajrec.corpus.transcript import Transcript
from trajrec.log.events import StepValues
from trajrec.log.source_facts import extra_of
from trajrec.types import Value
from trajrec.values.json import stored_to_json


def leftovers_json(transcript: Transcript, data: bytes | None) -> str | None:
    """Return the leftovers of an imported record as JSON."""
    if data is None:
        return None
    leftovers = extra_of(transcript.value(data))
    return None if leftovers is None else stored_to_json(leftovers)


def call_leftovers(transcript: Transcript, attempt: Attempt) -> str | None:
    """Return the leftovers of a call, and under "result" those of its result."""
    end = attempt.end
    of_start = attempt.start.extra_data
    of_end = None if end is None else end.extra_data
    if of_start is None and of_end is None:
        return None
    leftovers = extra_of(transcript.value(of_start))
    of_result = extra_of(transcript.value(of_end))
    if of_result is not None:
        leftovers = {**(leftovers or {}), "result": of_result}
    return None if leftovers is None else stored_to_json(leftovers)


def notes_by_step(episode: Episode, transcript: Transcript) -> dict[int, str]:
    """Return the values beside each step as JSON: a list, an item for each record of them."""
    notes: dict[int, list[Value]] = {}
    for event in episode.agent_events:
        if isinstance(event, StepValues):
            values = transcript.value(event.values_data)
            leftovers = extra_of(transcript.value(event.extra_data))
            if leftovers is not None:
                values = {**(values if isinstance(values, dict) else {}), "extra": leftovers}
            notes.setdefault(event.step, []).append(values)
    return {step: stored_to_json(values) for step, values in notes.items()}


def reported_changes(row: EpisodeRow, transcript: Transcript) -> list[StateChangeRow]:
    """Return the changes that an imported record reports, each as one value."""
    return [
        StateChangeRow(
            episode_id=row.episode_id,
            kind=row.kind,
            step=change.step,
            call=change.call,
            attempt=change.attempt,
            part=change.part,
            path="",
            keys="[]",
            before=None,
            after=stored_to_json(transcript.value(change.data)),
            origin="reported",
        )
        for change in transcript.reported_changes
        # One without a value says that a part has changed, and not to which value.
        if change.data is not None
    ]
