"""The state that a policy holds: generators of its own, and memory that nobody can restore."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from trajrec.envstate.generators import is_seedable, nested_generators
from trajrec.replay.forks.policies import (
    FunctionPolicy,
    RandomPolicy,
    TabularPolicy,
    policy_id,
)
from trajrec.replay.forks.sb3_policy import StableBaselines3Policy
from trajrec.types import Value

# A training environment or a model in a policy has generators that are not the policy's.
NOT_SEARCHED = frozenset(("env", "model", "_model"))

SEARCH_DEPTH = 2

_LARGE_BYTES = 1_000_000

WITHOUT_STATE = (RandomPolicy, TabularPolicy, StableBaselines3Policy)


def own_generators(policy: Value) -> list[Any]:
    """Return the generators in the attributes of a policy object, in a fixed order."""
    owner = owner_of(policy)
    if isinstance(owner, WITHOUT_STATE) or not hasattr(owner, "__dict__"):
        return []
    found = nested_generators(owner, set(), without=NOT_SEARCHED, depth=SEARCH_DEPTH)
    return [generator for _, generator in found]


def outer_generators(policy: Value) -> list[Any]:
    """Return the generators that a policy's code uses from the variables around it."""
    return [value for value in _outer_values(policy) if is_seedable(value)]


def check_memory(policy: Value) -> Value:
    """Return a policy whose memory can be restored.

    A policy with `reset` and `observe` but no snapshot is told all steps again, from the start of
    the episode.

    Raises:
        ValueError: The policy says that it has a memory, and the memory can be neither restored
            nor built again.
    """
    if isinstance(policy, str):
        return policy
    if hasattr(policy, "predict") and hasattr(getattr(policy, "policy", None), "lstm_actor"):
        raise ValueError(_refusal(policy, "it is a recurrent model"))
    has_snapshot = hasattr(policy, "snapshot") and hasattr(policy, "restore")
    methods = [
        name for name in ("reset", "observe", "snapshot", "restore") if hasattr(policy, name)
    ]
    if has_snapshot or not methods or not hasattr(policy, "act"):
        return policy
    if "reset" in methods and "observe" in methods:
        return RebuiltMemory(policy)
    raise ValueError(_refusal(policy, f"it has {' and '.join(f'{name}()' for name in methods)}"))


def _refusal(policy: Value, sign: str) -> str:
    return (
        f"policy {policy_id(policy)} has a memory that cannot be restored: {sign}. Give it "
        "snapshot() and restore(), or reset() and observe(observation, action)"
    )


def memory_refusal(policy: Value) -> str:
    """Return the message for a policy whose actions depend on its earlier rollouts."""
    return _refusal(policy, "its actions in a rollout depend on the rollouts before")


class RebuiltMemory:
    """A policy with `reset` and `observe` whose memory is built again from all steps.

    Args:
        policy: The policy.

    Attributes:
        id: Name of the policy.
    """

    def __init__(self, policy: Value) -> None:
        self._policy: Any = policy
        self._steps: list[tuple[Value, Value]] = []
        self.id = policy_id(policy)
        self.is_seeded = getattr(policy, "is_seeded", True)

    def act(self, observation: Value, rng: Any) -> Value:
        """Return an action."""
        action = self._policy.act(observation, rng)
        self._steps.append((observation, action))
        return action

    def observe(self, observation: Value, action: Value) -> None:
        """Report a step that the policy did not choose."""
        self._policy.observe(observation, action)
        self._steps.append((observation, action))

    def reset(self) -> None:
        """Forget all steps."""
        self._policy.reset()
        self._steps = []

    def snapshot(self) -> Value:
        """Return all steps since the reset."""
        return list(self._steps)

    def restore(self, steps: Value) -> None:
        """Report all steps again."""
        self.reset()
        for observation, action in steps:
            self.observe(observation, action)


def owner_of(policy: Value) -> Value:
    """Return the object that holds a policy's state: the policy, or the object of its method."""
    if isinstance(policy, RebuiltMemory):
        return policy._policy
    function = policy.function if isinstance(policy, FunctionPolicy) else policy
    return function.__self__ if inspect.ismethod(function) else function


def _outer_values(policy: Value) -> Iterator[Value]:
    """Yield the values of the variables around a policy's function, by name."""
    function = policy.function if isinstance(policy, FunctionPolicy) else policy
    if not inspect.isroutine(function):
        function = getattr(type(policy), "act", None)
    if function is None:
        return
    try:
        variables = inspect.getclosurevars(function)
    except (TypeError, ValueError):
        return
    for names in (variables.nonlocals, variables.globals):
        for _, value in sorted(names.items()):
            yield value


def is_large(value: Value) -> bool:
    """Return whether a value is a network or a large array, which a rollout does not change."""
    return hasattr(value, "parameters") or getattr(value, "nbytes", 0) > _LARGE_BYTES
