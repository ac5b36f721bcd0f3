"""Freeze the clock and seed the randomness that a program reads from outside.

Recordings, replays and diagnoses use these functions, so that they freeze the same things. All of
them act on the whole process, with all of its threads, and undo their changes at the end of the
block.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import gc
import hashlib
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from trajrec.agents.context import current_episode
from trajrec.agents.numpy_state import take_numpy_state
from trajrec.errors import MissingPackageError
from trajrec.values.per_process import renew_in_children

# 2001-09-09, for runs whose time does not matter as long as it is the same.
STOPPED_S = 1_000_000_000

_CLOCKS = (
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
    "process_time",
    "process_time_ns",
)

# Packages that need a running clock: locks and queues wait with timeouts, and trajrec itself
# measures durations and waits for processes.
_NEED_CLOCKS = frozenset(("threading", "queue", "logging", "trajrec"))


@contextlib.contextmanager
def frozen(time_ns: int, seed: str) -> Iterator[None]:
    """Freeze the wall clock and seed all unseeded randomness for a block.

    Frozen are `time.time`, `datetime.now` and similar functions. Seeded are `random`,
    `numpy.random`, `os.urandom` and the functions that draw from it: `uuid4`, `secrets`. Not frozen
    are `time.monotonic`, generators that the program made itself, and other processes.

    Args:
        time_ns: The wall clock, in ns since 1970, kept to the microsecond.
        seed: The text that all randomness is derived from.

    Raises:
        MissingPackageError: time-machine is not installed.
    """
    number = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "little")
    with wall_clock_at(time_ns), seeded_globals(number), fixed_entropy(number):
        yield


@contextlib.contextmanager
def wall_clock_at(time_ns: int) -> Iterator[None]:
    """Freeze the wall clock for a block, also for functions of C.

    Args:
        time_ns: The time in ns since 1970, kept to the microsecond.

    Raises:
        MissingPackageError: time-machine is not installed.
    """
    try:
        import time_machine
    except ImportError as exc:
        raise MissingPackageError("time-machine", "deterministic") from exc
    # From integers: a float of seconds would round the microseconds.
    moment = datetime.datetime.fromtimestamp(time_ns // 1_000_000_000, datetime.UTC)
    moment += datetime.timedelta(microseconds=time_ns // 1000 % 1_000_000)
    with time_machine.travel(moment, tick=False):
        yield


@contextlib.contextmanager
def stopped_clocks(seconds: int = STOPPED_S, tick_s: float = 0.0) -> Iterator[None]:
    """Stop all clocks for a block, the monotonic ones too, without an optional package.

    With a tick, the clocks of a thread advance by it each time it reads one: the durations that a
    program measures are then always the same, and not 0.

    A diagnosis re-executes an environment in such a block. Programs of a user run under
    `wall_clock_at` instead, because their timeouts need a monotonic clock that runs.

    The functions of `time` and the class `datetime.datetime` are replaced in every module that has
    them under any name. Functions of C that read the clock are not stopped.

    Args:
        seconds: The time in s since 1970.
        tick_s: The seconds that pass at each reading.
    """
    clock = _StoppedClock(seconds, tick_s)
    plain = {name: getattr(time, name) for name in _CLOCKS} | {"datetime": datetime.datetime}
    stopped: dict[str, Any] = {
        name: clock.read_ns if name.endswith("_ns") else clock.read for name in _CLOCKS
    }
    stopped["datetime"] = _stopped_datetime(clock)
    before = set(sys.modules)
    # Bound methods are made anew each time that they are asked for: those of `stopped` are kept.
    undo = _replace({id(plain[name]): stopped[name] for name in plain}, before)
    # Some libraries measure collections of garbage, which come at any moment: with a tick, they
    # would change the time that the program reads.
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    # Nor is garbage of before the block collected in it: its finalizers may read the time.
    is_ours = gc.get_freeze_count() == 0
    if is_ours:
        gc.freeze()
    try:
        yield
    finally:
        if is_ours:
            gc.unfreeze()
        gc.callbacks[:0] = callbacks
        for module, name, value in undo:
            setattr(module, name, value)
        # A module that was imported meanwhile took the stopped clocks.
        _replace({id(stopped[name]): plain[name] for name in plain}, set(sys.modules) - before)


def _replace(others: Mapping[int, Any], modules: Iterable[str]) -> list[tuple[Any, str, Any]]:
    """Replace objects in modules; return each place with what was there.

    Args:
        others: The id of an object -> what stands in for it.
        modules: The names of the modules. Those that need clocks are left out.
    """
    undo: list[tuple[Any, str, Any]] = []
    for key in modules:
        module = sys.modules.get(key)
        package = getattr(module, "__name__", "").partition(".")[0]
        if module is None or package in _NEED_CLOCKS:
            continue
        # The dict is read directly: getattr may run the code of a lazy module.
        names = dict(getattr(module, "__dict__", {}))
        # A trial goes through all names of the process, of which a dozen are clocks.
        if others.keys().isdisjoint(map(id, names.values())):
            continue
        for name, value in names.items():
            if id(value) in others:
                undo.append((module, name, value))
                setattr(module, name, others[id(value)])
    return undo


class _Blocks:
    """The blocks that replace one thing of the process, the latest last.

    Calls of concurrent tasks and threads end in any order. A block that others follow leaves what
    it found to the next of them; otherwise that one would put back what this one had made.

    Args:
        take: Returns a function that puts back what is there now.
    """

    def __init__(self, take: Callable[[], Callable[[], None]]) -> None:
        self._take = take
        self._open: list[tuple[object, Callable[[], None]]] = []
        self._renew_lock()
        renew_in_children(self, _Blocks._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def replaced(self, put: Callable[[], object]) -> Iterator[None]:
        """Replace it for a block by what a function puts there."""
        block = object()
        with self._lock:
            self._open.append((block, self._take()))
            put()
        try:
            yield
        finally:
            with self._lock:
                place = next(i for i, (opened, _) in enumerate(self._open) if opened is block)
                _, restore = self._open.pop(place)
                if place < len(self._open):
                    self._open[place] = (self._open[place][0], restore)
                else:
                    restore()


def _take_states() -> Callable[[], None]:
    state = random.getstate()
    numpy_state = take_numpy_state()

    def restore() -> None:
        random.setstate(state)
        numpy_state.restore()

    return restore


def _take_entropy() -> Callable[[], None]:
    return functools.partial(_set_entropy, os.urandom)


def _set_entropy(urandom: Callable[[int], bytes]) -> None:
    # `random` has a name of its own for it, which SystemRandom uses, and so do `secrets` and NumPy
    # for the generators that get no seed.
    os.urandom = random._urandom = urandom  # type: ignore[attr-defined]


_states = _Blocks(_take_states)
_entropy = _Blocks(_take_entropy)


@contextlib.contextmanager
def seeded_globals(seed: int = 0) -> Iterator[None]:
    """Seed `random` and `numpy.random` for a block, then restore their states."""

    def put() -> None:
        random.seed(seed)
        # numpy.random takes no seed of more than 32 bits.
        np.random.seed(seed & 0xFFFFFFFF)

    with _states.replaced(put):
        yield


@contextlib.contextmanager
def fixed_entropy(seed: int = 0) -> Iterator[None]:
    """Replace the operating system's entropy by a seeded stream for a block."""
    stream = random.Random(seed).randbytes
    with _entropy.replaced(functools.partial(_set_entropy, stream)):
        yield


@contextlib.contextmanager
def fixed_default_seeds(seed: int = 0) -> Iterator[None]:
    """Give each `random.Random()` without a seed the next seed of a stream, for a block.

    Its default seed comes from C and not from `os.urandom`. A diagnosis needs this; `frozen` does
    not do it, because `tempfile` names its files by such a generator, and two processes that replay
    the same step must not try the same names.
    """
    set_seed = random.Random.seed
    source = random.Random(seed)

    def seeded(self: random.Random, a: Any = None, version: int = 2) -> None:
        set_seed(self, source.getrandbits(64) if a is None else a, version)

    random.Random.seed = seeded  # type: ignore[method-assign]
    try:
        yield
    finally:
        random.Random.seed = set_seed  # type: ignore[method-assign]


@contextlib.contextmanager
def seeded_generators(seed: int = 0) -> Iterator[None]:
    """Fix the entropy that generators without a seed are seeded from, for a block."""
    with fixed_entropy(seed), fixed_default_seeds(seed):
        yield


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Freeze the clock and seed unseeded randomness for a block of an agent's own code.

        with trajrec.episode("runs/") as ep, trajrec.deterministic():
            prompt = f"Today is {datetime.date.today()}. Your id is {uuid.uuid4()}."

    The current episode records the time and a seed, as a side effect named "deterministic", and
    `trajrec.rerun` uses them again. See `trajrec.agents.freeze.frozen` for the functions that are
    frozen.

    Raises:
        ValueError: The block is not inside an episode.
        MissingPackageError: time-machine is not installed.
    """
    episode = current_episode()
    if episode is None:
        raise ValueError(
            "deterministic() must be inside an episode: use it within "
            "`with trajrec.episode(...):` or `with trajrec.rerun(...):`"
        )
    time_ns, seed = episode.side_effect(
        "deterministic", lambda: [time.time_ns(), secrets.randbits(31)]
    )
    with frozen(time_ns, derive_seed(seed)):
        yield


def derive_seed(seed: int, *position: object) -> str:
    """Return the text that the randomness at one position of an episode is derived from.

    Args:
        seed: The seed of the episode.
        position: The step, call and attempt, or nothing.
    """
    return "/".join(map(str, (seed, *position)))


class _StoppedClock(threading.local):
    """A clock that advances only when it is read, and for the reading thread alone.

    Another thread of the process, such as a server's, reads the time whenever it likes: with one
    count for all, no two runs of a program under this clock would be the same.
    """

    def __init__(self, seconds: int, tick_s: float) -> None:
        self._time_ns = seconds * 10**9
        self._tick_ns = round(tick_s * 1e9)

    def read_ns(self) -> int:
        time_ns = self._time_ns
        self._time_ns += self._tick_ns
        return time_ns

    def read(self) -> float:
        return self.read_ns() / 1e9


def _stopped_datetime(clock: _StoppedClock) -> type[datetime.datetime]:
    """Return a class in place of `datetime.datetime` whose present is that of a stopped clock.

    Its instances are plain ones: a subclass would be another type to pydantic and to logs.
    """
    plain = datetime.datetime

    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, plain)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, plain)

    class Stopped(datetime.datetime, metaclass=Meta):
        def __new__(cls, *args: Any, **kwargs: Any) -> datetime.datetime:  # type: ignore[misc]
            return plain(*args, **kwargs)

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            moment = plain.fromtimestamp(clock.read(), datetime.UTC)
            return moment.replace(tzinfo=tz)

        @classmethod
        def utcnow(cls) -> datetime.datetime:  # type: ignore[override]
            return cls.now()

        @classmethod
        def today(cls) -> datetime.datetime:  # type: ignore[override]
            return cls.now()

    return Stopped
