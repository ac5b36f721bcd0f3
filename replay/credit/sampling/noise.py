"""Noise: the randomness of rollouts, derived from a seed, a scenario and a step.

A draw depends on its step, not on the draws before it. A branch that draws once more than another
would otherwise have different randomness in all later steps. The environment and the policy draw
from separate keys.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trajrec.envstate.ale import sticky_generator
from trajrec.envstate.attributes import layers_with_attributes
from trajrec.envstate.generators import nested_generators, put_state, setter_of, state_of
from trajrec.envstate.hidden_generators import TABLES, hidden_generators
from trajrec.envstate.outer_state import outer_generators
from trajrec.types import Value

NoiseMode = Literal["shared", "fresh", "recorded"]

_FIRST_ENV_GENERATOR = 1
"""Number of an environment's first generator in its keys. The policy's number would be 0, but the
policy has a key of its own."""

_MASK_64 = (1 << 64) - 1


@dataclass(frozen=True)
class Noise:
    """The randomness of rollouts.

    Attributes:
        mode: "shared": a scenario fixes the noise of every step, for every first step and every
            action of a rollout. The arms of a comparison thus have common random numbers, and
            rollouts of a scenario that reach the same state can be merged. "fresh": each rollout
            has noise of its own. "recorded": the environment repeats the noise of the recorded
            episode up to the episode's end, and only the policy draws anew; this is the effect of
            another action, given everything else that happened.
        seed: All noise is derived from it.

    Raises:
        ValueError: There is no such mode.
    """

    mode: NoiseMode = "shared"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("shared", "fresh", "recorded"):
            raise ValueError(f"noise must be 'shared', 'fresh' or 'recorded', got {self.mode!r}")

    def scenarios(self, n: int, label: str, first: int = 0) -> range | tuple[int, ...]:
        """Return the scenarios of n rollouts.

        Args:
            n: The number of rollouts.
            label: The step and arm of the rollouts. With fresh noise, the scenarios of two labels
                differ; otherwise all labels have the same scenarios.
            first: Number of the first rollout.
        """
        if self.mode != "fresh":
            return range(first, first + n)
        # The top bit keeps fresh scenarios apart from the small numbers of shared ones.
        return tuple(_hash(f"{label}/{j}") | 1 << 63 for j in range(first, first + n))


class PolicyNoise:
    """The generator from which a policy draws.

    Args:
        seed: See `Noise`.
        role: The user of the draws; the noises of two roles are independent.
        own: Generators that the policy itself holds. They are seeded in place, as those of an
            environment are.

    Attributes:
        generator: The generator; always the same object.
    """

    def __init__(self, seed: int, role: str = "policy", own: Sequence[Any] = ()) -> None:
        digest = hashlib.blake2b(f"{role}/{seed}".encode(), digest_size=16).digest()
        key = np.frombuffer(digest, np.uint64)
        self._key = digest
        self._own = [setter_of(generator) for generator in own]
        self._counter = np.zeros(4, np.uint64)
        # Philox is a counter-based generator: setting its counter costs no expansion of a seed.
        self._state: Any = {
            "bit_generator": "Philox",
            "state": {"counter": self._counter, "key": key},
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._bits = np.random.Philox(0)
        self.generator = np.random.Generator(self._bits)

    def seed(self, scenario: int, step: int) -> np.random.Generator:
        """Set the generator to a step of a scenario and return it."""
        self._counter[1] = step
        self._counter[2] = scenario
        self._bits.state = self._state
        if self._own:
            _seed_all(self._own, self._key, scenario, step)
        return self.generator


class EnvNoise:
    """The generators of an environment, which are seeded in place, whatever their class.

    Native simulators hide their generators, except ALE: the generator of its sticky actions is
    included.

    Args:
        env: The environment with its wrappers.
        seed: See `Noise`.
        has_hidden: Whether hidden generators are searched for, which takes longer.

    Attributes:
        n_generators: The number of generators.
        n_hidden: Those of them that lie deep in the environment, or in variables outside of it.

    Raises:
        SnapshotError: The generator of ALE's sticky actions cannot be set.
    """

    def __init__(self, env: Value, seed: int, *, has_hidden: bool = True) -> None:
        self._key = hashlib.blake2b(f"env/{seed}".encode(), digest_size=16).digest()
        sticky = sticky_generator(env)
        found = find_generators(env)
        self._generators = found + ([] if sticky is None else [sticky])
        hidden = find_hidden(env, found) if has_hidden else []
        # Last: the numbers of the others, and so the results of a seed, stay.
        self._generators += hidden
        self.n_hidden = len(hidden)
        self._setters = [setter_of(generator) for generator in self._generators]
        self.n_generators = len(self._generators)

    def seed(self, scenario: int, step: int) -> None:
        """Set the generators to a step of a scenario."""
        _seed_all(self._setters, self._key, scenario, step)

    def get_states(self) -> list[Value]:
        """Return the state of each generator."""
        return [state_of(generator) for generator in self._generators]

    def set_states(self, states: list[Value]) -> None:
        """Set each generator to a state that `get_states` returned."""
        for generator, state in zip(self._generators, states, strict=True):
            put_state(generator, state)

    def ids(self) -> set[int]:
        """Return the `id` of each generator."""
        return {id(generator) for generator in self._generators}


def find_generators(env: Value) -> list[Any]:
    """Return the generators of an environment and its wrappers, in a fixed order.

    Objects and containers of a layer are searched too. The generators of spaces are left out:
    spaces are sampled by the policy.
    """
    layers = list(layers_with_attributes(env))
    seen = set(map(id, layers))
    return [
        generator
        for layer in layers
        for _, generator in nested_generators(layer, seen, without=TABLES)
    ]


def reseed_policy(generators: Sequence[Any], seed: int, share: int) -> None:
    """Seed generators that no scenario fixes, so that no two processes draw the same numbers."""
    key = hashlib.blake2b(f"outer/{seed}".encode(), digest_size=16).digest()
    _seed_all([setter_of(generator) for generator in generators], key, share, 0)


def _seed_all(
    setters: Sequence[Callable[[int], None]], key: bytes, scenario: int, step: int
) -> None:
    """Set each generator to a state that is derived from its number, a scenario and a step."""
    for number, put in enumerate(setters, _FIRST_ENV_GENERATOR):
        data = struct.pack("<QQQ", scenario & _MASK_64, step, number)
        digest = hashlib.blake2b(data, digest_size=16, key=key).digest()
        put(int.from_bytes(digest, "little"))


def find_hidden(env: Value, found: list[Any]) -> list[Any]:
    """Return the generators that `find_generators` does not reach, in a fixed order.

    One that a scenario does not set would draw the same numbers in every rollout.
    """
    layers = list(layers_with_attributes(env))
    seen = {id(item) for item in (*layers, *found)}
    hidden = list(hidden_generators(layers, set(seen), without=TABLES))
    seen |= set(map(id, hidden))
    return [*hidden, *outer_generators(layers, seen)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
