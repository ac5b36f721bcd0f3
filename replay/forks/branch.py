"""Branches: what happens when an episode goes on otherwise from one of its steps."""

from __future__ import annotations

import bisect
import contextlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import gymnasium

from trajrec.corpus.episode import Episode
from trajrec.envstate.generators import reseed
from trajrec.errors import RecordedError
from trajrec.log.schema import STORED_RESTORE_WORDS, Fork
from trajrec.protocols import Verdict, Verifier
from trajrec.recording.options import LogOrigin
from trajrec.recording.recorder import Recorder, open_recorder
from trajrec.replay.execute.reach import EnvHandle
from trajrec.replay.forks.options import ForkNoise, RestoreMethod
from trajrec.replay.forks.policies import AnyPolicy, seeded
from trajrec.values import codec
from trajrec.values.copies import copy_for_env, copy_for_record
from trajrec.values.digest import state_digest
from trajrec.verifiers import as_verdict


@dataclass(frozen=True)
class BranchPlan:
    """What every branch does.

    Attributes:
        actions: Taken first, one a step.
        policy: Chooses the further ones, see `seeded`; None ends the branch when the actions are used up. "random" draws
            from the action space. One with a method `seed` is given a seed of the branch's own first.
        n: Branches at each step.
        noise: "recorded": the environment's generators go on as they were. "fresh": they are seeded anew, in each branch.
        seed: What fresh noise and policies' seeds are derived from, with the step and the branch's number.
        max_steps: A branch that has not ended after so many steps is cut off.
        checks: Verifiers, run on the environment at the end of a branch that was not cut off.
    """

    actions: tuple[Any, ...] = ()
    policy: AnyPolicy | Literal["random"] | None = None
    n: int = 1
    noise: ForkNoise = "recorded"
    seed: int = 0
    max_steps: int | None = None
    checks: tuple[Verifier, ...] = ()

    def key(self, episode_id: str, step: int, index: int) -> str:
        """Return what the randomness of a branch is derived from."""
        return f"{self.seed}/{episode_id}/{step}/{index}"

    def run(
        self,
        stage: EnvHandle,
        episode: Episode,
        step: int,
        index: int,
        observation: Any,
        restore: RestoreMethod,
    ) -> BranchTrace:
        """Run a branch in another process than its caller's; return rows that the caller can read."""
        rows = run_branch(
            stage, self, BranchTrace(step, index, observation, restore=restore), episode.id
        )
        if rows.failure is not None:
            rows.failure = portable_error(rows.failure)
        rows.verdicts = [
            portable_error(found) if isinstance(found, BaseException) else found
            for found in rows.verdicts
        ]
        return rows


@dataclass
class BranchTrace:
    """What a branch did, row by row, and what its first row was."""

    step: int
    index: int
    observation: Any
    actions: list[Any] = field(default_factory=list)
    observations: list[Any] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)
    states: list[Any] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False
    failed_action: Any = None
    failure: BaseException | None = None
    verdicts: list[Verdict | BaseException] = field(default_factory=list)
    noise: str = "recorded"
    restore: RestoreMethod = "reexecute"


@dataclass(frozen=True)
class Branch:
    """One branch.

    Attributes:
        parent_id: The episode that it was forked from.
        step: The step at which.
        index: Which of the branches at that step, from 0.
        episode_id: The recorded branch; None where it was not recorded.
        actions: What it did.
        n_steps: Steps of its own.
        total_reward: Sum of the rewards of these; NaN where rewards are not numbers.
        terminated: Whether the environment ended it.
        truncated: Whether a limit of the environment did.
        outcome: "success" or "failure" by the last check with a verdict; None where none gave one.
        rejoined_at: Where the branch comes into a state that the parent was in after its own step or a later one: that step.
            None where it never does, or where states are not known.
        restore: How the step was reached.
        error: Why it has no end of its own: what its process died of, that it took too long, what the environment raised.
    """

    parent_id: str
    step: int
    index: int
    episode_id: str | None
    actions: tuple[Any, ...]
    n_steps: int
    total_reward: float
    terminated: bool
    truncated: bool
    outcome: Literal["success", "failure"] | None
    rejoined_at: int | None
    restore: RestoreMethod
    error: str = ""

    def __str__(self) -> str:
        ending = self.error or (
            "terminated" if self.terminated else "truncated" if self.truncated else "not ended"
        )
        outcome = f", {self.outcome}" if self.outcome else ""
        name = self.episode_id or f"branch {self.index}"
        went = f"{self.n_steps} steps, total reward {self.total_reward:g}, {ending}{outcome}"
        return f"<{name}, forked from {self.parent_id} at step {self.step}: {went}>"


def run_branch(
    stage: EnvHandle, plan: BranchPlan, rows: BranchTrace, episode_id: str, info: Any = None
) -> BranchTrace:
    """Run one branch on a stage that stands where it begins; fills in and returns `rows`."""
    key, env = plan.key(episode_id, rows.step, rows.index), stage.env
    if plan.noise == "fresh" and reseed(env, key):
        rows.noise = key
    policy = _seeded(plan, env, key)
    capture = None if stage.adapter is None else stage.adapter.capture
    if capture is not None:
        rows.states.append(copy_for_record(capture()))
    obs, n = copy_for_env(rows.observation), 0
    while plan.max_steps is None or n < plan.max_steps:
        if n < len(plan.actions):
            action = copy_for_env(plan.actions[n])
        elif policy is not None:
            action = policy(obs)
        else:
            break
        # As the recorder does: some environments change the action that they are given.
        kept = copy_for_record(action)
        try:
            obs, reward, terminated, truncated, info = env.step(action)
        except (Exception, SystemExit) as exc:
            rows.failed_action, rows.failure = kept, exc
            return rows
        n += 1
        rows.actions.append(kept)
        rows.observations.append(copy_for_record(obs))
        rows.rewards.append(copy_for_record(reward))
        rows.infos.append(copy_for_record(info) if info else info)
        if capture is not None:
            rows.states.append(copy_for_record(capture()))
        if terminated or truncated:
            rows.terminated, rows.truncated = bool(terminated), bool(truncated)
            break
    for check in plan.checks if rows.terminated or rows.truncated else ():
        try:
            rows.verdicts.append(as_verdict(check(env)))
        except Exception as exc:
            rows.verdicts.append(exc)
    return rows


def portable_error(exc: BaseException) -> BaseException:
    """Return an exception that another process can read: of a class that it may not have, the name and the message."""
    try:
        is_whole = type(pickle.loads(pickle.dumps(exc))) is type(exc)
    except Exception:
        is_whole = False
    return (
        exc
        if is_whole
        else RecordedError(f"{type(exc).__module__}.{type(exc).__qualname__}", str(exc))
    )


def _seeded(plan: BranchPlan, env: Any, key: str) -> Callable[[Any], Any] | None:
    if plan.policy is None:
        return None
    seed = int(codec.digest(key)[:8], 16) & 0x7FFFFFFF
    if plan.policy == "random":
        env.action_space.seed(seed)
        return lambda _: env.action_space.sample()
    return seeded(plan.policy, seed)


class BranchLog:
    """Records branches as episodes of a log of their own, and says what each came to. A context manager.

    Args:
        episode: What they are forked from.
        folder: Where the log goes; None records nothing.
        plan: What they do.
    """

    def __init__(self, episode: Episode, folder: Path | None, plan: BranchPlan) -> None:
        self._episode, self._plan = episode, plan
        self._player = _Player()
        self._recorder: Recorder | None = None
        if folder is not None:
            has_state = episode.header.state.keep != "none"
            self._recorder = open_recorder(
                self._player,
                folder,
                LogOrigin(parent=episode.header),
                state=(lambda player: player.state) if has_state else False,
                checks=[self._player.as_check(check, k) for k, check in enumerate(plan.checks)],
                interface=None
                if episode.header.interface_data is None
                else codec.decode(episode.header.interface_data),
            )
        self._known = _known_states(episode)

    def __enter__(self) -> BranchLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._recorder is not None:
            self._recorder.close()

    def add(self, rows: BranchTrace) -> Branch:
        """Record a branch."""
        episode_id = None if self._recorder is None else self._record(self._recorder, rows)
        verdicts = [
            v.passed for v in rows.verdicts if isinstance(v, Verdict) and v.passed is not None
        ]
        failure = rows.failure
        return Branch(
            self._episode.id,
            rows.step,
            rows.index,
            episode_id,
            tuple(rows.actions),
            len(rows.rewards),
            _total(rows.rewards),
            rows.terminated,
            rows.truncated,
            ("success" if verdicts[-1] else "failure") if verdicts else None,
            self._returned_at(rows),
            rows.restore,
            "" if failure is None else f"{codec.type_name(failure)}: {failure}",
        )

    def failed(self, step: int, index: int, restore: RestoreMethod, error: str) -> Branch:
        """Return a branch of which nothing is known but why."""
        return Branch(
            self._episode.id,
            step,
            index,
            None,
            (),
            0,
            float("nan"),
            False,
            False,
            None,
            None,
            restore,
            error,
        )

    def _record(self, recorder: Recorder, rows: BranchTrace) -> str | None:
        assert self._episode.start is not None
        kind: Any = "actions" if self._plan.policy is None else "policy"
        self._player.load(rows)
        fork = Fork(
            episode=0,
            parent_id=self._episode.id,
            step=rows.step,
            kind=kind,
            noise=rows.noise,
            level=STORED_RESTORE_WORDS[rows.restore],
        )
        recorder.begin_fork(fork, self._episode.start, rows.observation)
        for action in rows.actions:
            recorder.step(action)
        if rows.failure is not None:
            with contextlib.suppress(Exception, SystemExit):
                recorder.step(rows.failed_action)
        return recorder.episode_id

    def _returned_at(self, rows: BranchTrace) -> int | None:
        if not self._known:
            return None
        for state in rows.states[1:]:
            steps = self._known.get(state_digest(state), [])
            place = bisect.bisect_left(steps, rows.step)
            if place < len(steps):
                return steps[place]
        return None


class _Player(gymnasium.Env[Any, Any]):
    """Plays what a branch did once more, for the recorder."""

    def __init__(self) -> None:
        self.observation_space = self.action_space = gymnasium.spaces.Discrete(1)
        self.state: Any = None
        self._verdicts: list[Any] = []

    def load(self, rows: BranchTrace) -> None:
        self._rows, self._at = rows, 0
        self.state = rows.states[0] if rows.states else None
        self._verdicts = rows.verdicts

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        rows, k = self._rows, self._at
        if k == len(rows.rewards):
            assert rows.failure is not None
            raise rows.failure
        self._at += 1
        if rows.states:
            self.state = rows.states[self._at]
        is_last = self._at == len(rows.rewards)
        return (
            rows.observations[k],
            rows.rewards[k],
            is_last and rows.terminated,
            is_last and rows.truncated,
            rows.infos[k],
        )

    def as_check(self, check: Verifier, place: int) -> Verifier:
        """Return a check of the same identity, which gives the verdict that was found in the branch."""

        def found(_: Any) -> Any:
            verdict = self._verdicts[place]
            if isinstance(verdict, BaseException):
                raise verdict
            return verdict

        for name in (
            "verifier_id",
            "verifier_version",
            "verifier_family",
            "__module__",
            "__qualname__",
        ):
            if hasattr(check, name):
                setattr(found, name, getattr(check, name))
        found.__wrapped__ = check  # type: ignore[attr-defined]  # the digest of its source is that of the check
        return found


def _known_states(episode: Episode) -> dict[int, list[int]]:
    """Return after which steps an episode is in a state, by the state's digest."""
    digests = episode.state_digests
    if digests is None or not episode.has_reset or len(digests) != len(episode.step_numbers) + 1:
        return {}
    known: dict[int, list[int]] = {}
    for digest, step in zip(digests[1:].tolist(), episode.step_numbers.tolist(), strict=True):
        known.setdefault(digest, []).append(step)
    return known


def _total(rewards: Sequence[Any]) -> float:
    try:
        return float(sum(rewards))
    except (TypeError, ValueError):
        return float("nan")
