"""PettingZoo environments seen as Gymnasium environments: one recorder, log, replay and fork server do for both.

All agents together are the one that acts. Of a parallel environment an action is what each agent does, an observation what each
sees. Of an AEC environment an action is what the agent does whose turn it is, and an observation what `last()` tells the next
one, with its name. Rewards stay apart, by agent: their sum would say nothing of a game that one of them wins.

PettingZoo is never imported here: whoever has such an environment has imported it.
"""

from __future__ import annotations

import copy
import hashlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

API_FIELD = "pettingzoo"
"""Of EnvRecord.spec_fields: "aec" or "parallel", for a PettingZoo environment."""


WRAPPER_ARGUMENTS = {
    "TerminateIllegalWrapper": {"illegal_reward": "_illegal_value"},
    "MultiEpisodeEnv": {"num_episodes": "_num_episodes"},
    "MultiEpisodeParallelEnv": {"num_episodes": "_num_episodes"},
}
"""Of PettingZoo's own wrappers those that take more than an environment: arguments, and the attributes that keep them."""


NO_ACTION = "dead"
"""In the place of an action mask: the agent's only action is None."""


def api_of(env: Any) -> str | None:
    """Return which of PettingZoo's interfaces an environment has, "aec" or "parallel"; None for any other object."""
    return api_of_class(type(env))


def api_of_class(cls: type) -> str | None:
    """Return which of PettingZoo's interfaces the objects of a class have; None for any other class."""
    package = sys.modules.get("pettingzoo")
    for name, api in (("AECEnv", "aec"), ("ParallelEnv", "parallel")):
        base = getattr(package, name, None)
        if base is not None and issubclass(cls, base):
            return api
    return None


def as_gymnasium(env: Any) -> Any:
    """Return the joint view of a PettingZoo environment, and anything else as it is."""
    api = api_of(env)
    return env if api is None else AECView(env) if api == "aec" else ParallelView(env)


def layers(env: Any) -> Iterator[Any]:
    """Yield an environment's wrappers, outermost first, and what they wrap last."""
    while env is not None:
        yield env
        env = _inner(env)


def _inner(env: Any) -> Any:
    if isinstance(env, (gymnasium.Wrapper, PettingZooEnv)):
        return env.env
    if api_of(env) is not None:
        for name in ("env", "aec_env"):
            # Not getattr: PettingZoo's wrappers answer with what they wrap.
            found = vars(env).get(name)
            if api_of(found) is not None:
                return found
    return None


class PettingZooEnv(gymnasium.Env[Any, Any]):
    """A PettingZoo environment as one of Gymnasium's, see `ParallelView` and `AECView`.

    An episode ends when no agent is left. It was terminated where the flags of the last step, or of the last one that a living
    agent took, say so of all agents that they are of; else truncated: somebody was cut off.

    `unwrapped` is the bare PettingZoo environment, and what the view does not have is what `env` has.

    Attributes:
        env: The PettingZoo environment, with its wrappers.
        action_space: What a random policy draws from: for those whose turn it is, what their action masks allow.
        observation_space: The spaces of all possible agents.
    """

    def __init__(self, env: Any) -> None:
        self.env = env
        self.metadata, self.render_mode = (
            getattr(env, "metadata", {}),
            getattr(env, "render_mode", None),
        )
        self.observation_space = gymnasium.spaces.Dict(_spaces(env, env.observation_space))
        self.action_space = JointActions(self, copy.deepcopy(_spaces(env, env.action_space)))
        self.turns: dict[Any, Any] = {}
        """Who may act, each with its action mask (None where there is none)."""

    @property
    def unwrapped(self) -> Any:
        """The bare PettingZoo environment."""
        return self.env.unwrapped

    def __getattr__(self, name: str) -> Any:
        if name == "env" or name.startswith(
            "__"
        ):  # not there yet, or nothing that another object can do in its place
            raise AttributeError(name)
        return getattr(self.env, name)

    def render(self) -> Any:
        """See PettingZoo."""
        return self.env.render()

    def close(self) -> None:
        """See PettingZoo."""
        self.env.close()


class ParallelView(PettingZooEnv):
    """A parallel environment: action, observation and reward are dicts by agent, as they are; the info is
    {"terminations", "truncations", "infos"}, each by agent.

    Attributes:
        keeps: Whether what the environment itself returned is kept, until it is taken.
        returned: That.
    """

    keeps = False
    returned: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See `JointView`."""
        returned = observations, infos = self.env.reset(seed=seed, options=options)
        self._see(returned, observations, infos)
        return observations, {"infos": infos}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """See `JointView`."""
        returned = observations, rewards, terminations, truncations, infos = self.env.step(action)
        self._see(returned, observations, infos)
        is_over = not self.env.agents
        has_terminated = is_over and all(terminations.values())
        # Copies: PettingZoo's converted environments return what they go on with, and a defaultdict.
        info = {
            "terminations": dict(terminations),
            "truncations": dict(truncations),
            "infos": infos,
        }
        reward: Any = dict(rewards)
        return observations, reward, has_terminated, is_over and not has_terminated, info

    def _see(self, returned: Any, observations: Any, infos: Any) -> None:
        if self.keeps:
            self.returned = returned
        self.turns = {
            agent: _mask(observations.get(agent), infos.get(agent)) for agent in self.env.agents
        }


class AECView(PettingZooEnv):
    """An AEC environment, turn by turn: an action is what the agent in turn does (None where it is dead); the reward is a dict
    of all agents' rewards for it. Observed is {"agent", "observation", "reward", "terminated", "truncated"} of the next one,
    as `last()` says it (with "action_mask", where its info has one), and None where nobody is left. The info is
    {"agent", "terminations", "truncations", "infos"}: who acted, and the rest by agent."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self._terminations: dict[Any, bool] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """See `JointView`."""
        self.env.reset(seed=seed, options=options)
        self._terminations = dict(self.env.terminations)
        return self._last(), self._flags()

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """See `JointView`."""
        env = self.env
        agent = env.agent_selection
        is_alive = not (env.terminations.get(agent) or env.truncations.get(agent))
        env.step(action)
        if is_alive:
            self._terminations = dict(env.terminations)
        is_over = not env.agents
        has_terminated = is_over and all(self._terminations.values())
        reward: Any = dict(env.rewards)
        return (
            self._last(),
            reward,
            has_terminated,
            is_over and not has_terminated,
            {"agent": agent, **self._flags()},
        )

    def _last(self) -> dict[str, Any] | None:
        env = self.env
        if not env.agents:
            self.turns = {}
            return None
        agent = env.agent_selection
        observation, reward, terminated, truncated, info = env.last()
        seen = {
            "agent": agent,
            "observation": observation,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
        }
        if "action_mask" in info:
            seen["action_mask"] = info["action_mask"]
        self.turns = {agent: NO_ACTION if terminated or truncated else _mask(observation, info)}
        return seen

    def _flags(self) -> dict[str, Any]:
        env = self.env
        return {
            "terminations": dict(env.terminations),
            "truncations": dict(env.truncations),
            "infos": dict(env.infos),
        }


class JointActions(gymnasium.Space[Any]):
    """The actions of those whose turn it is.

    Args:
        view: Says whose turn it is.
        spaces: The space of each agent, a copy: what is drawn here must not change what the environment's own spaces draw.
    """

    def __init__(self, view: PettingZooEnv, spaces: dict[Any, Any]) -> None:
        super().__init__(None, None)
        self._view, self.spaces = view, spaces
        self._seed: int | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> JointActions:
        """Copy the spaces, and not the environment."""
        made = JointActions(self._view, copy.deepcopy(self.spaces, memo))
        made._seed = self._seed
        return made

    def seed(self, seed: int | tuple[int, ...] | None = None) -> Any:
        """Seed the space of each agent, by its name."""
        self._seed = seed if isinstance(seed, int) else None
        return {agent: self._seed_one(agent, space) for agent, space in self.spaces.items()}

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> Any:
        """Draw an action: of a parallel environment for each agent, of an AEC environment for the one in turn."""
        drawn = {agent: self._draw(agent, mask) for agent, mask in self._view.turns.items()}
        return drawn if isinstance(self._view, ParallelView) else next(iter(drawn.values()), None)

    def contains(self, x: Any) -> bool:
        """Say whether these are actions of those whose turn it is."""
        turns = self._view.turns
        actions: Iterable[Any] = (
            x.items() if isinstance(self._view, ParallelView) else [(agent, x) for agent in turns]
        )
        return all(
            agent in turns
            and (action is None if turns[agent] is NO_ACTION else action in self._space(agent))
            for agent, action in actions
        )

    def __repr__(self) -> str:
        return repr(gymnasium.spaces.Dict(self.spaces))

    def _draw(self, agent: Any, mask: Any) -> Any:
        space = self._space(agent)
        if mask is NO_ACTION:
            return None
        if isinstance(space, gymnasium.spaces.Discrete) and isinstance(mask, np.ndarray):
            return space.sample(mask.astype(np.int8))
        return space.sample()

    def _space(self, agent: Any) -> Any:
        if agent not in self.spaces:  # some environments have agents that nobody knew of before
            self.spaces[agent] = copy.deepcopy(self._view.env.action_space(agent))
            if self._seed is not None:
                self._seed_one(agent, self.spaces[agent])
        return self.spaces[agent]

    def _seed_one(self, agent: Any, space: Any) -> Any:
        if self._seed is None:
            return space.seed()
        return space.seed(
            int.from_bytes(
                hashlib.blake2b(f"{self._seed}/{agent}".encode(), digest_size=4).digest(), "little"
            )
        )


def _spaces(env: Any, space_of: Callable[[Any], Any]) -> dict[Any, Any]:
    """Return the spaces of all possible agents that an environment tells of before it is reset."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # PettingZoo's advice on environments that have their spaces as attributes
        for agent in getattr(env, "possible_agents", ()):
            with suppress(Exception):  # a loop that never asks for it must not see what it raises
                found[agent] = space_of(agent)
    return found


def _mask(observation: Any, info: Any) -> Any:
    """Return an agent's action mask: in its observation or in its info."""
    for holder in (observation, info):
        if isinstance(holder, dict) and "action_mask" in holder:
            return holder["action_mask"]
    return None
