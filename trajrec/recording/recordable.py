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

_GYM_ENV = (
    "it is of the package gym, which came before Gymnasium; wrap it by the package shimmy, "
    "GymV21CompatibilityV0(env=env), or GymV26CompatibilityV0(env=env) if its step returns five values"
)
_DM_ENV = "wrap it by the package shimmy, DmControlCompatibilityV0(env)"
_OTHER_VECTOR = (
    "it is a vector of environments: let it make recorded ones, by trajrec.record(env, folder) in "
    "the function that makes each of them"
)
_LIKE_ENV = (
    "derive its class from gymnasium.Env; reset returns (observation, info), and step "
    "(observation, reward, terminated, truncated, info). For a game that an agent plays, make it "
    "a world: trajrec.episode(folder, world=...)"
)


def check_recordable(env: Value) -> None:
    """Check that each reset and each step of an environment reach a wrapper around it.

    Raises:
        TypeError: The object is no Gymnasium environment, or it resets itself inside of a step.
    """
    if not isinstance(env, gymnasium.Env):
        remedy = _remedy(env)
        ending = f": {remedy}" if remedy else ""
        given = f"the class {env.__name__}" if isinstance(env, type) else type(env).__name__
        raise TypeError(f"env must be a gymnasium.Env, got {given}{ending}")
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        if isinstance(inner, Autoreset):
            raise TypeError(
                "env must not have the wrapper Autoreset inside of the recorder, which would not "
                "see its resets; put it outside, Autoreset(trajrec.record(env, folder))"
            )
        inner = inner.env


def _remedy(env: Value) -> str:
    """Return how another kind of environment is recorded, "" for other objects."""
    if isinstance(env, str):
        return f"make the environment first, gym.make({env!r})"
    if isinstance(env, type):
        return f"make an object of it, {env.__name__}(...)"
    # By their methods: their packages need not be installed.
    if hasattr(env, "step_wait") and hasattr(env, "env_method"):
        return _SB3_VECTOR
    if hasattr(env, "rollout") and hasattr(env, "batch_size"):
        return _TORCHRL_ENV
    if any(cls.__module__.partition(".")[0] == "gym" for cls in type(env).__mro__):
        return _GYM_ENV
    if hasattr(env, "action_spec") and hasattr(env, "observation_spec"):
        return _DM_ENV
    if hasattr(env, "num_envs"):
        # Those of PufferLib and AgileRL, for instance.
        return _OTHER_VECTOR
    return _LIKE_ENV if hasattr(env, "reset") and hasattr(env, "step") else ""
