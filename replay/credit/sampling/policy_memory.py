"""The memory of a policy during rollouts, and the part of a rollout's key that depends on it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from trajrec.corpus.episode import Episode
from trajrec.replay.forks.policies import Policy, policy_id
from trajrec.types import Action, Observation, Value
from trajrec.values import codec


class PolicyMemory:
    """Restores and observes the memory of a policy; does nothing for a policy without one.

    Args:
        policy: The policy; see `Policy` for the methods of a policy with memory.

    Attributes:
        at_start: The snapshot of the memory at the step where rollouts start.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy: Any = policy
        self._has_memory = hasattr(policy, "snapshot") and hasattr(policy, "restore")
        self._memory_key = getattr(policy, "memory_key", None)
        self._context_key = getattr(policy, "memory", None)
        self.at_start: Value = None

    def restore(self) -> None:
        """Restore the memory at the start of rollouts."""
        if self._has_memory:
            self._policy.restore(self.at_start)

    def observe(self, observation: Observation, action: Action) -> None:
        """Report a step that the policy did not choose."""
        if self._has_memory:
            self._policy.observe(observation, action)

    def key(self, observation: Observation) -> Hashable:
        """Return a hashable key of everything beside the state on which later actions depend.

        That is the policy's memory and, for tool worlds, the part of the context that it uses.
        """
        own_key: Hashable = None
        if self._has_memory:
            own_key = (
                codec.encode(self._policy.snapshot(), canonical=True)
                if self._memory_key is None
                else self._memory_key(observation)
            )
        if self._context_key is not None:
            return own_key, self._context_key(observation)
        return own_key, getattr(observation, "history_key", None)


class RecordedMemories:
    """What a policy with memory remembers before each step of a recorded episode.

    Args:
        episode: The episode.
    """

    def __init__(self, episode: Episode) -> None:
        self._episode = episode
        self._memories: list[Value] | None = None

    def before(self, step: int, policy: Policy | None) -> Value:
        """Return the snapshot of a policy's memory after it has observed all steps before one.

        Raises:
            ValueError: The policy cannot be told the steps before.
        """
        episode = self._episode
        if not hasattr(policy, "snapshot") or episode.is_agent_episode:
            return None  # the context of a tool world already holds all that happened
        remembering: Value = policy
        missing = [name for name in ("reset", "observe") if not hasattr(policy, name)]
        if missing:
            names = " and ".join(f"{name}()" for name in missing)
            raise ValueError(
                f"policy {policy_id(remembering)} has snapshot(), but no {names}: it must be told "
                "the steps before a rollout, by reset() and observe(observation, action)"
            )
        if self._memories is None:
            remembering.reset()
            self._memories = [remembering.snapshot()]
            # There is one observation more than actions: the last one follows the last action.
            for observation, action in zip(
                episode.observation_values, episode.actions, strict=False
            ):
                remembering.observe(observation, action)
                self._memories.append(remembering.snapshot())
        return self._memories[step - episode.first_step]
