"""Repeat a rollout under one changed condition at a time and report the differences."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeAlias

from trajrec.agents.freeze import seeded_generators, seeded_globals, stopped_clocks
from trajrec.replay.diagnose.determinism_report import Finding
from trajrec.replay.diagnose.rollouts import (
    Row,
    RowDifference,
    first_row_difference,
    reset_row,
    rollout,
)
from trajrec.replay.diagnose.trials import Condition, Trials
from trajrec.replay.processes.child import SubprocessError, call_in_subprocess
from trajrec.types import AnyEnv

Factory: TypeAlias = Callable[[], AnyEnv]

# The rollouts of fast environments take less than a millisecond. The pause lets a clock that counts
# milliseconds advance between two of them.
CLOCK_PAUSE_S = 0.01

# A seed and a date that no rollout had before: 2033-05-18.
OTHER_SEED = 987
OTHER_TIME_S = 2_000_000_000

# No user's machine is in this time zone, UTC+14, the most distant one.
OTHER_ZONE = "Pacific/Kiritimati"

CLOCK = "clock: the environment reads the time; count steps instead"
GLOBAL_RANDOM = "global random: random or numpy.random; draw from self.np_random instead"

UNSEEDED = (
    "unseeded generator: it draws from a generator of its own or of a space that no reset seeds; "
    "draw from self.np_random instead"
)
CARRIED = (
    "state that reset does not clear, such as a counter, or a generator that only the constructor "
    "seeds; clear or seed it in reset"
)
UNKNOWN = "unknown: threads, addresses of objects, or state outside of the process"

ANOTHER_PROCESS = "another process"

# Each condition in several forms, the probe that it is, and the cause that it shows.
CONDITIONS: tuple[tuple[list[Condition], str, str], ...] = (
    (
        [partial(seeded_globals, OTHER_SEED + k) for k in range(4)],
        "other global generators",
        GLOBAL_RANDOM,
    ),
    (
        [partial(stopped_clocks, OTHER_TIME_S + 7_654_321 * k, 0.37 * k) for k in range(4)],
        "another time",
        CLOCK,
    ),
)


class RolloutPlan(NamedTuple):
    """A rollout that every probe repeats.

    Attributes:
        factory: Makes the environment.
        n_steps: The number of steps.
        seed: The seed of the first reset and of the actions.
    """

    factory: Factory
    n_steps: int
    seed: int

    def run(self, env: AnyEnv) -> list[Row]:
        """Run the rollout in this process."""
        return rollout(env, self.n_steps, self.seed)

    def run_in_subprocess(
        self, settings: dict[str, str], folder: str | None = None
    ) -> list[Row] | str:
        """Run the rollout in a fresh process; return its rows, or the reason if it failed.

        Args:
            settings: Environment variables of the process.
            folder: The working folder of the process; None for the folder of this process.
        """
        try:
            rows: list[Row] = call_in_subprocess(_run, self, settings=settings, folder=folder)
        except SubprocessError as exc:
            return str(exc)
        return rows


def _run(plan: RolloutPlan) -> list[Row]:
    return plan.run(plan.factory())


def probe_determinism(
    first: list[Row], env: AnyEnv, other: AnyEnv, plan: RolloutPlan
) -> Iterator[Finding]:
    """Yield the first difference that each probe finds.

    Args:
        first: The rollout of `env` that the others are compared with.
        env: The environment.
        other: A second environment of the same factory.
        plan: The rollout.
    """
    time.sleep(CLOCK_PAUSE_S)
    again = plan.run(env)
    unrepeated = first_row_difference(again, plan.run(env))
    if unrepeated is not None:
        # It would differ under every other probe as well: look for the cause only.
        cause = _cause_of_unrepeated(env, plan)
        yield _finding(
            "the same object again", first_row_difference(first, again) or unrepeated, cause
        )
        return
    yield from _compared(
        first, again, "the same object again", "state that reset does not clear; clear it in reset"
    )
    reset_row(env, plan.seed)
    yield from _compared(
        first[:1],
        [reset_row(env, plan.seed)],
        "a reset after a reset",
        "state that reset does not clear; clear it in reset",
    )
    yield from _compared(
        first,
        plan.run(other),
        "a second object",
        "state of the class or module, or the order in which objects were made (id()); "
        "keep state in the object",
    )
    rollout(env, plan.n_steps, plan.seed + 1)
    yield from _compared(
        first,
        plan.run(env),
        "after another episode",
        "state that leaks from one episode to the next; clear it in reset",
    )
    # An object that carries state differs from its own first run under any condition. Its later runs
    # are equal, so one of them is what the conditions are compared with.
    carried = first_row_difference(first, again) is not None
    settled = plan.run(env) if carried else first
    for variants, probe, cause in CONDITIONS:
        with variants[0]():
            difference = first_row_difference(settled, plan.run(env))
        if difference is not None:
            is_shown = _trials(env, plan).shows(variants)
            yield _finding(probe, difference, cause if is_shown else UNKNOWN)
    yield from probe_processes(first, plan)


def probe_processes(first: list[Row], plan: RolloutPlan) -> Iterator[Finding]:
    """Compare with processes of another hash seed, time zone and working folder."""
    # Two hash seeds: this process has one seed that is unknown, and it may be equal to one of them.
    for hash_seed in ("0", "1"):
        with tempfile.TemporaryDirectory() as folder:
            settings = {"PYTHONHASHSEED": hash_seed, "TZ": OTHER_ZONE}
            rows = plan.run_in_subprocess(settings, folder)
        if isinstance(rows, str):
            cause = f"the rollout failed in another process: {rows}"
            yield Finding(ANOTHER_PROCESS, -1, "observation", cause)
            return
        difference = first_row_difference(first, rows)
        if difference is not None:
            yield _finding(ANOTHER_PROCESS, difference, _cause_of_process(plan))
            return


def _compared(first: list[Row], second: list[Row], probe: str, cause: str) -> Iterator[Finding]:
    difference = first_row_difference(first, second)
    if difference is not None:
        yield _finding(probe, difference, cause)


def _finding(probe: str, difference: RowDifference, cause: str) -> Finding:
    return Finding(
        probe=probe,
        step=difference.step,
        field=difference.field,
        cause=cause,
        first=difference.first,
        second=difference.second,
    )


def _cause_of_unrepeated(env: AnyEnv, plan: RolloutPlan) -> str:
    """Return which condition makes an environment repeat itself."""
    trials = _trials(env, plan)
    for variants, _, cause in reversed(CONDITIONS):
        if trials.shows(variants):
            return cause
    if _is_carried_over(plan):
        return CARRIED
    return UNSEEDED if _draws_unseeded(plan) else UNKNOWN


def _is_carried_over(plan: RolloutPlan) -> bool:
    """Return whether each new object gives the same two rollouts, of which the second differs."""

    def run() -> tuple[list[Row], list[Row]]:
        with contextlib.closing(plan.factory()) as env:
            return plan.run(env), plan.run(env)

    both = Trials(run, _are_same).baseline
    return both is not None and not _is_same(*both)


def _are_same(first: tuple[list[Row], list[Row]], second: tuple[list[Row], list[Row]]) -> bool:
    return all(map(_is_same, first, second))


def _draws_unseeded(plan: RolloutPlan) -> bool:
    """Return whether new objects repeat themselves once all generators are seeded."""
    # A generator that was made with an object goes on from run to run. They are kept until the end:
    # one in the place of a freed one would have its id().
    made: list[AnyEnv] = []

    def run() -> list[Row]:
        made.append(plan.factory())
        with contextlib.closing(made[-1]) as env:
            return plan.run(env)

    trials = Trials(run, _is_same)
    return trials.shows([partial(seeded_generators, OTHER_SEED + k) for k in range(4)])


def _trials(env: AnyEnv, plan: RolloutPlan) -> Trials[list[Row]]:
    return Trials(lambda: plan.run(env), _is_same)


def _is_same(first: list[Row], second: list[Row]) -> bool:
    return first_row_difference(first, second) is None


def _cause_of_process(plan: RolloutPlan) -> str:
    """Return the setting that makes a process differ, by changing one setting at a time."""
    by_hash_seed = [plan.run_in_subprocess({"PYTHONHASHSEED": str(seed)}) for seed in range(3)]
    base = by_hash_seed[0]
    if any(rows != base for rows in by_hash_seed):
        repeats = [plan.run_in_subprocess({"PYTHONHASHSEED": "0"}) for _ in range(2)]
        if all(rows == base for rows in repeats):
            return (
                "hash order: a set or hash() of strings, which depend on PYTHONHASHSEED; "
                "sort the items"
            )
        return "unknown: it differs from process to process"
    with tempfile.TemporaryDirectory() as folder:
        if plan.run_in_subprocess({"PYTHONHASHSEED": "0"}, folder) != base:
            return "the working folder"
    if plan.run_in_subprocess({"PYTHONHASHSEED": "0", "TZ": OTHER_ZONE}) != base:
        return "the environment variable TZ"
    return "earlier work of this process: state of a module, or addresses of objects"
