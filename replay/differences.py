"""Where two recorded episodes begin to differ: in what was done, in what was seen, in the state, in how they ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trajrec.episodes import Episode
from trajrec.paths import path_between
from trajrec.replay.report import short
from trajrec.state.diff import first_difference as value_difference


@dataclass(frozen=True)
class EpisodeDifference:
    """The first difference of one kind.

    Attributes:
        step: The step, from 0; -1 for what was before the first.
        field: Where in it: "action", "call", "observation", "result", "reward", "state" or "end", with the path below.
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
    if a.is_agents != b.is_agents:
        raise ValueError(f"episode {(a if a.is_agents else b).id} is an agent's and the other an environment's")
    found = [*(_of_agents(a, b) if a.is_agents else _of_environments(a, b)), *_ends(a, b)]
    return sorted(found, key=lambda difference: difference.step)


def _of_environments(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    actions = [[action for action, _ in path_between(episode, 0, episode.n_steps)] for episode in (a, b)]
    yield from _first("action", 0, *actions)
    start = max(a.first_step, b.first_step)
    offsets = [start - episode.first_step for episode in (a, b)]
    yield from _first("observation", start - 1, a.observation_list[offsets[0] :], b.observation_list[offsets[1] :])
    yield from _first("reward", start, a.reward_list[offsets[0] :], b.reward_list[offsets[1] :])
    digests = [episode.state_digests for episode in (a, b)]
    if digests[0] is not None and digests[1] is not None:
        values = [found[offset:].tolist() for found, offset in zip(digests, offsets, strict=True) if found is not None]
        for difference in _first("state", start - 1, *values):
            yield _state(a, b, difference)


def _state(a: Episode, b: Episode, difference: EpisodeDifference) -> EpisodeDifference:
    """Return a difference of digests as one of states, where both are stored whole."""
    rows = [difference.step + 1 - episode.first_step for episode in (a, b)]
    if rows[0] in a.states and rows[1] in b.states:
        change = value_difference(a.states[rows[0]], b.states[rows[1]])
        if change is not None:
            field = f"state/{change.path}" if change.path else "state"
            return EpisodeDifference(difference.step, field, change.before, change.after)
    return EpisodeDifference(difference.step, "state", f"digest {difference.a}", f"digest {difference.b}")


def _of_agents(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    attempts = [episode.transcript.attempts for episode in (a, b)]
    n = min(map(len, attempts))
    for kind, value in (
        ("call", lambda attempt: {"tool": attempt.tool, "arguments": attempt.arguments}),
        ("result", lambda attempt: attempt.end.message if attempt.has_failed else attempt.result),
        ("state", lambda attempt: [[part, *map(list, changes)] for part, changes in attempt.changes.items()]),
    ):
        for x, y in zip(*attempts, strict=False):
            change = value_difference(value(x), value(y))
            if change is not None:
                yield EpisodeDifference(x.start.step, f"{kind}/{change.path}".rstrip("/"), change.before, change.after)
                break
    if len(attempts[0]) != len(attempts[1]):
        more = attempts[0][n:] or attempts[1][n:]
        names = [attempt.tool for attempt in more]
        yield EpisodeDifference(more[0].start.step, "call", *((names, []) if attempts[0][n:] else ([], names)))


def _ends(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    ends = [{"n_steps": e.n_steps, "ending": e.ending, "outcome": e.outcome} for e in (a, b)]
    for name in ends[0]:
        if ends[0][name] != ends[1][name]:
            yield EpisodeDifference(min(a.n_steps, b.n_steps), f"end/{name}", ends[0][name], ends[1][name])


def _first(field: str, start: int, a: list[Any], b: list[Any]) -> Iterator[EpisodeDifference]:
    for number, (x, y) in enumerate(zip(a, b, strict=False)):
        change = value_difference(x, y)
        if change is not None:
            yield EpisodeDifference(start + number, f"{field}/{change.path}".rstrip("/"), change.before, change.after)
            return
