"""`trajrec show --state`: the history of one place of the state."""

from __future__ import annotations

from collections.abc import Iterator

from trajrec.cli.output import print_json, print_table
from trajrec.cli.safe_stream import one_line
from trajrec.corpus.episode import Episode
from trajrec.corpus.place_history import (
    Place,
    PlaceChange,
    last_change,
    place_history,
    place_pointer,
    values_at,
)
from trajrec.errors import StateUnknownError
from trajrec.types import JsonObject, Value
from trajrec.values.diff import MISSING, Change
from trajrec.values.json import describe_path, to_json_value, to_text
from trajrec.values.paths import path_id


def print_place(episode: Episode, pointer: str, *, step: int | None, as_json: bool) -> None:
    """Print each change of the places that a path leads to, and their values after a step.

    Raises:
        ValueError: There is no such place or step.
    """
    step = episode.end_step - 1 if step is None else step
    if not -1 <= step < episode.end_step:
        raise ValueError(f"step must be in [-1, {episode.end_step}), got {step}")
    history = place_history(episode, pointer)
    if not history.places:
        reason = history.reason or f"no recorded state has the place {pointer!r}"
        raise ValueError(f"episode {episode.id}: {reason}")
    for place in history.places:
        if as_json:
            for row in _rows(place):
                print_json(row)
            continue
        print(one_line(_answer(episode, place, pointer, step)))
        rows = [
            (
                row.step,
                row.who,
                describe_path(change.path),
                _text(change.before),
                _text(change.after),
            )
            for row in place.rows
            for change in row.changes
        ]
        if rows:
            print_table(("step", "changed by", "inside", "before", "after"), rows)


def _answer(episode: Episode, place: Place, pointer: str, step: int) -> str:
    """Return the value of a place after a step, and who had set it, as a sentence."""
    when = "at the reset" if step < 0 else f"after step {step}"
    try:
        found = values_at(episode, pointer, max(step + 1, episode.first_step))
    except StateUnknownError as exc:
        return f"{place.words} {when}: unknown, {exc.what}"
    key = (place.part, path_id(place.path))
    values = {(part, path_id(path)): value for part, path, value in found}
    last = last_change(episode, place, step + 1)
    since = "as at the reset" if last is None else f"since step {last.step}, by {last.who}"
    return f"{place.words} {when}: {_text(values.get(key, MISSING))}, {since}"


def _rows(place: Place) -> Iterator[JsonObject]:
    for row in place.rows:
        for change in row.changes:
            yield _row(place, row, change)


def _row(place: Place, row: PlaceChange, change: Change) -> JsonObject:
    sides = {"before": change.before, "after": change.after}
    return {
        "place": place_pointer(place.part, (*place.path, *change.path)),
        "step": row.step,
        "since_step": row.since,
        "by": row.who,
        **{name: None if side is MISSING else to_json_value(side) for name, side in sides.items()},
        "note": row.note or None,
    }


def _text(value: Value) -> str:
    return "(absent)" if value is MISSING else to_text(value)
