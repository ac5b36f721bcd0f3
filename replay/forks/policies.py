"""Policies: the protocol of an agent that chooses actions, and adapters for common objects.

`as_policy` turns a function, the word "random" or a model of Stable-Baselines3 into a `Policy`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np

from trajrec.envstate.spaces import inner_spaces
from trajrec.module_names import module_name
from trajrec.replay.forks.sb3_policy import StableBaselines3Policy, is_sb3_model
from trajrec.types import Action, Array, FloatArray, Observation
from trajrec.values import codec

Space = gymnasium.Space[Any]
Generator = np.random.Generator


class Policy(Protocol):
    """Chooses actions.

    A policy may have more than `act`:

    - `id`: a text that names the policy and its version in the corpus.
    - `dist(observation)`: the probabilities of the actions of a Discrete space, (A,) float64.
    - `act_batch(observations, rngs)`: an action for each observation. The running branches are then
      asked in one call.
    - Methods of a policy with memory: `reset()`; `snapshot()`, which returns plain data;
      `restore(snapshot)`; `observe(observation, action)`, which reports a step that the policy did
      not choose; and optionally `memory_key(observation)`, a hashable key for memories whose
      snapshots are large.
    - `memory(context)`: a hashable value that holds the part of the context on which a policy for a
      tool world depends. By default it depends on the whole context.
    - `is_seeded`: False if the policy draws from other generators than `rng`; the noise of its
      rollouts is then fresh. None: False exactly if the recorded agent called models or the
      outside.
    """

    def act(self, observation: Observation, rng: Generator, /) -> Action:
        """Return an action. Every draw must come from `rng`, which must not be kept."""
        ...


AnyPolicy = Callable[..., Action] | Policy
"""A policy, a function of the observation, or a function of the observation and a generator."""


class RandomPolicy:
    """Samples an action space.

    Args:
        space: The space. The policy samples a copy.
    """

    id = "random"

    def __init__(self, space: Space) -> None:
        self._space = copy.deepcopy(space)
        self._spaces = [self._space, *_subspaces(self._space)]

    def act(self, observation: Observation, rng: Generator) -> Action:
        """Return a sample."""
        for space in self._spaces:
            # A space has no public way to take a generator, only a seed.
            space._np_random = rng
        return self._space.sample()

    def dist(self, observation: Observation) -> FloatArray | None:
        """Return equal probabilities for a Discrete space, (A,) float64; None for other spaces."""
        n = getattr(self._space, "n", None)
        return np.full(int(n), 1 / int(n)) if isinstance(n, (int, np.integer)) else None


class TabularPolicy:
    """Samples a table of probabilities; each action takes one uniform draw.

    Args:
        probabilities: The probability of each action in each state, (S, A) float64; rows sum to 1.
        state: A function that returns the number of the observation's state.
        id: The name of the policy in the corpus.

    Raises:
        ValueError: The probabilities are not such a table.

    >>> policy = TabularPolicy(np.array([[0.0, 1.0], [0.5, 0.5]]))
    >>> policy.act(0, np.random.default_rng(0))
    1
    """

    def __init__(
        self,
        probabilities: Array | Sequence[Sequence[float]],
        state: Callable[[Observation], int] = int,
        id: str = "tabular",
    ) -> None:
        table = np.asarray(probabilities, np.float64)
        if table.ndim != 2 or not np.allclose(table.sum(axis=1), 1.0) or (table < 0).any():
            raise ValueError(
                "probabilities must be (S, A) with rows that sum to 1, got an array of shape "
                f"{table.shape}"
            )
        self._table = table
        self._state = state
        # Rounding may leave the last sum below 1; a draw above it would then name no action.
        self._cumulative = np.minimum(table.cumsum(axis=1), 1.0)
        self._cumulative[:, -1] = 1.0
        self.id = id

    @classmethod
    def greedy(
        cls,
        q: Array | Sequence[Sequence[float]],
        epsilon: float = 0.0,
        state: Callable[[Observation], int] = int,
    ) -> TabularPolicy:
        """Return the policy that is epsilon-greedy in a table of action values.

        Args:
            q: The value of each action in each state, (S, A) float64.
            epsilon: The probability, in [0, 1], that is shared among all actions.
            state: A function that returns the number of the observation's state.
        """
        table = np.asarray(q, np.float64)
        probabilities = np.full(table.shape, epsilon / table.shape[1])
        probabilities[np.arange(len(table)), table.argmax(axis=1)] += 1 - epsilon
        return cls(probabilities, state, f"greedy-{epsilon:g}-{codec.digest(table)[:8]}")

    def act(self, observation: Observation, rng: Generator) -> int:
        """Return an action."""
        row = self._cumulative[self._state(observation)]
        return int(row.searchsorted(rng.random(), side="right"))

    def dist(self, observation: Observation) -> FloatArray:
        """Return the probabilities of the actions, (A,) float64."""
        row: FloatArray = self._table[self._state(observation)]
        return row


class FunctionPolicy:
    """Calls a function of the observation, or of the observation and a generator.

    Args:
        function: The function. If it has a method `seed(int)`, the method is called before each
            action, so that the draws of a step do not depend on earlier steps.

    Attributes:
        function: The function.
    """

    def __init__(self, function: Callable[..., Action]) -> None:
        self.function = function
        self._takes_rng = _n_required_arguments(function) >= 2
        seed = getattr(function, "seed", None)
        self._seed = seed if callable(seed) else None
        self.id = _qualified_name(function)

    def act(self, observation: Observation, rng: Generator) -> Action:
        """Return an action."""
        try:
            if self._takes_rng:
                return self.function(observation, rng)
            if self._seed is not None:
                self._seed(int(rng.integers(1 << 31)))
            return self.function(observation)
        except Exception as exc:
            exc.add_note(f"raised by the policy {self.id} for the observation {observation!r:.200}")
            raise


def as_policy(policy: AnyPolicy | str, action_space: Space | None = None) -> Policy:
    """Return a policy for an object that chooses actions.

    Args:
        policy: A policy; "random"; a function of the observation, or of the observation and a
            generator; or a model of Stable-Baselines3.
        action_space: The space that "random" samples.

    Raises:
        TypeError: The object is none of these.
        ValueError: The policy is "random" and there is no action space.
    """
    if isinstance(policy, str):
        if policy == "random" and action_space is None:
            raise ValueError(
                "policy must not be 'random' here: there is no action space to sample; "
                "give a function"
            )
        if policy != "random":
            raise TypeError(f"policy must be 'random' or an object that acts, got {policy!r}")
        assert action_space is not None
        return RandomPolicy(action_space)
    if hasattr(policy, "act"):
        return policy
    if is_sb3_model(policy):
        return StableBaselines3Policy(policy)
    if callable(policy):
        return FunctionPolicy(policy)
    raise TypeError(
        "policy must be 'random', a function of the observation (and a generator), or have a "
        f"method act; got {policy!r:.200}"
    )


def seed_policy(policy: AnyPolicy, seed: int) -> Callable[[Observation], Action]:
    """Return a function of the observation that acts as a policy, seeded once.

    Args:
        policy: See `as_policy`; not "random". If it has a method `seed(int)`, this is called here.
        seed: The seed of the generator that the policy draws from.

    Raises:
        TypeError: The object is not a policy.
        ValueError: The policy has memory.
    """
    check_stateless(policy)
    own_seed = getattr(policy, "seed", None)
    if own_seed is not None and inspect.ismethod(own_seed):
        own_seed(seed)
    # The result is called at every step of a branch: no wrapper stands around a function.
    if not callable(policy) or hasattr(policy, "act"):
        acting = as_policy(policy)
        rng = np.random.default_rng(seed)
        return lambda observation: acting.act(observation, rng)
    if _n_required_arguments(policy) >= 2:
        function_rng = np.random.default_rng(seed)
        return lambda observation: policy(observation, function_rng)
    return policy


def check_stateless(policy: AnyPolicy) -> None:
    """Check that an object is a policy whose actions depend on the observation alone.

    Raises:
        TypeError: The object is not a policy.
        ValueError: The policy has memory: it would need the steps before the fork, and a new
            beginning in each branch.
    """
    is_policy = hasattr(policy, "act") or is_sb3_model(policy) or callable(policy)
    if isinstance(policy, str) or not is_policy:
        raise TypeError(
            "policy must be 'random', a function of the observation (and a generator), or have a "
            f"method act; got {policy!r:.200}"
        )
    if hasattr(policy, "observe") and hasattr(policy, "snapshot"):
        raise ValueError(
            f"policy must not have a memory here, got {policy_id(policy)}: "
            "only trajrec.replay.credit restores a policy's memory"
        )


def policy_id(policy: AnyPolicy | str) -> str:
    """Return the name of a policy in the corpus."""
    if isinstance(policy, str):
        return policy  # "random"
    if is_sb3_model(policy):
        return StableBaselines3Policy(policy).id
    return str(getattr(policy, "id", None) or _qualified_name(policy))


def _qualified_name(value: object) -> str:
    named: Any = value if hasattr(value, "__qualname__") else type(value)
    return f"{module_name(named)}:{named.__qualname__}"


def _n_required_arguments(function: Callable[..., Action]) -> int:
    # Builtin functions may have no signature; they get the observation alone.
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


def _subspaces(space: Space) -> Iterator[Space]:
    """Yield the spaces inside of a composite space, at any depth."""
    for subspace in inner_spaces(space):
        yield subspace
        yield from _subspaces(subspace)
