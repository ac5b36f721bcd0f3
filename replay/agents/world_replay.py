"""Replays an agent's episode in its world: the recorded calls on a fresh one, each result and each change compared.

Invalid calls and errors replay as what they were. A tool that reaches beyond the world is answered from the log.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from trajrec.agents.freeze import derive_seed, frozen
from trajrec.corpus.episode import Episode
from trajrec.corpus.transcript import Attempt
from trajrec.errors import DivergenceError, ReplayError, RestoreError
from trajrec.log.schema import Fork
from trajrec.protocols import Verifier, World
from trajrec.replay.diagnose.cause import TrialResult, find_cause
from trajrec.replay.execute.report import Divergence, ReplayReport, ulp_distance
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.tracking.parts import Part, find_parts
from trajrec.values import codec
from trajrec.values.codec import Plain
from trajrec.values.diff import MISSING, Change, diff
from trajrec.values.recorded import resolve
from trajrec.verifiers import as_verdict, identify

UNORDERED = (
    "unordered set: the same items in another order, as sets of texts come in each process; PYTHONHASHSEED=0 when recording "
    "and replaying gives one order"
)

COMPARED = ("result", "error", "state", "check")


class Found(NamedTuple):
    """What one execution of an episode found."""

    divergence: Divergence | None
    n_steps: int
    notes: tuple[str, ...]
    ignored: frozenset[str]
    differing_steps: tuple[int, ...]


def replay_in_world(
    episode: Episode,
    make: Callable[[], World],
    *,
    checks: Sequence[Verifier] = (),
    tolerance: Tolerance,
    resync: bool = False,
    explain: bool = True,
) -> ReplayReport:
    """Re-execute an agent's calls in a world and compare each of them with the log.

    Args:
        episode: An episode of an agent, recorded with a world.
        make: Returns the world of an execution, which resets that world. A diverged episode is
            executed several times if `explain` is true.
        checks: Verifiers to run at the end. Each verdict is compared with the recorded one of the
            same id.
        tolerance: The differences to ignore.
        resync: After each call that differs, restore the recorded state and go on.
        explain: Execute a diverged episode again to find the likely cause.

    Returns:
        A report. Its divergence names a step and a field: "result/...", "error", "state/..." or
        "check/...".
    """

    def execute() -> Found:
        return _Execution(episode, make(), checks, tolerance, resync).run()

    found = execute()
    divergence = found.divergence
    if divergence is not None and explain and not divergence.cause:
        cause = find_cause(episode, divergence, lambda: TrialResult(execute().divergence))
        divergence = dataclasses.replace(divergence, cause=cause)
    notes = list(found.notes)
    if found.ignored:
        notes.append(tolerance.note(found.ignored))
    grade: Any = "diverged" if divergence is not None else "state" if found.ignored else "exact"
    return ReplayReport(
        episode_id=episode.id,
        grade=grade,
        n_steps=found.n_steps,
        divergence=divergence,
        compared=COMPARED,
        notes=tuple(notes),
        differing_steps=found.differing_steps,
    )


def bring_world(episode: Episode, world: World, places: Collection[tuple[int, int, int]]) -> None:
    """Reset a world as an episode did and make some of its calls again: (step, call, attempt) of each.

    Raises:
        DivergenceError: What comes of them is not what was recorded.
        ReplayError: The log has lost the episode's reset.
    """
    _raise_on(_execution(episode, world).bring(places), episode)


def walk_world(episode: Episode, world: World) -> Iterator[int]:
    """Reset a world as an episode did and make its calls again, all of them verified.

    Yields:
        Each step before its calls are made, and the number of steps at the end.

    Raises:
        DivergenceError: What comes of a call is not what was recorded.
        ReplayError: The log has lost the episode's reset.
    """
    execution = _execution(episode, world)
    _raise_on(execution.bring(()), episode)
    attempts = episode.transcript.attempts
    for step in range(episode.first_step, episode.end_step):
        yield step
        for attempt in attempts:
            if attempt.start.step == step:
                _raise_on(execution.make(attempt), episode)
    yield episode.end_step


def reaches_beyond(tool: str, access: str, world_tools: Collection[str]) -> bool:
    """Say whether a call is none that a world can make again: its tool is external, or none of the world's."""
    return access == "external" or tool not in world_tools


def _execution(episode: Episode, world: World) -> _Execution:
    if episode.start is None:
        raise ReplayError("the log has lost this episode's reset", episode_id=episode.id)
    return _Execution(episode, world, (), Tolerance())


def _raise_on(d: Divergence | None, episode: Episode) -> None:
    if d is not None:
        message = f"the world is not in the recorded state: {d}"
        raise DivergenceError(
            message,
            episode_id=episode.id,
            step=d.step,
            field=d.field,
            expected=d.expected,
            actual=d.actual,
        )


class _Execution:
    """One re-execution of an episode."""

    def __init__(
        self,
        episode: Episode,
        world: World,
        checks: Sequence[Verifier],
        tolerance: Tolerance,
        is_forced: bool = False,
    ) -> None:
        self._episode = episode
        self._world = world
        self._checks = checks
        self._tolerance = tolerance
        self._is_forced = is_forced
        self._differing: list[Divergence] = []
        self._loose: set[str] = (
            set()
        )  # parts that differ in what does not count: their digests say nothing
        self._parts: list[Part] = []
        self._digests: dict[str, str] = {}
        self._notes: dict[str, None] = {}
        self._ignored: set[str] = set()
        self._n_steps, self._has_redacted = 0, False
        task = episode.transcript.task_start
        self._recorded_tools = (
            set() if task is None else {row[0] for row in episode.transcript.value(task.tools_data)}
        )
        self._held_seed = None if task is None else task.held_seed

    def run(self) -> Found:
        divergence = self._run()
        if self._differing:
            divergence = self._differing[0]
        steps = tuple(dict.fromkeys(found.step for found in self._differing))
        return Found(divergence, self._n_steps, tuple(self._notes), frozenset(self._ignored), steps)

    def bring(self, places: Collection[tuple[int, int, int]]) -> Divergence | None:
        """Reset the world and make some calls again; return the first difference."""
        found = self._reset()
        attempts = iter(
            [attempt for attempt in self._episode.transcript.attempts if attempt.place in places]
        )
        while found is None and (attempt := next(attempts, None)) is not None:
            found = self.make(attempt)
        return found

    def _run(self) -> Divergence | None:
        if self._episode.start is None:
            self._notes["the log has lost this episode's reset"] = None
            return None
        failed = any(failure.phase == "reset" for failure in self._episode.failures)
        if (found := self._reset()) is not None or failed:
            return found
        for attempt in self._episode.transcript.attempts:
            self._n_steps = max(self._n_steps, attempt.start.step + 1)
            if (found := self.make(attempt)) is not None:
                if not self._is_forced:
                    return found
                self._differing.append(found)
                try:
                    self._force(attempt)
                except RestoreError as exc:
                    self._notes[
                        f"after step {attempt.start.step} the recorded state could not be put back: {exc}"
                    ] = None
                    return found
        return self._run_checks()

    def _reset(self) -> Divergence | None:
        """Reset the world as recorded, or bring it to where a fork begins, and compare the state there."""
        episode = self._episode
        start = episode.start
        assert start is not None
        if episode.fork is not None:
            assert episode.parent is not None
            with contextlib.suppress(
                DivergenceError
            ):  # the state where the fork begins is compared below
                bring_world(episode.parent, self._world, fork_places(episode.fork))
            return self._begin_state()
        options = None if start.options_data is None else codec.decode(start.options_data)
        failed = next((failure for failure in episode.failures if failure.phase == "reset"), None)
        try:
            with self._hold(start.time_ns, -1, 0, 0):
                self._world.reset(seed=start.seed, options=options)
        except Exception as exc:
            name = codec.type_name(exc)
            if failed is not None and failed.error_type == name:
                return None
            return Divergence(
                step=-1,
                field="error",
                expected="no exception" if failed is None else failed.error_type,
                actual=f"{name}: {exc}",
            )
        if failed is not None:
            return Divergence(
                step=-1,
                field="error",
                expected=f"{failed.error_type}: {failed.message}",
                actual="no exception",
            )
        return self._begin_state()

    def _force(self, attempt: Attempt) -> None:
        """Put the world into the state that is recorded after a try.

        Raises:
            RestoreError: It cannot be.
        """
        if not self._parts:
            raise RestoreError("no state was recorded, or it was captured in another way")
        wanted = self._episode.transcript.state_after(attempt)
        for part in self._parts:
            part.tracker.restore(wanted[part.name])
            _, digest = part.tracker.begin()
            expected = attempt.digests.get(part.name, self._digests.get(part.name))
            if digest != expected:
                raise RestoreError(f"{part.name or 'it'} has another digest than then")
            self._digests[part.name] = digest

    def _begin_state(self) -> Divergence | None:
        """Compare the state after the reset, part by part."""
        task = self._episode.transcript.task_start
        recorded = [] if task is None else task.parts
        self._parts = find_parts(self._world, None)
        live = [(part.name, part.tracker.name, part.tracker.version) for part in self._parts]
        if live != recorded:
            self._parts = []
            self._notes["state not compared: it was captured in another way"] = None
            return None
        if not live:
            self._notes["state not compared: the world gives none"] = None
        for part in self._parts:
            value, digest = part.tracker.begin()
            event = self._episode.transcript.initial_digests.get(part.name)
            if event != digest:
                self._loose.add(part.name)
                for change in diff(self._episode.transcript.initial_state[part.name], value):
                    if (
                        found := self._differs(-1, _path("state", part.name, change.path), change)
                    ) is not None:
                        return found
            self._digests[part.name] = digest
        return None

    def make(self, attempt: Attempt) -> Divergence | None:
        """Make a call again; return what is different."""
        start, end = attempt.start, attempt.end
        if end is None or end.outcome == "cancelled":
            self._notes[
                "a call that was open when the log ended, or cancelled, was not executed"
            ] = None
            return None
        known = {tool.name for tool in self._world.tools()}
        if reaches_beyond(start.tool, start.access, known):
            is_external = start.access == "external"
            if start.invalid and not is_external:
                return None  # as it was: no tool of that name
            if start.tool in self._recorded_tools and not is_external:
                return Divergence(
                    step=start.step,
                    field="error",
                    expected=f"a call of {start.tool}",
                    actual="no such tool",
                )
            what = "external tools" if is_external else "functions outside the world"
            self._notes[f"calls of {what} were answered from the log"] = None
            return None
        if start.is_redacted:
            self._has_redacted = True
            self._ignored.add("arguments that were redacted")
        found = self._execute(attempt)
        return found if found is not None else self._compare_state(attempt)

    def _execute(self, attempt: Attempt) -> Divergence | None:
        start, end = attempt.start, attempt.end
        assert end is not None
        expected = f"{end.error_type}: {end.message}" if end.is_raised else "no exception"
        try:
            with self._hold(start.time_ns, *attempt.place):
                # A copy: the episode's arguments are asked for again, and a world may keep or change what it is given.
                result = self._world.call(start.tool, copy.deepcopy(attempt.arguments))
            if inspect.isawaitable(result):
                import asyncio

                with self._hold(start.time_ns, *attempt.place):
                    result = asyncio.run(resolve(result))
        except Exception as exc:
            actual = f"{codec.type_name(exc)}: {exc}"
            if end.is_raised and (
                actual == expected
                or (end.error_type == codec.type_name(exc) and "[redacted" in end.message)
            ):
                return None
            return self._differs(start.step, "error", Change("", expected, actual))
        if end.is_raised:
            return self._differs(start.step, "error", Change("", expected, f"returned {result!r}"))
        live = codec.decode(codec.encode(result, opaque=True))
        for change in diff(attempt.result, live):
            if (
                found := self._differs(start.step, _path("result", change.path), change)
            ) is not None:
                is_reordered = _is_reordered(attempt.result, live, change.path)
                return dataclasses.replace(found, cause=UNORDERED) if is_reordered else found
        return None

    def _hold(self, time_ns: int, *place: int) -> contextlib.AbstractContextManager[None]:
        """Hold still what was held when it was recorded."""
        return (
            contextlib.nullcontext()
            if self._held_seed is None
            else frozen(time_ns, derive_seed(self._held_seed, *place))
        )

    def _compare_state(self, attempt: Attempt) -> Divergence | None:
        for part in self._parts:
            live, digest = part.tracker.update()
            recorded = attempt.changes.get(part.name, [])
            expected = attempt.digests.get(part.name, self._digests.get(part.name))
            if expected == digest:
                self._digests[part.name] = digest
                continue
            before = len(self._ignored)
            there, here = {c.path: c.after for c in recorded}, {c.path: c.after for c in live}
            for path in [*there, *(path for path in here if path not in there)]:
                for change in diff(there.get(path, MISSING), here.get(path, MISSING)):
                    full = _path("state", part.name, path, change.path)
                    if (found := self._differs(attempt.start.step, full, change)) is not None:
                        return found
            if len(self._ignored) != before:
                self._loose.add(part.name)
            if not self._has_redacted and part.name not in self._loose and there == here:
                return Divergence(
                    step=attempt.start.step,
                    field=_path("state", part.name),
                    expected=f"digest {expected}",
                    actual=f"digest {digest}",
                )
            self._digests[part.name] = expected or digest
        return None

    def _run_checks(self) -> Divergence | None:
        recorded = {check.check_id: check for check in self._episode.checks if check.status == "ok"}
        wanted = {identify(check)[0]: check for check in self._checks}
        if missing := sorted(recorded.keys() - wanted.keys()):
            self._notes[f"checks not run, because they were not given: {', '.join(missing)}"] = None
        for name in sorted(recorded.keys() & wanted.keys()):
            verdict = as_verdict(wanted[name](self._world))
            change = Change(
                "", (recorded[name].verdict, recorded[name].score), (verdict.passed, verdict.score)
            )
            if change.before == change.after:
                continue
            if self._has_redacted:
                self._ignored.add(f"check/{name}")
            elif (found := self._differs(self._n_steps, f"check/{name}", change)) is not None:
                return found
        return None

    def _differs(self, step: int, field: str, change: Change) -> Divergence | None:
        """Return a difference as a divergence, or None where it is to be ignored, or the recorded value was redacted."""
        label = self._tolerance.label(field, change)
        if label is None and isinstance(change.before, str) and "[redacted " in change.before:
            label = field
        if label is not None:
            self._ignored.add(label)
            return None
        return Divergence(
            step=step,
            field=field,
            expected=change.before,
            actual=change.after,
            ulps=ulp_distance(change.before, change.after),
        )


def fork_places(fork: Fork) -> set[tuple[int, int, int]]:
    """Return which of its parent's attempts lead to an agent's fork."""
    data = {} if fork.metadata_data is None else codec.decode(fork.metadata_data)
    return {tuple(place) for place in data.get("attempts", [])}


def _is_reordered(recorded: Any, live: Any, path: str) -> bool:
    """Say whether, on the way down a path, two lists have the same items in another order."""
    for key in path.split("/"):
        if isinstance(recorded, list) and isinstance(live, list) and recorded != live:
            if sorted(map(codec.encode, recorded)) == sorted(map(codec.encode, live)):
                return True
            recorded, live = recorded[int(key)], live[int(key)]
        elif isinstance(recorded, Plain) and isinstance(live, Plain):
            recorded, live = recorded.fields.get(key), live.fields.get(key)
        elif isinstance(recorded, dict) and isinstance(live, dict):
            recorded, live = recorded.get(key), live.get(key)
        else:
            return False
    return False


def _path(*parts: str) -> str:
    return "/".join(part for part in parts if part)
