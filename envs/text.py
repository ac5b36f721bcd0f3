"""A Gymnasium environment as a world with one tool, and a world as a Gymnasium environment of text."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trajrec.protocols import Tool, World

MAX_TEXT = 1 << 16
_TEXT = spaces.Text(max_length=MAX_TEXT, min_length=0, charset=frozenset(string.printable))
Check = Callable[[Any], bool]


class GymWorld:
    """An environment as a world: an agent acts in it with the tool `act`, which returns what the step returned.

    Args:
        env: The environment; actions are taken as JSON has them, and made into what its action space holds.

    >>> world = GymWorld(gymnasium.make("FrozenLake-v1", is_slippery=False))
    >>> _ = world.reset(seed=0)
    >>> world.call("act", {"action": 2})["observation"]
    1
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self.env = env
        self._is_over = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment; return its observation and info."""
        self._is_over = False
        return self.env.reset(seed=seed, options=options)

    def tools(self) -> tuple[Tool, ...]:
        """Return the tool."""
        schema = {
            "type": "object",
            "properties": {"action": {}},
            "required": ["action"],
            "additionalProperties": False,
        }
        return (Tool("act", schema, "write", f"Take an action of {self.env.action_space}."),)

    def call(self, name: str, arguments: dict[str, Any], /) -> dict[str, Any]:
        """Take a step.

        Raises:
            ValueError: The episode is over, or the action is none.
        """
        if self._is_over:
            raise ValueError("the episode is over")
        action = _action(self.env.action_space, arguments["action"])
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._is_over = bool(terminated or truncated)
        return {
            "observation": _plain(observation),
            "reward": float(reward),
            "terminated": bool(terminated),
            "truncated": bool(truncated),
            "info": _plain(info),
        }


class ToolTextEnv(gymnasium.Env[str, str]):
    """A world as an environment: each action is a tool call, as the JSON text {"tool": ..., "arguments": {...}}.

    The observation is the result, as JSON text; a call that is none, or is refused, is answered with {"error": ...}. The tool
    `finish` ends the episode with the reward 1 if the check passes, else 0. After each reset `info["goal"]` has the goal.

    Args:
        world: The world.
        check: Says of the world whether what was asked for is done.
        max_steps: Steps after which the episode is truncated.
    """

    observation_space = action_space = _TEXT

    def __init__(self, world: World, check: Check, *, max_steps: int = 30) -> None:
        self.world, self.check, self.max_steps = world, check, max_steps
        self._n_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Reset the world."""
        super().reset(seed=seed)
        goal = self.world.reset(seed=seed, options=options)
        self._n_steps = 0
        tools = [
            {"name": tool.name, "schema": tool.schema, "description": tool.description}
            for tool in self.world.tools()
        ]
        return "", {"goal": _plain(goal), "tools": tools}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Execute a call."""
        self._n_steps += 1
        name = None
        try:
            call = json.loads(action)
            name, arguments = call["tool"], call.get("arguments", {})
            is_done = name == "finish"
            # A world may have a tool of that name itself; its own bookkeeping then happens too.
            has_tool = any(tool.name == name for tool in self.world.tools())
            result = self.world.call(name, arguments) if has_tool or not is_done else "finished"
        except Exception as exc:
            is_done, result = False, {"error": f"{type(exc).__name__}: {exc}"}
        reward = float(is_done and self.check(self.world))
        truncated = not is_done and self._n_steps >= self.max_steps
        return json.dumps(_plain(result))[:MAX_TEXT], reward, is_done, truncated, {"tool": name}

    def get_state(self) -> Any:
        """Return the world's state, with how many steps were taken.

        Raises:
            AttributeError: The world does not give its state.
        """
        return {"world": self.world.get_state(), "n_steps": self._n_steps}  # type: ignore[attr-defined]

    def set_state(self, state: Any) -> None:
        """Put the world into a state that `get_state` returned."""
        self.world.set_state(state["world"])  # type: ignore[attr-defined]
        self._n_steps = state["n_steps"]


def _action(space: spaces.Space[Any], value: Any) -> Any:
    """Return an action from JSON as the type that a space holds."""
    if isinstance(space, (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)):
        value = np.array(value, space.dtype)
    if not space.contains(value):
        raise ValueError(f"{value!r} is no action: {space}")
    return value


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
