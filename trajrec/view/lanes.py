"""The timeline of an episode: lanes of calls, rewards, tokens, changes and places of the state."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from trajrec.corpus.call_contents import content_of
from trajrec.corpus.episode import Episode
from trajrec.corpus.place_history import THE_PROGRAM, MadeChange
from trajrec.corpus.transcript import ModelCall
from trajrec.types import Value
from trajrec.values.diff import MISSING
from trajrec.values.json import to_pointer
from trajrec.view.rows import AgentStep, StepRow, attempt_status, model_status
from trajrec.view.svg import Lane, bars, marks, one_of_each, step_line

N_PLACES = 6
"""Places of the state that the timeline shows: those that change most."""

_LABEL = 17

_CALLS = {
    "ok": "ok",
    "failed": "failed",
    "overcome": "failed, and a later call overcame it",
    "again": "tried again",
    "open": "no end recorded",
    "unknown": "outcome unknown",
}

Place = tuple[str, str]
"""A part of the state, and a JSON Pointer into it."""


def agent_lanes(
    episode: Episode, steps: Sequence[AgentStep], changes: Sequence[MadeChange]
) -> list[Lane]:
    """Return the lanes of an agent's episode; a lane without content is left out.

    Args:
        episode: The episode.
        steps: Its steps.
        changes: The changes of its world, in order.
    """
    first = episode.first_step
    width = _width(episode)
    lanes = [
        _call_lane(steps, first, width),
        _token_lane(steps, first, width),
        *_state_lanes(changes, first, width),
    ]
    return [lane for lane in lanes if any(lane.paths.values())]


def environment_lanes(episode: Episode) -> list[Lane]:
    """Return the lanes of an environment's episode; a lane without content is left out."""
    first = episode.first_step
    width = _width(episode)
    raised = [failure.step - first for failure in episode.failures if failure.phase == "step"]
    gaps = [(a - first, b - first) for a, b in episode.missing_steps]
    n_lost = sum(stop - start for start, stop in gaps)
    numbers = [step - first for step in episode.step_numbers.tolist()]
    steps = Lane(
        label="steps",
        summary=f"{len(numbers)} steps, {len(raised)} of them raised, {n_lost} lost",
        width=width,
        paths={
            "ok": marks(numbers, width),
            "failed": marks(raised, width),
            "lost": marks((step for gap in gaps for step in one_of_each(*gap, width)), width),
        },
        meanings={"ok": "ok", "failed": "raised an exception", "lost": "lost from the log"},
    )
    return [steps, *_reward_lane(episode, numbers, width), *_digest_lane(episode, width)]


def evidence_lane(
    label: str,
    positions: Mapping[str, Iterable[int]],
    episode: Episode,
    summary: str,
    meanings: Mapping[str, str],
) -> Lane:
    """Return a lane of marks, such as forks or the verdict of a replay, by class."""
    first = episode.first_step
    width = _width(episode)
    paths = {}
    for name, steps in positions.items():
        drawn = one_of_each(steps.start, steps.stop, width) if isinstance(steps, range) else steps
        paths[name] = marks((step - first for step in drawn), width)
    return Lane(label=label, summary=summary, width=width, paths=paths, meanings=meanings)


def failed_steps(rows: Iterable[StepRow]) -> list[int]:
    """Return the steps that failed, those overcome later included."""
    return [row.step for row in rows if row.status in ("failed", "overcome")]


def _width(episode: Episode) -> int:
    return max(1, episode.n_steps)


def _call_lane(steps: Sequence[AgentStep], first: int, width: int) -> Lane:
    by_status: dict[str, list[int]] = {}
    for item in steps:
        statuses = {attempt_status(attempt) for attempt in item.attempts}
        statuses |= {model_status(item)} - {""}
        for status in statuses:
            by_status.setdefault(status, []).append(item.step - first)
    n_attempts = sum(len(item.attempts) for item in steps)
    words = ", ".join(f"{len(found)} steps {status}" for status, found in sorted(by_status.items()))
    return Lane(
        label="calls",
        summary=f"{n_attempts} attempts at calls: {words}",
        width=width,
        # In this order: a failure is drawn over all else.
        paths={
            status: marks(by_status.get(status, []), width)
            for status in ("ok", "unknown", "again", "open", "overcome", "failed")
        },
        meanings=_CALLS,
    )


def _token_lane(steps: Sequence[AgentStep], first: int, width: int) -> Lane:
    tokens = {
        item.step - first: float(sum(map(tokens_of, item.model_calls)))
        for item in steps
        if item.model_calls
    }
    total = int(sum(tokens.values()))
    return Lane(
        label="model tokens",
        summary=f"{total} tokens of models in all",
        width=width,
        paths={"tokens": bars(tokens, width)},
    )


def tokens_of(call: ModelCall) -> int:
    """Return the tokens of a call, as far as its answer counts them."""
    answer = content_of(call).answer
    if answer is None:
        return 0
    return (answer.usage.input or 0) + (answer.usage.output or 0)


def _state_lanes(made: Sequence[MadeChange], first: int, width: int) -> list[Lane]:
    courses: dict[Place, list[tuple[int, Value]]] = {}
    befores: dict[Place, Value] = {}
    counts: Counter[int] = Counter()
    for item in made:
        # What the program changed before the first step is drawn at the first one.
        step = max(0, item.step - first)
        counts[step] += len(item.changes)
        for change in item.changes:
            place = (item.part, to_pointer(change.path))
            befores.setdefault(place, change.before)
            courses.setdefault(place, []).append((step, change.after))
    all_changes = Lane(
        label="state changes",
        summary=f"{counts.total()} changes of the state in {len(counts)} steps",
        width=width,
        paths={"changes": bars({step: float(n) for step, n in counts.items()}, width)},
    )
    by_program = [item for item in made if item.call is None]
    n_between = sum(len(item.changes) for item in by_program)
    between = Lane(
        label="between calls",
        summary=f"{n_between} changes of the state between the calls, by {THE_PROGRAM}",
        width=width,
        paths={"changes": marks((max(0, item.step - first) for item in by_program), width)},
    )
    most = sorted(courses, key=lambda place: (-len(courses[place]), place))[:N_PLACES]
    lanes = [
        place_lane(
            _short("".join(place)) or "(whole state)",
            "".join(place),
            befores[place],
            courses[place],
            width,
        )
        for place in sorted(most)
    ]
    return [all_changes, between, *lanes]


def place_lane(
    label: str, name: str, before: Value, course: Sequence[tuple[int, Value]], width: int
) -> Lane:
    """Return the course of a place of the state: a line if it is a number, else marks.

    Args:
        label: The label of the lane.
        name: The place.
        before: Its value before the first change.
        course: Steps from 0, ascending, and the value from there on.
        width: Steps of the episode.
    """
    values = [before, *(value for _, value in course)]
    if all(value is MISSING or _is_number(value) for value in values) and any(
        map(_is_number, values)
    ):
        points = [(0, _number(before)), *((step, _number(value)) for step, value in course)]
        path = step_line(points, width)
        known = [value for value in map(_number, values) if value is not None]
        summary = f"{name}: {len(course)} changes, from {min(known):g} to {max(known):g}"
        return Lane(label=label, summary=summary, width=width, paths={"line": path}, is_line=True)
    path = marks((step for step, _ in course), width)
    summary = f"{name}: {len(course)} changes"
    return Lane(label=label, summary=summary, width=width, paths={"changes": path})


def _short(place: str) -> str:
    """Return the end of a long place: the beginning is often the same in all of them."""
    return place if len(place) <= _LABEL else "…" + place[1 - _LABEL :]


def _is_number(value: Value) -> bool:
    is_real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_real and abs(value) < 1e300 and math.isfinite(value)


def _number(value: Value) -> float | None:
    return float(value) if _is_number(value) else None


def _reward_lane(episode: Episode, numbers: Sequence[int], width: int) -> list[Lane]:
    rewards = [_number(reward) for reward in map(_plain, episode.reward_values)]
    known = [reward for reward in rewards if reward is not None]
    # A reward that never changes says nothing that the header does not.
    if not known or min(known) == max(known):
        return []
    return [
        Lane(
            label="reward",
            summary=f"rewards from {min(known):g} to {max(known):g}",
            width=width,
            paths={"line": step_line(list(zip(numbers, rewards, strict=True)), width)},
            is_line=True,
        )
    ]


def _plain(value: Value) -> Value:
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _digest_lane(episode: Episode, width: int) -> list[Lane]:
    digests = episode.state_digests
    numbers = episode.step_numbers
    if digests is None or len(digests) != len(numbers) + 1:
        return []
    changed = (numbers[digests[1:] != digests[:-1]] - episode.first_step).tolist()
    if len(changed) in (0, len(numbers)):
        return []
    return [
        Lane(
            label="state changes",
            summary=f"the state changed in {len(changed)} of {len(numbers)} steps",
            width=width,
            paths={"changes": marks(changed, width)},
        )
    ]
