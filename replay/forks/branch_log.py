"""Record branches: each becomes an episode in one new log beside the parent's."""

from __future__ import annotations

import bisect
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import gymnasium

from trajrec.corpus.episode import Episode
from trajrec.log.schema import Fork
from trajrec.protocols import Verdict, Verifier
from trajrec.recording.opening import open_recorder
from trajrec.recording.options import LogOrigin
from trajrec.recording.recorder import Recorder
from trajrec.replay.forks.branch import Branch, BranchPlan, BranchTrace
from trajrec.replay.forks.options import RestoreMethod
from trajrec.types import Action, Info, Observation, Value
from trajrec.values import codec
from trajrec.values.digest import state_key
from trajrec.values.real_numbers import sum_of


def fork_facts(*, control: bool, unset_noise: str | None) -> bytes:
    """Return the extra data of a fork.

    Args:
        control: Whether controls ran with it.
        unset_noise: See `Episode.unset_noise`.
    """
    facts: dict[str, Value] = {"control": control}
    if unset_noise is not None:
        facts["unset_noise"] = unset_noise
    return codec.encode(facts)


class BranchLog:
    """Records the branches of one call of `fork_many` and summarises each. A context manager.

    Args:
        episode: The episode that is forked.
        folder: Folder of the new log; None records nothing.
        plan: The options of the branches.
        control: Whether controls run among them.
    """

    def __init__(
        self, episode: Episode, folder: Path | None, plan: BranchPlan, *, control: bool
    ) -> None:
        self._episode = episode
        self._control = control
        self._kind: Literal["actions", "policy"] = "actions" if plan.policy is None else "policy"
        self._player = _TracePlayer()
        self._recorder: Recorder | None = None
        if folder is not None:
            has_state = episode.header.state.keep != "none"
            interface = episode.header.interface_data
            self._recorder = open_recorder(
                self._player,
                folder,
                LogOrigin(parent=episode.header),
                # The player has the states that the branch captured, and no adapter of its own.
                state=(lambda player: player.state) if has_state else False,
                checks=[self._player.as_check(check, k) for k, check in enumerate(plan.checks)],
                interface=None if interface is None else codec.decode(interface),
            )
        self._parent_steps = _steps_by_state(episode)

    def __enter__(self) -> BranchLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._recorder is not None:
            self._recorder.close()

    def add(self, trace: BranchTrace) -> Branch:
        """Record a branch and return its summary."""
        episode_id = None if self._recorder is None else self._record(self._recorder, trace)
        # As in the corpus: the first check is the primary one.
        passed = trace.results[0].passed if trace.results else None
        outcome: Literal["success", "failure"] | None = None
        if passed is not None:
            outcome = "success" if passed else "failure"
        failure = trace.failure
        return Branch(
            parent_id=self._episode.id,
            step=trace.step,
            index=trace.index,
            episode_id=episode_id,
            actions=tuple(trace.actions),
            n_steps=len(trace.rewards),
            total_reward=sum_of(trace.rewards),
            terminated=trace.terminated,
            truncated=trace.truncated,
            outcome=outcome,
            rejoined_at=self._rejoined_at(trace),
            restore=trace.restore,
            error="" if failure is None else f"{codec.type_name(failure)}: {failure}",
        )

    def discard(self) -> None:
        """Delete the log of these branches: a control showed that they are void."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder.path.unlink(missing_ok=True)

    def add_lost(self, step: int, index: int, *, restore: RestoreMethod, error: str) -> Branch:
        """Return the summary of a branch whose process did not finish; nothing is recorded."""
        return Branch(
            parent_id=self._episode.id,
            step=step,
            index=index,
            episode_id=None,
            actions=(),
            n_steps=0,
            total_reward=float("nan"),
            terminated=False,
            truncated=False,
            outcome=None,
            rejoined_at=None,
            restore=restore,
            error=error,
        )

    def _record(self, recorder: Recorder, trace: BranchTrace) -> str | None:
        assert self._episode.start is not None
        self._player.load(trace)
        unset = None if trace.noise_seen is None else trace.noise_seen.unset
        fork = Fork(
            episode=0,
            parent_id=self._episode.id,
            step=trace.step,
            kind=self._kind,
            noise=trace.noise,
            restore=trace.restore,
            extra_data=fork_facts(control=self._control, unset_noise=unset),
        )
        task = self._episode.task_start
        recorder.begin_fork(fork, self._episode.start, trace.observation, task=task)
        for action in trace.actions:
            recorder.step(action)
        if trace.failure is not None:
            # The recorder records the exception and raises it again.
            with contextlib.suppress(Exception, SystemExit):
                recorder.step(trace.failed_action)
        return recorder.episode_id

    def _rejoined_at(self, trace: BranchTrace) -> int | None:
        if not self._parent_steps:
            return None
        # Not the first state: the branch has it in common with the parent in any case.
        for state in trace.states[1:]:
            steps = self._parent_steps.get(state_key(state), [])
            position = bisect.bisect_left(steps, trace.step)
            if position < len(steps):
                return steps[position]
        return None


class _TracePlayer(gymnasium.Env[Any, Any]):
    """Plays the steps of a branch again, for the recorder.

    Branches may run in other processes, but one recorder must write the log.
    """

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Discrete(1)
        self.action_space = gymnasium.spaces.Discrete(1)
        self.state: Value = None

    def load(self, trace: BranchTrace) -> None:
        self._trace = trace
        self._n_played = 0
        self.state = trace.states[0] if trace.states else None

    def step(self, action: Action) -> tuple[Observation, Any, bool, bool, Info]:
        trace = self._trace
        k = self._n_played
        if k == len(trace.rewards):
            assert trace.failure is not None
            raise trace.failure
        self._n_played += 1
        if trace.states:
            self.state = trace.states[self._n_played]
        is_last = self._n_played == len(trace.rewards)
        return (
            trace.observations[k],
            trace.rewards[k],
            is_last and trace.terminated,
            is_last and trace.truncated,
            trace.infos[k],
        )

    def as_check(self, verifier: Verifier, number: int) -> Verifier:
        """Return a verifier with the same identity that repeats the result of the branch."""

        def repeat(_: Value) -> Verdict:
            return self._trace.results[number].raise_if_error().verdict

        for name in (
            "verifier_id",
            "verifier_version",
            "verifier_family",
            "__module__",
            "__qualname__",
        ):
            if hasattr(verifier, name):
                setattr(repeat, name, getattr(verifier, name))
        # The recorded digest of the source is then the digest of the verifier's source.
        repeat.__wrapped__ = verifier  # type: ignore[attr-defined]
        return repeat


def _steps_by_state(episode: Episode) -> dict[int, list[int]]:
    """Return the steps that lead to each state of an episode, ascending, by the state's key."""
    # Not by checks of 24 bits: of 500 states of a branch and 500 of its parent, two have the same
    # check in one of 70 branches.
    keys = episode.state_keys
    if keys is None or not episode.has_reset or len(keys) != len(episode.step_numbers) + 1:
        return {}
    steps: dict[int, list[int]] = {}
    for key, step in zip(keys[1:].tolist(), episode.step_numbers.tolist(), strict=True):
        steps.setdefault(key, []).append(step)
    return steps
