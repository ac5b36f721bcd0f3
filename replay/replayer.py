"""Replay episodes: re-execute them, compare the returned values, and explain the differences."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Unpack

from trajrec.corpus.episode import Episode
from trajrec.errors import (
    CorpusError,
    EnvMissingError,
    EnvRefusedError,
    LogCorruptError,
    ReplayError,
    TrajrecError,
)
from trajrec.protocols import Verifier, World
from trajrec.replay.agents.world_replay import replay_in_world
from trajrec.replay.execute.factories import (
    EnvOrFactory,
    WorldOrFactory,
    is_world,
    world_from_factory,
)
from trajrec.replay.execute.grading import ExecutedEpisode, are_exact
from trajrec.replay.execute.report import ReplayReport, refusal
from trajrec.replay.execute.run import decode_ahead
from trajrec.replay.execute.worlds import check_world_options, make_world
from trajrec.replay.executor import EpisodeExecutor
from trajrec.replay.explain import Explainer
from trajrec.replay.options import ReplayOptions, replay_config

# Short episodes are executed in groups before the first of them is compared: code that runs again
# and again runs faster, by about 0.1 ms an episode. A group ends after this number of episodes or
# this time, so that the report of a long episode is not held back.
GROUP_EPISODES = 8
GROUP_S = 0.05

# A group is decoded ahead only while its columns stay below this size: a group of episodes of frames
# would fill the memory.
DECODE_AHEAD_BYTES = 1 << 22

# One episode of a batch is refused for these. A corpus may lack the parent of a fork.
_REFUSALS = (ReplayError, LogCorruptError, CorpusError)


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
        self._config = replay_config(**options)
        self._executor = EpisodeExecutor(env, self._config)
        self._explainer = Explainer(self._executor, self._config)
        self._has_env = env is not None
        self._world = world
        self._checks = tuple(checks)
        self._has_diverged = False

    def __enter__(self) -> Replayer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the environment that was made; the caller closes a given one."""
        self._executor.close()

    def replay(self, episode: Episode) -> ReplayReport:
        """Replay one episode on an environment or, if it is an agent's, in a world.

        Raises:
            EnvRefusedError: The log names a module that is not allowed.
            EnvMissingError: The environment or world is not installed, or the log does not say how
                to make it.
            ValueError: `checks` are given and the episode is of an environment.
        """
        is_imported = episode.source is not None
        if is_imported and episode.is_agent_episode and self._world is None:
            return _of_imported(
                episode,
                "the file holds neither the world nor its state; "
                "--env MODULE:FACTORY names a world to try its calls in",
            )
        if episode.is_agent_episode:
            return replay_in_world(
                episode,
                lambda: self._make_world(episode),
                checks=self._checks,
                tolerance=self._config.tolerance,
                resync=self._config.resync,
                first=self._config.first,
                explain=self._config.explain,
            )
        if self._checks:
            raise ValueError(
                f"checks must be empty for an episode of an environment, as {episode.id} is; "
                "only agents' episodes are checked again"
            )
        if is_imported and not self._has_env:
            return self._replay_imported(episode)
        return self._report(self._executor.execute(episode))

    def _replay_imported(self, episode: Episode) -> ReplayReport:
        """Replay an imported episode if its environment can be made, else say why not."""
        problem = episode.header.env.recreatable
        if problem:
            hint = "--env MODULE:FACTORY names a function that makes the environment"
            return _of_imported(episode, f"{problem}; {hint}")
        try:
            return self._report(self._executor.execute(episode))
        except (EnvMissingError, EnvRefusedError) as exc:
            return _of_imported(episode, exc.what)

    def replay_all(self, episodes: Iterable[Episode]) -> Iterator[ReplayReport]:
        """Replay episodes in order; report those that cannot be replayed as "refused".

        Up to the first divergence, short episodes are decoded, executed and compared in groups.

        Args:
            episodes: Read as they are needed, up to `GROUP_EPISODES` ahead.

        Yields:
            One report for each episode. If reading or executing an episode raises an error that is
            no `ReplayError`, the reports of all episodes before it are yielded first.
        """
        group: list[ExecutedEpisode] = []
        start = 0.0
        try:
            for episode in _decoded(episodes):
                is_alone = episode.is_agent_episode or episode.source is not None
                if is_alone or self._has_diverged or self._checks:
                    yield from self._report_group(group)
                    yield self._replay_or_refuse(episode)
                    continue
                start = start if group else time.perf_counter()
                try:
                    group.append(self._executor.execute(episode))
                except _REFUSALS as exc:
                    yield from self._report_group(group)
                    yield refusal(episode.id, _reason(exc))
                if time.perf_counter() - start > GROUP_S or len(group) == GROUP_EPISODES:
                    yield from self._report_group(group)
        except Exception:
            yield from self._report_group(group)
            raise
        yield from self._report_group(group)

    def _report_group(self, group: list[ExecutedEpisode]) -> Iterator[ReplayReport]:
        """Report a group and empty it.

        After a divergence the rest of the group is executed again: looking for the cause changes
        the environment that it was executed on.
        """
        is_exact = len(group) > 1 and are_exact(group)
        while group:
            executed = group.pop(0)
            report = self._executor.grade(executed, is_exact=is_exact)
            if report.divergence is None:
                yield report
                continue
            self._has_diverged = True
            later = [executed.episode for executed in group]
            group.clear()
            try:
                yield self._explainer.look_again(executed, report)
            except _REFUSALS as exc:
                yield refusal(executed.episode.id, _reason(exc))
            yield from map(self._replay_or_refuse, later)

    def _replay_or_refuse(self, episode: Episode) -> ReplayReport:
        if self._checks and not episode.is_agent_episode:
            return refusal(episode.id, "checks are run on agents' episodes only")
        try:
            return self.replay(episode)
        except _REFUSALS as exc:
            return refusal(episode.id, _reason(exc))

    def _report(self, executed: ExecutedEpisode) -> ReplayReport:
        report = self._executor.grade(executed)
        if report.divergence is None:
            return report
        return self._explainer.look_again(executed, report)

    def _make_world(self, episode: Episode) -> World:
        allow = self._config.allow
        world = self._world
        if world is None:
            world = make_world(episode, allow)
        elif not is_world(world):
            world = world_from_factory(world)
        check_world_options(episode, world, allow)
        return world


def _of_imported(episode: Episode, reason: str) -> ReplayReport:
    """Return the report of an imported episode, of which nothing can be executed."""
    source = episode.source or {}
    note = (
        f"imported from {source.get('file')} (format {source.get('format')}): nothing was executed, "
        f"because {reason}"
    )
    return ReplayReport(episode_id=episode.id, grade="observed-only", n_steps=0, notes=(note,))


def _reason(exc: TrajrecError) -> str:
    """Return the reason of a refusal, without the episode that the report names."""
    if type(exc) is CorpusError:
        return f"an episode that it was forked from is missing: {exc}"
    return str(getattr(exc, "what", exc))


def _decoded(episodes: Iterable[Episode]) -> Iterator[Episode]:
    """Yield episodes; decode short ones in groups before the first of a group is yielded."""
    group: list[Episode] = []
    n_bytes = 0
    try:
        for episode in episodes:
            group.append(episode)
            n_bytes += sum(chunk.raw_bytes for chunk, _ in episode.rows.parts)
            is_full = len(group) == GROUP_EPISODES or n_bytes > DECODE_AHEAD_BYTES
            if is_full or episode.is_agent_episode:
                yield from _decode_group(group, n_bytes)
                group = []
                n_bytes = 0
    except Exception:
        yield from group
        raise
    yield from _decode_group(group, n_bytes)


def _decode_group(group: list[Episode], n_bytes: int) -> list[Episode]:
    if n_bytes <= DECODE_AHEAD_BYTES:
        for episode in group:
            decode_ahead(episode)
    return group
