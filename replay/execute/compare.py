"""Compare a re-execution with its recording, a whole episode at once.

Bytes are compared with bytes first. Only if these differ, the first difference is searched by type
and bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.log.schema import Failure
from trajrec.log.source_facts import CUT_OFF, unknown_of
from trajrec.redaction.comparison import (
    differences,
    has_marks,
    is_same_mark,
    redacted_like,
)
from trajrec.replay.execute.column_compare import (
    has_same_infos,
    has_same_observations,
    has_same_rewards,
    has_same_states,
    row_spans,
)
from trajrec.replay.execute.execution import Execution
from trajrec.replay.execute.kept_values import encoded, restored
from trajrec.replay.execute.report import Divergence, divergence_of
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.types import Array, Value
from trajrec.values import codec
from trajrec.values.arrays import array_bytes
from trajrec.values.diff import Change, diff, first_change
from trajrec.values.digest import show_digest

# Within a step, visible fields come before the state, which explains them.
FIELD_ORDER = ("observation", "reward", "terminated", "truncated", "info", "state", "failure")

# The label of secrets of another process, whose marks have other digests.
SECRETS = "secrets, which were compared by their kind"

# The label of states that differ although a tolerance applies: a digest does not tell by how much.
DIGESTS_ONLY = "states of which only digests are stored"


CUT_OFF_LABEL = "the truncation, which the imported files also have of an episode that was cut off"
"""The label of a truncation that was not reproduced."""


class FieldChange(NamedTuple):
    """The first difference of a field.

    Attributes:
        row: The row, from 0 for the reset.
        field: The field.
        change: The two values, and the path below the field.
    """

    row: int
    field: str
    change: Change


def compare(episode: Episode, execution: Execution, tolerance: Tolerance) -> Divergence | None:
    """Return the first difference, by step and within a step by `FIELD_ORDER`.

    Args:
        episode: The episode.
        execution: The values that the re-execution returned; its `ignored` receives the labels of
            differences that the tolerance ignores.
        tolerance: The differences to ignore.
    """
    if execution.early_divergence is not None:
        return execution.early_divergence
    unknown = unknown_of(episode.header.env.extra_data)
    tolerance = tolerance.for_source(unknown)
    changes = [
        compare_observations(episode, execution, tolerance),
        _compare_rewards(episode, execution, tolerance),
        _compare_flags(episode, execution, is_cut_off_known=CUT_OFF not in unknown),
        _compare_infos(episode, execution, tolerance),
        _compare_states(episode, execution, tolerance),
    ]
    divergences = [_divergence(episode, found) for found in changes if found is not None]
    failure = execution.failure
    if failure is not None:
        divergences.append(
            Divergence(
                step=failure.step,
                field="failure",
                expected=describe(failure.recorded),
                actual=describe(failure.raised),
            )
        )
    return min(divergences, key=_position, default=None)


def _divergence(episode: Episode, found: FieldChange) -> Divergence:
    row, field, change = found
    step = int(episode.step_numbers[row - 1]) if row > 0 else episode.first_step - 1
    return divergence_of(step, change._replace(path=(field, *change.path)))


def _position(divergence: Divergence) -> tuple[int, int]:
    return divergence.step, FIELD_ORDER.index(divergence.field.partition("/")[0])


def first_counting_change(
    field: str, recorded: Value, live: Value, execution: Execution, tolerance: Tolerance
) -> Change | None:
    """Return the first difference of two values that counts; note those that are ignored."""
    change = first_change(recorded, live)
    if change is None:
        return None
    if has_marks(recorded):
        live = redacted_like(recorded, live, tolerance.redactor)
        if any(map(is_same_mark, diff(recorded, live))):
            execution.ignored.add(SECRETS)
        changes = differences(recorded, live)
    elif tolerance.is_exact:
        return change
    else:
        changes = diff(recorded, live)
    for change in changes:
        label = tolerance.label(change._replace(path=(field, *change.path)))
        if label is None:
            return change
        execution.ignored.add(label)
    return None


def _first_row(episode: Episode) -> int:
    """Return the first row that has a recorded observation: 1 in a log that has lost the reset."""
    return 0 if episode.has_reset else 1


def compare_observations(
    episode: Episode, execution: Execution, tolerance: Tolerance
) -> FieldChange | None:
    """Return the first observation that differs."""
    first_row = _first_row(episode)
    live = execution.observations[first_row:]
    if all(item is None for item in live):
        return None
    # None stands for the first row of a tail, which was compared when it was reached.
    if live[0] is not None and has_same_observations(
        row_spans([episode]), live, execution.template
    ):
        return None
    rows = zip(episode.observation_values, live, strict=False)
    for row, (expected, item) in enumerate(rows, first_row):
        if item is None:
            continue
        change = first_counting_change(
            "observation", expected, execution.observation(row), execution, tolerance
        )
        if change is not None:
            return FieldChange(row, "observation", change)
    return None


def _compare_rewards(
    episode: Episode, execution: Execution, tolerance: Tolerance
) -> FieldChange | None:
    n_rows = len(execution.rewards)
    if has_same_rewards(row_spans([episode]), execution.rewards):
        return None
    rows = zip(episode.reward_values[:n_rows], execution.rewards, strict=True)
    for row, (expected, reward) in enumerate(rows, 1):
        live = codec.decode(codec.encode(reward, opaque=True))
        change = first_counting_change("reward", expected, live, execution, tolerance)
        if change is not None:
            return FieldChange(row, "reward", change)
    return None


def compare_flags(episode: Episode, execution: Execution) -> FieldChange | None:
    """Return a difference in the row at which the episode ended, or in its flags."""
    last_row = len(episode.actions) - 1
    if last_row < 0:
        return None
    end = episode.end
    recorded: tuple[int, bool, bool] | None = None
    # The flags are those of the last step, which a damaged log may have lost.
    has_last_step = end is not None and episode.step_numbers[last_row] == end.n_steps - 1
    if end is not None and has_last_step and end.ending in ("terminated", "truncated"):
        recorded = (last_row, end.terminated, end.truncated)
    live = execution.end
    if live == recorded:
        return None
    # Without all steps, there may have been no end to see.
    is_partial = execution.failure is not None or len(execution.rewards) <= last_row
    if live is None and is_partial:
        return None
    row, terminated, truncated = live or (last_row, False, False)
    was_terminated = False
    was_truncated = False
    if recorded is not None and recorded[0] == row:
        _, was_terminated, was_truncated = recorded
    if terminated != was_terminated:
        return FieldChange(row + 1, "terminated", Change((), was_terminated, terminated))
    return FieldChange(row + 1, "truncated", Change((), was_truncated, truncated))


def _compare_flags(
    episode: Episode, execution: Execution, *, is_cut_off_known: bool
) -> FieldChange | None:
    """Return a difference in the flags that counts."""
    change = compare_flags(episode, execution)
    if change is None or is_cut_off_known:
        return change
    if execution.end is None and change.field == "truncated":
        execution.ignored.add(CUT_OFF_LABEL)
        return None
    return change


def has_same_reset_info(episode: Episode, execution: Execution) -> bool:
    """Return whether the info of the reset has the recorded bytes, or was not compared."""
    start = episode.start
    assert start is not None
    return not execution.reset_info or execution.reset_info == start.info_data


def _compare_infos(
    episode: Episode, execution: Execution, tolerance: Tolerance
) -> FieldChange | None:
    start = episode.start
    assert start is not None
    if not has_same_reset_info(episode, execution):
        change = first_counting_change(
            "info",
            codec.decode(start.info_data),
            codec.decode(execution.reset_info),
            execution,
            tolerance,
        )
        if change is not None:
            return FieldChange(0, "info", change)
    if not execution.infos and not episode.has_infos:
        return None
    n_rows = len(execution.rewards)
    is_regular = not episode.rows.irregular
    if is_regular and has_same_infos(row_spans([episode]), execution.infos, n_rows):
        return None
    for row, recorded in enumerate(episode.rows.infos()[:n_rows]):
        item = execution.infos.get(row, {})
        live = restored(item)
        change = first_counting_change("info", recorded, live, execution, tolerance)
        if change is not None:
            return FieldChange(row + 1, "info", change)
    return None


def _compare_states(
    episode: Episode, execution: Execution, tolerance: Tolerance
) -> FieldChange | None:
    if not execution.has_states:
        return None
    is_same = episode.has_reset and has_same_states(
        row_spans([episode]), execution.whole_states, execution.n_states
    )
    if is_same and not execution.keeps_digests:
        return None
    digests = episode.state_digests
    if digests is None:
        return None
    first_row = _first_row(episode)
    live = execution.state_digests()[first_row:]
    expected = digests[: len(live)]
    differs = expected != live[: len(expected)]
    if is_same and not differs.any():
        return None
    if episode.redacted_step is not None:
        _compare_redacted_states(episode, execution, tolerance, differs)
    if tolerance.ignores_digests:
        return _compare_tolerated_states(
            episode, execution, tolerance, has_other_digests=bool(differs.any())
        )
    first_differing = int(differs.argmax()) + first_row if differs.any() else None
    for row in sorted(execution.whole_states):
        if first_differing is not None and row > first_differing:
            break
        recorded = episode.states[row - first_row]
        state = execution.whole_states[row]
        if _is_same_state(recorded, state):
            continue
        change = first_change(recorded, restored(state))
        if change is not None and has_marks(recorded):
            change = first_counting_change("state", recorded, restored(state), execution, tolerance)
        if change is not None:
            return FieldChange(row, "state", change)
    if first_differing is None:
        return None
    position = first_differing - first_row
    return FieldChange(
        first_differing,
        "state",
        Change(
            (),
            show_digest(int(expected[position]), episode.digest_bytes),
            show_digest(int(live[position]), episode.digest_bytes),
        ),
    )


def _compare_redacted_states(
    episode: Episode, execution: Execution, tolerance: Tolerance, differs: Array
) -> None:
    """Clear the flags of states that differ by secrets alone: a secret changes the digest."""
    first_row = _first_row(episode)
    for position in np.flatnonzero(differs):
        row = int(position) + first_row
        recorded = episode.states.get(int(position))
        live = execution.whole_states.get(row)
        if recorded is None or live is None or not has_marks(recorded):
            continue
        change = first_counting_change("state", recorded, restored(live), execution, tolerance)
        differs[position] = change is not None


def _compare_tolerated_states(
    episode: Episode, execution: Execution, tolerance: Tolerance, *, has_other_digests: bool
) -> FieldChange | None:
    """Compare only the states that are stored whole: two digests have no distance."""
    first_row = _first_row(episode)
    for row in sorted(execution.whole_states):
        live = restored(execution.whole_states[row])
        change = first_counting_change(
            "state", episode.states[row - first_row], live, execution, tolerance
        )
        if change is not None:
            return FieldChange(row, "state", change)
    if has_other_digests:
        execution.ignored.add(DIGESTS_ONLY)
    return None


def _is_same_state(recorded: Value, live: Value) -> bool:
    """Return whether a state is the recorded one; `live` is as `keep` returned it."""
    if type(recorded) is not np.ndarray or type(live) is not np.ndarray:
        return codec.encode(recorded) == encoded(live)
    is_alike = (recorded.dtype, recorded.shape) == (live.dtype, live.shape)
    return is_alike and array_bytes(recorded) == array_bytes(live)


def describe(failure: Failure | BaseException | None) -> str:
    """Return an exception, or the record of one, as one line."""
    if failure is None:
        return "no exception"
    if isinstance(failure, Failure):
        return f"{failure.error_type}: {failure.message}"
    return f"{codec.type_name(failure)}: {failure}"
