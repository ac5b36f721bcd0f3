"""Forks: an environment in the recorded state before any step of an episode, and what happens when it goes on otherwise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.envstate.generators import reseed
from trajrec.envstate.pettingzoo import api_of
from trajrec.log.schema import Fork
from trajrec.protocols import Verifier
from trajrec.recording.options import LogOrigin
from trajrec.recording.recorder import Recorder, open_recorder
from trajrec.replay.execute.environments import env_by, make_env
from trajrec.replay.execute.reach import EnvHandle, check_step, env_handle
from trajrec.replay.forks.branch import (
    Branch,
    BranchLog,
    BranchPlan,
    BranchTrace,
    Level,
    Noise,
    Policy,
    check_level,
    run_branch,
)
from trajrec.replay.forks.dispatch import Backend, branches_apart, portable
from trajrec.replay.forks.fork_server import ForkJob
from trajrec.replay.forks.policies import check_forgets
from trajrec.replay.forks.walker import Walker
from trajrec.replay.processes.refs import refs_with_ancestors

EnvOrFactory = gymnasium.Env[Any, Any] | Callable[[], gymnasium.Env[Any, Any]] | None

Where = Literal["beside"] | str | Path | None
"""A folder; "beside" is that of the parent's log; None records nothing."""


class ForkedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The live environment in the recorded state before a step. A context manager, which closes and seals what was recorded.

    Attributes:
        observation: The last observation before the step, as recorded.
        info: The info that came with it.
        parent: The episode.
        at: The step.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], parent: Episode, at: int, observation: Any, info: Any
    ) -> None:
        super().__init__(env)
        self.parent, self.at, self.observation, self.info = parent, at, observation, info

    def __enter__(self) -> ForkedEnv:
        return self

    def __exit__(self, *exc: Any) -> Literal[False]:
        self.close()
        return False

    @property
    def episode_id(self) -> str | None:
        """Id of the branch; None where it is not recorded."""
        return self.env.episode_id if isinstance(self.env, Recorder) else None

    def reset(self, **_: Any) -> Any:
        """Refuse: a fork goes on from its step.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"a fork goes on from step {self.at} of episode {self.parent.id} and has no reset; make another one"
        )


class _Fork:
    """See `trajrec.replay.fork`."""

    def __call__(
        self,
        episode: Episode,
        *,
        at: int,
        folder: Where = "beside",
        env: EnvOrFactory = None,
        allow: Iterable[str] = (),
        state: Callable[[Any], Any] | None = None,
        noise: Noise = "recorded",
        seed: int = 0,
        checks: Sequence[Verifier] = (),
    ) -> ForkedEnv:
        """Return the live environment in the recorded state before a step, verified; what is done with it is recorded as an
        episode with a `parent_id`.

            with fork(episode, at=12) as world:
                observation, reward, *_ = world.step(other_action)

        Args:
            episode: From `Corpus.episode`. An agent's is forked with `trajrec.rerun(episode, on_difference="live")`.
            at: The step, from 0: the recorded actions before it are applied.
            folder: Where the branch is recorded; "beside" is the folder of the parent's log, None records nothing.
            env: The environment, or what makes one; by default the one that the log names is made. It is closed with the
                fork.
            allow: Module prefixes that may be imported because the log names them.
            state: The function that the episode's states were captured with, where the recorder was given one.
            noise: "recorded": the environment's generators go on as they did. "fresh": they are seeded anew from `seed`.
            seed: See `noise`.
            checks: Verifiers for the branch.

        Raises:
            DivergenceError: The environment is not in the recorded state there.
            IndexError: There is no such step.
            EnvRefusedError, EnvMissingError: See `replay_episode`.
        """
        _must_be_environments(episode)
        check_step(episode, at)
        allowed = tuple(allow)
        is_given = isinstance(env, gymnasium.Env) or api_of(env) is not None

        def make() -> EnvHandle:
            if env is None:
                return env_handle(
                    make_env(episode.header.env, episode_id=episode.id, allow=allowed),
                    episode,
                    state,
                )
            return env_handle(env if is_given else env_by(env), episode, state)

        walker = Walker(episode, make, "prefix", is_given=is_given)
        try:
            obs, info = walker.walk(at)
            stage = walker.stage
            made: gymnasium.Env[Any, Any] = stage.env
            key = BranchPlan(seed=seed).key(episode.id, at, 0)
            is_fresh = noise == "fresh" and reseed(made, key) > 0
            place = _folder(episode, folder)
            if place is not None:
                has_state: Any = state if state is not None else stage.adapter is not None
                recorder = open_recorder(
                    made,
                    place,
                    LogOrigin(parent=episode.header),
                    state=has_state,
                    checks=checks,
                )
                assert episode.start is not None
                recorder.begin_fork(
                    Fork(
                        episode=0,
                        parent_id=episode.id,
                        step=at,
                        kind="actions",
                        noise=key if is_fresh else "recorded",
                    ),
                    episode.start,
                    obs,
                )
                made = recorder
        except BaseException:
            walker.close()
            raise
        return ForkedEnv(made, episode, at, obs, info)

    def many(
        self,
        episode: Episode,
        *,
        at: int | Iterable[int],
        actions: Sequence[Any] = (),
        policy: Policy | Literal["random"] | None = None,
        n: int = 1,
        noise: Noise | None = None,
        seed: int = 0,
        max_steps: int | None = None,
        checks: Sequence[Verifier] = (),
        jobs: int = 1,
        backend: Backend = "local",
        level: Level | Literal["auto"] = "auto",
        folder: Where = "beside",
        env: Callable[[], gymnasium.Env[Any, Any]] | None = None,
        allow: Iterable[str] = (),
        state: Callable[[Any], Any] | None = None,
        timeout_s: float | None = None,
        memory_mb: int | None = None,
    ) -> list[Branch]:
        """Run branches from many steps of an episode and record them.

        Results do not depend on `jobs` or `level`: what is drawn in a branch is derived from `seed`, its step and its number.

        Args:
            episode: From `Corpus.episode`.
            at: The step, or the steps.
            actions: Taken first in each branch.
            policy: Chooses the further ones: a function of the observation, or of it and a generator of the branch's own; an
                object with a method `act` of both; "random" draws from the action space. None ends a branch when the actions
                are used up. A policy with a method `seed(int)` is seeded by branch.
            n: Branches at each step.
            noise: "recorded": the environment's generators go on as they did. "fresh": they are seeded anew in each branch. By
                default fresh where n > 1.
            seed: What all of it is derived from.
            max_steps: Cuts branches off.
            checks: Verifiers, run at the end of each branch that was not cut off.
            jobs: Processes that run branches at once.
            backend: Where they run: "local", or "ray": tasks of a Ray cluster (`trajrec[ray]`), which must see the log's path.
            level: How steps are reached: "prefix", "native", "pickle", "sandbox" or "process"; "auto" takes the cheapest
                that is right.
            folder: Where branches are recorded; "beside" is the folder of the parent's log, None records nothing.
            env: Makes the environment; by default the one that the log names is made.
            allow: Module prefixes that may be imported because the log names them.
            state: The function that the episode's states were captured with, where the recorder was given one.
            timeout_s: With processes: a branch that takes longer is ended, and says so.
            memory_mb: With processes: what a branch may use beyond what the environment does; one that wants more fails.

        Returns:
            The branches, by step and number. What an environment raised, and what became of a process that did not finish, is
            in `error`.

        Raises:
            DivergenceError: The environment is not in the recorded state at a step.
            ValueError, TypeError: Something given is not what it must be.
            SnapshotError: The level asked for is not right for this environment; says why.
        """
        _must_be_environments(episode)
        if policy is not None and policy != "random":
            check_forgets(policy)
        check_level(level)
        steps = sorted({at} if isinstance(at, (int, np.integer)) else set(at))
        for step in steps:
            _check_fork(episode, step)
        if n < 1 or jobs < 1:
            raise ValueError(f"n and jobs must be at least 1, got {n} and {jobs}")
        if policy is None and not actions:
            raise ValueError("a branch needs actions, a policy, or both")
        chosen: Noise = noise or ("fresh" if n > 1 else "recorded")
        plan = BranchPlan(tuple(actions), policy, n, chosen, seed, max_steps, tuple(checks))
        allowed = tuple(allow)
        if not steps:
            return []

        def stage() -> EnvHandle:
            made = (
                env_by(env, episode.header.env)
                if env is not None
                else make_env(episode.header.env, episode_id=episode.id, allow=allowed)
            )
            return env_handle(made, episode, state)

        if timeout_s is not None or memory_mb is not None:
            level = "process"  # only a process of its own can be ended
        with contextlib.ExitStack() as stack:
            walker = None
            near: tuple[int, ...] = ()
            if level == "auto":
                walker = stack.enter_context(contextlib.closing(Walker(episode, stage, "auto")))
                best, near = walker.measure(steps, n, jobs)
                # Snapshots may turn out not to be right, or not to be taken, at a later step: then "auto" goes on without.
                level = best if best in ("prefix", "process") else "auto"
            if backend == "ray" and level == "process":
                if timeout_s is not None or memory_mb is not None:
                    raise ValueError(
                        "timeout_s and memory_mb need forked processes, which Ray's workers cannot be: take backend='local'"
                    )
                level, near = (
                    "prefix",
                    (),
                )  # a worker has threads: what was forked of it would not be whole
            log = stack.enter_context(BranchLog(episode, _folder(episode, folder), plan))
            if level == "process" or jobs > 1 or backend == "ray":
                for value, what in (
                    (env, "env"),
                    (state, "state"),
                    (policy, "policy"),
                    (checks, "checks"),
                ):
                    portable(value, what)
                done = (
                    []
                    if walker is None
                    else [log.add(rows) for rows in branches_here(walker, near, plan)]
                )
                if walker is not None:
                    walker.close()
                pairs = tuple(
                    (step, index) for step in steps if step not in near for index in range(n)
                )
                job = ForkJob(
                    refs_with_ancestors(episode),
                    env,
                    allowed,
                    state,
                    pairs,
                    plan,
                    level,
                    jobs,
                    timeout_s,
                    memory_mb,
                )
                return done + branches_apart(job, 1 if level == "process" else jobs, log, backend)
            walker = walker or stack.enter_context(
                contextlib.closing(Walker(episode, stage, level))
            )
            return [log.add(rows) for rows in branches_here(walker, steps, plan)]


fork = _Fork()


def branches_here(walker: Walker, steps: Sequence[int], plan: BranchPlan) -> Iterator[BranchTrace]:
    """Run branches one after the other, in this process; steps in ascending order."""
    for step in steps:
        walker.go(step)
        for index in range(plan.n):
            if index:
                walker.go_back()
            rows = BranchTrace(step, index, walker.observation, level=walker.level)
            yield run_branch(walker.stage, plan, rows, walker.episode.id)


def _check_fork(episode: Episode, step: int) -> None:
    """Check that an episode can be forked at a step, see `check_step`.

    Raises:
        IndexError: It has no such step, or was over there.
    """
    check_step(episode, step)
    if step == episode.n_steps and episode.ending in ("terminated", "truncated"):
        raise IndexError(
            f"episode {episode.id} was over after step {step - 1} ({episode.ending}): nothing goes on from there"
        )


def _folder(episode: Episode, where: Where) -> Path | None:
    return episode.path.parent if where == "beside" else None if where is None else Path(where)


def _must_be_environments(episode: Episode) -> None:
    if episode.is_agent_episode:
        raise ValueError(
            f"episode {episode.id} is an agent's: fork it by running its loop with trajrec.rerun(..., on_difference='live')"
        )
