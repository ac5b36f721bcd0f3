"""One re-execution of an agent's calls in a world, compared with the log call by call."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Sequence

from trajrec.agents.freeze import derive_seed, frozen
from trajrec.corpus.episode import Episode
from trajrec.corpus.program_changes import ProgramChange
from trajrec.corpus.transcript import Attempt, AttemptKey
from trajrec.errors import RedactedError, RestoreError, StateUnknownError
from trajrec.log.schema import Failure
from trajrec.protocols import Verifier, World
from trajrec.recording.error_text import message_of
from trajrec.redaction.comparison import is_same_redacted, redacted_like
from trajrec.replay.agents.answered import Answered
from trajrec.replay.agents.execution_result import ExecutionResult
from trajrec.replay.agents.program_changes import NotMadeError, ProgramChanges
from trajrec.replay.agents.recorded_answers import as_stored
from trajrec.replay.agents.world_changes import (
    UNORDERED,
    differences,
    has_changes,
    in_part,
    is_outside_world,
    is_reordered,
)
from trajrec.replay.execute.report import Divergence, divergence_of
from trajrec.replay.execute.secrets import redacted_error
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.tracking.parts import Part, find_parts, has_same_values
from trajrec.values import codec
from trajrec.values.diff import Change, diff, is_same
from trajrec.values.json import to_field
from trajrec.values.recorded import resolve
from trajrec.verifiers import identify, run_check


class WorldExecution:
    """One re-execution of an episode.

    Args:
        episode: The recorded episode.
        world: The world, which the execution resets.
        checks: Verifiers to run at the end.
        tolerance: The differences to ignore.
        prepare_fork: Brings the world to the step at which a fork begins.
        resync: Whether to restore the recorded state after each call that differs.
    """

    def __init__(
        self,
        episode: Episode,
        world: World,
        *,
        checks: Sequence[Verifier] = (),
        tolerance: Tolerance,
        prepare_fork: Callable[[], None],
        resync: bool = False,
    ) -> None:
        self._episode = episode
        self._transcript = episode.transcript
        self._between = ProgramChanges(episode)
        self._world = world
        self._checks = checks
        self._tolerance = tolerance
        self._prepare_fork = prepare_fork
        self._resync = resync
        self._differing: list[Divergence] = []
        # Parts whose digests prove nothing: an ignored difference changed them from there on, or
        # an older tracker made those in the log.
        self._loose: set[str] = set()
        self._parts: list[Part] = []
        self._digests: dict[str, str] = {}
        # A dict keeps the notes in order and each of them once.
        self._notes: dict[str, None] = {}
        self._ignored: set[str] = set()
        self._n_steps = 0
        self._has_same_changes = True
        task = self._transcript.task_start
        self._recorded_tools = (
            set() if task is None else {row[0] for row in self._transcript.value(task.tools_data)}
        )
        self._held_seed = None if task is None else task.held_seed

    def run(self) -> ExecutionResult:
        """Execute the episode from its reset to its checks."""
        is_proved = True
        try:
            divergence = self._run()
        except NotMadeError as exc:
            # A difference from here on would say nothing about the world.
            divergence = None
            is_proved = False
            self._note(exc.what)
        if self._differing:
            divergence = self._differing[0]
        steps = tuple(dict.fromkeys(difference.step for difference in self._differing))
        return ExecutionResult(
            divergence=divergence,
            n_steps=self._n_steps,
            notes=tuple(self._notes),
            ignored=frozenset(self._ignored),
            differing_steps=steps,
            is_proved=is_proved,
            has_same_changes=self._has_same_changes,
        )

    def bring(self, answered: Answered) -> Divergence | None:
        """Reset the world and bring it to where some requests led; return the first divergence."""
        places = answered.attempts
        divergence = self._reset()
        for attempt in self._transcript.recorded_attempts:
            if divergence is not None:
                break
            if attempt.key in places:
                divergence = self.make(attempt)
        next_call = self._transcript.first_call_without(places)
        if divergence is None:
            self._make_program_changes(next_call, answered.has_led_to)
        return divergence

    def make(self, attempt: Attempt) -> Divergence | None:
        """Make a recorded call again, and the program's changes before it; return any divergence."""
        self._make_program_changes(attempt.key)
        start = attempt.start
        end = attempt.end
        if end is None or end.outcome == "cancelled":
            self._note("a call that was open when the log ended, or cancelled, was not executed")
            return None
        world_tools = {tool.name for tool in self._world.tools()}
        if is_outside_world(start.tool, start.access, world_tools):
            return self._answer_from_log(attempt)
        if start.is_redacted:
            raise redacted_error(self._episode, f"a call of step {start.step} cannot be made")
        divergence = self._execute(attempt)
        return self._compare_state(attempt) if divergence is None else divergence

    def _make_program_changes(
        self,
        next_call: AttemptKey | None,
        is_made: Callable[[ProgramChange], bool] = lambda change: True,
    ) -> None:
        """Make the changes that the agent's own program made before a call, or at the end."""
        made = self._between.make(self._parts, next_call, is_made=is_made)
        self._digests |= made.digests
        self._notes |= dict.fromkeys(made.notes)

    def _note(self, text: str) -> None:
        self._notes[text] = None

    def _run(self) -> Divergence | None:
        if self._episode.start is None:
            self._note("the log has lost this episode's reset")
            return None
        divergence = self._reset()
        if divergence is not None or self._reset_failure() is not None:
            return divergence
        for attempt in self._transcript.recorded_attempts:
            step = attempt.start.step
            try:
                divergence = self.make(attempt)
            except RedactedError:
                # The report has a note about it.
                return None
            self._n_steps = max(self._n_steps, step + 1)
            if divergence is None:
                continue
            if not self._resync:
                return divergence
            self._differing.append(divergence)
            try:
                self._restore(attempt)
            except RestoreError as exc:
                self._note(f"after step {step} the recorded state could not be restored: {exc}")
                return divergence
        return self._finish()

    def _finish(self) -> Divergence | None:
        """Make what follows the last call: changes of the program, and checks."""
        self._make_program_changes(None)
        return self._run_checks()

    def _reset_failure(self) -> Failure | None:
        return next((one for one in self._episode.failures if one.phase == "reset"), None)

    def _reset(self) -> Divergence | None:
        """Reset the world as recorded, or bring it to a fork's step, and compare the state."""
        start = self._episode.start
        assert start is not None
        if self._episode.fork is not None:
            self._prepare_fork()
            return self._compare_first_state()
        failure = self._reset_failure()
        expected = "no exception"
        if failure is not None:
            expected = f"{failure.error_type}: {failure.message}"
        options = self._transcript.value(start.options_data)
        try:
            with self._frozen(start.time_ns, -1, 0, 0):
                self._world.reset(seed=start.seed, options=options)
        except Exception as exc:
            name = codec.type_name(exc)
            if failure is not None and failure.error_type == name:
                return None
            actual = f"{name}: {message_of(exc)}"
            return Divergence(step=-1, field="error", expected=expected, actual=actual)
        if failure is not None:
            actual = "no exception"
            return Divergence(step=-1, field="error", expected=expected, actual=actual)
        return self._compare_first_state()

    def _compare_first_state(self) -> Divergence | None:
        """Compare the state after the reset, part by part."""
        self._parts = self._comparable_parts()
        for part in self._parts:
            value, digest = part.tracker.begin()
            if not is_same(self._transcript.initial_state.get(part.name), value):
                self._has_same_changes = False
            if self._transcript.initial_digests.get(part.name) != digest:
                self._loose.add(part.name)
                for change in diff(self._transcript.initial_state[part.name], value):
                    divergence = self._judge(-1, in_part(part.name, change))
                    if divergence is not None:
                        return divergence
            self._digests[part.name] = digest
        return None

    def _comparable_parts(self) -> list[Part]:
        """Return the parts of the world's state; none if they were captured in another way."""
        task = self._transcript.task_start
        recorded = [] if task is None else task.parts
        parts = find_parts(self._world, None)
        has_same_parts = [part.name for part in parts] == [name for name, _, _ in recorded]
        for part, (_, name, version) in zip(parts, recorded, strict=False):
            if has_same_values(part.tracker, name, version):
                # The changes are compared in any case.
                self._loose.add(part.name)
            elif (part.tracker.name, part.tracker.version) != (name, version):
                has_same_parts = False
        if not has_same_parts:
            self._note("state not compared: it was captured in another way")
            return []
        if not parts:
            self._note("state not compared: the world gives none")
        return parts

    def _restore(self, attempt: Attempt) -> None:
        """Restore the recorded state after an attempt.

        Raises:
            RestoreError: A part cannot be restored.
        """
        if not self._parts:
            raise RestoreError("no state was recorded, or it was captured in another way")
        try:
            state = self._transcript.state_after(attempt)
        except StateUnknownError as exc:
            raise RestoreError(exc.what) from exc
        for part in self._parts:
            part.tracker.restore(state[part.name])
            _, digest = part.tracker.begin()
            expected = attempt.digests.get(part.name, self._digests.get(part.name))
            if digest != expected:
                raise RestoreError(
                    f"{part.name or 'the state'} has digest {digest} after it was restored, "
                    f"recorded is {expected}"
                )
            self._digests[part.name] = digest

    def _answer_from_log(self, attempt: Attempt) -> Divergence | None:
        """Leave out a call that the world cannot make; return a divergence if it lost the tool."""
        start = attempt.start
        is_external = start.access == "external"
        if start.invalid and not is_external:
            # The recorded call named no tool either.
            return None
        if start.tool in self._recorded_tools and not is_external:
            return Divergence(
                step=start.step,
                field="error",
                expected=f"a call of {start.tool}",
                actual="no such tool",
            )
        kind = "external tools" if is_external else "functions outside the world"
        self._note(f"calls of {kind} were answered from the log")
        return None

    def _execute(self, attempt: Attempt) -> Divergence | None:
        """Call the tool; compare its result or its exception."""
        start = attempt.start
        end = attempt.end
        assert end is not None
        expected = f"{end.error_type}: {end.message}" if end.is_raised else "no exception"
        try:
            with self._frozen(start.time_ns, *attempt.key):
                # A copy, because a world may keep or change its arguments.
                result = self._world.call(start.tool, copy.deepcopy(attempt.arguments))
            if inspect.isawaitable(result):
                with self._frozen(start.time_ns, *attempt.key):
                    result = resolve(result)
        except Exception as exc:
            actual = f"{codec.type_name(exc)}: {message_of(exc)}"
            if end.is_raised and actual == expected:
                return None
            return self._judge(start.step, Change(("error",), expected, actual))
        if end.is_raised:
            actual = f"returned {as_stored(result)!r}"
            return self._judge(start.step, Change(("error",), expected, actual))
        live = as_stored(result)
        if end.is_redacted:
            live = redacted_like(attempt.result, live, self._tolerance.redactor)
        for change in diff(attempt.result, live):
            below = change._replace(path=("result", *change.path))
            divergence = self._judge(start.step, below)
            if divergence is not None:
                if is_reordered(attempt.result, live, change.path):
                    return dataclasses.replace(divergence, cause=UNORDERED)
                return divergence
        return None

    def _frozen(self, time_ns: int, *position: int) -> contextlib.AbstractContextManager[None]:
        """Freeze the clock and entropy if they were frozen during the recording."""
        if self._held_seed is None:
            return contextlib.nullcontext()
        return frozen(time_ns, derive_seed(self._held_seed, *position))

    def _compare_state(self, attempt: Attempt) -> Divergence | None:
        """Compare the changes that a call made, part by part."""
        for part in self._parts:
            if part.name in attempt.unproved:
                continue
            live_changes, digest = part.tracker.update()
            expected = attempt.digests.get(part.name, self._digests.get(part.name))
            if not has_changes(attempt, part.name, live_changes):
                self._has_same_changes = False
            if expected == digest:
                self._digests[part.name] = digest
                continue
            n_ignored = len(self._ignored)
            changed = list(differences(attempt.changes.get(part.name, []), live_changes))
            for change in changed:
                divergence = self._judge(attempt.start.step, in_part(part.name, change))
                if divergence is not None:
                    return divergence
            if len(self._ignored) != n_ignored:
                self._loose.add(part.name)
            # Equal changes with another digest: the states before them were different.
            is_strict = part.name not in self._loose
            if is_strict and not changed:
                digests = Change((), f"digest {expected}", f"digest {digest}")
                return divergence_of(attempt.start.step, in_part(part.name, digests))
            self._digests[part.name] = expected or digest
        return None

    def _run_checks(self) -> Divergence | None:
        """Run the given verifiers and compare their verdicts with the recorded ones."""
        recorded = {check.check_id: check for check in self._episode.checks if check.status == "ok"}
        given = {identify(check).id: check for check in self._checks}
        missing = sorted(recorded.keys() - given.keys())
        if missing:
            self._note(f"checks not run, because they were not given: {', '.join(missing)}")
        for name in sorted(recorded.keys() & given.keys()):
            # The caller's own verifier: its error is the caller's to see.
            result = run_check(given[name], self._world).raise_if_error()
            before = (recorded[name].verdict, recorded[name].score)
            after = (result.passed, result.score)
            if before == after:
                continue
            divergence = self._judge(self._n_steps, Change(("check", name), before, after))
            if divergence is not None:
                return divergence
        return None

    def _judge(self, step: int, change: Change) -> Divergence | None:
        """Return a difference as a divergence; None if it is ignored, or of secrets alone."""
        label = self._tolerance.label(change)
        if label is None and is_same_redacted(change, self._tolerance.redactor):
            label = f"secrets in {to_field(change.path)}"
        if label is not None:
            self._ignored.add(label)
            return None
        return divergence_of(step, change)
