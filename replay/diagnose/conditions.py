"""Conditions under which an environment is run again, to see what it depends on: each holds one thing still, for a block."""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

STILL_S = 1_000_000_000
"""Where the clock is held: the same for every run, so that two of them can be compared."""

_CLOCKS = (
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "process_time",
)


@contextlib.contextmanager
def seeded_globals(seed: int = 0) -> Iterator[None]:
    """Seed the global generators, and give them back as they were."""
    kept, kept_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)


@contextlib.contextmanager
def held_entropy(seed: int = 0) -> Iterator[None]:
    """Hold still what generators without a seed are seeded from: the operating system's entropy."""
    kept, source = os.urandom, random.Random(seed)
    # `random` has it under a name of its own, for SystemRandom and so for `secrets`, from which numpy seeds.
    os.urandom = random._urandom = source.randbytes  # type: ignore[attr-defined]
    real = random.Random.seed

    def seeded(self: random.Random, a: Any = None, version: int = 2) -> None:
        real(self, source.getrandbits(64) if a is None else a, version)

    random.Random.seed = seeded  # type: ignore[method-assign]
    try:
        yield
    finally:
        random.Random.seed = real  # type: ignore[method-assign]
        os.urandom = random._urandom = kept  # type: ignore[attr-defined]


@contextlib.contextmanager
def watched_network() -> Iterator[list[str]]:
    """Note what is connected to, for a block: "host:port", or the path of a socket."""
    found: list[str] = []

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            found.append(_address(address))
            super().connect(address)

        def connect_ex(self, address: Any) -> int:
            found.append(_address(address))
            return super().connect_ex(address)

    kept = socket.socket
    socket.socket = Watched  # type: ignore[misc]
    try:
        yield found
    finally:
        socket.socket = kept  # type: ignore[misc]


def _address(address: Any) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


@contextlib.contextmanager
def frozen_clock(seconds: int = STILL_S) -> Iterator[None]:
    """Hold the clock still, at seconds since 1970: in time and datetime, and wherever their functions were imported by name."""
    replaced: dict[int, Any] = {
        id(getattr(time, name)): _frozen(
            seconds * 10**9 if name.endswith("_ns") else float(seconds)
        )
        for name in _CLOCKS
    }
    replaced[id(datetime.datetime)] = _frozen_datetime(
        datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    )
    undo: list[tuple[Any, str, Any]] = []
    for module in list(sys.modules.values()):
        if module is None or getattr(module, "__name__", "").partition(".")[0] in (
            "threading",
            "trajrec",
            "logging",
            "queue",
        ):
            continue
        # A module's dict is read directly: getattr may run code of a lazy module.
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in replaced:
                undo.append((module, name, value))
                setattr(module, name, replaced[id(value)])
    try:
        yield
    finally:
        for module, name, value in undo:
            setattr(module, name, value)


def _frozen(value: Any) -> Callable[[], Any]:
    return lambda: value


def _frozen_datetime(at: datetime.datetime) -> type[datetime.datetime]:
    """Return a datetime whose now is always the same."""

    class Frozen(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Frozen:
            return cls(at.year, at.month, at.day, at.hour, at.minute, at.second, tzinfo=tz)

        @classmethod
        def utcnow(cls) -> Frozen:
            return cls.now()

        @classmethod
        def today(cls) -> Frozen:
            return cls.now()

    return Frozen
