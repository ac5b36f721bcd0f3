"""Find the cause of a divergence by experiments: re-execute the episode with one thing changed."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

from trajrec.agents.freeze import seeded_generators, seeded_globals, stopped_clocks
from trajrec.corpus.episode import Episode
from trajrec.recording.provenance import describe_runtime
from trajrec.replay.diagnose.network import Answers
from trajrec.replay.diagnose.trials import REPEATS, Condition, Trials
from trajrec.replay.execute.report import Divergence
from trajrec.values.codec import Opaque
from trajrec.values.diff import is_same

# Two floats that differ by no more than this share of the larger one look like the same computation
# on another machine: libm functions and reductions differ in the last places.
FLOAT_DRIFT = 1e-6

_ADDRESS = re.compile("0x[0-9a-fA-F]{6,}")

# Trials with addresses that are not random: a busy system may still place memory differently once.
ADDRESS_TRIES = 2
ADDRESS_REPEATS = 3

# Other hash seeds to try: two strings have the same order in a set under one seed of two.
N_HASH_SEEDS = 3

# As many if the recorded result depends on the process, which something else must then explain.
MOST_HASH_SEEDS = 7

# Variables that decide the result of numerical code, or the local time.
SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "GLIBC_TUNABLES", "TZ")


class TrialResult(NamedTuple):
    """The result of one re-execution of an episode.

    Attributes:
        divergence: The first difference from the recording. What else differs from trial to trial
            says nothing about its cause.
    """

    divergence: Divergence | None


RunTrial: TypeAlias = Callable[[], TrialResult]


class RunInSubprocess(Protocol):
    """Re-executes an episode in a process of its own."""

    def __call__(
        self, settings: Mapping[str, str | None], *, fixed_addresses: bool = False
    ) -> TrialResult:
        """Return the result.

        Args:
            settings: Environment variables of the process; None removes one.
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
    if _has_other_addresses(divergence):
        return (
            "addresses: a text shows the address of an object, which is another one in each run "
            f"(ignore={divergence.field!r} compares the rest)"
        )
    trials = Trials(run, _is_same_result)
    baseline = trials.baseline
    is_repeated = baseline is not None and is_same_divergence(baseline.divergence, divergence)
    if not is_repeated and in_subprocess is not None:
        # Before the conditions: memory addresses repeat for a while, and change with the condition.
        cause = _cause_by_addresses(in_subprocess)
        if cause is not None:
            return cause
    for variants, cause in CONDITIONS:
        if trials.shows(variants):
            return cause
    answers = [Answers(), Answers()]
    for recorded in answers:
        with recorded.recorded():
            run()
    connected = ", ".join(sorted(set(answers[0].addresses)))
    if connected and trials.shows([recorded.repeated for recorded in answers]):
        return (
            f"network: the environment connected to {connected}; with the answers of one run it "
            "repeats itself"
        )
    hint = f"; it connected to {connected} while it ran" if connected else ""
    if baseline is None:
        return (
            "unknown: the environment differs from run to run, also with clock, random, "
            f"numpy.random and new generators held still (a child process, a thread or a library "
            f"may decide it){hint}"
        )
    if not is_repeated:
        return f"unknown: the difference came once, and not again in {REPEATS} runs{hint}"
    cause = None if in_subprocess is None else _cause_by_process(episode, in_subprocess)
    return (cause or _cause_by_change(episode, divergence)) + hint


def _has_other_addresses(divergence: Divergence) -> bool:
    """Return whether two texts are the same but for the addresses of objects."""
    texts = [
        value.text if isinstance(value, Opaque) else value
        for value in (divergence.expected, divergence.actual)
    ]
    if not all(isinstance(text, str) and _ADDRESS.search(text) for text in texts):
        return False
    plain = [_ADDRESS.sub("0x", text) for text in texts]
    return plain[0] == plain[1]


# Each condition in several forms: a cause is named only if the results follow them.
CONDITIONS: tuple[tuple[list[Condition], str], ...] = (
    (
        [
            partial(stopped_clocks, 1_000_000_000),
            partial(stopped_clocks, 1_734_567_891, tick_s=0.37),
            partial(stopped_clocks, 2_000_000_123, tick_s=61.7),
            partial(stopped_clocks, 1_500_000_777, tick_s=0.0011),
            partial(stopped_clocks, 1_600_043_210, tick_s=3601.0),
        ],
        "clock: the environment or a wrapper reads the time (at another time, or with other "
        "durations, it gives another difference)",
    ),
    (
        [partial(seeded_globals, seed) for seed in range(6)],
        "global random: the environment or a wrapper draws from random or numpy.random, which no "
        "log can restore (with these seeded it repeats itself)",
    ),
    (
        [partial(seeded_generators, seed) for seed in range(6)],
        "unseeded generator: the environment or a wrapper draws from its own generator, which "
        "no reset seeds (with the operating system's entropy fixed it repeats itself)",
    ),
)


def _cause_by_addresses(in_subprocess: RunInSubprocess) -> str | None:
    # Numerical libraries start threads, which allocate memory while the environment does.
    settings = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

    def is_repeated(fixed: TrialResult) -> bool:
        repeats = (in_subprocess(settings, fixed_addresses=True) for _ in range(ADDRESS_REPEATS))
        return all(_is_same_result(fixed, repeat) for repeat in repeats)

    for _ in range(ADDRESS_TRIES):
        fixed = in_subprocess(settings, fixed_addresses=True)
        if not is_repeated(fixed):
            continue
        others = (in_subprocess(settings) for _ in range(ADDRESS_REPEATS))
        # Fixed ones again: an environment with two outcomes may have repeated itself by chance.
        if not any(_is_same_result(fixed, other) for other in others) and is_repeated(fixed):
            return (
                "addresses: the environment depends on id() (with fixed memory addresses it "
                "repeats itself)"
            )
    return None


def _cause_by_process(episode: Episode, in_subprocess: RunInSubprocess) -> str | None:
    """Return the setting of a process that matters: the hash seed, or another recorded one."""
    recorded = episode.header.runtime.get("settings", {})
    recorded_seed = recorded.get("PYTHONHASHSEED", "random")
    hash_seed = "0" if recorded_seed == "random" else recorded_seed
    base = in_subprocess({"PYTHONHASHSEED": hash_seed})
    if not _is_same_result(base, in_subprocess({"PYTHONHASHSEED": hash_seed})):
        return (
            _cause_by_addresses(in_subprocess)
            or "unknown: the environment differs from process to process"
        )
    # A recorded seed with which the episode diverges all the same is not the cause.
    is_open = base.divergence is None or hash_seed != recorded_seed
    if is_open and _follows_hash_seed(base, hash_seed, in_subprocess):
        remedy = "fix PYTHONHASHSEED when recording and replaying"
        if base.divergence is None and hash_seed == recorded_seed:
            remedy = f"PYTHONHASHSEED={hash_seed}, as it was recorded with, gives it again"
        return (
            "hash order: the environment depends on the order of a set or on hash() of texts; "
            f"{remedy}"
        )
    if base.divergence is None:
        return (
            "this process: in a process of its own the environment gives the recorded result; "
            "look for a variable of a module, or a function, that your program has changed"
        )
    for name in SETTINGS:
        value = recorded.get(name)
        if value == os.environ.get(name):
            continue
        settings = {"PYTHONHASHSEED": hash_seed, name: value}
        # Twice: once may be chance.
        if all(in_subprocess(settings).divergence is None for _ in range(2)):
            # A sum over several threads adds its parts in the order in which they end.
            reason = "settings: the environment"
            if name == "OMP_NUM_THREADS":
                reason = "threads: the order of a reduction"
            remedy = f"{name} unset" if value is None else f"{name}={value}"
            return f"{reason} depends on {name}; {remedy}, as it was recorded with, gives it again"
    return None


def _follows_hash_seed(base: TrialResult, hash_seed: str, in_subprocess: RunInSubprocess) -> bool:
    """Return whether another hash seed gives another result, and each seed always its own."""
    n_seeds = N_HASH_SEEDS if base.divergence is not None else MOST_HASH_SEEDS
    for seed in [str(k) for k in range(n_seeds + 1) if str(k) != hash_seed]:
        other = in_subprocess({"PYTHONHASHSEED": seed})
        if _is_same_result(base, other):
            continue
        again = (in_subprocess({"PYTHONHASHSEED": seed}) for _ in range(2))
        is_always = all(_is_same_result(other, result) for result in again)
        return is_always and _is_same_result(base, in_subprocess({"PYTHONHASHSEED": hash_seed}))
    return False


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
    agree = "the values agree to rounding"
    is_close = _is_close(divergence)
    if changes and is_close:
        return f"float drift: {agree}; changed since: {listed}"
    if changes:
        return f"version drift: changed since: {listed}"
    if divergence.step < 0:
        reason = (
            "the environment's reset is not the recorded one: its code or data changed, or it has "
            "a generator that trajrec cannot see"
        )
    else:
        reason = (
            "the environment repeats itself, on the recorded versions, and is not the recorded "
            "one: its code or data changed, or the program set its state between two steps"
        )
    # Without another version or CPU, rounding explains nothing.
    return f"{reason}; {agree}" if is_close else reason


def _is_close(divergence: Divergence) -> bool:
    if divergence.ulps is None:
        return False
    expected = float(divergence.expected)
    actual = float(divergence.actual)
    return abs(expected - actual) <= FLOAT_DRIFT * max(abs(expected), abs(actual))


def _is_same_result(a: TrialResult, b: TrialResult) -> bool:
    return is_same_divergence(a.divergence, b.divergence)


def is_same_divergence(a: Divergence | None, b: Divergence | None) -> bool:
    """Return whether two runs differ first at the same place, and by the same value."""
    if a is None or b is None:
        return a is b
    return (a.step, a.field) == (b.step, b.field) and is_same(a.actual, b.actual)
