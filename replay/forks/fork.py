"""Fork an episode: bring an environment into the recorded state before a step and continue it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Unpack

import gymnasium
import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.envstate.pettingzoo import api_of
from trajrec.envstate.reseeding import reseed_fresh
from trajrec.log.schema import Fork
from trajrec.options import check_options
from trajrec.recording.opening import open_recorder
from trajrec.recording.options import LogOrigin
from trajrec.replay.execute.handle import EnvHandle, env_handle
from trajrec.replay.execute.reach import check_step
from trajrec.replay.forks.batch import Branches
from trajrec.replay.forks.branch import BranchPlan
from trajrec.replay.forks.branch_log import fork_facts
from trajrec.replay.forks.control import OPENING, check_control, run_control
from trajrec.replay.forks.env_source import EnvSource
from trajrec.replay.forks.forked_env import ForkedEnv
from trajrec.replay.forks.noise_watch import NoiseWatch, watch_branch
from trajrec.replay.forks.options import (
    Backend,
    EnvFactory,
    ForkOptions,
    RestoreChoice,
    check_limits,
    check_noise,
    check_restore,
    fixed_folder,
)
from trajrec.replay.forks.policies import AnyPolicy, check_stateless
from trajrec.replay.forks.schedule import Schedule
from trajrec.replay.forks.walker import Walker
from trajrec.types import Action, AnyEnv


def fork(
    episode: Episode,
    *,
    at: int,
    env: AnyEnv | EnvFactory | None = None,
    **options: Unpack[ForkOptions],
) -> ForkedEnv:
    """Return the live environment in the recorded state before a step of an episode.

    The state is verified against the recording, and a control runs first: the recorded actions must
    lead to the recorded results from there. The steps taken from there are recorded as an
    episode that has a `parent_id`.

        with fork(episode, at=12) as env:
            observation, reward, *_ = env.step(other_action)

    Args:
        episode: From `Corpus.episode`. Fork an agent's episode with
            `trajrec.rerun(episode, on_difference="live")`.
        at: The step, from 0: the recorded actions before it are applied.
        env: The environment, or a function that returns it; the fork closes it. By default trajrec
            makes the environment that the log names.
        options: See `ForkOptions`.

    Raises:
        DivergenceError: The environment does not reach the recorded state.
        ControlError: It reaches the step, and does not continue as recorded from there.
        IndexError: The episode has no such step.
        EnvRefusedError, EnvMissingError: See `replay_episode`.
    """
    check_options("fork", options, ForkOptions)
    check_noise(options.get("noise"))
    _check_has_env(episode)
    check_step(episode, at)
    folder = _folder_of(episode, options)
    state = options.get("state")
    make_handle: Callable[[], EnvHandle]
    if isinstance(env, gymnasium.Env) or api_of(env) is not None:
        is_given = True
        allow = tuple(options.get("allow", ()))
        make_handle = functools.partial(env_handle, env, episode, state, allow)
    else:
        is_given = False
        make_handle = functools.partial(_env_source(env, options).make_handle, episode)
    walker = Walker(episode, make_handle, "reexecute", is_given=is_given)
    try:
        observation, info = walker.reset_to(at)
        has_control = options.get("control", True)
        if has_control:
            point = replace(walker.branch_point(OPENING), step=at, observation=observation)
            check_control(run_control(point), episode)
            observation, info = walker.reset_anew(at)
        handle = walker.handle
        branch_env = handle.env
        # The key of the first branch that `fork_many` would run here, so that both draw the same.
        key = BranchPlan(seed=options.get("seed", 0)).noise_key(episode.id, at, 0)
        noise = ""
        watch: NoiseWatch | None = None
        if options.get("noise") == "fresh":
            noise, generators = reseed_fresh(branch_env, key)
            watch = watch_branch(branch_env, key, at, generators)
        if folder is not None:
            recorder = open_recorder(
                branch_env,
                folder,
                LogOrigin(parent=episode.header),
                state=state if state is not None else handle.adapter is not None,
                checks=options.get("checks", ()),
            )
            assert episode.start is not None
            record = Fork(
                episode=0,
                parent_id=episode.id,
                step=at,
                kind="actions",
                noise=noise or "recorded",
                # Whether steps draw is not known before they are taken.
                extra_data=fork_facts(
                    control=has_control,
                    unset_noise=None if watch is None else watch.unset or None,
                ),
            )
            recorder.begin_fork(record, episode.start, observation, task=episode.task_start)
            branch_env = recorder
    except BaseException:
        walker.close()
        raise
    return ForkedEnv(
        branch_env, parent=episode, at=at, observation=observation, info=info, watch=watch
    )


def fork_many(
    episode: Episode,
    *,
    at: int | Iterable[int],
    actions: Sequence[Action] = (),
    policy: AnyPolicy | Literal["random"] | None = None,
    n_branches: int = 1,
    max_steps: int | None = None,
    restore: RestoreChoice = "auto",
    jobs: int = 1,
    backend: Backend = "local",
    timeout_s: float | None = None,
    memory_mb: int | None = None,
    env: EnvFactory | None = None,
    **options: Unpack[ForkOptions],
) -> Branches:
    """Run branches from one or more steps of an episode and record each as an episode.

    The results do not depend on `jobs`, `backend` or `restore`: the randomness of a branch is
    derived from `seed`, its step and its number.

    Args:
        episode: From `Corpus.episode`.
        at: The step, or the steps.
        actions: Actions that each branch takes first.
        policy: Chooses the actions after these. A function of the observation, or of the
            observation and a generator; an object with a method `act` of both; "random" samples
            the action space. If None, a branch ends after `actions`. A policy with a method
            `seed(int)` is seeded before each branch.
        n_branches: Branches at each step.
        max_steps: Steps after which a branch is cut off.
        restore: How steps are reached: "reexecute", "snapshot", "pickle", "env_snapshot" or
            "os_fork"; "auto" takes the cheapest that works for this environment.
        jobs: Processes that run branches at the same time.
        backend: "local", or "ray" for tasks of a Ray cluster (`trajrec[ray]`), which must see the
            path of the log.
        timeout_s: Seconds after which a branch is ended; each branch then runs in a forked
            process.
        memory_mb: Memory, in MiB, that a branch may allocate beyond the memory of the environment;
            each branch then runs in a forked process.
        env: A function that returns the environment. By default trajrec makes the environment that
            the log names.
        options: See `ForkOptions`.

    Returns:
        The branches, by step and number. If the environment raised or the process did not finish,
        `Branch.error` says why. `controls` counts the controls and repeats among them.

    Raises:
        DivergenceError: The environment does not reach the recorded state of a step.
        ValueError, TypeError: An argument is invalid.
        SnapshotError: The requested way to restore does not work for this environment.
        ControlError: Branches do not start in the recorded state, however steps are reached.
    """
    check_options("fork_many", options, ForkOptions)
    check_noise(options.get("noise"))
    check_limits(max_steps=max_steps, timeout_s=timeout_s, memory_mb=memory_mb)
    _check_has_env(episode)
    if policy is not None and policy != "random":
        check_stateless(policy)
    check_restore(restore)
    # Ascending, because a fork server can only advance.
    steps = sorted({at} if isinstance(at, (int, np.integer)) else set(at))
    for step in steps:
        _check_can_branch(episode, step)
    if n_branches < 1 or jobs < 1:
        raise ValueError(f"n_branches and jobs must be at least 1, got {n_branches} and {jobs}")
    if policy is None and not actions:
        raise ValueError(
            "a branch needs actions, a policy, or both: give actions= (--action) or policy= (--policy)"
        )
    if not steps:
        return Branches()
    if timeout_s is not None or memory_mb is not None:
        restore = "os_fork"  # only a process of its own can be ended without the others
    plan = BranchPlan(
        actions=tuple(actions),
        policy=policy,
        n_branches=n_branches,
        noise=options.get("noise") or ("fresh" if n_branches > 1 else "recorded"),
        seed=options.get("seed", 0),
        max_steps=max_steps,
        checks=tuple(options.get("checks", ())),
    )
    schedule = Schedule(
        episode=episode,
        steps=tuple(steps),
        plan=plan,
        source=_env_source(env, options),
        restore=restore,
        jobs=jobs,
        backend=backend,
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        folder=_folder_of(episode, options),
        control=options.get("control", True),
    )
    return schedule.run()


def _env_source(env: EnvFactory | None, options: ForkOptions) -> EnvSource:
    return EnvSource(env, allow=tuple(options.get("allow", ())), state=options.get("state"))


def _folder_of(episode: Episode, options: ForkOptions) -> Path | None:
    folder = fixed_folder(options.get("folder", "beside"))
    return episode.path.parent if folder == "beside" else folder


def _check_has_env(episode: Episode) -> None:
    if episode.is_agent_episode:
        raise ValueError(
            f"episode {episode.id} is an agent's and has no environment; run its agent again with "
            "trajrec.rerun(episode, on_difference='live')"
        )


def _check_can_branch(episode: Episode, step: int) -> None:
    """Check that an episode has a step and was not over there.

    Raises:
        IndexError: The episode has no such step, or was over.
    """
    check_step(episode, step)
    if step == episode.end_step and episode.ending in ("terminated", "truncated"):
        raise IndexError(
            f"episode {episode.id} was over after step {step - 1} ({episode.ending}): "
            f"no branch can start at step {step}"
        )
