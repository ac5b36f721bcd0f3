"""Execute and grade episodes on an environment that is kept between episodes."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium

from trajrec.corpus.episode import Episode
from trajrec.envstate.pettingzoo import api_of
from trajrec.log.schema import EnvRecord, StateRecord
from trajrec.replay.execute.environments import make_env
from trajrec.replay.execute.factories import EnvOrFactory, env_from_factory
from trajrec.replay.execute.grading import ExecutedEpisode, execute_on, grade_execution
from trajrec.replay.execute.handle import EnvHandle, env_handle
from trajrec.replay.execute.report import ReplayReport
from trajrec.replay.options import ReplayConfig
from trajrec.types import AnyEnv, Value


def is_env_object(env: Value) -> bool:
    """Return whether a value is an environment, and not a function that makes one."""
    return isinstance(env, gymnasium.Env) or api_of(env) is not None


class _Made(NamedTuple):
    """The environment that was made last, and the records of the log that its handle is for."""

    record: EnvRecord
    state: StateRecord
    handle: EnvHandle


class EpisodeExecutor:
    """Executes episodes, and keeps the last environment for the next one of the same specification.

    Args:
        env: An environment, which the caller closes; a function that makes one; or None to make the
            environment that each log names.
        config: The options.

    Attributes:
        has_own_envs: Whether the executor makes the environments: it can then make another one.
        factory: The function that makes them; None if the logs name them.
    """

    def __init__(self, env: EnvOrFactory, config: ReplayConfig) -> None:
        self.has_own_envs = not is_env_object(env)
        self.factory: Any = env if self.has_own_envs else None
        self._given: Any = None if self.has_own_envs else env
        self._config = config
        self._made: _Made | None = None
        self._previous: Episode | None = None

    def execute(self, episode: Episode) -> ExecutedEpisode:
        """Execute an episode."""
        is_fresh = self._made is None or self._made.record != episode.header.env
        previous = None if is_fresh else self._previous
        self._previous = episode
        return execute_on(
            episode,
            self.handle(episode),
            self._config.tolerance,
            resync=self._config.resync,
            first=self._config.first,
            is_fresh=is_fresh,
            previous=previous,
        )

    def grade(self, executed: ExecutedEpisode, *, is_exact: bool = False) -> ReplayReport:
        """Compare an execution with its recording, unless `are_exact` has proved it exact."""
        return grade_execution(executed, self._config.tolerance, is_exact=is_exact)

    def handle(self, episode: Episode) -> EnvHandle:
        """Return the environment for an episode: the given one, the last one, or a new one."""
        if not self.has_own_envs:
            return env_handle(self._given, episode, self._config.state, self._config.allow)
        record = episode.header.env
        if self._made is None or self._made.record != record:
            self.close()
            if self.factory is None:
                env = make_env(record, episode_id=episode.id, allow=self._config.allow)
            else:
                env = env_from_factory(self.factory, record)
            self._made = self._as_made(env, episode)
        elif self._made.state != episode.header.state:
            # The same environment, of which another log has no states, or those of a function.
            self._made = self._as_made(self._made.handle.env, episode)
        return self._made.handle

    def _as_made(self, env: AnyEnv, episode: Episode) -> _Made:
        handle = env_handle(env, episode, self._config.state, self._config.allow)
        return _Made(episode.header.env, episode.header.state, handle)

    def close(self) -> EnvHandle | None:
        """Close the environment that was made, and return its handle; a given one stays open."""
        if self._made is None:
            return None
        handle = self._made.handle
        self._made = None
        handle.env.close()
        return handle
