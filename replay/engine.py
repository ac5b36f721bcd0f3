"""The engine: resets an environment as recorded, applies the recorded actions, compares everything that came out.

Stepping is the hot loop: it only copies what each step returned; a whole episode is compared when it is over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import gymnasium
import numpy as np

from trajrec import codec
from trajrec.episodes import Episode
from trajrec.errors import ReplayError
from trajrec.protocols import World
from trajrec.replay.cause import Elsewhere, find_cause
from trajrec.replay.children import ElsewhereError, call_elsewhere
from trajrec.replay.compare import FIXED, Leave, Odd, Run, compare, taker
from trajrec.replay.environments import make_env
from trajrec.replay.places import Place, Places, lineage
from trajrec.replay.report import Divergence, ReplayReport
from trajrec.replay.stages import Stage, enter_fork, prepare_reset, relive, stage_of
from trajrec.replay.worlds import replay_world
from trajrec.schema import Failure
from trajrec.state.digests import state_digest

EnvOrFactory = gymnasium.Env[Any, Any] | Callable[[], gymnasium.Env[Any, Any]] | None

EXPLAINED_ELSEWHERE = 2
"""Diverged episodes that are replayed in other processes too, to find their cause."""

WALL_CLOCK = frozenset({"info/episode/t"})
"""Infos that are measured times: no replay gives them again."""


def replay_episode(
    episode: Episode,
    *,
    env: EnvOrFactory = None,
    allow: Iterable[str] = (),
    state: Callable[[Any], Any] | None = None,
    ignore: Collection[str] = WALL_CLOCK,
    ulps: int = 0,
    explain: bool = True,
) -> ReplayReport:
    """Re-execute an episode and compare every step with the log.

    Args:
        episode: From `Corpus.episode`.
        env: An environment to replay on, or what makes one; by default the one that the log names is made. What is made is
            closed again.
        allow: Module prefixes that may be imported because the log names them.
        state: The function that the episode's states were captured with, where the recorder was given one.
        ignore: Paths in infos, as a divergence names them, that may differ: the grade is then "state", and a note names them.
            By default the seconds that `gymnasium.wrappers.RecordEpisodeStatistics` measures.
        ulps: How many floats may lie between a recorded and a replayed one: the grade is then "state". For other machines,
            whose libm rounds otherwise; what such differences grow to is for you to know.
        explain: Run a diverged episode again, to find the likely cause.

    Returns:
        A report with the grade and, where it diverged, the first difference. A divergence is a finding, not an exception:
        `report.raise_if_diverged()` is there for tests.

    Raises:
        EnvRefusedError: The log names a module that is not allowed.
        EnvMissingError: The environment is not installed, or the log does not say how to make it.
    """
    with Replayer(env=env, allow=allow, state=state, ignore=ignore, ulps=ulps, explain=explain) as replayer:
        return replayer.replay(episode)


class Replayer:
    """Keeps the environment that it made last, for the next episode of the same specification. A context manager."""

    def __init__(
        self,
        *,
        env: EnvOrFactory = None,
        world: Callable[[], World] | None = None,
        allow: Iterable[str] = (),
        state: Callable[[Any], Any] | None = None,
        ignore: Collection[str] = WALL_CLOCK,
        ulps: int = 0,
        state_forced: bool = False,
        explain: bool = True,
    ) -> None:
        self._given = env if isinstance(env, gymnasium.Env) else None
        self._factory = None if isinstance(env, gymnasium.Env) else env
        self._world, self._allow, self._state = world, tuple(allow), state
        self._leave, self._is_forced, self._explain = Leave(frozenset(ignore), ulps), state_forced, explain
        self._made: tuple[Any, Stage] | None = None
        self._n_elsewhere = 0

    def __enter__(self) -> Replayer:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the environment that was made; a given one is the caller's."""
        if self._made is not None:
            self._made[1].env.close()
            self._made = None

    def replay(self, episode: Episode) -> ReplayReport:
        """Replay one episode; see `replay_episode`. An agent's is replayed in its world; see `replay_world`."""
        if episode.is_agents:
            world = None if self._world is None else self._world()
            return replay_world(
                episode,
                world=world,
                allow=self._allow,
                ignore=self._leave.paths,
                state_forced=self._is_forced,
                explain=self._explain,
            )
        is_fresh = self._made is None or self._made[0] != episode.header.env
        report = self._run(episode, self._stage(episode))
        if report.divergence is None:
            return report
        if self._given is None and not is_fresh:
            # An environment that carries something over from other episodes must not be blamed on this one.
            self.close()
            again = self._run(episode, self._stage(episode))
            if again.divergence is None:
                return replace(
                    again, notes=(*again.notes, "only on a fresh environment: it carries state over between episodes")
                )
            report = again
        if self._given is None and episode.number:
            self.close()
            stage = self._stage(episode)
            relive(episode, stage)
            after = self._run(episode, stage)
            self.close()
            if after.divergence is None:
                leak = f"only after the {episode.number} episodes before it: it carries state over between episodes"
                return replace(after, notes=(*after.notes, leak))
        if self._explain and report.divergence is not None:
            cause = find_cause(episode, report.divergence, lambda: self._again(episode), self._elsewhere(episode))
            report = replace(report, divergence=replace(report.divergence, cause=cause))
        return report

    def _again(self, episode: Episode) -> Divergence | None:
        """Run an episode once more, on an environment of its own where one can be made."""
        if self._given is None:
            self.close()
        return self._run(episode, self._stage(episode)).divergence

    def _elsewhere(self, episode: Episode) -> Elsewhere | None:
        """Return what replays an episode in another process; None where an environment object was given, and for further
        episodes: processes take their time, and what they tell is told."""
        if self._given is not None or self._n_elsewhere >= EXPLAINED_ELSEWHERE:
            return None
        self._n_elsewhere += 1
        work = _Work(self._factory, self._allow, self._state, self._leave)
        place = lineage(episode)

        def replay(settings: dict[str, str], fixed_addresses: bool) -> Divergence | None:
            found: Divergence | None = call_elsewhere(work, place, settings=settings, fixed_addresses=fixed_addresses)
            return found

        try:
            replay({}, False)
        except ElsewhereError:
            return None
        return replay

    def _stage(self, episode: Episode) -> Stage:
        if self._given is not None:
            return stage_of(self._given, episode, self._state)
        key = episode.header.env
        if self._made is None or self._made[0] != key:
            self.close()
            env = self._factory() if self._factory is not None else make_env(key, episode_id=episode.id, allow=self._allow)
            self._made = (key, stage_of(env, episode, self._state))
        return self._made[1]

    def _run(self, episode: Episode, stage: Stage) -> ReplayReport:
        run = _execute(episode, stage)
        if run.problem is not None:
            return ReplayReport(episode.id, "refused", 0, notes=(run.problem,))
        divergence = compare(episode, run, self._leave)
        notes, compared = [], ["observation", "reward", "terminated", "truncated", "info"]
        if stage.adapter is None:
            notes.append(
                "state not compared: " + ("none was recorded" if not episode.header.state.adapter else "no such adapter")
            )
        else:
            compared.append("state")
        missing = episode.missing_steps
        if missing:
            notes.append(f"the log has lost steps {missing[0][0]} to {missing[0][1] - 1}; compared up to there")
        if run.ignored:
            notes.append(f"not the same, and ignored: {', '.join(sorted(run.ignored))}")
        total, ending = _came_out(run)
        grade = "diverged" if divergence is not None else "partial" if missing else "state" if run.ignored else "exact"
        return ReplayReport(
            episode.id,
            grade,  # type: ignore[arg-type]
            len(run.rewards),
            divergence,
            tuple(compared),
            tuple(notes),
            total_reward=total,
            ending=ending,
        )


@dataclass(frozen=True)
class _Work:
    """What another process does with an episode."""

    factory: Callable[[], gymnasium.Env[Any, Any]] | None
    allow: tuple[str, ...]
    state: Callable[[Any], Any] | None
    leave: Leave

    def __call__(self, place: tuple[Place, ...]) -> Divergence | None:
        options = {"allow": self.allow, "state": self.state, "ignore": self.leave.paths, "ulps": self.leave.ulps}
        with Replayer(env=self.factory, explain=False, **options) as replayer:  # type: ignore[arg-type]
            return replayer.replay(Places().read(place)).divergence


def _came_out(run: Run) -> tuple[float | None, str]:
    """Return what rewards a re-execution got, and how it ended."""
    try:
        total: float | None = float(sum(run.rewards))
    except (TypeError, ValueError):
        total = None
    if run.failure is not None and run.failure[2] is not None:
        return total, "error"
    if run.flags is None:
        return total, ""
    return total, "terminated" if run.flags[1] else "truncated"


def _execute(episode: Episode, stage: Stage) -> Run:
    """Reset as recorded and apply the recorded actions, until they end, the environment does, or it raises unrecorded."""
    run, env = Run(), stage.env
    try:
        arguments = prepare_reset(episode, stage)
    except ReplayError as exc:
        run.problem = str(exc).partition(": ")[2]
        return run
    failed = {failure.step: failure for failure in episode.failures if failure.phase in ("reset", "step")}
    try:
        obs, info = env.reset(**arguments)
    except Exception as exc:
        run.failure = None if _is_recorded(failed.get(-1), exc) else (-1, failed.get(-1), exc)
        return run
    if -1 in failed:
        run.failure = (-1, failed[-1], None)
        return run
    run.reset_info = codec.encode(info, opaque=True)
    if episode.fork is not None:
        obs = enter_fork(episode, stage, obs)
    _keep(run, stage, obs, episode)
    actions = episode.actions
    missing = episode.missing_steps
    if missing:
        actions = actions[: int(np.searchsorted(episode.step_numbers, missing[0][0]))]
    if failed:
        _apply_with_failures(run, stage, episode, actions, failed)
    else:
        _apply(run, stage, episode, actions, episode.first_step)
    return run


def _apply(run: Run, stage: Stage, episode: Episode, actions: list[Any], first: int) -> None:
    """The hot loop: step, copy what came out."""
    step, capture = stage.env.step, None if stage.adapter is None else stage.adapter.capture
    observations, rewards, states = run.observations.append, run.rewards.append, run.states.append
    whole, ndarray, digest, copy, fixed = episode.states, np.ndarray, state_digest, codec.encode, FIXED
    like = run.like
    dtype, shape = (None, None) if like is None else (like.dtype, like.shape)
    row, take = len(run.rewards), taker(episode, run)
    for action in actions:
        try:
            obs, reward, terminated, truncated, info = step(action)
        except Exception as exc:
            run.failure = (first + row, None, exc)
            return
        if type(obs) is ndarray and obs.dtype is dtype and obs.shape == shape:
            observations(take(obs))
        else:
            observations(Odd(copy(obs, opaque=True)))
        rewards(reward)
        row += 1
        if capture is not None:
            state = capture()
            states(digest(state))
            if row in whole:
                run.whole_states[row] = copy(state)
        if info:
            # What cannot be changed later is kept as it is: encoding ten numbers takes longer than some steps.
            run.infos[row - 1] = info.copy() if fixed.issuperset(map(type, info.values())) else copy(info, opaque=True)
        if terminated or truncated:
            run.flags = (row - 1, bool(terminated), bool(truncated))
            return


def _apply_with_failures(run: Run, stage: Stage, episode: Episode, actions: list[Any], failed: dict[int, Failure]) -> None:
    """Apply the actions with those among them that raised, which must raise the same again."""
    numbers, position = episode.step_numbers[: len(actions)], 0
    for step in sorted(failed):
        end = int(np.searchsorted(numbers, step))
        _apply(run, stage, episode, actions[position:end], step - end)
        if run.failure is not None or (run.flags is not None and run.flags[0] < end):
            return
        failure = failed[step]
        action = None if failure.action_data is None else codec.decode(failure.action_data)
        try:
            stage.env.step(action)
        except Exception as exc:
            if not _is_recorded(failure, exc):
                run.failure = (step, failure, exc)
                return
        else:
            run.failure = (step, failure, None)
            return
        position = end
    _apply(run, stage, episode, actions[position:], len(failed))


def _keep(run: Run, stage: Stage, obs: Any, episode: Episode) -> None:
    """Copy the observation and state of the reset."""
    run.like = obs if type(obs) is np.ndarray and obs.dtype.kind in "biufcmM" else None
    run.observations.append(Odd(codec.encode(obs, opaque=True)) if run.like is None else taker(episode, run)(obs))
    if stage.adapter is not None:
        state = stage.adapter.capture()
        run.states.append(state_digest(state))
        if 0 in episode.states:
            run.whole_states[0] = codec.encode(state)


def _is_recorded(failure: Failure | None, exc: BaseException) -> bool:
    return failure is not None and failure.error_type == codec.type_name(exc)
