"""Replay with resynchronization: restore the recorded state after each step that differs.

It tells a step that differs by itself from the steps that differ because an earlier one did. A
changed rule differs only in the steps in which it applies; a chaotic simulator that rounds
differently differs in every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import to_env_action
from trajrec.corpus.step import Step
from trajrec.log.source_facts import CUT_OFF, unknown_of
from trajrec.redaction.comparison import has_marks
from trajrec.replay.execute.compare import (
    CUT_OFF_LABEL,
    DIGESTS_ONLY,
    describe,
    first_counting_change,
)
from trajrec.replay.execute.execution import Execution, LiveEnd
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.execute.memory_order import copy_in_order_of
from trajrec.replay.execute.report import Divergence, divergence_of
from trajrec.replay.execute.run import begin, first_gap, is_recorded
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.replay.execute.verify import as_recorded
from trajrec.types import Observation, Value
from trajrec.values import codec
from trajrec.values.copies import copy_for_env, copy_for_record
from trajrec.values.diff import Change, first_change
from trajrec.values.digest import show_digest, state_key

FieldAndChange: TypeAlias = tuple[str, Change]


class ResyncResult(NamedTuple):
    """The result of an execution with resynchronization.

    Attributes:
        divergence: The first difference.
        differing_steps: The steps that differ by themselves; -1 is the reset.
        why_stopped: The reason if the execution stopped before the episode's end, else "".
    """

    divergence: Divergence | None
    differing_steps: tuple[int, ...]
    why_stopped: str


def execute_with_resync(
    episode: Episode, handle: EnvHandle, tolerance: Tolerance, first: int = 0
) -> tuple[Episode, Execution, ResyncResult | None]:
    """Execute an episode as `execute` does, and compare each step when it is taken.

    Args:
        episode: The episode.
        handle: The environment.
        tolerance: The differences to ignore.
        first: The first step that is compared.

    Returns:
        The part of the episode that was executed, the execution with its rewards and end, and the
        result; None instead of a result if no step was executed.
    """
    execution = Execution()
    beginning = begin(episode, handle, execution, first)
    if beginning is None:
        return episode, execution, None
    part, obs = beginning
    run = _ResyncRun(part, handle, tolerance, execution)
    # The beginning of a tail was compared when its first step was reached.
    changes = [] if part is not episode else run.compare_start(obs)
    return part, execution, run.run(changes)


class _ResyncRun:
    """One execution with resynchronization."""

    def __init__(
        self, episode: Episode, handle: EnvHandle, tolerance: Tolerance, execution: Execution
    ) -> None:
        unknown = unknown_of(episode.header.env.extra_data)
        self._episode = episode
        self._handle = handle
        self._tolerance = tolerance.for_source(unknown)
        self._is_cut_off_known = CUT_OFF not in unknown
        self._execution = execution
        self._divergence: Divergence | None = None
        self._differing: list[int] = []

    def run(self, start_changes: list[FieldAndChange]) -> ResyncResult:
        """Take all steps; resynchronize after each that differs."""
        episode = self._episode
        why_stopped = ""
        rows = {step: row for row, step in enumerate(episode.step_numbers.tolist(), 1)}
        gap = first_gap(episode)
        if self._note(episode.first_step - 1, start_changes):
            why_stopped = self._restore(0, episode.first_step - 1)
        for step in episode.steps():
            if why_stopped or (gap is not None and step.step >= gap):
                break
            row = rows.get(step.step)
            if self._note(step.step, self._take_step(step, row)):
                why_stopped = self._restore(row, step.step)
        return ResyncResult(self._divergence, tuple(self._differing), why_stopped)

    def compare_start(self, obs: Observation) -> list[FieldAndChange]:
        """Compare the observation, info and state of the reset."""
        episode = self._episode
        execution = self._execution
        changes: list[FieldAndChange] = []
        if episode.has_reset:
            changes += self._compare("observation", episode.observation_at(0), obs)
        if execution.reset_info:
            live = codec.decode(execution.reset_info)
            changes += self._compare("info", episode.reset_info, live)
        return [*changes, *self._compare_state(0)]

    def _note(self, step: int, changes: Iterable[FieldAndChange]) -> bool:
        """Note the first change of a step; return whether there is one."""
        first = next(iter(changes), None)
        if first is None:
            return False
        field, change = first
        self._differing.append(step)
        if self._divergence is None:
            self._divergence = divergence_of(step, change._replace(path=(field, *change.path)))
        return True

    def _take_step(self, step: Step, row: int | None) -> Iterator[FieldAndChange]:
        """Take a step and yield its changes; the step is taken when the first is asked for."""
        execution = self._execution
        try:
            obs, reward, terminated, truncated, info = self._handle.env.step(
                copy_for_env(to_env_action(step.action))
            )
        except (Exception, SystemExit) as exc:
            if not is_recorded(step.failure, exc, execution):
                yield "failure", Change((), describe(step.failure), describe(exc))
            return
        execution.rewards.append(copy_for_record(reward))
        execution.end = None
        if terminated or truncated:
            last_row = len(execution.rewards) - 1
            execution.end = LiveEnd(last_row, bool(terminated), bool(truncated))
        if step.failure is not None:
            # After a failure of the scaffold, the recorder, there are no values to compare with.
            if step.failure.origin != "scaffold":
                yield "failure", Change((), describe(step.failure), describe(None))
            return
        yield from self._compare("observation", step.observation, obs)
        yield from self._compare("reward", step.reward, reward)
        end = self._episode.end
        is_last = end is not None and step.step == end.n_steps - 1
        for name, live in (("terminated", terminated), ("truncated", truncated)):
            recorded = bool(getattr(end, name)) if is_last else False
            if recorded == bool(live):
                continue
            if recorded and name == "truncated" and not self._is_cut_off_known:
                execution.ignored.add(CUT_OFF_LABEL)
            else:
                yield name, Change((), recorded, bool(live))
        # Of an empty one, or None, no log tells the kind.
        live_info = codec.decode(codec.encode_info(info)) if info else {}
        yield from self._compare("info", step.info, live_info)
        if row is not None:
            yield from self._compare_state(row)

    def _compare_state(self, row: int) -> Iterator[FieldAndChange]:
        adapter = self._handle.adapter
        digests = self._episode.state_digests
        if adapter is None or digests is None or row >= len(digests):
            return
        live = adapter.capture()
        recorded = self._episode.states.get(row)
        if row in self._episode.states:
            change = first_change(recorded, as_recorded(live))
            if change is None:
                return
            if self._tolerance.ignores_digests or has_marks(recorded):
                yield from self._compare("state", recorded, live)
            else:
                # Without `_compare`: ignored paths are of values that an agent sees.
                yield "state", change
            return
        digest = self._episode.digest_state(live)
        if digest == digests[row]:
            return
        if self._tolerance.ignores_digests:
            self._execution.ignored.add(DIGESTS_ONLY)
        else:
            n_bytes = self._episode.digest_bytes
            expected = show_digest(int(digests[row]), n_bytes)
            yield "state", Change((), expected, show_digest(digest, n_bytes))

    def _compare(self, field: str, recorded: Value, live: Value) -> Iterator[FieldAndChange]:
        change = first_counting_change(
            field, recorded, as_recorded(live), self._execution, self._tolerance
        )
        if change is not None:
            yield field, change

    def _restore(self, row: int | None, step: int) -> str:
        """Restore the recorded state of a row; return the reason if that is impossible, else ""."""
        adapter = self._handle.adapter
        stopped = f"stopped after {'the reset' if step < 0 else f'step {step}'}"
        if adapter is None:
            return (
                f"{stopped}: no recorded state can be restored; give the environment get_state and "
                "set_state"
            )
        if adapter.restore is None:
            return f"{stopped}: states of this environment ({adapter.name}) cannot be restored"
        if row is None or row not in self._episode.states:
            return (
                f"{stopped}: the state there is not stored whole (keep_states='all' stores "
                "every state)"
            )
        state = self._episode.states[row]
        if has_marks(state):
            return f"{stopped}: the state there had a secret, which the log does not have"
        key = state_key(state)
        live = adapter.capture()
        if state_key(live) == key:
            # Another field differed. Values that derive from the state stay as the step left them.
            return ""
        # A copy: the environment may go on with the very object, and change it.
        adapter.restore(copy_in_order_of(state, live))
        if state_key(adapter.capture()) != key:
            return f"{stopped}: the environment is not in the recorded state after restoring it"
        return ""
