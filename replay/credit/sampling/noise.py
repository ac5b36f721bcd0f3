"""Noise: which randomness a rollout is under, keyed by scenario and step, so that any rollout can be run again anywhere.

Keyed by step and not by place in a stream: one draw more in a branch would put everything after it out of step. The
environment and the policy have keys of their own.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trajrec.envstate.ale import StickyGenerator, sticky_generator
from trajrec.envstate.attributes import CONSTRUCTION_ATTRIBUTES, layers_with_attributes
from trajrec.envstate.generators import nested_generators, put_state, state_of

NoiseMode = Literal["shared", "fresh", "recorded"]

_POLICY, _ENV = 0, 1
# The tables of toy text, and MuJoCo's model and data: large, and without a generator.
_WITHOUT_GENERATORS = CONSTRUCTION_ATTRIBUTES | {"P", "model", "data"}
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Noise:
    """Which randomness rollouts are under.

    Attributes:
        mode: "shared": scenario j has the same noise at step t whichever step a rollout began at and whatever it did:
            differences between arms have common random numbers, and rollouts that meet go on as one. "fresh": each rollout
            has noise of its own. "recorded": the environment's noise is what it was in the recorded episode, for as long as
            that went on, and only the policy's is drawn anew: what would have come of another action, given what happened.
        seed: What all of it is derived from.
    """

    mode: NoiseMode = "shared"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in ("shared", "fresh", "recorded"):
            raise ValueError(f"noise must be 'shared', 'fresh' or 'recorded', got {self.mode!r}")

    def scenarios(self, n: int, place: str, first: int = 0) -> range | tuple[int, ...]:
        """Return the scenarios of n rollouts: the same everywhere, or those of one place alone.

        Args:
            n: How many.
            place: The step and arm that they are rolled out at.
            first: Number of the first.
        """
        if self.mode != "fresh":
            return range(first, first + n)
        return tuple(_hash(f"{place}/{j}") | 1 << 63 for j in range(first, first + n))


class PolicyNoise:
    """The generator that a policy draws from, put to a scenario and step each time.

    Args:
        seed: What the noise is derived from.
        role: Who draws: noises of several roles are independent.

    Attributes:
        generator: Always the same object.
    """

    def __init__(self, seed: int, role: str = "policy") -> None:
        key = np.frombuffer(
            hashlib.blake2b(f"{role}/{seed}".encode(), digest_size=16).digest(), np.uint64
        )
        self._counter = np.zeros(4, np.uint64)
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

    def at(self, scenario: int, step: int) -> np.random.Generator:
        """Return the generator as it is at a step of a scenario."""
        self._counter[1] = step
        self._counter[2] = scenario
        self._bits.state = self._state
        return self.generator


class EnvNoise:
    """The generators of an environment, put to a scenario and step each time; in place, whatever class they are of.

    Args:
        env: The environment, with its wrappers.
        seed: What the noise is derived from.

    Attributes:
        n_generators: How many there are. Of what native simulators keep inside, that of ALE's sticky actions is among them.

    Raises:
        SnapshotError: ALE's cannot be set.
    """

    def __init__(self, env: Any, seed: int) -> None:
        self._key = hashlib.blake2b(f"env/{seed}".encode(), digest_size=16).digest()
        sticky = sticky_generator(env)
        self._generators = find_generators(env) + ([] if sticky is None else [sticky])
        self._setters = [_setter(generator) for generator in self._generators]
        self.n_generators = len(self._generators)

    def at(self, scenario: int, step: int) -> None:
        """Put the generators to a step of a scenario."""
        for place, put in enumerate(self._setters, _ENV):
            data = struct.pack("<QQQ", scenario & _MASK, step, place)
            put(
                int.from_bytes(
                    hashlib.blake2b(data, digest_size=16, key=self._key).digest(), "little"
                )
            )

    def states(self) -> list[Any]:
        """Return the states of the generators."""
        return [state_of(generator) for generator in self._generators]

    def put(self, states: list[Any]) -> None:
        """Put the generators into states that `states` returned."""
        for generator, state in zip(self._generators, states, strict=True):
            put_state(generator, state)

    def ids(self) -> set[int]:
        """Return the ids of the generators."""
        return {id(generator) for generator in self._generators}


def find_generators(env: Any) -> list[Any]:
    """Return the generators that an environment and its wrappers hold, also within objects and containers, in a fixed order.
    Those of spaces are not among them."""
    layers = list(layers_with_attributes(env))
    seen = set(map(id, layers))
    return [
        generator
        for layer in layers
        for _, generator in nested_generators(layer, seen, without=_WITHOUT_GENERATORS)
    ]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _setter(generator: Any) -> Callable[[int], None]:
    """Return what puts a generator to a state that a 128-bit number names."""
    if isinstance(generator, StickyGenerator):
        return generator.seed
    if isinstance(generator, (random.Random, np.random.RandomState)):
        is_python = isinstance(generator, random.Random)
        return lambda number: generator.seed(number if is_python else number & 0xFFFFFFFF)
    bits = generator.bit_generator
    kind = type(bits)
    if kind in (np.random.PCG64, np.random.PCG64DXSM):
        # Every 128-bit number is a state of these: nothing to expand. 2 us, and 38 us by a SeedSequence.
        inner = {"state": 0, "inc": 0xDA3E39CB94B95BDB5851F42D4C957F2D | 1}
        state = {"bit_generator": kind.__name__, "state": inner, "has_uint32": 0, "uinteger": 0}

        def put(number: int) -> None:
            inner["state"] = number
            bits.state = state

        return put

    def seed(number: int) -> None:
        bits.state = kind(number).state

    return seed
