"""A Gymnasium environment as a tool world, and a tool world as a Gymnasium environment of text."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trajrec.protocols import HasState, RestorableState, Tool, World
from trajrec.types import Action, AnyEnv, Array, Info, JsonObject, Value

# Long enough for the states of the worlds that we ship; a longer result is cut.
MAX_TEXT = 1 << 16
Check = Callable[[World], bool]


class GymWorld:
    """A Gymnasium environment as a world with one tool, `act`, which takes a step.

    Args:
        env: The environment. Actions arrive as JSON and are converted to the action space.

    >>> world = GymWorld(gymnasium.make("FrozenLake-v1", is_slippery=False))
    >>> _ = world.reset(seed=0)
    >>> world.call("act", {"action": 2})["observation"]
    1
    """

    def __init__(self, env: AnyEnv) -> None:
        self.env = env
        self._is_over = False

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[Value, Info]:
        """Reset the environment; return its observation and info."""
        self._is_over = False
        return self.env.reset(seed=seed, options=options)

    def tools(self) -> tuple[Tool, ...]:
        """Return the one tool."""
        schema = {
            "type": "object",
            "properties": {"action": {}},
            "required": ["action"],
            "additionalProperties": False,
        }
        return (Tool("act", schema, "write", f"Take an action of {self.env.action_space}."),)

    def call(self, name: str, arguments: JsonObject, /) -> JsonObject:
        """Take a step.

        Raises:
            ValueError: The tool does not exist, the episode is over, or the action is not in the
                action space.
        """
        if name != "act":
            raise ValueError(f"no tool {name!r}; there is act")
        if self._is_over:
            raise ValueError("the episode is over: reset the world before the next action")
        action = _to_action(self.env.action_space, arguments["action"])
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._is_over = bool(terminated or truncated)
        return {
            "observation": _to_json(observation),
            "reward": float(reward),
            "terminated": bool(terminated),
            "truncated": bool(truncated),
            "info": _to_json(info),
        }


class ToolTextEnv(gymnasium.Env[str, str]):
    """A tool world as a Gymnasium environment: an action is a tool call as JSON text.

    An action has the form `{"tool": ..., "arguments": {...}}`. The observation is the result, as
    JSON; a refused or malformed call is answered with `{"error": ...}`. The tool `finish` ends the
    episode, with reward 1 if the check passes and 0 otherwise. After a reset, `info["goal"]` has
    the goal and `info["tools"]` the tools.

    Args:
        world: The world.
        check: Returns whether the goal is reached in the world's present state.
        max_steps: Number of steps after which the episode is truncated.
    """

    def __init__(self, world: World, check: Check, *, max_steps: int = 30) -> None:
        # Spaces of its own: with shared ones, the draws of one environment depend on the others.
        self.observation_space = text_space(MAX_TEXT)
        self.action_space = text_space(MAX_TEXT)
        self.world = world
        self.check = check
        self.max_steps = max_steps
        self._n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[str, Info]:
        """Reset the world; the observation is empty, the info has the goal and the tools."""
        super().reset(seed=seed)
        goal = self.world.reset(seed=seed, options=options)
        self._n_steps = 0
        tools = [
            {"name": tool.name, "schema": tool.schema, "description": tool.description}
            for tool in self.world.tools()
        ]
        return "", {"goal": _to_json(goal), "tools": tools}

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        """Execute a call."""
        self._n_steps += 1
        name = None
        is_done = False
        result: Value
        try:
            call = json.loads(action)
            name = call["tool"]
            is_finish = name == "finish"
            # A world may have its own tool `finish`; it is called too, for its bookkeeping.
            if any(tool.name == name for tool in self.world.tools()) or not is_finish:
                result = self.world.call(name, call.get("arguments", {}))
            else:
                result = "finished"
            is_done = is_finish
        except Exception as exc:
            # Any error of a tool is the agent's to deal with, as an observation.
            result = {"error": f"{type(exc).__name__}: {exc}"}
        reward = float(is_done and self.check(self.world))
        truncated = not is_done and self._n_steps >= self.max_steps
        observation = json.dumps(_to_json(result))[:MAX_TEXT]
        return observation, reward, is_done, truncated, {"tool": name}

    def get_state(self) -> JsonObject:
        """Return the world's state and the number of steps.

        Raises:
            AttributeError: The world has no `get_state`.
        """
        if not isinstance(self.world, HasState):
            raise AttributeError(f"{type(self.world).__name__} has no get_state")
        return {"world": self.world.get_state(), "n_steps": self._n_steps}

    def set_state(self, state: JsonObject) -> None:
        """Restore a state that `get_state` returned.

        Raises:
            AttributeError: The world has no `set_state`.
        """
        if not isinstance(self.world, RestorableState):
            raise AttributeError(f"{type(self.world).__name__} has no set_state")
        self.world.set_state(state["world"])
        self._n_steps = state["n_steps"]


def text_space(max_length: int) -> spaces.Text:
    """Return a space of printable texts."""
    return spaces.Text(max_length=max_length, min_length=0, charset=frozenset(string.printable))


def _to_action(space: spaces.Space[Action], value: Value) -> Action:
    """Convert an action from JSON to the type that its space holds.

    Raises:
        ValueError: The space does not hold the action.
    """
    action = value
    if isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        action = _to_array(value, np.dtype(space.dtype))
    elif isinstance(space, spaces.Dict) and isinstance(value, dict):
        has_all = value.keys() == space.spaces.keys()
        inner = space.spaces.items()
        action = {key: _to_action(part, value[key]) for key, part in inner} if has_all else None
    elif isinstance(space, spaces.Tuple) and isinstance(value, list):
        has_all = len(value) == len(space.spaces)
        action = tuple(map(_to_action, space.spaces, value)) if has_all else None
    if action is None or not space.contains(action):
        raise ValueError(f"action must be in {space}, got {value!r}")
    return action


def _to_array(value: Value, dtype: np.dtype[Any]) -> Array | None:
    """Return numbers as an array; None if they are no numbers, or other ones in this dtype."""
    try:
        given = np.array(value)
    except ValueError:
        return None
    if given.dtype.kind not in "biuf":
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        array = given.astype(dtype)
    if dtype.kind == "f":
        # A number beyond the largest one of this dtype would become infinite.
        return array if np.array_equal(np.isfinite(array), np.isfinite(given)) else None
    # A fraction or a large number would become another integer.
    return array if np.array_equal(array, given) else None


def _to_json(value: Value) -> Value:
    """Convert a value to JSON types; an unknown object becomes its repr."""
    if isinstance(value, (np.ndarray, np.generic)):
        plain = value.tolist()
        # A long double stays one.
        return repr(value) if isinstance(plain, np.generic) else _to_json(plain)
    if isinstance(value, dict):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if isinstance(value, (set, frozenset)):
        # Python's order of a set is another one in another process.
        return sorted(map(_to_json, value), key=repr)
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
