"""Policies: what goes on from a fork. A small protocol, and what makes a policy of the things that people have."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from trajrec.errors import MissingPackageError
from trajrec.types import Action
from trajrec.values import codec

Array = np.ndarray[Any, np.dtype[np.float64]]


class Policy(Protocol):
    """Chooses actions.

    A policy may also have

    - `id`, a text: what it is called in the corpus, with its version;
    - `dist(observation)`: the probabilities of the actions of a Discrete space, (A,) float64;
    - `act_batch(observations, rngs)`: an action for each; the branches that are alive are then asked for together;
    - where it remembers: `snapshot()` (plain data), `restore(snapshot)`, `reset()`, and `observe(observation, action)`, which
      tells it what was done without asking it; `memory_key(observation)`, hashable, where a snapshot is too large to tell two
      apart by all of it;
    - `memory(context)`, of an agent's world: what of its context it goes on by, hashable; by default that is all of it;
    - `is_seeded`, False where it draws from elsewhere than the generator that it is given: its noise is then fresh. None: where
      the recorded agent asked models or the outside.
    """

    def act(self, observation: Any, rng: np.random.Generator, /) -> Any:
        """Return an action. All that is drawn is drawn from `rng`, which must not be kept."""
        ...


AnyPolicy = Callable[..., Action] | Policy
"""A policy, a function of the observation, or a function of the observation and a generator."""


class RandomPolicy:
    """Draws from an action space.

    Args:
        space: The space; a copy of it is drawn from.
    """

    id = "random"

    def __init__(self, space: Any) -> None:
        self._space = copy.deepcopy(space)
        self._spaces = [self._space, *_inner(self._space)]

    def act(self, observation: Any, rng: np.random.Generator) -> Any:
        """Return a sample."""
        for space in self._spaces:
            space._np_random = rng
        return self._space.sample()

    def dist(self, observation: Any) -> Array | None:
        """Return the same probability for each action of a Discrete space; None for another space."""
        n = getattr(self._space, "n", None)
        return np.full(int(n), 1 / int(n)) if isinstance(n, (int, np.integer)) else None


class TabularPolicy:
    """Draws from a table of probabilities, by one uniform number.

    Args:
        probabilities: Of each action in each state, (S, A) float64; rows sum to 1.
        state: The state's number from the observation.
        id: What it is called.

    >>> policy = TabularPolicy(np.array([[0.0, 1.0], [0.5, 0.5]]))
    >>> policy.act(0, np.random.default_rng(0))
    1
    """

    def __init__(
        self, probabilities: Any, state: Callable[[Any], int] = int, id: str = "tabular"
    ) -> None:
        table = np.asarray(probabilities, np.float64)
        if table.ndim != 2 or not np.allclose(table.sum(axis=1), 1.0) or (table < 0).any():
            raise ValueError(
                f"probabilities must be (S, A) with rows that sum to 1, got an array of shape {table.shape}"
            )
        self._table, self._state = table, state
        self._cumulated = np.minimum(table.cumsum(axis=1), 1.0)
        self._cumulated[:, -1] = 1.0
        self.id = id

    @classmethod
    def greedy(
        cls, q: Any, epsilon: float = 0.0, state: Callable[[Any], int] = int
    ) -> TabularPolicy:
        """Return the policy that takes the best action of a table of Q, and any with probability epsilon.

        Args:
            q: Of each action in each state, (S, A) float64.
            epsilon: Shared among all actions, in [0, 1].
            state: The state's number from the observation.
        """
        table = np.asarray(q, np.float64)
        probabilities = np.full(table.shape, epsilon / table.shape[1])
        probabilities[np.arange(len(table)), table.argmax(axis=1)] += 1 - epsilon
        return cls(probabilities, state, f"greedy-{epsilon:g}-{codec.digest(table)[:8]}")

    def act(self, observation: Any, rng: np.random.Generator) -> int:
        """Return an action."""
        return int(
            self._cumulated[self._state(observation)].searchsorted(rng.random(), side="right")
        )

    def dist(self, observation: Any) -> Array:
        """Return the probabilities."""
        row: Array = self._table[self._state(observation)]
        return row


class FunctionPolicy:
    """A function of the observation, or of the observation and a generator.

    Args:
        function: One with a method `seed(int)` is seeded before each action, so that it draws the same at the same place.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._takes_rng = _n_arguments(function) >= 2
        seed = getattr(function, "seed", None)
        self._seed = seed if callable(seed) else None
        self.id = _name(function)

    def act(self, observation: Any, rng: np.random.Generator) -> Any:
        """Return an action."""
        try:
            if self._takes_rng:
                return self._function(observation, rng)
            if self._seed is not None:
                self._seed(int(rng.integers(1 << 31)))
            return self._function(observation)
        except Exception as exc:
            exc.add_note(f"raised by the policy {self.id} for the observation {observation!r:.200}")
            raise


class StableBaselines3Policy:
    """A model of Stable-Baselines3 (`trajrec[sb3]`), asked in batches; what it draws, it draws from the generator given.

    Args:
        model: E.g. `PPO.load(path)`. Its distribution is sampled for a categorical or diagonal Gaussian policy; of any other
            the deterministic prediction is taken.
        deterministic: Take the most probable action.
    """

    def __init__(self, model: Any, deterministic: bool = False) -> None:
        try:
            import torch
        except ImportError as exc:
            raise MissingPackageError("torch", "sb3") from exc
        self._model, self._torch = model, torch
        self._deterministic = deterministic or not hasattr(model.policy, "get_distribution")
        self.id = f"{type(model).__name__}-{'deterministic' if self._deterministic else 'sampled'}-{model.num_timesteps}"

    def act(self, observation: Any, rng: np.random.Generator) -> Any:
        """Return an action."""
        return self.act_batch([observation], [rng])[0]

    def act_batch(
        self, observations: Sequence[Any], rngs: Sequence[np.random.Generator]
    ) -> list[Any]:
        """Return an action for each observation."""
        batch = _stack(observations)
        if self._deterministic:
            return list(self._model.predict(batch, deterministic=True)[0])
        with self._torch.no_grad():
            tensor, _ = self._model.policy.obs_to_tensor(batch)
            found = self._model.policy.get_distribution(tensor).distribution
            if hasattr(found, "probs"):
                cumulated = found.probs.double().cpu().numpy().cumsum(axis=1)
                draws = [rng.random() * row[-1] for rng, row in zip(rngs, cumulated, strict=True)]
                rows = zip(cumulated, draws, strict=True)
                return [
                    np.int64(min(row.searchsorted(u, side="right"), len(row) - 1))
                    for row, u in rows
                ]
            mean, std = found.mean.cpu().numpy(), found.stddev.cpu().numpy()
        space = self._model.action_space
        noise = np.stack([rng.standard_normal(mean.shape[1]) for rng in rngs])
        return list(np.clip(mean + std * noise, space.low, space.high).astype(space.dtype))

    def dist(self, observation: Any) -> Array | None:
        """Return the probabilities of a categorical policy; None for another one."""
        if self._deterministic:
            return None
        with self._torch.no_grad():
            tensor, _ = self._model.policy.obs_to_tensor(_stack([observation]))
            found = self._model.policy.get_distribution(tensor).distribution
        return found.probs[0].double().cpu().numpy() if hasattr(found, "probs") else None


def as_policy(policy: Any, action_space: Any = None) -> Policy:
    """Return what was given as a policy.

    Args:
        policy: A policy; "random"; a function of the observation, or of the observation and a generator; a model of
            Stable-Baselines3.
        action_space: What "random" draws from.

    Raises:
        TypeError: It is none of these.
        ValueError: It is "random", and there is no space.
    """
    if isinstance(policy, str):
        if policy == "random" and action_space is None:
            raise ValueError(
                "there is no action space that 'random' could draw from here: give something that acts"
            )
        if policy != "random":
            raise TypeError(f"a policy must be 'random' or something that acts, got {policy!r}")
        return RandomPolicy(action_space)
    if hasattr(policy, "act"):
        made: Policy = policy
        return made
    if hasattr(policy, "predict") and hasattr(policy, "policy"):
        return StableBaselines3Policy(policy)
    if callable(policy):
        return FunctionPolicy(policy)
    raise TypeError(
        f"a policy must be 'random', a function of the observation or have a method act, got {policy!r}"
    )


def seeded(policy: Any, seed: int) -> Callable[[Any], Any]:
    """Return what was given as a policy as a function of the observation alone.

    Args:
        policy: See `as_policy`, but not "random". One with a method `seed(int)` is seeded here, once.
        seed: What the generator is made of that it is given.

    Raises:
        TypeError: It is no policy.
        ValueError: It remembers what it saw.
    """
    check_forgets(policy)
    if inspect.ismethod(getattr(policy, "seed", None)):
        policy.seed(seed)
    if hasattr(policy, "act") or not callable(policy):
        acting, rng = as_policy(policy), np.random.default_rng(seed)
        return lambda observation: acting.act(observation, rng)
    if _n_arguments(policy) >= 2:
        drawn_from = np.random.default_rng(seed)
        return lambda observation: policy(observation, drawn_from)
    function: Callable[[Any], Any] = policy
    return function


def check_forgets(policy: Any) -> None:
    """Check that a policy is one, and acts by the observation alone.

    Raises:
        TypeError: It is no policy.
        ValueError: It remembers: it would have to be told what there was before, and begin anew in each episode.
    """
    is_model = hasattr(policy, "predict") and hasattr(policy, "policy")
    if isinstance(policy, str) or not (hasattr(policy, "act") or is_model or callable(policy)):
        raise TypeError(
            "a policy must be 'random', a function of the observation (and a generator) or have a method act, "
            f"got {policy!r:.200}"
        )
    if hasattr(policy, "observe") and hasattr(policy, "snapshot"):
        raise ValueError(
            f"the policy {policy_id(policy)} remembers what it saw: only trajrec.replay.credit tells it what"
        )


def policy_id(policy: Any) -> str:
    """Return what a policy is called in the corpus."""
    if hasattr(policy, "predict") and hasattr(policy, "policy"):
        policy = StableBaselines3Policy(policy)
    if isinstance(policy, str):
        return policy  # "random"
    return str(getattr(policy, "id", None) or _name(policy))


def _name(thing: Any) -> str:
    what = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{what.__module__}:{what.__qualname__}"


def _n_arguments(function: Callable[..., Any]) -> int:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


def _inner(space: Any) -> list[Any]:
    inner = getattr(space, "spaces", ())
    found = list(inner.values() if hasattr(inner, "values") else inner)
    for item in list(found):
        found += _inner(item)
    return found


def _stack(observations: Sequence[Any]) -> Any:
    if isinstance(observations[0], dict):
        return {key: np.stack([row[key] for row in observations]) for key in observations[0]}
    return np.stack([np.asarray(row) for row in observations])
