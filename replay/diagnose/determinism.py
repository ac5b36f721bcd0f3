"""Check whether an environment can be replayed and forked, before anything is recorded."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

from trajrec.envstate.spaces import declared_space
from trajrec.replay.diagnose.determinism_report import (
    DeterminismReport,
    Finding,
    Grade,
    RestoreReport,
)
from trajrec.replay.diagnose.interface_checks import InterfaceChecker, check_state_methods
from trajrec.replay.diagnose.probes import (
    ANOTHER_PROCESS,
    Factory,
    RolloutPlan,
    probe_determinism,
    probe_processes,
)
from trajrec.replay.diagnose.restore_probes import probe_restore
from trajrec.replay.diagnose.rollouts import Row, first_row_difference, rollout
from trajrec.replay.execute.factories import env_from_factory, make_by_id
from trajrec.types import AnyEnv

# Resets whose median duration is reported.
TIMED_RESETS = 3

# The position of the flags in a row's digests: terminated and truncated.
FLAGS = slice(2, 4)


def check_determinism(
    env: str | Callable[[], AnyEnv], *, n_steps: int = 300, seed: int = 1234
) -> DeterminismReport:
    """Check whether an environment can be replayed, and how its states can be restored.

    The same seeded rollout is run on the same object again, on a second object, after another
    episode, with other global generators, at another time, and in processes with another hash
    seed, time zone and working folder. Each rollout must be the same bit for bit. Snapshots are
    restored at several steps and must continue as the original did. Returned values must have the
    declared types and spaces, and `set_state` must restore the state that `get_state` returned.

    In the tests of your own environment:

        def test_my_environment_can_be_replayed():
            check_determinism(MyEnv).raise_if_failed()

    Args:
        env: A Gymnasium id, or a function that makes the environment, Gymnasium's or PettingZoo's.
            Other processes receive the function pickled, by name or by value.
        n_steps: The number of steps of each rollout, over as many episodes as they take.
        seed: The seed of the rollout and of its actions.

    Returns:
        A report with a grade, the differences and violations, and the ways to restore a state.

    Raises:
        EnvContractError: The return value of `reset` or `step` has the wrong number of parts, or
            the environment does not declare its spaces.
        ValueError: `n_steps` is less than 1.

    >>> report = check_determinism("CartPole-v1", n_steps=60)
    >>> report.grade, report.restore["snapshot"].is_granted, report.has_passed
    ('exact', True, True)
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps!r}")
    if isinstance(env, str):
        name = env
        factory: Factory = functools.partial(make_by_id, env)
    else:
        name = getattr(env, "__qualname__", repr(env))
        factory = functools.partial(env_from_factory, env)
    first_env = factory()
    second_env = factory()
    try:
        declared_space(first_env, "action_space")
        declared_space(first_env, "observation_space")
        times_s: list[float] = []
        checker = InterfaceChecker(first_env)
        first = rollout(first_env, n_steps, seed, times_s=times_s, checker=checker)
        plan = RolloutPlan(factory, n_steps, seed)
        findings = tuple(probe_determinism(first, first_env, second_env, plan))
        reset_s = _time_resets(first_env, seed)
        has_state, violations = check_state_methods(first_env, n_steps, seed)
        grade = _grade(first, findings)
        restore = {
            "reexecute": _reexecution(grade, findings, first, plan),
            **probe_restore(first_env, factory, seed, n_steps),
        }
    finally:
        first_env.close()
        second_env.close()
    return DeterminismReport(
        env=name,
        grade=grade,
        findings=findings,
        violations=(*checker.violations, *violations),
        restore=restore,
        has_state=has_state,
        reuses_buffers=checker.reuses_buffers,
        step_us=statistics.median(times_s) * 1e6,
        reset_us=reset_s * 1e6,
        n_steps=n_steps,
    )


def _grade(first: list[Row], findings: tuple[Finding, ...]) -> Grade:
    if not findings:
        return "exact"
    # The rows up to the first end follow the seeded reset; the reset row itself has no flag set.
    not_over = first[0].digests[FLAGS]
    n_seeded = next(
        (number for number, row in enumerate(first) if row.digests[FLAGS] != not_over), len(first)
    )
    return "seeded" if min(finding.step for finding in findings) >= n_seeded else "none"


def _reexecution(
    grade: Grade, findings: tuple[Finding, ...], first: list[Row], plan: RolloutPlan
) -> RestoreReport:
    """Return whether the recorded actions lead to the recorded state.

    Forks make a new environment if a used one does not get there, so that is asked as well.
    """
    if grade != "none":
        return RestoreReport(True)
    is_same = all(finding.probe != ANOTHER_PROCESS for finding in findings)
    if is_same:
        new = plan.factory()
        is_same = first_row_difference(first, plan.run(new)) is None
        new.close()
    # Workers re-execute in other processes.
    if is_same and not list(probe_processes(first, plan)):
        return RestoreReport(True, "in a new environment each time")
    return RestoreReport(False, "the same seed and actions led to different steps")


def _time_resets(env: AnyEnv, seed: int) -> float:
    """Return the median duration of a seeded reset, in seconds."""
    times_s = []
    for _ in range(TIMED_RESETS):
        start = time.perf_counter()
        env.reset(seed=seed)
        times_s.append(time.perf_counter() - start)
    return statistics.median(times_s)
