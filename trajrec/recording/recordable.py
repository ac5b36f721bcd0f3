"""Refuses what a recorder cannot record, with the way to record it."""

from __future__ import annotations

import gymnasium
from gymnasium.wrappers import Autoreset

from trajrec.types import Value

_SB3_VECTOR = (
    "a vector environment of Stable-Baselines3 does not hand out the resets of its environments; "
    "let it make recorded ones, make_vec_env(lambda: trajrec.record(gym.make(id), folder), n)"
)
_TORCHRL_ENV = (
    "record the Gymnasium environment and let TorchRL wrap it, "
    "GymWrapper(trajrec.record(gym.make(id), folder))"
)


def check_recordable(env: Value) -> None:
    """Check that each reset and each step of an environment reach a wrapper around it.

    Raises:
        TypeError: The object is no Gymnasium environment, or it resets itself inside of a step.
    """
    if not isinstance(env, gymnasium.Env):
        remedy = _remedy(env)
        ending = f": {remedy}" if remedy else ""
        raise TypeError(f"env must be a gymnasium.Env, got {type(env).__name__}{ending}")
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, Autoreset):
            raise TypeError(
                "env must not have the wrapper Autoreset inside of the recorder, which would not "
                "see its resets; put it outside, Autoreset(trajrec.record(env, folder))"
            )
        inner = inner.env


def _remedy(env: Value) -> str:
    """Return how a trainer's own kind of environment is recorded, "" for other objects."""
    # By their methods: their packages need not be installed.
    if hasattr(env, "step_wait") and hasattr(env, "env_method"):
        return _SB3_VECTOR
    if hasattr(env, "rollout") and hasattr(env, "batch_size"):
        return _TORCHRL_ENV
    return ""
