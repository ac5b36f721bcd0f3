"""Find the first difference between two recorded episodes, separately for each kind of field."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from trajrec.corpus.call_contents import content_of
from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between
from trajrec.corpus.transcript import Attempt, ModelCall
from trajrec.log.schema import Failure
from trajrec.replay.agents.recorded_answers import model_request
from trajrec.types import Value
from trajrec.values.diff import Change, first_change
from trajrec.values.digest import show_digest
from trajrec.values.json import describe_field, to_field, typed_keys
from trajrec.values.paths import Path
from trajrec.values.shown import short_pair

C = TypeVar("C", Attempt, ModelCall)


@dataclass(frozen=True)
class EpisodeDifference:
    """The first difference of one kind between two episodes.

    Attributes:
        step: The step, from 0; -1 is the reset.
        field: The kind, "action", "call", "model call", "answer", "failure", "observation",
            "result", "reward", "info", "state", "state between calls" or "end", then the JSON
            Pointer of the value below: "observation/2".
        a: The value of the first episode.
        b: The value of the second episode.
        path: The path of the value with the types of its keys, its kind in front; it tells the
            keys 7 and "7" apart, which look alike in `field`.
    """

    step: int
    field: str
    a: Value
    b: Value
    path: Path = ()

    def __str__(self) -> str:
        step = "before step 0" if self.step < 0 else f"step {self.step}"
        field = describe_field(self.path) or self.field
        a, b = short_pair(self.a, self.b)
        return f"{step}, {field}: {a} | {b}"

    def as_dict(self) -> dict[str, Value]:
        """Return the difference as plain data."""
        a, b = short_pair(self.a, self.b)
        return {
            "step": self.step,
            "field": self.field,
            "path": typed_keys(self.path),
            "a": a,
            "b": b,
        }


def first_difference(a: Episode, b: Episode) -> list[EpisodeDifference]:
    """Return the first difference of each kind between two episodes.

    Args:
        a: An episode.
        b: Another one. Values before the first step that both have, as a fork and its parent share
            them, are not compared.

    Returns:
        The differences by step; empty if the episodes are the same.

    Raises:
        ValueError: One episode is an agent's and the other an environment's.
    """
    if a.is_agent_episode != b.is_agent_episode:
        agents = a if a.is_agent_episode else b
        raise ValueError(
            "a and b must both be episodes of agents or of environments, got "
            f"an agent's episode ({agents.id}) and an environment's"
        )
    found = _agent_differences(a, b) if a.is_agent_episode else _env_differences(a, b)
    return sorted([*found, *_end_differences(a, b)], key=lambda difference: difference.step)


class _SharedRows(NamedTuple):
    """The rows that two episodes have for the same steps.

    Attributes:
        steps: The steps.
        a: The row of each step in the first episode.
        b: The row of each step in the second episode.
    """

    steps: list[int]
    a: list[int]
    b: list[int]

    def first_difference(
        self, field: str, a: Sequence[Value], b: Sequence[Value]
    ) -> Iterator[EpisodeDifference]:
        """Yield the first difference of a field, given the values of each episode by row."""
        values_a = [a[row] for row in self.a]
        values_b = [b[row] for row in self.b]
        return _first(field, self.steps, values_a, values_b)


def _env_differences(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    # Actions are compared from step 0 on: those before a fork are its parent's.
    actions_a, actions_b = (
        [action for action, _ in path_between(episode, 0, episode.end_step)] for episode in (a, b)
    )
    yield from _first("action", itertools.count(), actions_a, actions_b)
    start = max(a.first_step, b.first_step)
    failures_a = _failures_from(a, start)
    failures_b = _failures_from(b, start)
    failed_steps = sorted(failures_a.keys() | failures_b.keys())
    yield from _first(
        "failure",
        failed_steps,
        [failures_a.get(step, "no exception") for step in failed_steps],
        [failures_b.get(step, "no exception") for step in failed_steps],
    )
    steps = _shared_steps(a, b, start)
    observed = _shared_observations(a, b, start, steps)
    yield from observed.first_difference("observation", a.observation_values, b.observation_values)
    yield from steps.first_difference("reward", a.reward_values, b.reward_values)
    if a.fork is None and b.fork is None:
        yield from _first("info", [-1], [a.reset_info], [b.reset_info])
    if a.has_infos or b.has_infos:
        yield from steps.first_difference("info", a.rows.infos(), b.rows.infos())
    yield from _state_difference(a, b, observed)


def _failures_from(episode: Episode, start: int) -> dict[int, str]:
    """Return the exceptions of the steps from `start` on, by step."""

    def text(failure: Failure) -> str:
        return f"{failure.error_type}: {failure.message}"

    return {
        failure.step: text(failure)
        for failure in episode.failures
        if failure.phase == "step" and failure.step >= start
    }


def _shared_steps(a: Episode, b: Episode, start: int) -> _SharedRows:
    """Return the rows of the steps from `start` on that both episodes have.

    A step that raised has no row.
    """
    steps, rows_a, rows_b = np.intersect1d(
        a.step_numbers, b.step_numbers, assume_unique=True, return_indices=True
    )
    first = int(np.searchsorted(steps, start))
    return _SharedRows(steps[first:].tolist(), rows_a[first:].tolist(), rows_b[first:].tolist())


def _shared_observations(a: Episode, b: Episode, start: int, shared: _SharedRows) -> _SharedRows:
    """Return the rows of observations and states: those before step `start`, and after each step."""
    # The observation of the reset stands before those of the steps.
    rows_a = [row + a.has_reset for row in shared.a]
    rows_b = [row + b.has_reset for row in shared.b]
    before_a, before_b = (
        int(np.searchsorted(episode.step_numbers, start)) - (not episode.has_reset)
        for episode in (a, b)
    )
    if before_a < 0 or before_b < 0:
        # A damaged log has lost the observation before step `start`.
        return _SharedRows(shared.steps, rows_a, rows_b)
    return _SharedRows([start - 1, *shared.steps], [before_a, *rows_a], [before_b, *rows_b])


def _state_difference(a: Episode, b: Episode, observed: _SharedRows) -> Iterator[EpisodeDifference]:
    """Yield the first difference of states: by value if both are stored whole, else by digest."""
    digests_a = a.state_digests
    digests_b = b.state_digests
    if a.digest_bytes != b.digest_bytes:
        # The one log has checks and the other keys; if states are stored whole, they have keys.
        digests_a = a.state_keys
        digests_b = b.state_keys
    if digests_a is None or digests_b is None:
        return
    differences = observed.first_difference("state", digests_a.tolist(), digests_b.tolist())
    for difference in differences:
        position = observed.steps.index(difference.step)
        row_a = observed.a[position]
        row_b = observed.b[position]
        change = None
        if row_a in a.states and row_b in b.states:
            change = first_change(a.states[row_a], b.states[row_b])
        if change is None:
            n_bytes = max(a.digest_bytes, b.digest_bytes)
            yield EpisodeDifference(
                step=difference.step,
                field="state",
                a=show_digest(difference.a, n_bytes),
                b=show_digest(difference.b, n_bytes),
            )
        else:
            yield _difference(difference.step, "state", change)


def _agent_differences(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    yield from _paired(
        a.transcript.model_calls,
        b.transcript.model_calls,
        {"model call": model_request, "answer": _answer},
        rest=("model call", lambda call: call.messages[-1:]),
    )
    yield from _paired(
        a.transcript.attempts,
        b.transcript.attempts,
        {"call": _call, "result": _result, "state": _state_changes},
        rest=("call", lambda attempt: attempt.tool),
    )
    yield from _program_differences(a, b)


def _program_differences(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    """Yield the first difference of the changes between the calls."""
    of_a = a.transcript.program_changes
    of_b = b.transcript.program_changes
    for change_a, change_b in itertools.zip_longest(of_a, of_b):
        told = [
            None if one is None else [one.step, one.part, *map(list, one.changes)]
            for one in (change_a, change_b)
        ]
        change = first_change(*told)
        if change is not None:
            first = change_a or change_b
            assert first is not None
            yield _difference(first.step, "state between calls", change)
            return


def _paired(
    calls_a: Sequence[C],
    calls_b: Sequence[C],
    kinds: Mapping[str, Callable[[C], Value]],
    *,
    rest: tuple[str, Callable[[C], Value]],
) -> Iterator[EpisodeDifference]:
    """Yield the first difference of each kind between calls in the same place.

    Args:
        calls_a: The calls of the first episode.
        calls_b: The calls of the second episode.
        kinds: Name of the kind -> the value of a call.
        rest: Name and value of the calls that only one of the episodes has.
    """
    for kind, value_of in kinds.items():
        for call_a, call_b in zip(calls_a, calls_b, strict=False):
            change = first_change(value_of(call_a), value_of(call_b))
            if change is not None:
                yield _difference(call_a.start.step, kind, change)
                break
    n_shared = min(len(calls_a), len(calls_b))
    more_a = calls_a[n_shared:]
    more_b = calls_b[n_shared:]
    if more_a or more_b:
        name, value_of = rest
        yield EpisodeDifference(
            step=(more_a or more_b)[0].start.step,
            field=name,
            a=list(map(value_of, more_a)),
            b=list(map(value_of, more_b)),
        )


def _answer(call: ModelCall) -> Value:
    """Return what a model said, without ids, which differ from run to run; or how it failed."""
    if call.outcome != "ok":
        return {"outcome": call.outcome, "message": "" if call.end is None else call.end.message}
    said = content_of(call).answer
    if said is None or (said.text is None and not said.calls):
        return call.answer
    calls = [[asked.name, asked.arguments] for asked in said.calls]
    return {"text": said.text, "calls": calls, "finish_reason": said.finish_reason}


def _call(attempt: Attempt) -> Value:
    return {"tool": attempt.tool, "arguments": attempt.arguments}


def _result(attempt: Attempt) -> Value:
    if attempt.has_failed:
        return None if attempt.end is None else attempt.end.message
    return attempt.result


def _state_changes(attempt: Attempt) -> Value:
    return [[part, *map(list, changes)] for part, changes in attempt.changes.items()]


def _end_differences(a: Episode, b: Episode) -> Iterator[EpisodeDifference]:
    end_a = _end(a)
    end_b = _end(b)
    if a.ending == b.ending:
        # An episode that was terminated and truncated has the ending "terminated": only the flags
        # differ from those of one that was not truncated.
        end_a |= _flags(a)
        end_b |= _flags(b)
    step = min(a.end_step, b.end_step)
    for name in [name for name in end_a if name in end_b]:
        if end_a[name] != end_b[name]:
            yield EpisodeDifference(step, f"end/{name}", end_a[name], end_b[name])


def _end(episode: Episode) -> dict[str, Value]:
    return {"end_step": episode.end_step, "ending": episode.ending, "outcome": episode.outcome}


def _flags(episode: Episode) -> dict[str, Value]:
    if episode.end is None:
        return {}
    return {"terminated": episode.end.terminated, "truncated": episode.end.truncated}


def _first(
    field: str, steps: Iterable[int], a: Sequence[Value], b: Sequence[Value]
) -> Iterator[EpisodeDifference]:
    """Yield the first difference of a field, given the values of both episodes for each step."""
    for step, value_a, value_b in zip(steps, a, b, strict=False):
        change = first_change(value_a, value_b)
        if change is not None:
            yield _difference(step, field, change)
            return


def _difference(step: int, field: str, change: Change) -> EpisodeDifference:
    path = (field, *change.path)
    return EpisodeDifference(step, to_field(path), change.before, change.after, path)
