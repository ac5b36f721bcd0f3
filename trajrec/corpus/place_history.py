"""The history of one place of the state: each change of it, and who made it.

The changes are those of the log, one after the other: a value that changed and changed back in one
step has two of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trajrec.corpus.attempts import AttemptKey
from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import Transcript
from trajrec.errors import CorpusError, LogError, StateUnknownError
from trajrec.log.assumptions import suspects
from trajrec.log.events import PROGRAM, StateChange, is_at_reset
from trajrec.types import Value
from trajrec.values.diff import MISSING, Change, diff
from trajrec.values.json import describe_path, to_pointer
from trajrec.values.paths import Path, path_id
from trajrec.values.pointers import find_places, path_texts, pointer_keys

THE_PROGRAM = "the agent's own program"


@dataclass(frozen=True, kw_only=True)
class MadeChange:
    """Changes that were found at once: by one attempt at a call, or between two calls.

    Attributes:
        number: Its number among the changes of the episode.
        step: The step; -1 before the first.
        call: Step, call and attempt of the call that made it; None if no call did.
        part: The part of the state.
        who: Who made it, in words.
        changes: The changes in the part; none if it could not be captured.
    """

    number: int
    step: int
    call: AttemptKey | None
    part: str
    who: str
    changes: Sequence[Change]


@dataclass(frozen=True, kw_only=True)
class PlaceChange:
    """A change of a place, or of something inside of it.

    Attributes:
        number: Its number among the changes of an agent's world; of an environment, the step.
        step: The step that changed it; -1 before the first.
        since: The first step that may have changed it: an earlier one if the states between are
            unknown.
        call: See `MadeChange.call`.
        who: Who changed it, in words.
        changes: The changes; their paths begin at the place, so that () is the place itself.
        note: Why the state after it is unknown; "" if it is known.
    """

    number: int
    step: int
    since: int
    call: AttemptKey | None
    who: str
    changes: Sequence[Change]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place of the state.

    Attributes:
        part: Its part; "" if the state has one part, without a name.
        path: The keys that lead to it in the part.
        rows: Its changes in the order in which they were made.
    """

    part: str
    path: Path
    rows: list[PlaceChange] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The place as pages and commands name it."""
        return f"{_escaped(self.part)}{describe_path(self.path)}" or "(whole state)"


@dataclass(frozen=True, kw_only=True)
class PlaceHistory:
    """The places that a path leads to: one, or several whose keys look alike.

    Attributes:
        places: Each with its changes; none if no recorded state has the place.
        reason: Why no state is known; "" if one is.
        n_known: States of an environment that are known.
        n_states: Its states, with that of the reset; 0 for an agent's world, whose every change is
            known.
    """

    places: Sequence[Place]
    reason: str = ""
    n_known: int = 0
    n_states: int = 0


def place_pointer(part: str, path: Path) -> str:
    """Return the JSON Pointer of a place, whose first key is the part if that has a name.

    >>> place_pointer("database", ("stock", 1)), place_pointer("", ("stock", 1))
    ('/database/stock/1', '/stock/1')
    """
    return _escaped(part) + to_pointer(path)


def _escaped(part: str) -> str:
    return to_pointer((part,)) if part else ""


def made_changes(transcript: Transcript) -> Iterator[MadeChange]:
    """Yield the changes of an agent's world since the reset, in order."""
    tools = {attempt.key: attempt.tool for attempt in transcript.recorded_attempts}
    for number, (event, changes) in enumerate(transcript.state_changes()):
        if is_at_reset(event) or not (changes or not event.digest):
            continue
        key = (event.step, event.call, event.attempt)
        yield MadeChange(
            number=number,
            step=event.step,
            call=None if event.actor == PROGRAM else key,
            part=event.part,
            who=_who(event, tools.get(key)),
            changes=changes,
        )


def _who(event: StateChange, tool: str | None) -> str:
    if event.actor == PROGRAM:
        return THE_PROGRAM
    if suspects(event):
        return "one of several calls, or the program between them"
    return tool or "an unknown call"


def values_at(episode: Episode, pointer: str, step: int) -> list[tuple[str, Path, Value]]:
    """Return the part, path and value of each place that a path leads to when a step began.

    Raises:
        StateUnknownError: The state is unknown.
    """
    keys = pointer_keys(pointer)
    return list(_in_state(episode.state(step), keys, is_agent=episode.is_agent_episode))


def _in_state(
    state: Value, keys: tuple[str, ...], *, is_agent: bool
) -> Iterator[tuple[str, Path, Value]]:
    if not is_agent:
        yield from (("", path, value) for path, value in find_places(state, keys))
        return
    for part, value in state.items():
        if part and not (keys and keys[0] == part):
            continue
        own = keys[1:] if part else keys
        yield from ((part, path, found) for path, found in find_places(value, own))


def last_change(episode: Episode, place: Place, step: int) -> PlaceChange | None:
    """Return the last change of a place that was made before a step began; None without one."""
    n_changes = step
    if episode.is_agent_episode:
        n_changes = episode.transcript.n_changes_before(step)
    return next((row for row in reversed(place.rows) if row.number < n_changes), None)


def place_history(episode: Episode, pointer: str) -> PlaceHistory:
    """Return the history of the places that a path leads to.

    Args:
        episode: The episode.
        pointer: A JSON Pointer; its first key is the part of the state if that has a name.

    Raises:
        ValueError: It is no JSON Pointer.
    """
    if episode.is_agent_episode:
        return _agent_history(episode, pointer)
    return _environment_history(episode, pointer)


class _Places:
    """The places that were met."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, tuple[Hashable, ...]], Place] = {}

    def get(self, part: str, path: Path) -> Place:
        return self._places.setdefault((part, path_id(path)), Place(part=part, path=path))

    def all(self) -> list[Place]:
        return list(self._places.values())


def _agent_history(episode: Episode, pointer: str) -> PlaceHistory:
    transcript = episode.transcript
    keys = pointer_keys(pointer)
    if not transcript.initial_digests:
        return PlaceHistory(places=[], reason="no state was watched")
    places = _Places()
    for part, path, _ in _in_state(transcript.initial_state, keys, is_agent=True):
        places.get(part, path)
    for made in made_changes(transcript):
        if made.part and not (keys and keys[0] == made.part):
            continue
        note = transcript.history.unknown_after(made.number)
        own = keys[1:] if made.part else keys
        found = list(_changes_of(own, made.changes).values())
        if not made.changes:
            found = [(place.path, []) for place in places.all() if place.part == made.part]
        for path, changes in found:
            places.get(made.part, path).rows.append(_row(made, changes, note))
    return PlaceHistory(places=places.all())


def _row(made: MadeChange, changes: Sequence[Change], note: str) -> PlaceChange:
    return PlaceChange(
        number=made.number,
        step=made.step,
        since=made.step,
        call=made.call,
        who=made.who,
        changes=changes,
        note=note,
    )


def _changes_of(
    keys: tuple[str, ...], changes: Sequence[Change]
) -> Mapping[tuple[Hashable, ...], tuple[Path, list[Change]]]:
    """Return, by place that the keys lead to, its path and the changes of it and inside of it."""
    found: dict[tuple[Hashable, ...], tuple[Path, list[Change]]] = {}
    n = len(keys)
    for change in changes:
        texts = path_texts(change.path[:n])
        if texts != keys[: len(texts)]:
            continue
        if len(change.path) >= n:
            inside = [(change.path[:n], change._replace(path=change.path[n:]))]
        else:
            inside = _inside_of(change, keys[len(change.path) :])
        for path, own in inside:
            found.setdefault(path_id(path), (path, []))[1].append(own)
    return found


def _inside_of(change: Change, keys: tuple[str, ...]) -> list[tuple[Path, Change]]:
    """Return the changes of the places that lie in a value that was replaced as a whole."""
    befores = {path_id(path): (path, value) for path, value in find_places(change.before, keys)}
    afters = {path_id(path): (path, value) for path, value in find_places(change.after, keys)}
    return [
        ((*change.path, *path), own)
        for own_id, (path, _) in {**befores, **afters}.items()
        for own in diff(befores.get(own_id, ((), MISSING))[1], afters.get(own_id, ((), MISSING))[1])
    ]


def _environment_history(episode: Episode, pointer: str) -> PlaceHistory:
    keys = pointer_keys(pointer)
    places = _Places()
    # The state that is known before, and the step that led to it.
    last: tuple[int, Value] | None = None
    n_known = 0
    for step, state in _known_states(episode):
        found = list(find_places(state, keys))
        for path, _ in found:
            places.get("", path)
        if last is not None:
            _add_row(episode, places, last, (step, state), keys)
        last = (step, state)
        n_known += 1
    return PlaceHistory(
        places=places.all(),
        reason="" if n_known else _why_unknown(episode),
        n_known=n_known,
        n_states=episode.has_reset + episode.n_steps,
    )


def _add_row(
    episode: Episode,
    places: _Places,
    before: tuple[int, Value],
    after: tuple[int, Value],
    keys: tuple[str, ...],
) -> None:
    since, step = before[0] + 1, after[0]
    whole = Change((), before[1], after[1])
    changes: dict[tuple[Hashable, ...], tuple[Path, list[Change]]] = {}
    for path, own in _inside_of(whole, keys):
        changes.setdefault(path_id(path), (path, []))[1].append(own)
    for path, own_changes in changes.values():
        who = f"steps {since} to {step}: the states between are not stored"
        if since == step:
            who = "the action"
        row = PlaceChange(
            number=step, step=step, since=since, call=None, who=who, changes=own_changes
        )
        places.get("", path).rows.append(row)


def _known_states(episode: Episode) -> Iterator[tuple[int, Value]]:
    """Yield the states of an environment that are stored and right, each with the step before it."""
    steps = [episode.first_step - 1] * episode.has_reset + episode.step_numbers.tolist()
    digests = episode.state_digests
    for row, state in sorted(episode.rows.states().items()):
        if row < len(steps) and (digests is None or episode.digest_state(state) == digests[row]):
            yield steps[row], state


def _why_unknown(episode: Episode) -> str:
    try:
        episode.state(episode.first_step)
    except StateUnknownError as exc:
        return exc.what
    except (CorpusError, LogError, IndexError) as exc:
        return str(exc)
    return "no state is stored"
