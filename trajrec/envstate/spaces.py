"""The spaces that an environment declares."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium

from trajrec.errors import EnvContractError
from trajrec.types import AnyEnv


def declared_space(
    env: AnyEnv, name: Literal["action_space", "observation_space"] = "action_space"
) -> gymnasium.Space[Any]:
    """Return a space of an environment.

    Raises:
        EnvContractError: The environment does not declare it.
    """
    space = getattr(env, name, None)
    if isinstance(space, gymnasium.Space):
        return space
    cls = type(env.unwrapped).__qualname__
    held = "none" if space is None else f"{space!r:.100}"
    raise EnvContractError(
        f"{cls}.{name} must be a space of Gymnasium, got {held}: set self.{name} in its __init__"
    )
