"""The spaces that an environment declares."""

from __future__ import annotations

from typing import Any, Literal

import gymnasium

from trajrec.errors import EnvContractError
from trajrec.types import AnyEnv


def inner_spaces(space: gymnasium.Space[Any]) -> list[gymnasium.Space[Any]]:
    """Return the spaces in a composite space, without those in them."""
    inner = getattr(space, "spaces", ())
    items = [*(inner.values() if hasattr(inner, "values") else inner)]
    # Those of sequences and graphs have names of their own.
    items += [item for name, item in sorted(vars(space).items()) if name != "spaces"]
    return [item for item in items if isinstance(item, gymnasium.Space)]


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
