"""Branches: episodes that continue a recorded episode from one of its steps, and how one is run."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from trajrec.corpus.episode import Episode
from trajrec.envstate.reseeding import reseed_fresh
from trajrec.envstate.spaces import declared_space
from trajrec.errors import RecordedError, ReplayError
from trajrec.protocols import Verifier
from trajrec.recording.error_text import message_of
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.forks.noise_watch import NoiseSeen, NoiseWatch, watch_branch
from trajrec.replay.forks.options import ForkNoise, RestoreMethod
from trajrec.replay.forks.policies import AnyPolicy, seed_policy
from trajrec.types import Action, AnyEnv, Info, Observation, Value
from trajrec.values import codec
from trajrec.values.copies import copy_for_env, copy_for_record
from trajrec.verifiers import CheckResult, run_check

Error = TypeVar("Error", bound=BaseException)


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One branch.

    Attributes:
        parent_id: Id of the episode that was forked.
        step: The step at which the branch starts.
        index: Number of the branch among those at its step, from 0.
        episode_id: Id of the recorded branch; None if it was not recorded.
        actions: The actions taken.
        n_steps: Steps of the branch itself.
        total_reward: Sum of the rewards of these steps; NaN if rewards are not numbers.
        terminated: Whether the environment ended the branch.
        truncated: Whether a limit of the environment ended it.
        outcome: "success" or "failure" by the first of the checks, as in the corpus; None if it
            gave no verdict.
        rejoined_at: The step of the parent, at or after `step`, whose resulting state the branch
            also reaches; the first such state of the branch counts. None if there is none, or if
            the parent's log has no keys of states: they need `keep_states="keys"` or "all" if
            states are not small.
        restore: How the step was reached.
        error: The reason why the branch has no end: the exception of the environment, the signal
            or the time limit that ended its process. "" if there is none.
    """

    parent_id: str
    step: int
    index: int
    episode_id: str | None
    actions: tuple[Action, ...]
    n_steps: int
    total_reward: float
    terminated: bool
    truncated: bool
    outcome: Literal["success", "failure"] | None
    rejoined_at: int | None
    restore: RestoreMethod
    error: str = ""

    def __str__(self) -> str:
        ending = "not ended"
        if self.error:
            ending = self.error
        elif self.terminated:
            ending = "terminated"
        elif self.truncated:
            ending = "truncated"
        outcome = f", {self.outcome}" if self.outcome else ""
        name = self.episode_id or f"branch {self.index}"
        reward = self.total_reward
        total = "" if math.isnan(reward) else f"total reward {reward:g}, "
        course = f"{self.n_steps} steps, {total}{ending}{outcome}"
        return f"<{name}, forked from {self.parent_id} at step {self.step}: {course}>"


@dataclass(frozen=True, kw_only=True)
class BranchPoint:
    """An environment in the recorded state before a step, and the branch that starts there.

    Attributes:
        handle: The environment.
        episode: The episode that is forked.
        step: The step.
        index: Number of the branch among those at its step, from 0.
        observation: The last observation before the step.
        restore: How the step was reached.
        compares_rewards: Whether the recorded rewards can be reproduced at all.
        leak: The name of a variable that the restored snapshot does not have, and that branches
            have changed; "" if there is none. Looked for if the branch is a control.
    """

    handle: EnvHandle
    episode: Episode
    step: int
    index: int
    observation: Observation
    restore: RestoreMethod
    compares_rewards: bool = True
    leak: str = ""


def copied(observation: Observation, episode: Episode, step: int) -> Observation:
    """Return a copy of the observation before a step, which shares nothing with the environment.

    Raises:
        ReplayError: It cannot be copied.
    """
    try:
        return copy.deepcopy(observation)
    except Exception as exc:
        raise ReplayError(
            f"the observation before step {step} cannot be copied: {exc}", episode_id=episode.id
        ) from exc


@dataclass(kw_only=True)
class BranchTrace:
    """The steps of one branch, before they are recorded.

    Lists have one item a step; `states` also has the state at the start, as its first item, and is
    empty if the environment has no adapter.

    Attributes:
        observation: The observation at the start.
        failed_action: The action that raised `failure`.
        failure: The exception of the environment, if it raised.
        results: The results of the verifiers, in their order.
        noise: "recorded", or the key from which the generators were seeded.
        noise_seen: What the steps show of noise that the key does not set; None if the noise is
            recorded, or the environment's is known.
    """

    step: int
    index: int
    observation: Observation
    restore: RestoreMethod
    actions: list[Action] = field(default_factory=list)
    observations: list[Observation] = field(default_factory=list)
    rewards: list[Value] = field(default_factory=list)
    infos: list[Info] = field(default_factory=list)
    states: list[Value] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    failed_action: Action = None
    failure: BaseException | None = None
    results: list[CheckResult] = field(default_factory=list)
    noise: str = "recorded"
    noise_seen: NoiseSeen | None = None


@dataclass(frozen=True, kw_only=True)
class BranchPlan:
    """The options that all branches of one call of `fork_many` share.

    Attributes:
        actions: Taken first, one a step.
        policy: Chooses the further actions, see `seed_policy`; "random" samples the action space.
            If None, the branch ends after `actions`.
        n_branches: Branches at each step.
        noise: "recorded" continues the environment's generators; "fresh" seeds them per branch.
        seed: Fresh noise and the seeds of policies are derived from it, the step and the branch's
            number.
        max_steps: Steps after which a branch is cut off.
        checks: Verifiers, run on the environment at the end of a branch that was not cut off.
    """

    actions: tuple[Action, ...] = ()
    policy: AnyPolicy | Literal["random"] | None = None
    n_branches: int = 1
    noise: ForkNoise = "recorded"
    seed: int = 0
    max_steps: int | None = None
    checks: tuple[Verifier, ...] = ()

    def noise_key(self, episode_id: str, step: int, index: int) -> str:
        """Return the text from which the randomness of a branch is derived."""
        return f"{self.seed}/{episode_id}/{step}/{index}"

    def run(self, point: BranchPoint) -> BranchTrace:
        """Run a branch in another process than the caller's; the trace can be unpickled there."""
        trace = run_branch(point, self)
        if trace.failure is not None:
            trace.failure = portable_error(trace.failure)
        trace.results = [
            result if result.error is None else result._replace(error=portable_error(result.error))
            for result in trace.results
        ]
        return trace


def run_branch(point: BranchPoint, plan: BranchPlan) -> BranchTrace:
    """Run one branch on an environment that is in the state where the branch starts."""
    env = point.handle.env
    trace = BranchTrace(
        step=point.step, index=point.index, observation=point.observation, restore=point.restore
    )
    # Only from the seed, the step and the number: the same in every process and for every method.
    key = plan.noise_key(point.episode.id, point.step, point.index)
    watch: NoiseWatch | None = None
    if plan.noise == "fresh":
        reseeded = reseed_fresh(env, key)
        trace.noise = reseeded.key or "recorded"
        watch = watch_branch(env, key, point.step, reseeded.generators)
    if watch is not None:
        trace.noise_seen = watch.seen
    policy = _seeded_policy(plan, env, key)
    capture = None if point.handle.adapter is None else point.handle.adapter.capture
    if capture is not None:
        trace.states.append(copy_for_record(capture()))
    observation = copy_for_env(point.observation)
    n_steps = 0
    while plan.max_steps is None or n_steps < plan.max_steps:
        if n_steps < len(plan.actions):
            action = copy_for_env(plan.actions[n_steps])
        elif policy is not None:
            action = policy(observation)
        else:
            break
        # Copied before the step, as the recorder does: some environments change their argument.
        taken_action = copy_for_record(action)
        try:
            observation, reward, terminated, truncated, info = env.step(action)
        except (Exception, SystemExit) as exc:
            trace.failed_action = taken_action
            trace.failure = exc
            return trace
        if watch is not None:
            watch.after()
        n_steps += 1
        trace.actions.append(taken_action)
        trace.observations.append(copy_for_record(observation))
        trace.rewards.append(copy_for_record(reward))
        # Most environments return an empty info, which needs no copy.
        trace.infos.append(codec.decode(codec.encode_info(info)) if info else info)
        if capture is not None:
            trace.states.append(copy_for_record(capture()))
        if terminated or truncated:
            trace.terminated = bool(terminated)
            trace.truncated = bool(truncated)
            break
    # A branch that was cut off has no final state to judge.
    if trace.terminated or trace.truncated:
        trace.results = [run_check(verifier, env) for verifier in plan.checks]
    return trace


def portable_error(exc: Error) -> Error | RecordedError:
    """Return an exception that the caller's process can unpickle.

    The caller may not have the class of the exception, for example if it was defined in the
    script that the other process ran; the result then keeps only its name and message.
    """
    try:
        is_whole = type(pickle.loads(pickle.dumps(exc))) is type(exc)
    except Exception:
        is_whole = False
    if is_whole:
        return exc
    return RecordedError(codec.type_name(exc), message_of(exc))


def _seeded_policy(
    plan: BranchPlan, env: AnyEnv, key: str
) -> Callable[[Observation], Action] | None:
    if plan.policy is None:
        return None
    # 31 bits: a seed that every generator takes, also one with signed 32-bit seeds.
    seed = int(codec.digest(key)[:8], 16) & 0x7FFFFFFF
    if plan.policy == "random":
        space = declared_space(env)
        space.seed(seed)
        return lambda _: env.action_space.sample()
    return seed_policy(plan.policy, seed)
