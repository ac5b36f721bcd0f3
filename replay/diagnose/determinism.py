"""Whether an environment can be replayed and forked, and why not: probed before anything is recorded.

The same episode is run on the same object again, after another episode, on a second object, with other global generators and at
another time, and in processes with another hash seed, time zone and folder; whatever differs first names the probe. Snapshots
are taken at several steps and must go on as before, across unseeded resets.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import gymnasium

from trajrec.envstate.snapshots import Snapshots, sandbox_of
from trajrec.errors import SnapshotError
from trajrec.replay.diagnose.conditions import frozen_clock, seeded_globals
from trajrec.replay.execute.environments import env_by, make_by_id
from trajrec.replay.forks.restore import can_fork
from trajrec.replay.processes.child import SubprocessError, call_in_subprocess
from trajrec.values import codec

Grade = Literal["exact", "seeded", "none"]
Factory = Callable[[], gymnasium.Env[Any, Any]]

FIELDS = ("observation", "reward", "terminated", "truncated", "info")
POINTS = 3
CONTINUED_STEPS = 200


class Row(NamedTuple):
    """What one step, or a reset, returned: a digest of each field."""

    digests: tuple[bytes, ...]


class Finding(NamedTuple):
    """Something that is not the same.

    Attributes:
        probe: Under which condition.
        step: The step, counted from the first reset; -1 is that reset.
        field: observation, reward, terminated, truncated or info.
        cause: What it comes from, as far as the probes can tell.
    """

    probe: str
    step: int
    field: str
    cause: str


@dataclass(frozen=True)
class RestoreReport:
    """What a probe of one way to restore a step found.

    Attributes:
        is_granted: Whether restored environments went on as before, at every point.
        why: Why not.
        take_us: Taking a snapshot, median, µs; forking a process and hearing from it, for "os_fork".
        restore_us: Restoring it, median, µs.
    """

    is_granted: bool
    why: str = ""
    take_us: float | None = None
    restore_us: float | None = None


@dataclass(frozen=True)
class DeterminismReport:
    """What `check_determinism` found.

    Attributes:
        env: The environment's id, or its factory's name.
        grade: "exact": everything was the same, unseeded resets too. "seeded": only what follows a seeded reset was. "none":
            not even that.
        findings: What was not the same.
        restore: How its steps can be reached again, and what that costs.
        step_us: A step, median, µs.
        reset_us: A seeded reset, median, µs.
        n_steps: Steps compared by each probe.
    """

    env: str
    grade: Grade
    findings: tuple[Finding, ...]
    restore: dict[str, RestoreReport] = field(default_factory=dict)
    step_us: float = 0.0
    reset_us: float = 0.0
    n_steps: int = 0

    def __str__(self) -> str:
        lines = [
            f"{self.env}: {self.grade}, {self.n_steps} steps compared; step {self.step_us:.0f} µs, reset {self.reset_us:.0f} µs"
        ]
        for f in self.findings:
            lines.append(
                f"  {f.probe}: {'the reset' if f.step < 0 else f'step {f.step}'} differs in {f.field}; cause: {f.cause}"
            )
        for name, report in self.restore.items():
            if report.is_granted:
                cost = "" if report.take_us is None else f", {report.take_us:.0f} µs"
                cost += (
                    ""
                    if report.restore_us is None
                    else f" to take, {report.restore_us:.0f} µs to restore"
                )
                lines.append(f"  {name:<12} yes{cost}")
            else:
                lines.append(f"  {name:<12} no: {report.why}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "env": self.env,
            "grade": self.grade,
            "n_steps": self.n_steps,
            "step_us": round(self.step_us, 1),
            "reset_us": round(self.reset_us, 1),
            "findings": [finding._asdict() for finding in self.findings],
            "restore": {
                name: {
                    "granted": r.is_granted,
                    "why": r.why or None,
                    "take_us": r.take_us,
                    "restore_us": r.restore_us,
                }
                for name, r in self.restore.items()
            },
        }


def check_determinism(
    env: str | Factory, *, n_steps: int = 300, seed: int = 1234
) -> DeterminismReport:
    """Probe whether an environment can be replayed and how its steps can be restored.

    Args:
        env: A Gymnasium id, or a factory (which must be picklable by value or by name), also of a PettingZoo environment.
        n_steps: Steps of each rollout, over as many episodes as they take.
        seed: Of the rollouts and their actions.

    >>> report = check_determinism("CartPole-v1", n_steps=60)
    >>> report.grade, report.restore["snapshot"].is_granted
    ('exact', True)
    """
    name = env if isinstance(env, str) else getattr(env, "__qualname__", repr(env))
    factory: Factory = (
        functools.partial(make_by_id, env)
        if isinstance(env, str)
        else functools.partial(env_by, env)
    )
    first_env, second_env = factory(), factory()
    try:
        times: list[float] = []
        first = rollout(first_env, n_steps, seed, times)
        findings = list(_probes(first, first_env, second_env, factory, n_steps, seed))
        step_us, reset_us = statistics.median(times) * 1e6, _reset_us(first_env, seed)
        reports = _restore_reports(first_env, factory, seed, min(n_steps, CONTINUED_STEPS))
    finally:
        first_env.close()
        second_env.close()
    return DeterminismReport(
        name, _grade(first, findings), tuple(findings), reports, step_us, reset_us, n_steps
    )


def rollout(env: Any, n_steps: int, seed: int, times: list[float] | None = None) -> list[Row]:
    """Run seeded random actions over as many episodes as it takes; the first reset is seeded, the others are not."""
    env.action_space.seed(seed)
    obs, info = env.reset(seed=seed)
    rows = [_row(obs, 0.0, False, False, info)]
    return rows + _steps(env, n_steps, times)


def _steps(env: Any, n_steps: int, times: list[float] | None = None) -> list[Row]:
    rows = []
    for _ in range(n_steps):
        action = env.action_space.sample()
        start = time.perf_counter()
        obs, reward, terminated, truncated, info = env.step(action)
        if times is not None:
            times.append(time.perf_counter() - start)
        rows.append(_row(obs, reward, terminated, truncated, info))
        if terminated or truncated:
            obs, info = env.reset()
            rows.append(_row(obs, 0.0, False, False, info))
    return rows


def _row(*values: Any) -> Row:
    return Row(
        tuple(
            hashlib.blake2b(codec.encode(value, opaque=True), digest_size=8).digest()
            for value in values
        )
    )


def _probes(
    first: list[Row], env: Any, other: Any, factory: Factory, n_steps: int, seed: int
) -> Iterator[Finding]:
    """Yield the first difference that each probe finds."""

    def compare(probe: str, rows: list[Row], cause: str) -> Iterator[Finding]:
        found = _first_difference(first, rows)
        if found is not None:
            yield Finding(probe, *found, cause)

    again = rollout(env, n_steps, seed)
    if _first_difference(again, rollout(env, n_steps, seed)) is not None:
        by = _what_holds(env, n_steps, seed)
        yield from compare("the same object again", again, by)
        if _first_difference(first, again) is None:
            yield Finding(
                "the same object again",
                *(_first_difference(again, rollout(env, n_steps, seed)) or (0, "?")),
                by,
            )
        return  # what differs from itself differs under every other probe too
    yield from compare("the same object again", again, "state that a reset does not clear")
    second = rollout(other, n_steps, seed)
    yield from compare(
        "a second object",
        second,
        "state of the class or module, or the order in which objects were made (id())",
    )
    rollout(env, n_steps, seed + 1)
    yield from compare(
        "after another episode",
        rollout(env, n_steps, seed),
        "state that leaks from one episode to the next",
    )
    with seeded_globals(987):
        yield from compare(
            "other global generators",
            rollout(env, n_steps, seed),
            "global random: random or numpy.random",
        )
    with frozen_clock(2_000_000_000):
        yield from compare("another time", rollout(env, n_steps, seed), "clock: it reads the time")
    for hash_seed in ("0", "1"):
        with tempfile.TemporaryDirectory() as folder:
            rows = _elsewhere(
                factory,
                n_steps,
                seed,
                folder,
                {"PYTHONHASHSEED": hash_seed, "TZ": "Pacific/Kiritimati"},
            )
        if isinstance(rows, str):
            yield Finding(
                "another process", -1, "observation", f"it could not be run there: {rows}"
            )
            return
        found = _first_difference(first, rows)
        if found is not None:
            yield Finding("another process", *found, _why_elsewhere(factory, n_steps, seed, first))
            return


def _what_holds(env: Any, n_steps: int, seed: int) -> str:
    """Say what makes an environment that differs from itself repeat itself."""
    conditions: list[tuple[Callable[[], Any], str]] = [
        (frozen_clock, "clock: it reads the time"),
        (seeded_globals, "global random: random or numpy.random"),
    ]
    for condition, cause in conditions:
        rows = []
        for _ in range(2):
            with condition():
                rows.append(rollout(env, n_steps, seed))
        if _first_difference(*rows) is None:
            return cause
    return "hidden randomness: an unseeded generator, threads, addresses of objects, or something outside of the process"


def _why_elsewhere(factory: Factory, n_steps: int, seed: int, first: list[Row]) -> str:
    """Say what of another process matters: run again with one thing changed at a time."""
    with tempfile.TemporaryDirectory() as folder:
        by_hash = [
            _elsewhere(factory, n_steps, seed, None, {"PYTHONHASHSEED": str(k)}) for k in (0, 1, 2)
        ]
        if any(rows != by_hash[0] for rows in by_hash):
            same = [
                _elsewhere(factory, n_steps, seed, None, {"PYTHONHASHSEED": "0"}) for _ in range(2)
            ]
            if same[0] == same[1] == by_hash[0]:
                return "hash order: a set or hash() of texts, which PYTHONHASHSEED decides"
            return "hidden randomness: it differs from process to process"
        if _elsewhere(factory, n_steps, seed, folder, {"PYTHONHASHSEED": "0"}) != by_hash[0]:
            return "the working folder"
        if (
            _elsewhere(
                factory, n_steps, seed, None, {"PYTHONHASHSEED": "0", "TZ": "Pacific/Kiritimati"}
            )
            != by_hash[0]
        ):
            return "the environment variable TZ"
    return "what this process did before: state of a module, or addresses of objects"


def _elsewhere(
    factory: Factory, n_steps: int, seed: int, folder: str | None, settings: dict[str, str]
) -> list[Row] | str:
    """Run the rollout in a fresh process; return its rows, or why it could not be run."""
    try:
        rows: list[Row] = call_in_subprocess(
            _rollout_of, factory, n_steps, seed, settings=settings, folder=folder
        )
    except SubprocessError as exc:
        return str(exc)
    return rows


def _rollout_of(factory: Factory, n_steps: int, seed: int) -> list[Row]:
    return rollout(factory(), n_steps, seed)


def _first_difference(a: list[Row], b: list[Row]) -> tuple[int, str] | None:
    for number, (x, y) in enumerate(zip(a, b, strict=False)):
        for name, p, q in zip(FIELDS, x.digests, y.digests, strict=True):
            if p != q:
                return number - 1, name
    return None if len(a) == len(b) else (min(len(a), len(b)) - 1, "terminated")


def _grade(first: list[Row], findings: list[Finding]) -> Grade:
    if not findings:
        return "exact"
    # A row after the first unseeded reset: only what follows a seeded one is the same.
    ends = [number for number, row in enumerate(first) if row.digests[2:4] != first[0].digests[2:4]]
    first_end = ends[0] if ends else len(first)
    return "seeded" if min(finding.step for finding in findings) >= first_end else "none"


def _restore_reports(
    env: Any, factory: Factory, seed: int, n_steps: int
) -> dict[str, RestoreReport]:
    reports = {"reexecute": RestoreReport(True)}
    is_outside = sandbox_of(env) is not None
    try:
        reports |= _probe_snapshots(env, Snapshots(env), seed, n_steps)
    except SnapshotError as exc:
        reports |= {
            name: RestoreReport(False, str(exc))
            for name in (("env_snapshot",) if is_outside else ("snapshot", "pickle"))
        }
    shared = RestoreReport(
        False, "its state lies outside of the process: a forked one would share it"
    )
    reports["os_fork"] = shared if is_outside else _probe_process(factory, seed, n_steps)
    return reports


def _probe_snapshots(
    env: Any, snapshots: Snapshots, seed: int, n_steps: int
) -> dict[str, RestoreReport]:
    takes, restores, method = [], [], "snapshot"
    names = ("snapshot", "pickle") if snapshots.sandbox is None else ("env_snapshot",)
    for point in range(POINTS):
        env.action_space.seed(seed + point)
        env.reset(seed=seed + point)
        _steps(env, 7 + 29 * point)
        start = time.perf_counter()
        snapshot = snapshots.take()
        takes.append(time.perf_counter() - start)
        method = snapshot.restore_method
        continued = _steps(env, n_steps)
        for _ in range(2):
            start = time.perf_counter()
            snapshots.restore(snapshot)
            restores.append(time.perf_counter() - start)
            found = _first_difference(continued, _steps(env, n_steps))
            if found is not None:
                why = f"restored after {7 + 29 * point} steps, it went on otherwise: step {found[0] + 1} later, {found[1]}"
                return {name: RestoreReport(False, why) for name in names}
        snapshots.drop(snapshot)
    granted = RestoreReport(
        True, "", statistics.median(takes) * 1e6, statistics.median(restores) * 1e6
    )
    if method == "env_snapshot":
        return {"env_snapshot": granted}
    if method == "snapshot":
        return {
            "snapshot": granted,
            "pickle": RestoreReport(False, "not needed: nothing in it has to be pickled"),
        }
    return {
        "snapshot": RestoreReport(False, "it holds objects of classes, which are pickled"),
        "pickle": granted,
    }


def _probe_process(factory: Factory, seed: int, n_steps: int) -> RestoreReport:
    """Fork in a lean process: the child must go on as the parent does."""
    if not can_fork():
        return RestoreReport(False, "processes are not forked on this system")
    try:
        seconds, found = call_in_subprocess(_fork_of, factory, n_steps, seed)
    except SubprocessError as exc:
        return RestoreReport(False, str(exc))
    if found is not None:
        return RestoreReport(
            False, f"a forked child went on otherwise: step {found[0] + 1} later, {found[1]}"
        )
    return RestoreReport(True, "", seconds * 1e6)


def _fork_of(factory: Factory, n_steps: int, seed: int) -> tuple[float, tuple[int, str] | None]:
    """Fork in the middle of a rollout; return what a fork takes, and where the child differs."""
    env = factory()
    rollout(env, 36, seed)
    seconds = statistics.median(_time_fork() for _ in range(5))
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException), os.fdopen(write_end, "wb") as pipe:
            pickle.dump(_steps(env, n_steps), pipe)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return seconds, _first_difference(_steps(env, n_steps), pickle.loads(data))


def _time_fork() -> float:
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return time.perf_counter() - start


def _reset_us(env: Any, seed: int) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        env.reset(seed=seed)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6
