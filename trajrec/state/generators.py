"""The state of an environment's random generators: what makes an unseeded reset repeatable."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np

from trajrec import codec
from trajrec.protocols import StateAdapter

_BIT_GENERATORS = {
    name: getattr(np.random, name) for name in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64") if hasattr(np.random, name)
}


def generator_state(bare: Any, adapter: StateAdapter | None) -> bytes | None:
    """Return the encoded state of an environment's generators before a reset, or None where they cannot be seen.

    Args:
        bare: The unwrapped environment.
        adapter: Its state adapter, which may know of further generators.
    """
    # Not `np_random`: reading that property of an environment without a generator makes one out of OS entropy.
    # Nor `vars`: it turns an object's inline attributes into a dict, and each step of it gets slower (0.9 us on CartPole).
    generator = getattr(bare, "_np_random", None)
    if not isinstance(generator, np.random.Generator):
        return None
    state: dict[str, Any] = {"np_random": generator.bit_generator.state}
    if adapter is not None and adapter.generator is not None:
        state["native"] = adapter.generator()
    return codec.encode(state)


def reseed(env: Any, key: str) -> int:
    """Seed every generator that an environment or a wrapper of it holds, each from the key and its own place.

    Args:
        env: The environment, with its wrappers.
        key: What the randomness is derived from.

    Returns:
        How many generators there are; those of spaces and of native simulators are not among them.
    """
    found, place, seen = 0, 0, set()
    while True:
        for name, value in sorted(vars(env).items()):
            if isinstance(value, (np.random.Generator, np.random.RandomState, random.Random)) and id(value) not in seen:
                seen.add(id(value))
                data = hashlib.blake2b(f"{key}/{place}/{name}".encode(), digest_size=16).digest()
                _seed(value, int.from_bytes(data, "little"))
                found += 1
        if not hasattr(env, "env") or env is env.unwrapped:
            return found
        env, place = env.env, place + 1


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed if isinstance(generator, random.Random) else seed & 0xFFFFFFFF)


def restore_generator(bare: Any, adapter: StateAdapter | None, data: bytes) -> None:
    """Give an environment's generators the state that `generator_state` returned.

    Raises:
        ValueError: The state is of a generator that is not known here, or the environment has no such generator.
    """
    state = codec.decode(data)
    wanted = state["np_random"]
    kind = _BIT_GENERATORS.get(wanted["bit_generator"])
    if kind is None:
        raise ValueError(f"the generator {wanted['bit_generator']!r} is not known")
    current = getattr(bare, "_np_random", None)
    if current is None or type(current.bit_generator) is not kind:
        current = bare._np_random = np.random.Generator(kind(0))
    current.bit_generator.state = wanted
    if "native" in state:
        if adapter is None or adapter.set_generator is None:
            raise ValueError("the log holds the state of a native generator, and no adapter here can set it")
        adapter.set_generator(state["native"])
