"""Where a run takes its environments from: a function of the caller, or the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trajrec.corpus.episode import Episode
from trajrec.protocols import World
from trajrec.replay.execute.environments import make_env
from trajrec.replay.execute.factories import env_from_factory, world_from_factory
from trajrec.replay.execute.handle import EnvHandle, env_handle
from trajrec.replay.execute.tolerance import EXACT, Tolerance
from trajrec.replay.execute.worlds import check_world_options, make_world
from trajrec.types import AnyEnv, Value


@dataclass(frozen=True)
class EnvSource:
    """Makes the environments or worlds of a run. Other processes receive it pickled.

    Attributes:
        factory: A function that returns one; None makes the one that the log names.
        allow: Prefixes of the modules that may be imported because a log names them.
        state: The function that captured the recorded states; None takes an adapter.
        tolerance: The differences from the recording that are ignored on the way to a step.
    """

    factory: Callable[[], Value] | None = None
    allow: tuple[str, ...] = ()
    state: Callable[[AnyEnv], Value] | None = None
    tolerance: Tolerance = EXACT

    def make_handle(self, episode: Episode) -> EnvHandle:
        """Make the environment of an episode."""
        record = episode.header.env
        env = (
            make_env(record, episode_id=episode.id, allow=self.allow)
            if self.factory is None
            else env_from_factory(self.factory, record)
        )
        return env_handle(env, episode, self.state, self.allow, self.tolerance)

    def make_world(self, episode: Episode) -> World:
        """Make the tool world of an agent's episode."""
        world = (
            make_world(episode, self.allow)
            if self.factory is None
            else world_from_factory(self.factory)
        )
        check_world_options(episode, world, self.allow)
        return world
