"""The contract that recording and replaying rest on, as a test for your own environments."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from trajrec.errors import EnvContractError
from trajrec.protocols import RestorableState
from trajrec.values.diff import first_change

Rollout = list[tuple[Any, ...]]
_FIELDS = ("observation", "reward", "terminated", "truncated", "info")


@dataclass(frozen=True)
class Contract:
    """What `check_env` found beyond what it insists on.

    Attributes:
        n_steps: Steps compared.
        has_state: Whether get_state and set_state are there, and a restored state went on the same.
        reuses_buffers: Whether returned observations change later; recorded right, but a loop that keeps them is not.
    """

    n_steps: int
    has_state: bool
    reuses_buffers: bool


def check_env(
    factory: Callable[[], gymnasium.Env[Any, Any]], *, n_steps: int = 200, seed: int = 0
) -> Contract:
    """Check that episodes of an environment can be replayed.

    The same seed and actions must give the same episode: on the same object after a reset, on a second object, and with the
    global generators and the clock elsewhere. A whole rollout is compared, not one step.

    Args:
        factory: Makes the environment.
        n_steps: Length of the rollout; episodes that end are reset without a seed on the way.
        seed: Seed of the rollout and its actions.

    Raises:
        EnvContractError: Names what was violated, the step and field, and what to do.

    >>> check_env(lambda: gymnasium.make("CartPole-v1"), n_steps=50).has_state
    False
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps!r}")
    env, other = factory(), factory()
    try:
        first, reuses = _rollout(env, n_steps, seed)
        _compare(
            first,
            _rollout(env, n_steps, seed)[0],
            "reset(seed) on the same object",
            "clear everything in reset",
        )
        _compare(
            first,
            _rollout(other, n_steps, seed)[0],
            "a second object",
            "keep no state in the class or module",
        )
        random.seed(random.random())
        np.random.seed(12345)
        # Long enough to be seen by what reads the clock in milliseconds.
        time.sleep(0.01)
        again = _rollout(other, n_steps, seed)[0]
        _compare(
            first,
            again,
            "other global generators and a later time",
            "draw from self.np_random, not from random or a clock",
        )
        return Contract(n_steps, _check_state(env, n_steps, seed), reuses)
    finally:
        env.close()
        other.close()


def _rollout(env: gymnasium.Env[Any, Any], n_steps: int, seed: int) -> tuple[Rollout, bool]:
    """Run with seeded random actions; say whether observations were changed after they were returned."""
    env.action_space.seed(seed)
    rows: Rollout = []
    kept = _reset(env, seed, rows)
    copies = copy.deepcopy(kept)
    reuses = False
    for step in range(n_steps):
        returned = env.step(env.action_space.sample())
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise EnvContractError(
                f"step {step}: step must return (observation, reward, terminated, truncated, info)"
            )
        observation, reward, terminated, truncated, info = returned
        _check_types(step, env, observation, reward, terminated, truncated, info)
        reuses = reuses or first_change(kept, copies) is not None
        kept, copies = observation, copy.deepcopy(observation)
        rows.append((copies, reward, bool(terminated), bool(truncated), copy.deepcopy(info)))
        if terminated or truncated:
            kept = _reset(env, None, rows)
            copies = copy.deepcopy(kept)
    return rows, reuses


def _reset(env: gymnasium.Env[Any, Any], seed: int | None, rows: Rollout) -> Any:
    returned = env.reset(seed=seed)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
        raise EnvContractError("reset must return (observation, info), info a dict")
    observation, info = returned
    if not env.observation_space.contains(observation):
        raise EnvContractError(f"reset: the observation is not in {env.observation_space}")
    rows.append((copy.deepcopy(observation), 0.0, False, False, copy.deepcopy(info)))
    return observation


def _check_types(
    step: int, env: Any, observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any
) -> None:
    if not env.observation_space.contains(observation):
        raise EnvContractError(f"step {step}: the observation is not in {env.observation_space}")
    if not np.isscalar(reward):
        raise EnvContractError(
            f"step {step}: the reward must be a number, got {type(reward).__name__}"
        )
    for name, flag in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(flag, (bool, np.bool_)):
            raise EnvContractError(f"step {step}: {name} must be a bool, got {type(flag).__name__}")
    if not isinstance(info, dict):
        raise EnvContractError(f"step {step}: info must be a dict, got {type(info).__name__}")


def _compare(first: Rollout, second: Rollout, what: str, todo: str) -> None:
    for row, (a, b) in enumerate(zip(first, second, strict=False)):
        for field, x, y in zip(_FIELDS, a, b, strict=True):
            change = first_change(x, y)
            if change is not None:
                where = f"{field}/{change.path}" if change.path else field
                raise EnvContractError(
                    f"not deterministic: with {what}, row {row} of the rollout differs in {where}: "
                    f"{change.before!r} and {change.after!r}; {todo}"
                )
    if len(first) != len(second):
        raise EnvContractError(f"not deterministic: with {what}, episodes end elsewhere; {todo}")


def _check_state(env: gymnasium.Env[Any, Any], n_steps: int, seed: int) -> bool:
    """Restore a state from the middle and go on: the continuation must be the same. False where there are no such methods."""
    if not isinstance(env.unwrapped, RestorableState):
        return False
    bare: Any = env.unwrapped
    env.action_space.seed(seed)
    env.reset(seed=seed)
    for _ in range(min(5, n_steps)):
        if any(env.step(env.action_space.sample())[2:4]):
            env.reset()
    kept = copy.deepcopy(bare.get_state())
    generator = copy.deepcopy(bare.np_random.bit_generator.state)
    actions = [env.action_space.sample() for _ in range(5)]
    continuations = []
    for _ in range(2):
        bare.set_state(copy.deepcopy(kept))
        bare.np_random.bit_generator.state = generator
        if (change := first_change(kept, bare.get_state())) is not None:
            raise EnvContractError(
                f"set_state(get_state()) changed the state at {change.path!r}; restore all of it"
            )
        rows: Rollout = []
        for action in actions:
            observation, reward, terminated, truncated, info = bare.step(action)
            rows.append(
                (
                    copy.deepcopy(observation),
                    reward,
                    bool(terminated),
                    bool(truncated),
                    copy.deepcopy(info),
                )
            )
            if terminated or truncated:
                break
        continuations.append(rows)
    _compare(
        continuations[0],
        continuations[1],
        "a restored state",
        "let get_state and set_state hold all of the state",
    )
    return True
