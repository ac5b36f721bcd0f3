"""Check that an environment returns values of the types and spaces that it declares."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from trajrec.envstate.pettingzoo import AECView, ParallelView, PettingZooEnv
from trajrec.errors import EnvContractError
from trajrec.protocols import RestorableState
from trajrec.types import AnyEnv, Observation, Value
from trajrec.values import codec
from trajrec.values.diff import Change, first_change
from trajrec.values.json import describe_field
from trajrec.values.shown import short, short_pair

# Steps to the state that is captured, and steps from there on that must be the same again. A few
# of each suffice: a forgotten attribute shows in the first step that reads it.
STEPS_BEFORE_STATE = 5
STEPS_AFTER_STATE = 5


class Violation(NamedTuple):
    """A value that an environment must not return.

    Attributes:
        step: The step, from 0; -1 is the first reset.
        field: The field: "observation", "reward", "terminated", "truncated", "info" or "state".
        message: The fault, with the step and the remedy.
    """

    step: int
    field: str
    message: str


class InterfaceChecker:
    """Checks each returned value of a rollout, and whether observations change afterwards.

    Attributes:
        violations: The first violation of each field.
        reuses_buffers: Whether an observation changed after it was returned.
    """

    def __init__(self, env: AnyEnv) -> None:
        self._env = env
        self._step = -1
        self._last: Observation = None
        self._last_data = b""
        self._by_field: dict[str, Violation] = {}
        self.reuses_buffers = False

    @property
    def violations(self) -> tuple[Violation, ...]:
        """The first violation of each field."""
        return tuple(self._by_field.values())

    def check_reset(self, returned: Value) -> None:
        """Check the return value of `reset`.

        Raises:
            EnvContractError: The value is no pair, so that the rollout cannot go on.
        """
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise EnvContractError(
                f"{self._where}: reset must return (observation, info), got {short(returned)}"
            )
        observation, info = returned
        self._check_observation(observation)
        self._check_info(info)

    def check_step(self, returned: Value) -> None:
        """Check the return value of `step`.

        Raises:
            EnvContractError: The value has no five parts, so that the rollout cannot go on.
        """
        self._step += 1
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise EnvContractError(
                f"{self._where}: step must return (observation, reward, terminated, truncated, "
                f"info), got {short(returned)}"
            )
        observation, reward, terminated, truncated, info = returned
        self._check_observation(observation)
        # The joint view of several agents returns a reward for each of them.
        rewards = reward.values() if isinstance(self._env, PettingZooEnv) else [reward]
        for number in rewards:
            # Not np.isscalar: a string is a scalar too.
            if not isinstance(number, (numbers.Number, np.bool_)):
                self._add("reward", f"the reward must be a number, got {_typed(number)}")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, (bool, np.bool_)):
                self._add(name, f"{name} must be a bool, got {_typed(flag)}")
        self._check_info(info)

    @property
    def _where(self) -> str:
        return "reset" if self._step < 0 else f"step {self._step}"

    def _add(self, field: str, message: str) -> None:
        self._by_field.setdefault(field, Violation(self._step, field, f"{self._where}: {message}"))

    def _check_info(self, info: Value) -> None:
        if not isinstance(info, dict):
            self._add("info", f"info must be a dict, got {_typed(info)}")

    def _check_observation(self, observation: Observation) -> None:
        for space, part in _observed(self._env, observation):
            if not space.contains(part):
                self._add(
                    "observation",
                    f"the observation must be in {short(space)}, got {short(part)}"
                    f"{_why_outside(space, part)}: "
                    "correct the space, or the values or dtype of the observation",
                )
        # The environment was just called again: the observation before this one must be as it was.
        if self._last is not None and codec.encode(self._last, opaque=True) != self._last_data:
            self.reuses_buffers = True
        self._last = observation
        self._last_data = codec.encode(observation, opaque=True)


def check_state_methods(env: AnyEnv, n_steps: int, seed: int) -> tuple[bool, tuple[Violation, ...]]:
    """Check `get_state` and `set_state` of an environment.

    A state from the middle of an episode is put back twice. Each time `get_state` must return it
    again, and the same actions must lead to the same steps as they did before.

    Args:
        env: The environment; its wrappers are not stepped.
        n_steps: The number of steps to take at most before the state is captured.
        seed: The seed of the reset and of the actions.

    Returns:
        Whether the environment has both methods, and the violations.
    """
    bare: Any = env.unwrapped
    if not isinstance(bare, gymnasium.Env) or not isinstance(bare, RestorableState):
        return False, ()
    env.action_space.seed(seed)
    env.reset(seed=seed)
    n_before = min(STEPS_BEFORE_STATE, n_steps)
    for _ in range(n_before):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    # Copies, because an environment may return or keep the object itself.
    state = copy.deepcopy(bare.get_state())
    generator = copy.deepcopy(bare.np_random.bit_generator.state)
    # Of its own space: a wrapper may take other actions.
    bare.action_space.seed(seed)
    actions = [bare.action_space.sample() for _ in range(STEPS_AFTER_STATE)]
    # Before anything is restored: `set_state` may change what `get_state` does not return.
    original = _continue(bare, actions)
    continuations: list[list[dict[str, Value]]] = []
    for _ in range(2):
        bare.set_state(copy.deepcopy(state))
        bare.np_random.bit_generator.state = generator
        change = first_change(state, bare.get_state())
        if change is not None:
            message = (
                f"set_state(get_state()) must change nothing, but {_differs('state', change)}: "
                "restore the whole state in set_state"
            )
            return True, (Violation(n_before - 1, "state", f"step {n_before - 1}: {message}"),)
        continuations.append(_continue(bare, actions))
    violations = (_continued_otherwise(original, again, n_before) for again in continuations)
    violation = next((found for found in violations if found is not None), None)
    return True, () if violation is None else (violation,)


def _continued_otherwise(
    original: list[dict[str, Value]], again: list[dict[str, Value]], n_before: int
) -> Violation | None:
    """Return the first difference between the steps from a state and those from it restored."""
    remedy = "let get_state and set_state hold the whole state"
    for number, (before, after) in enumerate(zip(original, again, strict=False), n_before):
        for field in before:
            change = first_change(before[field], after[field])
            if change is not None:
                message = (
                    f"a restored state must lead to the same steps, but {_differs(field, change)}: "
                    f"{remedy}"
                )
                return Violation(number, "state", f"step {number}: {message}")
    if len(original) == len(again):
        return None
    end = n_before + min(len(original), len(again))
    message = (
        "a restored state must lead to the same steps, but the episode ended earlier once: "
        f"{remedy}"
    )
    return Violation(end, "state", f"step {end}: {message}")


def _continue(bare: AnyEnv, actions: list[Value]) -> list[dict[str, Value]]:
    """Take actions until the episode ends; return copies of the returned values by field."""
    rows = []
    for action in actions:
        # A copy: some environments change the action that they receive.
        observation, reward, terminated, truncated, info = bare.step(copy.deepcopy(action))
        row = {
            "observation": observation,
            "reward": reward,
            "terminated": bool(terminated),
            "truncated": bool(truncated),
            # As a log gives it back: not every object in an info can be copied.
            "info": codec.decode(codec.encode_info(info)),
        }
        rows.append(copy.deepcopy(row))
        if terminated or truncated:
            break
    return rows


def _why_outside(space: gymnasium.Space[Any], value: Value) -> str:
    """Return what keeps an array out of a box, "" for other spaces and values."""
    if not (isinstance(space, gymnasium.spaces.Box) and isinstance(value, np.ndarray)):
        return ""
    if not np.can_cast(value.dtype, space.dtype):
        return f", of dtype {value.dtype}"
    if value.shape != space.shape:
        return f", of shape {value.shape}"
    for index in np.argwhere(~((value >= space.low) & (value <= space.high)))[:1]:
        place = tuple(map(int, index))
        item, low, high = value[place], space.low[place], space.high[place]
        return f", of which item {list(place)} is {item}, not in [{low}, {high}]"
    return ""


def _observed(
    env: AnyEnv, observation: Observation
) -> Iterator[tuple[gymnasium.Space[Any], Observation]]:
    """Yield each part of an observation that has a space, with that space."""
    space: Any = env.observation_space
    if isinstance(env, ParallelView):
        for agent, part in observation.items():
            yield _space_of(env, agent), part
    elif isinstance(env, AECView):
        # None is the observation after the last turn: no agent is left.
        if observation is not None:
            yield _space_of(env, observation["agent"]), observation["observation"]
    else:
        yield space, observation


def _space_of(env: PettingZooEnv, agent: Value) -> gymnasium.Space[Any]:
    """Return the space of a player, also of one that `possible_agents` does not list."""
    spaces: Any = env.observation_space
    is_listed = agent in spaces.spaces
    space: gymnasium.Space[Any] = spaces[agent] if is_listed else env.env.observation_space(agent)
    return space


def _differs(field: str, change: Change) -> str:
    path = describe_field((field, *change.path))
    before, after = short_pair(change.before, change.after)
    return f"{path} is {after} instead of {before}"


def _typed(value: Value) -> str:
    return f"{short(value)} ({type(value).__name__})"
