"""Why an episode did not replay: found by running it again under changed conditions, where that can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trajrec.episodes import Episode
from trajrec.provenance import describe_runtime
from trajrec.replay.conditions import frozen_clock, seeded_globals
from trajrec.replay.report import Divergence
from trajrec.state.diff import is_same

FLOAT_DRIFT = 1e-6
"""Relative difference up to which two floats at a first difference look like the same computation on another machine."""


def find_cause(episode: Episode, divergence: Divergence, run: Callable[[], Divergence | None]) -> str:
    """Name the likely cause of a divergence.

    Args:
        episode: The episode.
        divergence: What differed.
        run: Replays the episode once more and returns its first difference.
    """
    first, second = run(), run()
    if not (_same(first, divergence) and _same(second, divergence)):
        return _unrepeatable(run)
    frozen = _repeats(run, frozen_clock)
    if frozen is not None and not _same(frozen, divergence):
        return "clock: the environment reads the time (another time gives another difference)"
    if (seeded := _repeats(run, seeded_globals)) is not None and not _same(seeded, divergence):
        return "global random: the environment draws from random or numpy.random, which no log can restore"
    return _changed(episode, divergence)


def _unrepeatable(run: Callable[[], Divergence | None]) -> str:
    """The environment differs from itself: find what makes it repeat."""
    for condition, cause in (
        (frozen_clock, "clock: the environment reads the time (with the clock frozen it repeats itself)"),
        (
            seeded_globals,
            "global random: the environment draws from random or numpy.random (with these seeded it repeats itself)",
        ),
    ):
        with condition():
            first = run()
        with condition():
            second = run()
        if _same(first, second):
            return cause
    return "hidden randomness: the environment differs from run to run, also with clock, random and numpy.random held still"


def _repeats(run: Callable[[], Divergence | None], condition: Callable[[], Any]) -> Divergence | None:
    with condition():
        return run()


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
        return "float drift: the values agree to rounding" + (f"; changed since: {', '.join(drift)}" if drift else "")
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


def _same(a: Divergence | None, b: Divergence | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.step, a.field) == (b.step, b.field) and is_same(a.actual, b.actual)
