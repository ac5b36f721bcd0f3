"""Replay a diverged episode again to find out why it diverged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from trajrec.corpus.episode import Episode
from trajrec.corpus.refs import EpisodeLoader, EpisodeRef, refs_with_ancestors
from trajrec.replay.diagnose.cause import (
    RunInSubprocess,
    TrialResult,
    find_cause,
    is_same_divergence,
)
from trajrec.replay.execute.factories import EnvOrFactory
from trajrec.replay.execute.grading import ExecutedEpisode
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.execute.reach import replay_predecessors
from trajrec.replay.execute.report import Divergence, ReplayReport
from trajrec.replay.executor import EpisodeExecutor
from trajrec.replay.options import ReplayConfig, ReplayOptions, replay_config
from trajrec.replay.processes.child import SubprocessError, call_in_subprocess
from trajrec.values.shown import counted

# Only the first diverged episodes of a batch are replayed in other processes as well: starting the
# processes takes seconds, and the cause is likely the same for the other episodes.
EXPLAINED_IN_SUBPROCESSES = 2

# Further replays that must agree before a difference counts as state that was carried over: by
# chance they do in one of a hundred cases, whatever the number of values is.
FRESH_REPEATS = 4
USED_REPEATS = 3

ONCE = "unknown: it differs from run to run, and was reproduced in some of them"


class Explainer:
    """Looks for the cause of divergences.

    Args:
        executor: Executes the episodes again.
        config: The options.
    """

    def __init__(self, executor: EpisodeExecutor, config: ReplayConfig) -> None:
        self._executor = executor
        self._config = config
        self._n_in_subprocesses = 0

    def look_again(self, executed: ExecutedEpisode, report: ReplayReport) -> ReplayReport:
        """Replay a diverged episode on other environments, then look for the cause.

        Returns:
            The report to show: of another replay if that did not diverge, with a note on its
            condition; else of the first one, with the likely cause.
        """
        executor = self._executor
        episode = executed.episode
        is_unsteady = False
        is_after_others = False
        if executor.has_own_envs and not executed.is_fresh:
            # State that the environment carries over from other episodes is not this one's fault.
            executor.close()
            fresh = executor.grade(executor.execute(episode))
            if fresh.divergence is None:
                if self._is_carried_over(episode, executed.previous or episode):
                    return _with_note(
                        fresh, "only on a fresh environment: it carries state over between episodes"
                    )
                is_unsteady = True
            else:
                report = fresh
        if executor.has_own_envs and episode.number and not is_unsteady:
            after_others = self._run_anew(episode, is_alone=False)
            executor.close()
            if after_others.divergence is None:
                if self._is_of_predecessors(episode):
                    return _with_note(
                        after_others,
                        f"only after the {counted(episode.number, 'episode')} before it: it "
                        "carries state over between episodes",
                    )
                is_unsteady = True
            elif self._differs_by_predecessors(episode, report, after_others):
                # The first difference alone is that of the state, and hides the one to report.
                is_after_others = True
                report = _with_note(after_others, _alone(episode, report))
        if report.divergence is None or not self._config.explain:
            return report
        # Closed environments are kept until the end: a new one in the place of a freed one would
        # have the same id(), and an environment that depends on id() would repeat itself.
        closed: list[EnvHandle | None] = []

        def run() -> TrialResult:
            if executor.has_own_envs:
                closed.append(executor.close())
            return run_trial(executor, episode, is_after_others=is_after_others)

        try:
            in_subprocess = self._in_subprocess(episode, is_after_others=is_after_others)
            cause = find_cause(episode, report.divergence, run, in_subprocess)
        except SubprocessError as exc:
            cause = f"unknown: an experiment in another process failed: {exc}"
        if is_unsteady and cause.startswith("unknown"):
            cause = ONCE
        return replace(report, divergence=replace(report.divergence, cause=cause))

    def _is_carried_over(self, episode: Episode, previous: Episode) -> bool:
        """Return whether an episode replays on each fresh environment, and on no used one.

        Once may be chance: of three values that nobody seeds, one is the recorded one.
        """
        executor = self._executor

        def diverges(*, is_used: bool) -> bool:
            executor.close()
            if is_used:
                executor.execute(previous)
            return executor.grade(executor.execute(episode)).divergence is not None

        if any(diverges(is_used=False) for _ in range(FRESH_REPEATS)):
            return False
        return all(diverges(is_used=True) for _ in range(USED_REPEATS))

    def _is_of_predecessors(self, episode: Episode) -> bool:
        """Return whether an episode replays after those before it each time, and never alone."""

        def diverges(*, is_alone: bool) -> bool:
            return self._run_anew(episode, is_alone=is_alone).divergence is not None

        if not all(diverges(is_alone=True) for _ in range(FRESH_REPEATS)):
            return False
        return not any(diverges(is_alone=False) for _ in range(USED_REPEATS))

    def _differs_by_predecessors(
        self, episode: Episode, alone: ReplayReport, after_others: ReplayReport
    ) -> bool:
        """Return whether the episodes before a diverged one decide its first difference.

        They do if it comes later after them each time, or if it is in the same step always one
        difference after them and always another one alone.
        """
        runs_alone = [alone.divergence]
        runs_after = [after_others.divergence]
        if not _is_later(runs_alone, runs_after):
            return False
        for is_alone, runs, n in (
            (True, runs_alone, FRESH_REPEATS),
            (False, runs_after, USED_REPEATS),
        ):
            for _ in range(n):
                runs.append(self._run_anew(episode, is_alone=is_alone).divergence)
                if not _is_later(runs_alone, runs_after):
                    return False
        return True

    def _run_anew(self, episode: Episode, *, is_alone: bool) -> ReplayReport:
        """Replay an episode on a new environment, alone or after those before it."""
        executor = self._executor
        executor.close()
        if not is_alone:
            replay_predecessors(episode, executor.handle(episode))
        return executor.grade(executor.execute(episode))

    def _in_subprocess(self, episode: Episode, *, is_after_others: bool) -> RunInSubprocess | None:
        """Return the function that replays an episode in another process, or None if none can."""
        executor = self._executor
        if not executor.has_own_envs or self._n_in_subprocesses >= EXPLAINED_IN_SUBPROCESSES:
            return None
        self._n_in_subprocesses += 1
        trial = _SubprocessTrial(executor.factory, self._config.as_options(), is_after_others)
        refs = refs_with_ancestors(episode)

        def run(
            settings: Mapping[str, str | None], *, fixed_addresses: bool = False
        ) -> TrialResult:
            result: TrialResult = call_in_subprocess(
                trial, refs, settings=settings, fixed_addresses=fixed_addresses
            )
            return result

        try:
            run({})
        except SubprocessError:
            return None
        return run


def run_trial(
    executor: EpisodeExecutor, episode: Episode, *, is_after_others: bool = False
) -> TrialResult:
    """Execute an episode; return its first difference.

    Args:
        executor: Has no environment yet if `is_after_others`.
        episode: The episode.
        is_after_others: Whether to run the environment through the episodes before it first.
    """
    if is_after_others:
        replay_predecessors(episode, executor.handle(episode))
    return TrialResult(executor.grade(executor.execute(episode)).divergence)


@dataclass(frozen=True)
class _SubprocessTrial:
    """The work of another process; sent there pickled."""

    factory: EnvOrFactory
    options: ReplayOptions
    is_after_others: bool

    def __call__(self, refs: tuple[EpisodeRef, ...]) -> TrialResult:
        executor = EpisodeExecutor(self.factory, replay_config(**self.options))
        try:
            episode = EpisodeLoader().read(refs)
            return run_trial(executor, episode, is_after_others=self.is_after_others)
        finally:
            executor.close()


def _is_later(alone: list[Divergence | None], after: list[Divergence | None]) -> bool:
    """Return whether all differences of the second list are later ones, or always another one."""
    differences_alone = [difference for difference in alone if difference is not None]
    differences_after = [difference for difference in after if difference is not None]
    if len(differences_alone) < len(alone) or len(differences_after) < len(after):
        return False
    last_alone = max(difference.step for difference in differences_alone)
    first_after = min(difference.step for difference in differences_after)
    if last_alone != first_after:
        return last_alone < first_after
    return (
        all(is_same_divergence(differences_alone[0], other) for other in differences_alone)
        and all(is_same_divergence(differences_after[0], other) for other in differences_after)
        and not is_same_divergence(differences_alone[0], differences_after[0])
    )


def _alone(episode: Episode, alone: ReplayReport) -> str:
    """Return the note on an episode that is compared after those before it."""
    divergence = alone.divergence
    assert divergence is not None
    first = "the reset" if divergence.step < 0 else f"step {divergence.step}"
    return (
        f"compared after the {counted(episode.number, 'episode')} before it: it carries state over "
        f"between episodes, and alone it differs from {first} on"
    )


def _with_note(report: ReplayReport, note: str) -> ReplayReport:
    return replace(report, notes=(*report.notes, note))
