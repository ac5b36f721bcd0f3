"""Find the cause of a divergence by experiments: re-execute the episode with one thing changed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias

from trajrec.agents.freeze import (
    fixed_default_seeds,
    fixed_entropy,
    seeded_globals,
    stopped_clocks,
)
from trajrec.corpus.episode import Episode
from trajrec.recording.provenance import describe_runtime
from trajrec.replay.diagnose.network import watched_network
from trajrec.replay.execute.report import Divergence
from trajrec.values.diff import is_same

# Two floats that differ by no more than this share of the larger one look like the same computation
# on another machine: libm functions and reductions differ in the last places.
FLOAT_DRIFT = 1e-6

# An environment repeats itself if this many trials are the same. An environment with few possible
# outcomes (a coin) often gives the same one twice by chance. Slow environments get fewer trials:
# after ENOUGH_S seconds, three are enough.
REPEATS = 6
ENOUGH_S = 5.0

# Trials with addresses that are not random: a busy system may still place memory differently once.
ADDRESS_TRIES = 2
ADDRESS_REPEATS = 2

# Other hash seeds to try: two strings have the same order in a set under one seed of two.
OTHER_HASH_SEEDS = ("1", "2", "3")

# Variables that decide the result of numerical code, or the local time.
SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "GLIBC_TUNABLES", "TZ")

Condition: TypeAlias = Callable[[], AbstractContextManager[object]]


class TrialResult(NamedTuple):
    """The result of one re-execution of an episode.

    Attributes:
        divergence: The first difference from the recording.
        digest: A digest of all returned values; b"" if there is none.
    """

    divergence: Divergence | None
    digest: bytes = b""


RunTrial: TypeAlias = Callable[[], TrialResult]


class RunInSubprocess(Protocol):
    """Re-executes an episode in a process of its own."""

    def __call__(self, settings: dict[str, str], *, fixed_addresses: bool = False) -> TrialResult:
        """Return the result.

        Args:
            settings: Environment variables of the process.
            fixed_addresses: Whether the process gets the same memory addresses each time.
        """
        ...


def find_cause(
    episode: Episode,
    divergence: Divergence,
    run: RunTrial,
    in_subprocess: RunInSubprocess | None = None,
) -> str:
    """Return the likely cause of a divergence, as far as experiments can show it.

    Args:
        episode: The episode that diverged.
        divergence: Its first difference.
        run: Re-executes the episode in this process.
        in_subprocess: Re-executes the episode in another process; None if that is impossible.
    """
    baseline = _repeated(run)
    if baseline is None or not _is_same_divergence(baseline.divergence, divergence):
        return _cause_of_unrepeated(run, in_subprocess)
    stopped = _run_under(stopped_clocks, run)
    if stopped.divergence is not None and not _is_same_result(stopped, baseline):
        return "clock: the environment reads the time (another time gives another difference)"
    seeded = _run_under(seeded_globals, run)
    if seeded.divergence is not None and not _is_same_result(seeded, baseline):
        return (
            "global random: the environment draws from random or numpy.random, "
            "which no log can restore"
        )
    cause = _cause_by_network(run)
    if cause is None and in_subprocess is not None:
        cause = _cause_by_process(episode, in_subprocess)
    return cause or _cause_by_change(episode, divergence)


def _cause_of_unrepeated(run: RunTrial, in_subprocess: RunInSubprocess | None) -> str:
    """Return which condition makes an environment repeat itself."""
    cause = _cause_by_network(run)
    # Before the conditions below: memory addresses repeat now and then, and a condition that is
    # tried at that moment would look as if it had made the environment repeat itself.
    if cause is None and in_subprocess is not None:
        cause = _cause_by_addresses(in_subprocess)
    if cause is not None:
        return cause
    conditions: list[tuple[Condition, str]] = [
        (
            stopped_clocks,
            "clock: the environment reads the time (with the clock frozen it repeats itself)",
        ),
        (
            seeded_globals,
            "global random: the environment draws from random or numpy.random (with these seeded "
            "it repeats itself)",
        ),
        (
            _fixed_seeds,
            "unseeded generator: the environment or a wrapper draws from its own generator, which "
            "no reset seeds (with the operating system's entropy fixed it repeats itself)",
        ),
    ]
    for condition, cause in conditions:
        if _repeated(run, condition) is not None:
            return cause
    return (
        "hidden randomness: the environment differs from run to run, also with clock, random and "
        "numpy.random frozen"
    )


@contextlib.contextmanager
def _fixed_seeds() -> Iterator[None]:
    """Fix the entropy that generators without a seed are seeded from."""
    with fixed_entropy(), fixed_default_seeds():
        yield


def _repeated(run: RunTrial, condition: Condition = contextlib.nullcontext) -> TrialResult | None:
    """Return the result of repeated trials, or None if they differ."""
    start = time.monotonic()
    first = _run_under(condition, run)
    for repeat in range(2, REPEATS + 1):
        if not _is_same_result(first, _run_under(condition, run)):
            return None
        if repeat > 2 and time.monotonic() - start > ENOUGH_S:
            break
    return first


def _run_under(condition: Condition, run: RunTrial) -> TrialResult:
    with condition():
        return run()


def _cause_by_network(run: RunTrial) -> str | None:
    with watched_network() as addresses:
        run()
    if not addresses:
        return None
    connected = ", ".join(sorted(set(addresses)))
    return f"network: the environment connected to {connected} while it ran"


def _cause_by_addresses(in_subprocess: RunInSubprocess) -> str | None:
    # Numerical libraries start threads, which allocate memory while the environment does.
    settings = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for _ in range(ADDRESS_TRIES):
        fixed = in_subprocess(settings, fixed_addresses=True)
        repeats = [in_subprocess(settings, fixed_addresses=True) for _ in range(ADDRESS_REPEATS)]
        if not all(_is_same_result(fixed, repeat) for repeat in repeats):
            continue
        others = [in_subprocess(settings) for _ in range(ADDRESS_REPEATS)]
        if not any(_is_same_result(fixed, other) for other in others):
            return (
                "addresses: the environment depends on id() (with fixed memory addresses it "
                "repeats itself)"
            )
    return None


def _cause_by_process(episode: Episode, in_subprocess: RunInSubprocess) -> str | None:
    """Return the setting of a process that matters: the hash seed, or another recorded one."""
    recorded = episode.header.runtime.get("settings", {})
    hash_seed = recorded.get("PYTHONHASHSEED", "0")
    base = in_subprocess({"PYTHONHASHSEED": hash_seed})
    if not _is_same_result(base, in_subprocess({"PYTHONHASHSEED": hash_seed})):
        return (
            _cause_by_addresses(in_subprocess)
            or "hidden randomness: the environment differs from process to process"
        )
    others = [in_subprocess({"PYTHONHASHSEED": seed}) for seed in OTHER_HASH_SEEDS]
    if base.divergence is None or not all(_is_same_result(base, other) for other in others):
        remedy = "fix PYTHONHASHSEED when recording and replaying"
        if base.divergence is None:
            remedy = f"PYTHONHASHSEED={hash_seed}, as it was recorded with, gives it again"
        return (
            "hash order: the environment depends on the order of a set or on hash() of texts; "
            f"{remedy}"
        )
    for name in SETTINGS:
        value = recorded.get(name)
        if value == os.environ.get(name):
            continue
        settings = {"PYTHONHASHSEED": hash_seed, name: value or ""}
        if in_subprocess(settings).divergence is None:
            # A sum over several threads adds its parts in the order in which they end.
            reason = "settings: the environment"
            if name == "OMP_NUM_THREADS":
                reason = "threads: the order of a reduction"
            remedy = f"{name}={value or ''}, as it was recorded with, gives it again"
            return f"{reason} depends on {name}; {remedy}"
    return None


def _cause_by_change(episode: Episode, divergence: Divergence) -> str:
    """Return the difference between now and then of an environment that repeats itself."""
    recorded = episode.header.runtime
    live = describe_runtime()
    changes = [
        f"{name} {recorded.get(name)} -> {live.get(name)}"
        for name in ("python", "machine", "cpu", "libc")
        if recorded.get(name) != live.get(name)
    ]
    live_packages = live.get("packages", {})
    changes += [
        f"{name} {version} -> {live_packages[name]}"
        for name, version in recorded.get("packages", {}).items()
        if name in live_packages and live_packages[name] != version
    ]
    listed = ", ".join(changes)
    if _is_float_drift(divergence):
        return "float drift: the values agree to rounding" + (
            f"; changed since: {listed}" if changes else ""
        )
    if changes:
        return f"version drift: changed since: {listed}"
    if divergence.step < 0:
        return (
            "the environment's reset is not the recorded one: its code or data changed, or it has "
            "a generator that trajrec cannot see"
        )
    return (
        "the environment changed: it repeats itself, on the recorded versions, and is not the "
        "recorded one"
    )


def _is_float_drift(divergence: Divergence) -> bool:
    if divergence.ulps is None:
        return False
    expected = float(divergence.expected)
    actual = float(divergence.actual)
    return abs(expected - actual) <= FLOAT_DRIFT * max(abs(expected), abs(actual))


def _is_same_result(a: TrialResult, b: TrialResult) -> bool:
    return a.digest == b.digest and _is_same_divergence(a.divergence, b.divergence)


def _is_same_divergence(a: Divergence | None, b: Divergence | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.step, a.field) == (b.step, b.field) and is_same(a.actual, b.actual)
