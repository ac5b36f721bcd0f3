"""Why an episode did not replay: found by running it again under changed conditions, where that can tell."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from trajrec.corpus.episode import Episode
from trajrec.recording.provenance import describe_runtime
from trajrec.replay.diagnose.conditions import (
    frozen_clock,
    held_entropy,
    seeded_globals,
    watched_network,
)
from trajrec.replay.execute.report import Divergence
from trajrec.values.diff import is_same

FLOAT_DRIFT = 1e-6
"""Relative difference up to which two floats at a first difference look like the same computation on another machine."""


REPEATS, ENOUGH_S = 6, 5.0
"""Runs that are to be alike before an environment is said to repeat itself, and the time after which two are enough: of few
possible outcomes two are often alike by chance."""


class Outcome(NamedTuple):
    """What came of a run: its first difference, and a digest of all that it returned where there is one."""

    divergence: Divergence | None
    digest: bytes = b""


Run = Callable[[], Outcome]
Elsewhere = Callable[[dict[str, str], bool], Outcome]
"""Replays an episode in a process of its own, with environment variables, and with addresses that are not drawn where True."""


def find_cause(
    episode: Episode, divergence: Divergence, run: Run, elsewhere: Elsewhere | None = None
) -> str:
    """Name the likely cause of a divergence.

    Args:
        episode: The episode.
        divergence: What differed.
        run: Replays the episode once more and returns its first difference.
        elsewhere: Does so in another process; None where that cannot be.
    """
    usual = _repeated(run)
    if usual is None or not _is_same_difference(usual.divergence, divergence):
        return _unrepeatable(run, elsewhere)
    frozen = _under(frozen_clock, run)
    if frozen.divergence is not None and not _same(frozen, usual):
        return "clock: the environment reads the time (another time gives another difference)"
    seeded = _under(seeded_globals, run)
    if seeded.divergence is not None and not _same(seeded, usual):
        return "global random: the environment draws from random or numpy.random, which no log can restore"
    if (network := _network(run)) is not None:
        return network
    if elsewhere is not None and (found := _by_process(episode, elsewhere)) is not None:
        return found
    return _changed(episode, divergence)


def _unrepeatable(run: Run, elsewhere: Elsewhere | None) -> str:
    """The environment differs from itself: find what makes it repeat."""
    if (network := _network(run)) is not None:
        return network
    # Before what follows: addresses come again now and then, and would look as if the condition of that moment held them.
    if elsewhere is not None and (found := _by_addresses(elsewhere)) is not None:
        return found
    conditions: list[tuple[Callable[[], Any], str]] = [
        (
            frozen_clock,
            "clock: the environment reads the time (with the clock frozen it repeats itself)",
        ),
        (
            seeded_globals,
            "global random: the environment draws from random or numpy.random (with these seeded it repeats itself)",
        ),
        (
            held_entropy,
            "unseeded generator: the environment or a wrapper draws from a generator of its own that no reset seeds (with the "
            "operating system's entropy held still it repeats itself)",
        ),
    ]
    for condition, cause in conditions:
        if _repeated(run, condition) is not None:
            return cause
    return "hidden randomness: the environment differs from run to run, also with clock, random and numpy.random held still"


def _repeated(run: Run, condition: Callable[[], Any] = contextlib.nullcontext) -> Outcome | None:
    """Return what comes of a run, again and again; None where it is not always the same."""
    begun, first = time.monotonic(), _under(condition, run)
    for repeat in range(2, REPEATS + 1):
        if not _same(first, _under(condition, run)):
            return None
        if repeat > 2 and time.monotonic() - begun > ENOUGH_S:
            break
    return first


def _under(condition: Callable[[], Any], run: Run) -> Outcome:
    with condition():
        return run()


def _by_addresses(elsewhere: Elsewhere) -> str | None:
    # Threads that numerical libraries start take memory while the environment does.
    settings = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for _ in range(2):
        fixed = elsewhere(settings, True)
        if not all(_same(fixed, elsewhere(settings, True)) for _ in range(2)):
            continue  # where a system is busy, something else may now and then take memory in between
        if not any(_same(fixed, elsewhere(settings, False)) for _ in range(2)):
            return "addresses: the environment depends on id() (where addresses are not drawn it repeats itself)"
    return None


def _network(run: Run) -> str | None:
    with watched_network() as connected:
        run()
    return (
        f"network: the environment connected to {', '.join(sorted(set(connected)))} while it ran"
        if connected
        else None
    )


def _by_process(episode: Episode, elsewhere: Elsewhere) -> str | None:
    """Find out whether the settings of a process matter: of another hash seed, and of those recorded."""
    then = episode.header.runtime.get("settings", {})
    hash_seed = then.get("PYTHONHASHSEED", "0")
    base = elsewhere({"PYTHONHASHSEED": hash_seed}, False)
    if not _same(base, elsewhere({"PYTHONHASHSEED": hash_seed}, False)):
        return (
            _by_addresses(elsewhere)
            or "hidden randomness: the environment differs from process to process"
        )
    others = [elsewhere({"PYTHONHASHSEED": str(k)}, False) for k in (1, 2, 3)]
    if base.divergence is None or not all(_same(base, other) for other in others):
        fix = (
            f"PYTHONHASHSEED={hash_seed}, as it was recorded with, gives it again"
            if base.divergence is None
            else ""
        )
        fix = fix or "fix PYTHONHASHSEED when recording and replaying"
        return f"hash order: the environment depends on the order of a set or on hash() of texts; {fix}"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "GLIBC_TUNABLES", "TZ"):
        if then.get(name) != os.environ.get(name):
            settings = {"PYTHONHASHSEED": hash_seed, name: then.get(name, "")}
            if elsewhere(settings, False).divergence is None:
                kind = (
                    "threads: the order of a reduction"
                    if name == "OMP_NUM_THREADS"
                    else "settings: the environment"
                )
                return f"{kind} depends on {name}; {name}={then.get(name, '')}, as it was recorded with, gives it again"
    return None


def _changed(episode: Episode, divergence: Divergence) -> str:
    """The environment repeats itself and is not the recorded one: say what is different from then."""
    then, now = episode.header.runtime, describe_runtime()
    drift = [
        f"{name} {then.get(name)} -> {now.get(name)}"
        for name in ("python", "machine", "cpu", "libc")
        if then.get(name) != now.get(name)
    ]
    packages_then, packages_now = then.get("packages", {}), now.get("packages", {})
    drift += [
        f"{name} {version} -> {packages_now[name]}"
        for name, version in packages_then.items()
        if name in packages_now and packages_now[name] != version
    ]
    if _is_float_drift(divergence):
        return "float drift: the values agree to rounding" + (
            f"; changed since: {', '.join(drift)}" if drift else ""
        )
    if drift:
        return f"version drift: changed since: {', '.join(drift)}"
    if divergence.step < 0:
        return "the environment's reset is not the recorded one: its code or data changed, or it has a generator out of sight"
    return "the environment changed: it repeats itself, on the recorded versions, and is not the recorded one"


def _is_float_drift(divergence: Divergence) -> bool:
    if divergence.ulps is None:
        return False
    a, b = float(divergence.expected), float(divergence.actual)
    return abs(a - b) <= FLOAT_DRIFT * max(abs(a), abs(b))


def _same(a: Outcome, b: Outcome) -> bool:
    return a.digest == b.digest and _is_same_difference(a.divergence, b.divergence)


def _is_same_difference(a: Divergence | None, b: Divergence | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.step, a.field) == (b.step, b.field) and is_same(a.actual, b.actual)
