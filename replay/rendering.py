"""Draw an episode: replay it in its environment, and take the pictures that `render` returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import msgspec

from trajrec.corpus.episode import Episode
from trajrec.errors import ReplayError
from trajrec.log.schema import FACTORY_FIELD, EnvRecord
from trajrec.replay.execute.environments import make_env
from trajrec.replay.execute.factories import EnvOrFactory, env_from_factory
from trajrec.replay.execute.report import ReplayReport
from trajrec.replay.execute.trust import module_prefixes
from trajrec.replay.replayer import replay_episode
from trajrec.types import Action, AnyEnv, Info, JsonObject, Observation, Value
from trajrec.values import codec

RENDER_MODE = "rgb_array"
"""The mode in which environments of Gymnasium and PettingZoo return what they would show."""


class _Camera(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Takes a picture after each reset and each step.

    Args:
        env: An environment in the mode `RENDER_MODE`.
        take: Gets the number of steps since the reset, and what `render` returned.
    """

    def __init__(self, env: AnyEnv, take: Callable[[int, Value], None]) -> None:
        super().__init__(env)
        self._take = take
        self._n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[Observation, Info]:
        result = self.env.reset(seed=seed, options=options)
        self._n_steps = 0
        self._take(0, self.env.render())
        return result

    def step(self, action: Action) -> tuple[Observation, Any, bool, bool, Info]:
        result = self.env.step(action)
        self._n_steps += 1
        self._take(self._n_steps, self.env.render())
        return result


def render_episode(
    episode: Episode,
    take: Callable[[int, Value], None],
    *,
    allow: Iterable[str] = (),
    env: EnvOrFactory = None,
) -> ReplayReport:
    """Replay an episode and draw it.

    Args:
        episode: An episode of an environment.
        take: Gets each picture: the number of steps since the reset, and what `render` returned.
            A reset begins again at 0: episodes of the same run may have to be replayed before.
        allow: Module prefixes that may be imported because the log names them.
        env: An environment that renders to arrays, or a function that makes one. By default the
            environment that the log names is made, with `render_mode="rgb_array"`.

    Returns:
        The report of the replay. Pictures from the step of a divergence on show another episode.

    Raises:
        EnvRefusedError: The log names a module that is not allowed.
        EnvMissingError: The environment is not installed, or the log does not say how to make it.
        ReplayError: The episode is an agent's, or the environment does not render to arrays.
    """
    if episode.is_agent_episode:
        raise ReplayError("an agent's episode has no environment to draw", episode_id=episode.id)
    allowed = module_prefixes(allow)

    def make() -> AnyEnv:
        if env is None:
            record = _drawing(episode.header.env)
            made = make_env(record, episode_id=episode.id, allow=allowed)
        else:
            made = env_from_factory(env, episode.header.env) if callable(env) else env
        if made.render_mode != RENDER_MODE:
            raise ReplayError(
                f"the environment has render_mode={made.render_mode!r}; give a function that makes "
                f'it with render_mode="{RENDER_MODE}": --env MODULE:FACTORY',
                episode_id=episode.id,
            )
        return _Camera(made, take)

    return replay_episode(episode, env=make, allow=allowed, explain=False)


def _drawing(record: EnvRecord) -> EnvRecord:
    """Return the description of the same environment in the mode that returns pictures."""
    if FACTORY_FIELD in record.spec_fields:
        # A function without arguments made it.
        return record
    kwargs = codec.decode_map(record.kwargs_data) | {"render_mode": RENDER_MODE}
    return msgspec.structs.replace(record, kwargs_data=codec.encode(kwargs))
