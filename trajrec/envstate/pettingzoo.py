"""PettingZoo environments as Gymnasium environments.

With this view of them, one recorder, log, replay engine and fork server serve both packages. The
players of a PettingZoo environment together act as one agent:

- Parallel: an action is a dict of each player's action, and an observation a dict of each player's.
- AEC: an action is that of the player in turn. An observation is the next player's `last()`, with
  that player's name.

Rewards stay a dict by player: in a game that one player wins, their sum says nothing.

This module never imports PettingZoo: whoever has such an environment has imported it.
"""

from __future__ import annotations

import copy
import hashlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, SupportsFloat, TypeAlias

import gymnasium
import numpy as np

from trajrec.envstate.results import check_flags, joint_parts
from trajrec.types import Action, Info, JsonObject, Observation, Value

PettingZooApi = Literal["aec", "parallel"]

# PettingZoo is not imported here. A player may be any hashable value; most are names.
AnyPettingZoo: TypeAlias = Any
Player: TypeAlias = Any

Space: TypeAlias = gymnasium.Space[Any]

WRAPPER_ARGUMENTS = {
    "TerminateIllegalWrapper": {"illegal_reward": "_illegal_value"},
    "MultiEpisodeEnv": {"num_episodes": "_num_episodes"},
    "MultiEpisodeParallelEnv": {"num_episodes": "_num_episodes"},
}
"""PettingZoo's wrappers that take more than an environment: class -> argument -> the attribute that
holds it. The other wrappers that take more hold no plain data."""

NO_ACTION = "dead"
"""Stands for an action mask if a player's only action is None. The word is stored in keyframes."""


def api_of(env: object) -> PettingZooApi | None:
    """Return the PettingZoo API that an environment has; None for any other object."""
    return api_of_class(type(env))


def api_of_class(cls: type) -> PettingZooApi | None:
    """Return the PettingZoo API that objects of a class have; None for any other class."""
    package = sys.modules.get("pettingzoo")
    apis: tuple[tuple[str, PettingZooApi], ...] = (("AECEnv", "aec"), ("ParallelEnv", "parallel"))
    for name, api in apis:
        base = getattr(package, name, None)
        if base is not None and issubclass(cls, base):
            return api
    return None


def as_gymnasium(env: Value) -> Value:
    """Return a PettingZoo environment as a Gymnasium environment, and any other object as it is."""
    api = api_of(env)
    if api is None:
        return env
    return AECView(env) if api == "aec" else ParallelView(env)


def layers(env: Value) -> Iterator[Value]:
    """Yield an environment's wrappers, outermost first, and last the bare environment."""
    while env is not None:
        yield env
        env = _inner(env)


def _inner(env: Value) -> Value:
    if isinstance(env, (gymnasium.Wrapper, PettingZooEnv)):
        return env.env
    if api_of(env) is not None:
        for name in ("env", "aec_env"):
            # Not `getattr`: PettingZoo's wrappers answer for the inner environment.
            inner = vars(env).get(name)
            if api_of(inner) is not None:
                return inner
    return None


class PettingZooEnv(gymnasium.Env[Any, Any]):
    """A PettingZoo environment as a Gymnasium environment; see `ParallelView` and `AECView`.

    An episode ends when no player is left. It has terminated if the flags of its last step say so
    for every player that they name, and else it was truncated. In an AEC environment the last step
    of a player that was alive counts, since the steps of dead players follow it.

    Attributes that this object does not have are those of `env`, and `unwrapped` is the bare
    PettingZoo environment.

    Attributes:
        env: The PettingZoo environment, with its wrappers.
        action_space: The actions of the players in turn, as their action masks allow them.
        observation_space: The spaces of all possible players.
        acting_agents: The players in turn, each with its action mask: None if it has none,
            `NO_ACTION` if only None is allowed.
    """

    def __init__(self, env: AnyPettingZoo) -> None:
        self.env = env
        self.metadata = getattr(env, "metadata", {})
        self.render_mode = getattr(env, "render_mode", None)
        self.observation_space = gymnasium.spaces.Dict(_spaces(env, env.observation_space))
        self.action_space = JointActions(self, copy.deepcopy(_spaces(env, env.action_space)))
        self.acting_agents: dict[Player, Value] = {}

    @property
    def unwrapped(self) -> AnyPettingZoo:
        """The bare PettingZoo environment."""
        return self.env.unwrapped

    def __getattr__(self, name: str) -> Value:
        # `env` is missing while the object is made or unpickled. A special method of `env` would
        # act on `env` instead of this object.
        if name == "env" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.env, name)

    def render(self) -> Value:
        """Return what the PettingZoo environment's `render` returns."""
        return self.env.render()

    def close(self) -> None:
        """Close the PettingZoo environment."""
        self.env.close()


class ParallelView(PettingZooEnv):
    """A parallel environment as a Gymnasium environment.

    Action, observation and reward are dicts by player. The info is
    {"terminations", "truncations", "infos"}, each a dict by player.

    Attributes:
        holds_returned: Whether `returned` is set by each reset and step.
        returned: The tuple that the PettingZoo environment itself returned last.
    """

    holds_returned = False
    returned: Value = None

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[Observation, Info]:
        """Reset the environment; return the observations and infos of all players."""
        returned = self.env.reset(seed=seed, options=options)
        observations, infos = joint_parts(returned, "reset", "observations, infos")
        self._after(returned, observations, infos)
        return observations, {"infos": infos}

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, Info]:
        """Step the environment with the action of each player."""
        returned = self.env.step(action)
        observations, rewards, terminations, truncations, infos = joint_parts(
            returned, "step", "observations, rewards, terminations, truncations, infos"
        )
        check_flags(terminations, "terminations")
        check_flags(truncations, "truncations")
        self._after(returned, observations, infos)
        is_over = not self.env.agents
        has_terminated = is_over and all(terminations.values())
        # Copies: an environment that PettingZoo converted returns dicts that it goes on changing,
        # and a defaultdict is no plain data.
        info = {
            "terminations": dict(terminations),
            "truncations": dict(truncations),
            "infos": infos,
        }
        # Gymnasium's type for a reward is a number; a dict by player is this view's own.
        reward: Value = dict(rewards)
        return observations, reward, has_terminated, is_over and not has_terminated, info

    def _after(
        self,
        returned: Value,
        observations: Mapping[Player, Observation],
        infos: Mapping[Player, Info] | None,
    ) -> None:
        if self.holds_returned:
            self.returned = returned
        self.acting_agents = {
            agent: _mask(observations.get(agent), (infos or {}).get(agent))
            for agent in self.env.agents
        }


class AECView(PettingZooEnv):
    """An AEC environment as a Gymnasium environment: one step is one player's turn.

    - Action: that of the player in turn, None if the player is dead.
    - Observation: {"agent", "observation", "reward", "terminated", "truncated"} of the next player,
      as `last()` returns it, and "action_mask" if its info has one. None if no player is left.
    - Reward: a dict of all players' rewards.
    - Info: {"agent", "terminations", "truncations", "infos"}: the player who acted, and dicts by
      player.
    """

    def __init__(self, env: AnyPettingZoo) -> None:
        super().__init__(env)
        self._terminations: dict[Player, bool] = {}

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[Observation, Info]:
        """Reset the environment; return the first player's observation."""
        self.env.reset(seed=seed, options=options)
        self._terminations = dict(self.env.terminations)
        return self._last(), self._flags()

    def step(self, action: Action) -> tuple[Observation, SupportsFloat, bool, bool, Info]:
        """Step the environment with the action of the player in turn."""
        env = self.env
        agent = env.agent_selection
        is_alive = not (env.terminations.get(agent) or env.truncations.get(agent))
        env.step(action)
        if is_alive:
            self._terminations = dict(env.terminations)
        is_over = not env.agents
        has_terminated = is_over and all(self._terminations.values())
        # Gymnasium's type for a reward is a number; a dict by player is this view's own.
        reward: Value = dict(env.rewards)
        observation = self._last()
        info = {"agent": agent, **self._flags()}
        return observation, reward, has_terminated, is_over and not has_terminated, info

    def _last(self) -> dict[str, Value] | None:
        env = self.env
        if not env.agents:
            self.acting_agents = {}
            return None
        agent = env.agent_selection
        observation, reward, terminated, truncated, info = env.last()
        joint = {
            "agent": agent,
            "observation": observation,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
        }
        if "action_mask" in info:
            joint["action_mask"] = info["action_mask"]
        is_dead = terminated or truncated
        self.acting_agents = {agent: NO_ACTION if is_dead else _mask(observation, info)}
        return joint

    def _flags(self) -> Info:
        env = self.env
        check_flags(env.terminations, "terminations")
        check_flags(env.truncations, "truncations")
        return {
            "terminations": dict(env.terminations),
            "truncations": dict(env.truncations),
            "infos": dict(env.infos),
        }


class JointActions(gymnasium.Space[Any]):
    """The actions of the players in turn.

    Args:
        env: The environment, which knows the players in turn.
        spaces: The space of each player. They must be copies: `sample` must not change the draws of
            the environment's own spaces.
    """

    def __init__(self, env: PettingZooEnv, spaces: dict[Player, Space]) -> None:
        super().__init__(None, None)
        self._env = env
        self.spaces = spaces
        self._seed: int | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> JointActions:
        """Copy the spaces, but not the environment."""
        copied = JointActions(self._env, copy.deepcopy(self.spaces, memo))
        copied._seed = self._seed
        return copied

    def seed(self, seed: int | tuple[int, ...] | None = None) -> Value:
        """Seed the space of each player, from the seed and the player's name."""
        self._seed = seed if isinstance(seed, int) else None
        return {agent: self._seed_one(agent, space) for agent, space in self.spaces.items()}

    def sample(self, mask: Value = None, probability: Value = None) -> Action:
        """Draw an action; in a parallel environment, a dict with one for each player."""
        actions = {
            agent: self._draw(agent, own_mask)
            for agent, own_mask in self._env.acting_agents.items()
        }
        return (
            actions if isinstance(self._env, ParallelView) else next(iter(actions.values()), None)
        )

    def contains(self, x: Action) -> bool:
        """Return whether `x` holds actions of players in turn, whatever their masks say."""
        return self._are_all(x, lambda agent, action: action in self._space(agent))

    def allows(self, x: Action) -> bool:
        """Return whether `x` holds actions of players in turn that their masks allow."""

        def is_allowed(agent: Player, action: Action) -> bool:
            space = self._space(agent)
            mask = self._env.acting_agents[agent]
            is_own = action in space
            if is_own and mask is not None and isinstance(space, gymnasium.spaces.Discrete):
                return bool(mask[action - space.start])
            return is_own

        return self._are_all(x, is_allowed)

    def _are_all(self, x: Action, is_right: Callable[[Player, Action], bool]) -> bool:
        acting = self._env.acting_agents
        is_parallel = isinstance(self._env, ParallelView)
        actions: Iterable[tuple[Player, Action]] = (
            x.items() if is_parallel else [(agent, x) for agent in acting]
        )
        for agent, action in actions:
            if agent not in acting:
                return False
            if not (action is None if _is_dead(acting[agent]) else is_right(agent, action)):
                return False
        return True

    def __repr__(self) -> str:
        return repr(gymnasium.spaces.Dict(self.spaces))

    def _draw(self, agent: Player, mask: Value) -> Action:
        space = self._space(agent)
        if _is_dead(mask):
            return None
        if isinstance(space, gymnasium.spaces.Discrete) and mask is not None:
            return space.sample(np.asarray(mask).astype(np.int8))
        return space.sample()

    def _space(self, agent: Player) -> Space:
        if agent not in self.spaces:
            # Some environments add players that `possible_agents` did not list.
            self.spaces[agent] = copy.deepcopy(self._env.env.action_space(agent))
            if self._seed is not None:
                self._seed_one(agent, self.spaces[agent])
        return self.spaces[agent]

    def _seed_one(self, agent: Player, space: Space) -> Value:
        if self._seed is None:
            return space.seed()
        # By name, so that the draws of a player do not depend on the other players.
        digest = hashlib.blake2b(f"{self._seed}/{agent}".encode(), digest_size=4).digest()
        return space.seed(int.from_bytes(digest, "little"))


def _is_dead(mask: Value) -> bool:
    """Return whether a player's only action is None."""
    # By value: a restored environment has another text of the same letters.
    return isinstance(mask, str) and mask == NO_ACTION


def _spaces(env: AnyPettingZoo, space_of: Callable[[Player], Space]) -> dict[Player, Space]:
    """Return the spaces of all players that an environment lists before its first reset."""
    spaces = {}
    with warnings.catch_warnings():
        # PettingZoo warns about environments that have their spaces as attributes.
        warnings.simplefilter("ignore")
        for agent in getattr(env, "possible_agents", ()):
            # A loop that never asks for a space must not see an exception that it raises.
            with suppress(Exception):
                spaces[agent] = space_of(agent)
    return spaces


def _mask(observation: Observation, info: Info | None) -> Value:
    """Return a player's action mask, from its observation or its info; None if it has none.

    An array is copied: the loop has the mask too, and may write into it.
    """
    for holder in (observation, info):
        if isinstance(holder, dict) and "action_mask" in holder:
            mask = holder["action_mask"]
            return mask.copy() if isinstance(mask, np.ndarray) else mask
    return None
