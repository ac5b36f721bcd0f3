"""Holds still what a program reads from outside: the clock, and randomness that nobody seeds."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from trajrec.errors import MissingPackageError


@contextlib.contextmanager
def held(time_ns: int, seed: str) -> Iterator[None]:
    """Hold the clock at a time (to the microsecond) and seed everything that draws, for a block; then give all of it back.

    Held are `time.time`, `datetime.now` and their like; `random`, `numpy.random`, `os.urandom` and what is made of it: `uuid4`,
    `secrets`. Not held: `time.monotonic`, generators that the program made itself, other processes. It holds for the whole
    process, all threads of it.

    Args:
        time_ns: The wall clock, in ns since 1970.
        seed: What the randomness is derived from.

    Raises:
        MissingPackageError: time-machine is not installed.
    """
    try:
        import time_machine
    except ImportError as exc:
        raise MissingPackageError("time-machine", "deterministic") from exc
    at = datetime.datetime.fromtimestamp(time_ns // 1_000_000_000, datetime.UTC)
    at += datetime.timedelta(microseconds=time_ns // 1000 % 1_000_000)
    number = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "little")
    kept, kept_numpy, urandom = random.getstate(), np.random.get_state(), os.urandom
    source = random.Random(number)
    random.seed(number)
    np.random.seed(number & 0xFFFFFFFF)
    # `random` has it under a name of its own, for SystemRandom and so for `secrets`.
    os.urandom = random._urandom = source.randbytes  # type: ignore[attr-defined]
    try:
        with time_machine.travel(at, tick=False):
            yield
    finally:
        os.urandom = random._urandom = urandom  # type: ignore[attr-defined]
        random.setstate(kept)
        np.random.set_state(kept_numpy)


def seed_of(seed: int, *place: Any) -> str:
    """Return what the randomness at a place of an episode is derived from."""
    return "/".join(map(str, (seed, *place)))
