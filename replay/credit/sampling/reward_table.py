"""The rewards that an environment's own table of transitions allows."""

from __future__ import annotations

from trajrec.types import Value


def pays_once(env: Value) -> bool:
    """Return whether an environment's table proves that each return is 0 or 1.

    The table is `P` of Gymnasium's toy text environments: state -> action -> list of (probability,
    next state, reward, whether the episode ends). A reward of 1 must end the episode. Wrappers with
    rewards of their own prove nothing, so there must be none.
    """
    layer = env
    while layer is not getattr(layer, "unwrapped", layer):
        if type(layer).__name__ not in _HARMLESS_WRAPPERS:
            return False
        layer = layer.env
    table = getattr(layer, "P", None)
    if not isinstance(table, dict):
        return False
    try:
        outcomes = [
            (float(outcome[2]), bool(outcome[3]))
            for actions in table.values()
            for rows in actions.values()
            for outcome in rows
        ]
    except (AttributeError, IndexError, TypeError, ValueError):
        return False
    return all(reward == 0.0 or (reward == 1.0 and ends) for reward, ends in outcomes)


_HARMLESS_WRAPPERS = frozenset(("TimeLimit", "OrderEnforcing", "PassiveEnvChecker"))
"""Wrappers of Gymnasium that leave rewards as they are."""
