"""Holds still what a program reads from outside: the clock, and randomness that nobody seeds."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import random
import secrets
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from trajrec.agents.context import current_episode
from trajrec.errors import MissingPackageError


@contextlib.contextmanager
def frozen(time_ns: int, seed: str) -> Iterator[None]:
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


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Hold the clock and what draws unseeded for a block of an agent's own code, so that `trajrec.rerun` can do the same.

        with trajrec.episode("runs/") as ep, trajrec.deterministic():
            prompt = f"Today is {datetime.date.today()}. Your id is {uuid.uuid4()}."

    The episode that it is used in records the time and a seed, as a side effect named "deterministic"; when the agent is run
    again these are given back. What is held is described at `frozen`.

    Raises:
        ValueError: There is no episode around it.
        MissingPackageError: time-machine is not installed.
    """
    episode = current_episode.get()
    if episode is None:
        raise ValueError(
            "there is no episode here: use it within `with trajrec.episode(...):` or `with trajrec.rerun(...):`"
        )
    time_ns, seed = episode.side_effect(
        "deterministic", lambda: [time.time_ns(), secrets.randbits(31)]
    )
    with frozen(time_ns, derive_seed(seed)):
        yield


def derive_seed(seed: int, *place: Any) -> str:
    """Return what the randomness at a place of an episode is derived from."""
    return "/".join(map(str, (seed, *place)))
