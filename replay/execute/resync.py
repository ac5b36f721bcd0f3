"""State-forced replay: where a step differs, the recorded state is put back before the next one.

So one step that differs is told from everything after it differing: a changed rule differs where it acts, a chaotic simulator
that rounds otherwise differs everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from trajrec.corpus.episode import Episode, Step
from trajrec.corpus.history import to_env_action
from trajrec.replay.execute.compare import DIGESTS_ONLY, Run, describe, first_unlike
from trajrec.replay.execute.reach import EnvHandle, as_recorded
from trajrec.replay.execute.report import Divergence, ulp_distance
from trajrec.replay.execute.run import begin, is_recorded
from trajrec.replay.execute.tolerance import Tolerance
from trajrec.values import codec
from trajrec.values.copies import copy_for_env, copy_for_record
from trajrec.values.diff import Change, first_change
from trajrec.values.digest import state_digest


class Forced(NamedTuple):
    """What a state-forced execution found: the first difference, the steps that differ by themselves (-1 for the reset), and
    why it ended before the episode did."""

    divergence: Divergence | None
    differing_steps: tuple[int, ...]
    why_stopped: str


def execute_forced(
    episode: Episode, stage: EnvHandle, tolerance: Tolerance, first: int = 0
) -> tuple[Episode, Run, Forced | None]:
    """Execute an episode as `execute` does, comparing each step when it is taken.

    Returns:
        What was executed, the run with its rewards and ending, and what was found; None for that where nothing was executed
        beyond the reset.
    """
    run = Run()
    begun = begin(episode, stage, run, first)
    if begun is None:
        return episode, run, None
    part, obs = begun
    execution = _Execution(part, stage, tolerance, run, is_rest=part is not episode)
    return part, run, execution.run(obs)


class _Execution:
    def __init__(
        self, episode: Episode, stage: EnvHandle, tolerance: Tolerance, run: Run, *, is_rest: bool
    ) -> None:
        self._episode, self._stage, self._tolerance, self._run, self._is_rest = (
            episode,
            stage,
            tolerance,
            run,
            is_rest,
        )
        self._divergence: Divergence | None = None
        self._differing: list[int] = []

    def run(self, obs: Any) -> Forced:
        episode, why = self._episode, ""
        rows = {step: row for row, step in enumerate(episode.step_numbers.tolist(), 1)}
        lost = episode.missing_steps[0][0] if episode.missing_steps else None
        # The beginning of a rest was compared when it was reached.
        changes = [*self._of_start(obs), *self._of_state(0)] if not self._is_rest else []
        if self._note(episode.first_step - 1, changes):
            why = self._put_back(0, episode.first_step - 1)
        for step in episode.steps():
            if why or (lost is not None and step.step >= lost):
                break
            row = rows.get(step.step)
            if self._note(step.step, self._of_step(step, row)):
                why = self._put_back(row, step.step)
        return Forced(self._divergence, tuple(self._differing), why)

    def _note(
        self, step: int, changes: Iterator[tuple[str, Change]] | list[tuple[str, Change]]
    ) -> bool:
        """Note the first change at a step, if there is one."""
        found = next(iter(changes), None)
        if found is None:
            return False
        field, change = found
        path = f"{field}/{change.path}" if change.path else field
        self._differing.append(step)
        if self._divergence is None:
            self._divergence = Divergence(
                step,
                path,
                change.before,
                change.after,
                ulps=ulp_distance(change.before, change.after),
            )
        return True

    def _of_start(self, obs: Any) -> Iterator[tuple[str, Change]]:
        episode = self._episode
        if episode.has_reset:
            yield from self._unlike("observation", episode.observation_at(0), obs)
        if self._run.reset_info:
            yield from self._unlike("info", episode.reset_info, codec.decode(self._run.reset_info))

    def _of_step(self, step: Step, row: int | None) -> Iterator[tuple[str, Change]]:
        """Take a step; yield what differs."""
        run = self._run
        try:
            obs, reward, terminated, truncated, info = self._stage.env.step(
                copy_for_env(to_env_action(step.action))
            )
        except (Exception, SystemExit) as exc:
            if not is_recorded(step.failure, exc, run):
                yield "failure", Change("", describe(step.failure), describe(exc))
            return
        run.rewards.append(copy_for_record(reward))
        is_over = terminated or truncated
        run.flags = (len(run.rewards) - 1, bool(terminated), bool(truncated)) if is_over else None
        if step.failure is not None:
            if (
                step.failure.origin != "scaffold"
            ):  # or the environment took the step, and what came of it was not recorded
                yield "failure", Change("", describe(step.failure), describe(None))
            return
        yield from self._unlike("observation", step.observation, obs)
        yield from self._unlike("reward", step.reward, reward)
        end = self._episode.end
        is_last = end is not None and step.step == end.n_steps - 1
        for name, live in (("terminated", terminated), ("truncated", truncated)):
            recorded = bool(getattr(end, name)) if is_last else False
            if recorded != bool(live):
                yield name, Change("", recorded, bool(live))
        yield from self._unlike("info", step.info, info)
        if row is not None:
            yield from self._of_state(row)

    def _of_state(self, row: int) -> Iterator[tuple[str, Change]]:
        adapter, digests = self._stage.adapter, self._episode.state_digests
        if adapter is None or digests is None or row >= len(digests):
            return
        live = adapter.capture()
        if row in self._episode.states and self._tolerance.ignores_digests:
            yield from self._unlike("state", self._episode.states[row], live)
        elif row in self._episode.states:  # `ignore` is for what is seen
            change = first_change(self._episode.states[row], live)
            if change is not None:
                yield "state", change
        elif self._tolerance.ignores_digests:
            if state_digest(live) != digests[row]:
                self._run.ignored.add(DIGESTS_ONLY)
        elif state_digest(live) != digests[row]:
            yield (
                "state",
                Change("", f"digest {int(digests[row]):06x}", f"digest {state_digest(live):06x}"),
            )

    def _unlike(self, field: str, recorded: Any, live: Any) -> Iterator[tuple[str, Change]]:
        change = first_unlike(field, recorded, as_recorded(live), self._run, self._tolerance)
        if change is not None:
            yield field, change

    def _put_back(self, row: int | None, step: int) -> str:
        """Put the recorded state of a row back; return why the execution cannot go on from it, or ""."""
        adapter = self._stage.adapter
        after = "the reset" if step < 0 else f"step {step}"
        if adapter is None:
            what = "no state was recorded that could be put back: get_state and set_state of the environment give one"
            return f"stopped after {after}: {what}"
        if adapter.restore is None:
            return f"stopped after {after}: states of this environment ({adapter.name}) cannot be put back"
        if row is None or row not in self._episode.states:
            return f"stopped after {after}: the state there is not stored whole (keep_states='all' stores every one)"
        state = self._episode.states[row]
        if state_digest(adapter.capture()) == state_digest(state):
            return ""  # something else differed; what is derived from the state stays as the step left it
        adapter.restore(state)
        if state_digest(adapter.capture()) != state_digest(state):
            return f"stopped after {after}: the environment did not take the recorded state back"
        return ""
