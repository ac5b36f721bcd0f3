"""The spaces that an environment declares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import gymnasium
import numpy as np

from trajrec.errors import EnvContractError
from trajrec.types import Action, AnyEnv


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


def accepts(env: AnyEnv, action: Action) -> bool:
    """Return whether an environment must be able to take an action; True if nothing tells.

    Numbers of another type than the space's count by their value, since environments take them.

    >>> env = gymnasium.make("CartPole-v1")
    >>> accepts(env, 1), accepts(env, 2), accepts(env, float("nan"))
    (True, False, False)
    """
    try:
        space = getattr(env, "action_space", None)
    except Exception:
        # A property may ask what has just failed.
        return True
    if not isinstance(space, gymnasium.Space):
        return True
    try:
        return _takes(space, action)
    except Exception:
        # A space is not made for whatever an agent sends.
        return False


def _takes(space: gymnasium.Space[Any], action: Action) -> bool:
    if isinstance(space, gymnasium.spaces.Box):
        array = np.asarray(action)
        fits = array.shape == space.shape
        return fits and bool(np.all((array >= space.low) & (array <= space.high)))
    # Gymnasium's own would ask the spaces inside for the very type.
    if isinstance(space, gymnasium.spaces.Dict):
        names = space.spaces.keys()
        return action.keys() == names and all(_takes(space[name], action[name]) for name in names)
    if isinstance(space, gymnasium.spaces.Tuple):
        return len(action) == len(space) and all(map(_takes, space, action))
    # The masks of players are no part of their spaces.
    is_allowed: Callable[[Action], bool] = getattr(space, "allows", space.contains)
    return bool(is_allowed(action))
