"""The history of one place of the state, and the places that an episode changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trajrec.corpus.place_history import (
    Place,
    PlaceChange,
    PlaceHistory,
    last_change,
    place_history,
    place_pointer,
    values_at,
)
from trajrec.errors import CorpusError, LogError, StateUnknownError
from trajrec.types import Value
from trajrec.values.diff import MISSING
from trajrec.values.paths import path_id
from trajrec.view.episode_view import EpisodeView
from trajrec.view.lanes import place_lane
from trajrec.view.panes import ChangeView, change_view
from trajrec.view.svg import Lane
from trajrec.view.text import Shown, cell, json_text, shown

MAX_ROWS = 500
"""Changes of a place that a page shows; links lead to those before and behind them."""

MAX_INSIDE = 20
"""Changes inside of a place that one row shows; the rest is counted."""

MAX_PLACES = 500
"""Places that the list of all has: those that change most."""

_ARGUMENTS = 120


@dataclass(frozen=True, kw_only=True)
class PlaceRow:
    """A change of the place.

    Attributes:
        step: The step; -1 before the first.
        who: Who made it.
        asked: The arguments of the call, or the action.
        changes: What changed in the place.
        n_more: Changes that are not shown.
        note: Why the state after it is unknown; "" if it is known.
        is_last: Whether it is the last one until the step that was asked for.
    """

    step: int
    who: str
    asked: str
    changes: Sequence[ChangeView]
    n_more: int
    note: str
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class PlaceView:
    """A place.

    Attributes:
        words: Its name.
        value: Its value after the step; None if it has none, or if it is unknown.
        unknown: Why the value is unknown; "" if it is known.
        last: The change that set the value; None if it is as at the reset.
        n_changes: All changes, of which `rows` has some.
        first: The number of the first row among all changes.
        lane: Its course over the steps.
    """

    words: str
    value: Shown | None
    unknown: str
    last: PlaceRow | None
    rows: Sequence[PlaceRow]
    n_changes: int
    first: int
    lane: Lane


@dataclass(frozen=True, kw_only=True)
class ListedPlace:
    """A place in the list of all that changed.

    Attributes:
        last_value: Its last value; None if it does not exist any more.
    """

    pointer: str
    words: str
    n_changes: int
    first_step: int
    last_step: int
    last_value: str | None


@dataclass(frozen=True, kw_only=True)
class StatePlaces:
    """What the page shows.

    Attributes:
        pointer: The path that was asked for; None for the list of all places.
        at: The step after which values are told.
        places: The places that the path leads to.
        listed: The places that changed most, if no path was asked for.
        n_listed: The number of all places that changed.
        reason: Why no state is known; "" if one is.
        gaps: Which states are unknown, in words; "" if none is.
    """

    pointer: str | None
    at: int
    places: Sequence[PlaceView] = ()
    listed: Sequence[ListedPlace] = ()
    n_listed: int = 0
    reason: str = ""
    gaps: str = ""


def read_places(view: EpisodeView, pointer: str | None, at: int | None, first: int) -> StatePlaces:
    """Return the history of the places that a path leads to, or the list of all that changed.

    Args:
        view: The episode.
        pointer: The path, as a JSON Pointer.
        at: The step after which the value is told; None for the last one.
        first: The first change to show; -1 for those around the step.

    Raises:
        IndexError: There is no such step, or no such place.
    """
    last = view.steps[-1] if view.steps else -1
    step = last if at is None else at
    if not -1 <= step <= last:
        raise IndexError(f"episode {view.id} has no step {step}; its last one is {last}")
    if pointer is None:
        return _listed(view, step)
    try:
        history = place_history(view.episode, pointer)
    except ValueError as exc:
        raise IndexError(str(exc)) from exc
    if not history.places and not history.reason:
        raise IndexError(
            f"the state of episode {view.id} has no place {pointer}; /e/{view.id}/state lists all "
            "that changed"
        )
    values, unknown = _values(view, pointer, step)
    places = [
        _place_view(view, place, values, unknown=unknown, at=step, first=first)
        for place in history.places
    ]
    return StatePlaces(
        pointer=pointer, at=step, places=places, reason=history.reason, gaps=_gaps(history)
    )


def _gaps(history: PlaceHistory) -> str:
    if history.reason or history.n_known >= history.n_states:
        return ""
    return (
        f"whole states are stored after {history.n_known:,} of {history.n_states:,} steps (the "
        "reset is one); a change between two of them is dated by both, and a place that changed "
        "and changed back between them is not seen"
    )


def _values(view: EpisodeView, pointer: str, at: int) -> tuple[dict[Value, Value], str]:
    """Return the values after a step by place, or the reason why they are unknown."""
    try:
        found = values_at(view.episode, pointer, max(at + 1, view.episode.first_step))
    except StateUnknownError as exc:
        return {}, exc.what
    except (CorpusError, LogError, IndexError) as exc:
        return {}, str(exc)
    return {(part, path_id(path)): value for part, path, value in found}, ""


def _place_view(
    view: EpisodeView,
    place: Place,
    values: dict[Value, Value],
    *,
    unknown: str,
    at: int,
    first: int,
) -> PlaceView:
    value = values.get((place.part, path_id(place.path)), MISSING)
    last = last_change(view.episode, place, at + 1)
    number = -1 if last is None else place.rows.index(last)
    if first < 0:
        first = max(0, number) // MAX_ROWS * MAX_ROWS
    asked = _Asked(view)
    rows = [_row(row, asked, is_last=row is last) for row in place.rows[first : first + MAX_ROWS]]
    return PlaceView(
        words=place.words,
        value=None if value is MISSING else shown(value),
        unknown=unknown,
        last=None if last is None else _row(last, asked, is_last=True),
        rows=rows,
        n_changes=len(place.rows),
        first=first,
        lane=_lane(view, place),
    )


def _row(row: PlaceChange, asked: _Asked, *, is_last: bool) -> PlaceRow:
    return PlaceRow(
        step=row.step,
        who=row.who,
        asked=asked.by(row),
        changes=[change_view(change) for change in row.changes[:MAX_INSIDE]],
        n_more=max(0, len(row.changes) - MAX_INSIDE),
        note=row.note,
        is_last=is_last,
    )


class _Asked:
    """What was asked for in the calls and actions of an episode."""

    def __init__(self, view: EpisodeView) -> None:
        self._is_agent = view.is_agent
        self._calls = {}
        self._actions: dict[int, Value] = {}
        if view.is_agent:
            attempts = view.episode.transcript.recorded_attempts
            self._calls = {attempt.key: attempt.arguments for attempt in attempts}
        else:
            numbers = view.episode.step_numbers.tolist()
            self._actions = dict(zip(numbers, view.episode.actions, strict=True))

    def by(self, row: PlaceChange) -> str:
        """Return the arguments or the action behind a change; "" if none is known."""
        if self._is_agent:
            return "" if row.call not in self._calls else cell(self._calls[row.call], _ARGUMENTS)
        if row.since != row.step or row.step not in self._actions:
            return ""
        return cell(json_text(self._actions[row.step]), _ARGUMENTS)


def _lane(view: EpisodeView, place: Place) -> Lane:
    """Return the course of a place: a line if it is a number throughout, else marks."""
    first = view.episode.first_step
    changes = [(row.step, change) for row in place.rows for change in row.changes]
    is_own = all(not change.path for _, change in changes)
    # What the program changed before the first step is drawn at the first one.
    course = [(max(0, step - first), change.after if is_own else None) for step, change in changes]
    before = changes[0][1].before if changes and is_own else None
    return place_lane(place.words, place.words, before, course, max(1, view.episode.n_steps))


def _listed(view: EpisodeView, at: int) -> StatePlaces:
    """Return the places that changed."""
    history = place_history(view.episode, "") if not view.is_agent else _all_parts(view)
    counts: Counter[Value] = Counter()
    found: dict[Value, ListedPlace] = {}
    for part, row in _rows(history):
        for change in row.changes:
            key = (part, path_id(change.path))
            counts[key] += 1
            known = found.get(key)
            place = Place(part=part, path=change.path)
            found[key] = ListedPlace(
                pointer=place_pointer(part, change.path),
                words=place.words,
                n_changes=counts[key],
                first_step=row.step if known is None else known.first_step,
                last_step=row.step,
                last_value=(
                    None if change.after is MISSING else cell(json_text(change.after), _ARGUMENTS)
                ),
            )
    most = sorted(found.values(), key=lambda item: (-item.n_changes, item.words))
    return StatePlaces(
        pointer=None,
        at=at,
        listed=most[:MAX_PLACES],
        n_listed=len(most),
        reason=history.reason,
        gaps=_gaps(history),
    )


def _all_parts(view: EpisodeView) -> PlaceHistory:
    """Return the history of each part whole."""
    parts = view.episode.transcript.initial_digests
    if not parts:
        return place_history(view.episode, "")
    places = [
        place
        for part in parts
        for place in place_history(view.episode, place_pointer(part, ())).places
    ]
    return PlaceHistory(places=places)


def _rows(history: PlaceHistory) -> Iterator[tuple[str, PlaceChange]]:
    for place in history.places:
        for row in place.rows:
            yield place.part, row
