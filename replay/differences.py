"""Where two recorded episodes begin to differ: in what was done, in what was seen, in the state, in how they ended."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between
from trajrec.replay.execute.report import short
from trajrec.values.diff import first_change


@dataclass(frozen=True)
class EpisodeDifference:
    """The first difference of one kind.

    Attributes:
        step: The step, from 0; -1 for what was before the first.
        field: Where in it: "action", "call", "failure", "observation", "result", "reward", "info", "state" or "end", with
            the path below.
        a: What the first episode has there.
        b: What the second has.
    """

    step: int
    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        where = "before step 0" if self.step < 0 else f"step {self.step}"
        return f"{where}, {self.field}: {short(self.a)} | {short(self.b)}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"step": self.step, "field": self.field, "a": short(self.a), "b": short(self.b)}


def first_difference(a: Episode, b: Episode) -> list[EpisodeDifference]:
    """Return the first difference of each kind, by step; nothing where two episodes are the same.

    Of a fork and its parent, what both have is compared from the fork's step on: before it they are one.

    Raises:
        ValueError: One is an agent's, the other an environment's.
    """
    if a.is_agent_episode != b.is_agent_episode:
        raise ValueError(
            f"episode {(a if a.is_agent_episode else b).id} is an agent's and the other an environment's"
        )
    found = [*(_of_agents(a, b) if a.is_agent_episode else _of_environments(a, b)), *_ends(a, b)]
    return sorted(found, key=lambda difference: difference.step)


def _of_environments(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    actions = [
        [action for action, _ in path_between(episode, 0, episode.n_steps)] for episode in (a, b)
    ]
    yield from _first("action", itertools.count(), *actions)
    start = max(a.first_step, b.first_step)
    failures = [
        {
            f.step: f"{f.error_type}: {f.message}"
            for f in e.failures
            if f.phase == "step" and f.step >= start
        }
        for e in (a, b)
    ]
    raised = sorted(failures[0].keys() | failures[1].keys())
    yield from _first(
        "failure",
        raised,
        *([found.get(step, "no exception") for step in raised] for found in failures),
    )
    steps, *rows = _common(a.step_numbers, b.step_numbers, start)
    after, *seen = _seen(a, b, start)
    yield from _first(
        "observation", after, *_picked(a.observation_values, b.observation_values, seen)
    )
    yield from _first("reward", steps, *_picked(a.reward_values, b.reward_values, rows))
    if a.fork is None and b.fork is None:
        yield from _first("info", [-1], [a.reset_info], [b.reset_info])
    if a.has_infos or b.has_infos:
        yield from _first("info", steps, *_picked(a.infos, b.infos, rows))
    digests = [episode.state_digests for episode in (a, b)]
    if digests[0] is not None and digests[1] is not None:
        for difference in _first(
            "state", after, *_picked(digests[0].tolist(), digests[1].tolist(), seen)
        ):
            yield _state(a, b, difference, *(found[after.index(difference.step)] for found in seen))


def _common(a: Any, b: Any, start: int) -> tuple[list[int], list[int], list[int]]:
    """Return the steps from one on that both have a row of, and their rows in each: a step that raised has none."""
    steps, *rows = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    first = int(np.searchsorted(steps, start))
    return steps[first:].tolist(), rows[0][first:].tolist(), rows[1][first:].tolist()


def _seen(a: Episode, b: Episode, start: int) -> tuple[list[int], list[int], list[int]]:
    """Return the steps after which both have an observation and a state, the one before the first step in front, and the rows
    of these in each."""
    steps, *rows = _common(a.step_numbers, b.step_numbers, start)
    firsts = []
    for found, episode in zip(rows, (a, b), strict=True):
        found[:] = [row + episode.has_reset for row in found]
        firsts.append(int(np.searchsorted(episode.step_numbers, start)) - (not episode.has_reset))
    if min(firsts) >= 0:
        return [start - 1, *steps], [firsts[0], *rows[0]], [firsts[1], *rows[1]]
    return steps, rows[0], rows[1]


def _picked(a: list[Any], b: list[Any], rows: Sequence[list[int]]) -> tuple[list[Any], list[Any]]:
    found = [[values[row] for row in of_it] for values, of_it in zip((a, b), rows, strict=True)]
    return found[0], found[1]


def _state(
    a: Episode, b: Episode, difference: EpisodeDifference, row: int, other: int
) -> EpisodeDifference:
    """Return a difference of digests as one of states, where both are stored whole."""
    if row in a.states and other in b.states:
        change = first_change(a.states[row], b.states[other])
        if change is not None:
            field = f"state/{change.path}" if change.path else "state"
            return EpisodeDifference(difference.step, field, change.before, change.after)
    return EpisodeDifference(
        difference.step, "state", f"digest {difference.a}", f"digest {difference.b}"
    )


def _of_agents(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    attempts = [episode.transcript.attempts for episode in (a, b)]
    n = min(map(len, attempts))
    for kind, value in (
        ("call", lambda attempt: {"tool": attempt.tool, "arguments": attempt.arguments}),
        ("result", lambda attempt: attempt.end.message if attempt.has_failed else attempt.result),
        (
            "state",
            lambda attempt: [
                [part, *map(list, changes)] for part, changes in attempt.changes.items()
            ],
        ),
    ):
        for x, y in zip(*attempts, strict=False):
            change = first_change(value(x), value(y))
            if change is not None:
                yield EpisodeDifference(
                    x.start.step, f"{kind}/{change.path}".rstrip("/"), change.before, change.after
                )
                break
    if len(attempts[0]) != len(attempts[1]):
        more = attempts[0][n:] or attempts[1][n:]
        names = [attempt.tool for attempt in more]
        yield EpisodeDifference(
            more[0].start.step, "call", *((names, []) if attempts[0][n:] else ([], names))
        )


def _ends(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    ends = [{"n_steps": e.n_steps, "ending": e.ending, "outcome": e.outcome} for e in (a, b)]
    if (
        a.ending == b.ending
    ):  # of an episode that was both terminated and truncated it says the first only
        for end, episode in zip(ends, (a, b), strict=True):
            found = episode.end
            end |= (
                {}
                if found is None
                else {"terminated": found.terminated, "truncated": found.truncated}
            )
    for name in [name for name in ends[0] if name in ends[1]]:
        if ends[0][name] != ends[1][name]:
            yield EpisodeDifference(
                min(a.n_steps, b.n_steps), f"end/{name}", ends[0][name], ends[1][name]
            )


def _first(
    field: str, steps: Iterable[int], a: list[Any], b: list[Any]
) -> Iterator[EpisodeDifference]:
    for step, x, y in zip(steps, a, b, strict=False):
        change = first_change(x, y)
        if change is not None:
            yield EpisodeDifference(
                step, f"{field}/{change.path}".rstrip("/"), change.before, change.after
            )
            return
