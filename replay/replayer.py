"""The engine: re-executes episodes on environments that it makes and keeps, compares what came out, and says what it means."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple, Unpack

import gymnasium

from trajrec.corpus.episode import Episode
from trajrec.envstate.pettingzoo import api_of
from trajrec.errors import ReplayError
from trajrec.protocols import Verifier, World
from trajrec.replay.agents.world_replay import replay_in_world
from trajrec.replay.diagnose.cause import RunInSubprocess, TrialResult, find_cause
from trajrec.replay.execute.compare import compare
from trajrec.replay.execute.environments import (
    EnvOrFactory,
    WorldOrFactory,
    env_by,
    is_world,
    make_env,
    make_world,
    world_by,
)
from trajrec.replay.execute.execution import Execution
from trajrec.replay.execute.reach import EnvHandle, env_handle, replay_predecessors
from trajrec.replay.execute.report import ReplayReport
from trajrec.replay.execute.resync import ResyncResult, execute_with_resync
from trajrec.replay.execute.run import decode_ahead, execute
from trajrec.replay.options import ReplayOptions, replay_config
from trajrec.replay.processes.child import SubprocessError, call_in_subprocess
from trajrec.replay.processes.refs import EpisodeLoader, EpisodeRef, refs_with_ancestors
from trajrec.types import AnyEnv

EXPLAINED_ELSEWHERE = 2
"""Diverged episodes that are replayed in other processes too, to find their cause."""

HELD, HOLD_S, AHEAD_BYTES = 8, 0.05, 1 << 22
"""How many episodes are executed before they are compared, at most, and for how long; and how much is decoded before that."""


def replay_episode(
    episode: Episode,
    *,
    env: EnvOrFactory = None,
    world: WorldOrFactory = None,
    checks: Sequence[Verifier] = (),
    **options: Unpack[ReplayOptions],
) -> ReplayReport:
    """Re-execute an episode and compare every step with the log.

    Args:
        episode: From `Corpus.episode`.
        env: The environment to replay on, or a function that makes one. By default the environment
            that the log names is made. An environment that trajrec made is closed again.
        world: The world to replay an agent's episode in, or a function that makes one. By default
            the world that the log names is made. The world is reset.
        checks: Verifiers to run at the end of an agent's episode. Each verdict is compared with the
            recorded one of the same id.
        **options: See `ReplayOptions`.

    Returns:
        A report with the grade and, if the episode diverged, the first difference. A divergence is
        a finding and no exception; tests call `report.raise_if_diverged()`.

    Raises:
        EnvRefusedError: The log names a module that is not allowed.
        EnvMissingError: The environment or world is not installed, or the log does not say how to
            make it.
        ValueError: `checks` are given for an episode of an environment.
    """
    with Replayer(env=env, world=world, checks=checks, **options) as replayer:
        return replayer.replay(episode)


class Replayer:
    """Replays episodes, and keeps the last environment for the next one of the same specification.

    A context manager: leaving it closes the environment.

    Args:
        env: See `replay_episode`.
        world: See `replay_episode`.
        checks: See `replay_episode`.
        **options: See `ReplayOptions`.
    """

    def __init__(
        self,
        *,
        env: EnvOrFactory = None,
        world: WorldOrFactory = None,
        checks: Sequence[Verifier] = (),
        **options: Unpack[ReplayOptions],
    ) -> None:
        is_object = isinstance(env, gymnasium.Env) or api_of(env) is not None
        self._given: Any = env if is_object else None
        self._factory: Any = None if is_object else env
        self._world = world
        self._checks = tuple(checks)
        self._config = replay_config(**options)
        self._made: tuple[Any, EnvHandle] | None = None
        self._holds = True
        self._n_elsewhere = 0

    def __enter__(self) -> Replayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the environment that was made; a given one is the caller's."""
        if self._made is not None:
            self._made[1].env.close()
            self._made = None

    def replay(self, episode: Episode) -> ReplayReport:
        """Replay one episode on an environment or, if it is an agent's, in a world."""
        if episode.is_agent_episode:
            return replay_in_world(
                episode,
                lambda: self._make_world(episode),
                checks=self._checks,
                tolerance=self._config.tolerance,
                resync=self._config.resync,
                explain=self._config.explain,
            )
        if self._checks:
            raise ValueError(
                f"checks must be empty for an episode of an environment, as {episode.id} is; "
                "only agents' episodes are checked again"
            )
        executed = self._execute(episode)
        report = self._compare(executed)
        return report if report.divergence is None else self._look_again(executed, report)

    def _make_world(self, episode: Episode) -> World:
        world = self._world
        if world is None:
            return make_world(episode, self._config.allow)
        return world if is_world(world) else world_by(world)

    def replay_all(self, episodes: Iterable[Episode]) -> Iterator[ReplayReport]:
        """Replay episodes in order; those that cannot be are reported as "refused".

        Short ones are decoded, then executed, then compared, some of them each time, until one diverges: what a processor does
        again and again it does faster, here by two tenths of a millisecond an episode.
        """
        held: list[_Executed] = []
        begun = 0.0
        try:
            for episode in _decoded(episodes):
                if episode.is_agent_episode or not self._holds:
                    yield from self._settle(held)
                    yield self._replay_or_refuse(episode)
                    continue
                begun = begun if held else time.perf_counter()
                try:
                    held.append(self._execute(episode))
                except ReplayError as exc:
                    yield from self._settle(held)
                    yield _refused(episode, exc)
                if time.perf_counter() - begun > HOLD_S or len(held) == HELD:
                    yield from self._settle(held)
        except Exception:
            yield from self._settle(held)
            raise
        yield from self._settle(held)

    def _settle(self, held: list[_Executed]) -> Iterator[ReplayReport]:
        """Report what was executed; what came after a divergence is executed anew, as if that had been known."""
        while held:
            executed = held.pop(0)
            report = self._compare(executed)
            if report.divergence is None:
                yield report
                continue
            self._holds = False
            later = [executed.episode for executed in held]
            held.clear()
            try:
                yield self._look_again(executed, report)
            except ReplayError as exc:
                yield _refused(executed.episode, exc)
            yield from map(self._replay_or_refuse, later)

    def _replay_or_refuse(self, episode: Episode) -> ReplayReport:
        try:
            return self.replay(episode)
        except ReplayError as exc:
            return _refused(episode, exc)

    def _look_again(self, executed: _Executed, report: ReplayReport) -> ReplayReport:
        """Replay a diverged episode on other environments, and find out why it diverged."""
        episode = executed.episode
        if self._given is None and not executed.is_fresh:
            # An environment that carries something over from other episodes must not be blamed on this one.
            self.close()
            again = self._run(episode)
            if again.divergence is None:
                return replace(
                    again,
                    notes=(
                        *again.notes,
                        "only on a fresh environment: it carries state over between episodes",
                    ),
                )
            report = again
        if self._given is None and episode.number:
            self.close()
            replay_predecessors(episode, self._stage(episode))
            after = self._run(episode)
            self.close()
            if after.divergence is None:
                leak = f"only after the {episode.number} episodes before it: it carries state over between episodes"
                return replace(after, notes=(*after.notes, leak))
        if self._config.explain and report.divergence is not None:
            used: list[Any] = []
            cause = find_cause(
                episode,
                report.divergence,
                lambda: self._again(episode, used),
                self._in_subprocess(episode),
            )
            report = replace(report, divergence=replace(report.divergence, cause=cause))
        return report

    def _again(self, episode: Episode, used: list[Any]) -> TrialResult:
        """Run an episode once more, on an environment of its own where one can be made.

        Those used before are kept: in the place of one that is gone the next would have the same id().
        """
        if self._given is None:
            used.append(self._made)
            self.close()
        return self.outcome(episode)

    def outcome(self, episode: Episode) -> TrialResult:
        """Replay an episode; return its first difference, and a digest of all that the environment returned."""
        executed = self._execute(episode)
        return TrialResult(self._compare(executed).divergence, executed.run.digest())

    def _in_subprocess(self, episode: Episode) -> RunInSubprocess | None:
        """Return what replays an episode in another process; None where an environment object was given, and for further
        episodes: processes take their time, and what they tell is told."""
        if self._given is not None or self._n_elsewhere >= EXPLAINED_ELSEWHERE:
            return None
        self._n_elsewhere += 1
        work = _Work(self._factory, self._config.as_options())
        place = refs_with_ancestors(episode)

        def replay(settings: dict[str, str], *, fixed_addresses: bool = False) -> TrialResult:
            found: TrialResult = call_in_subprocess(
                work, place, settings=settings, fixed_addresses=fixed_addresses
            )
            return found

        try:
            replay({})
        except SubprocessError:
            return None
        return replay

    def _stage(self, episode: Episode) -> EnvHandle:
        if self._given is not None:
            return env_handle(self._given, episode, self._config.state)
        key = episode.header.env
        if self._made is None or self._made[0] != key:
            self.close()
            env = (
                env_by(self._factory, key)
                if self._factory is not None
                else make_env(key, episode_id=episode.id, allow=self._config.allow)
            )
            self._made = (key, env_handle(env, episode, self._config.state))
        return self._made[1]

    def _run(self, episode: Episode) -> ReplayReport:
        return self._compare(self._execute(episode))

    def _execute(self, episode: Episode) -> _Executed:
        is_fresh = self._made is None or self._made[0] != episode.header.env
        stage = self._stage(episode)
        if self._config.resync:
            part, run, forced = execute_with_resync(
                episode, stage, self._config.tolerance, self._config.first
            )
            return _Executed(episode, part, run, forced, stage.adapter is not None, is_fresh)
        part, run = execute(episode, stage, self._config.first)
        return _Executed(episode, part, run, None, stage.adapter is not None, is_fresh)

    def _compare(self, executed: _Executed) -> ReplayReport:
        episode, part, run, forced, has_states, _ = executed
        if run.problem is not None:
            return ReplayReport(episode.id, "refused", 0, notes=(run.problem,))
        divergence = (
            compare(part, run, self._config.tolerance) if forced is None else forced.divergence
        )
        notes, compared = [], ["observation", "reward", "terminated", "truncated", "info"]
        if not has_states:
            notes.append(f"state not compared: {_why_no_state(episode.header.state.adapter)}")
        else:
            compared.append("state")
        missing = part.missing_steps
        if missing:
            notes.append(
                f"the log has lost steps {missing[0][0]} to {missing[0][1] - 1}; compared up to there"
            )
        if part is not episode:
            notes.append(f"compared from step {part.first_step} on")
        if forced is not None and forced.why_stopped:
            notes.append(forced.why_stopped)
        if run.ignored:
            notes.append(self._config.tolerance.note(run.ignored))
        total, ending = _came_out(run)
        is_part = missing or part is not episode
        grade = (
            "diverged"
            if divergence is not None
            else "partial"
            if is_part
            else "state"
            if run.ignored
            else "exact"
        )
        return ReplayReport(
            episode.id,
            grade,  # type: ignore[arg-type]
            len(run.rewards),
            divergence,
            tuple(compared),
            tuple(notes),
            () if forced is None else forced.differing_steps,
            total_reward=None if part is not episode else total,
            ending=ending,
        )


def _why_no_state(adapter: str) -> str:
    """Return why states were not captured as the adapter of a log did."""
    if not adapter:
        return "none was recorded"
    # A function's name is that of its module too.
    return (
        f"give state=, the function that it was recorded with ({adapter})"
        if ":" in adapter
        else "no such adapter"
    )


class _Executed(NamedTuple):
    """An episode and what its re-execution returned: to be compared with the episode, or with the rest of it.

    Attributes:
        has_states: Whether states were captured.
        is_fresh: Whether the environment had had no other episode.
    """

    episode: Episode
    part: Episode
    run: Execution
    forced: ResyncResult | None
    has_states: bool
    is_fresh: bool


def _decoded(episodes: Iterable[Episode]) -> Iterator[Episode]:
    """Yield episodes; of short ones some at a time are decoded first."""
    ahead: list[Episode] = []
    n_bytes = 0
    try:
        for episode in episodes:
            ahead.append(episode)
            n_bytes += sum(
                column.raw_bytes for chunk, _ in episode.parts for column in chunk.columns()
            )
            if len(ahead) == HELD or n_bytes > AHEAD_BYTES or episode.is_agent_episode:
                yield from _prepared(ahead, n_bytes)
                ahead, n_bytes = [], 0
    except Exception:
        yield from ahead
        raise
    yield from _prepared(ahead, n_bytes)


def _prepared(ahead: list[Episode], n_bytes: int) -> list[Episode]:
    if n_bytes <= AHEAD_BYTES:
        for episode in ahead:
            decode_ahead(episode)
    return ahead


def _refused(episode: Episode, exc: ReplayError) -> ReplayReport:
    return ReplayReport(episode.id, "refused", 0, notes=(exc.what,))


@dataclass(frozen=True)
class _Work:
    """What another process does with an episode."""

    factory: Callable[[], AnyEnv] | None
    options: ReplayOptions

    def __call__(self, place: tuple[EpisodeRef, ...]) -> TrialResult:
        with Replayer(env=self.factory, **self.options) as replayer:
            return replayer.outcome(EpisodeLoader().read(place))


def _came_out(run: Execution) -> tuple[float | None, str]:
    """Return what rewards a re-execution got, and how it ended."""
    try:
        total: float | None = float(sum(run.rewards))
    except (TypeError, ValueError):
        total = None
    if run.failure is not None and run.failure.raised is not None:
        return total, "error"
    if run.end is None:
        return total, ""
    return total, "terminated" if run.end.terminated else "truncated"
