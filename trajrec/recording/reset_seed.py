"""The seed of a reset: the caller's, none, or the recorder's own."""

from __future__ import annotations

import secrets
from typing import Literal, NamedTuple

import numpy as np

from trajrec.envstate.generators import generator_state
from trajrec.protocols import StateAdapter
from trajrec.types import AnyEnv


class ResetSeed(NamedTuple):
    """The seed of a reset.

    Attributes:
        seed: The seed, None if there is none.
        origin: Who gave it.
        rng_data: Without a seed, the encoded state of the environment's generators.
    """

    seed: int | None
    origin: Literal["caller", "recorder", "none"]
    rng_data: bytes | None


def choose_seed(seed: int | None, env: AnyEnv, adapter: StateAdapter | None) -> ResetSeed:
    """Return the seed of a reset for which the caller gave `seed`.

    Raises:
        TypeError: It is no whole number.
        ValueError: It has more than 64 bits, which a log does not hold.
    """
    if seed is not None:
        is_whole = isinstance(seed, (int, np.integer))
        if not is_whole or not -(2**63) <= seed < 2**64:
            error = ValueError if is_whole else TypeError
            raise error(f"seed must be an int from -2**63 to 2**64 - 1, or None, got {seed!r}")
        # A truth value is an int for Python, and none for a log.
        return ResetSeed(int(seed) if isinstance(seed, bool) else seed, "caller", None)
    rng_data = generator_state(env.unwrapped, adapter)
    if rng_data is not None:
        return ResetSeed(None, "none", rng_data)
    # 31 bits, so that the seed fits into a signed 32-bit integer of a simulator in C.
    return ResetSeed(secrets.randbits(31), "recorder", None)
