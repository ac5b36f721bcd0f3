"""Simulators of Gymnasium environments, and the recorded noise of an episode."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between
from trajrec.envstate.attributes import constants_digest
from trajrec.envstate.outer_state import OuterState, ProcessGenerators
from trajrec.errors import ReplayError
from trajrec.replay.credit.sampling.conditions import as_number, is_single
from trajrec.replay.credit.sampling.noise import EnvNoise, Noise
from trajrec.replay.credit.sampling.simulator import Resample, Success
from trajrec.replay.credit.sampling.state_key import StateKey
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.execute.reach import check_step
from trajrec.replay.execute.verify import verify_failure
from trajrec.replay.forks.branch import BranchPoint
from trajrec.replay.forks.control import CLOSING, Control, run_control
from trajrec.replay.forks.noise_watch import NoiseSeen, NoiseWatch, watch_noise
from trajrec.replay.forks.options import RestoreChoice, RestoreMethod
from trajrec.replay.forks.walker import Walker
from trajrec.types import Action, Observation, Value
from trajrec.verifiers import run_check

RecordedNoise = dict[int, list[Value]]
"""The states of an environment's generators before each recorded step, by step."""


def has_own_state(handle: EnvHandle) -> bool:
    """Return whether an environment says by its own `get_state` what its state is."""
    return handle.native is not None and handle.native.name == "get_state"


class _LiveEnv:
    """The part of a simulator that runs an environment from its current state."""

    restore_method: RestoreMethod
    observation: Observation

    def __init__(
        self,
        handle: EnvHandle,
        *,
        noise: Noise,
        success: Success,
        recorded: RecordedNoise,
        own_state: bool,
    ) -> None:
        self._seed = noise.seed
        self._success = success
        self._recorded = recorded
        self._own_state = own_state
        self._flags = {"terminated": False, "truncated": False}
        self._has_hidden = True
        self._set_env(handle)
        self._watch: NoiseWatch | None = None
        if noise.mode != "recorded":
            self._watch = watch_noise(handle.env, lambda: self._noise.get_states())

    def noise_seen(self) -> NoiseSeen | None:
        """Return what the rollout that has just ended shows of noise that no scenario sets."""
        return None if self._watch is None else self._watch.end_run()

    def _set_env(self, handle: EnvHandle) -> None:
        self._handle = handle
        self._env = handle.env
        self.action_space = handle.env.action_space
        self._noise = EnvNoise(handle.env, self._seed, has_hidden=self._has_hidden)
        self.n_generators = self._noise.n_generators
        self.state_key: Callable[[], Hashable | None] = StateKey(
            handle, self._noise.ids(), own_state=self._own_state
        )

    def generator_ids(self) -> set[int]:
        """Return the ids of the generators that a scenario sets."""
        return self._noise.ids()

    def resample(self, resample_hidden: Resample, rng: np.random.Generator) -> None:
        """Draw again the facts that the agent has not seen."""
        resample_hidden(self._env, rng)

    def seed(self, scenario: int, step: int) -> None:
        """Set the generators to a step of a scenario, or to their recorded states."""
        states = self._recorded.get(step)
        if states is None:
            self._noise.seed(scenario, step)
        else:
            self._noise.set_states(states)
        if self._watch is not None and self._watch.is_on:
            self._watch.before(self._env, scenario, step)

    def step(self, action: Action) -> tuple[Observation, float, bool]:
        """Take a step; return the observation, the reward and whether the episode is over."""
        observation, reward, terminated, truncated, _ = self._env.step(action)
        if self._watch is not None:
            self._watch.after()
        self._flags = {"terminated": bool(terminated), "truncated": bool(truncated)}
        value = reward if type(reward) is float else _other_reward(reward)
        return observation, value, bool(terminated or truncated)

    def score(self) -> float | None:
        """Return the result of the success function; None without one."""
        if self._success is None:
            return None
        if isinstance(self._success, str):
            return float(self._flags[self._success])
        # An error is raised: a rollout without a verdict must not count as lost.
        return run_check(self._success, self._env).raise_if_error().value


class OneShotSimulator(_LiveEnv):
    """Runs a single rollout in a process of its own; the environment cannot return to its step.

    Args:
        point: The environment, in the state before the step.
        noise: The randomness of the rollout.
        success: See `RolloutOptions`.
        recorded: The recorded noise; empty for every other mode.
        own_state: See `StateKey`.

    Attributes:
        action_space: The space that a random policy samples.
    """

    def __init__(
        self,
        point: BranchPoint,
        *,
        noise: Noise,
        success: Success,
        recorded: RecordedNoise,
        own_state: bool,
    ) -> None:
        super().__init__(
            point.handle, noise=noise, success=success, recorded=recorded, own_state=own_state
        )
        self.observation = point.observation
        self.restore_method = point.restore

    def goto(self, step: int) -> None:
        """Do nothing: the environment is at its step."""

    def control(self, n_steps: int) -> None:
        """Return None: the fork server runs the controls."""

    def rewind(self) -> None:
        """Refuse to return to the step.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("this environment cannot be restored: take another process")

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


class EnvSimulator(_LiveEnv):
    """Runs rollouts of an environment, which returns to its step after each.

    Args:
        episode: The episode.
        make_handle: Makes the environment.
        restore: How it returns to its step.
        noise: The randomness of the rollouts.
        success: See `RolloutOptions`.
        recorded: The recorded noise; empty for every other mode.
        own_state: See `StateKey`.

    Attributes:
        action_space: The space that a random policy samples.
    """

    def __init__(
        self,
        episode: Episode,
        make_handle: Callable[[], EnvHandle],
        *,
        restore: RestoreChoice,
        noise: Noise,
        success: Success,
        recorded: RecordedNoise,
        own_state: bool,
    ) -> None:
        self._process_generators = ProcessGenerators()
        self._walker = Walker(episode, make_handle, restore)
        self._is_resampled = False
        super().__init__(
            self._walker.handle,
            noise=noise,
            success=success,
            recorded=recorded,
            own_state=own_state,
        )

    def goto(self, step: int) -> None:
        """Bring the environment into the recorded state before a step, and verify it.

        Raises:
            DivergenceError: The environment does not reach the recorded state.
            SnapshotError: The requested way to restore does not work for this environment.
        """
        self._walker.goto(step)
        # A step before the first snapshot is reached by a reset, which may make new generators.
        # The old ones would be seeded in their place.
        self._has_hidden = True
        self._set_env(self._walker.handle)
        # Later resets make the same generators as this one.
        self._has_hidden = self._noise.n_hidden > 0
        self._follow_walker()

    def rewind(self) -> None:
        """Bring the environment back to the step, after a rollout."""
        self._walker.rewind()
        self._follow_walker()

    def control(self, n_steps: int) -> Control:
        """Take the recorded actions from the step on; see `Simulator.control`.

        Raises:
            ValueError: Visits are pooled by the state, and a variable outside belongs to it.
        """
        after_rollouts = self._outer_state()
        # Restores the recorded states of the generators too.
        self.rewind()
        at_start = self._outer_state()
        control = run_control(self._walker.branch_point(CLOSING), n_steps)
        changed = at_start.changed(self._outer_state()) or after_rollouts.changed(at_start)
        if changed and self._own_state and not has_own_state(self._handle):
            raise ValueError(
                f"visits cannot be pooled: steps of the environment change the variable {changed}, "
                "which its state does not have; use estimate()"
            )
        self.rewind()
        return replace(control, changed=changed)

    def _outer_state(self) -> OuterState:
        # A scenario sets the generators, so their changes do not matter.
        return OuterState.of_env(self._env, self._noise.ids())

    def resample(self, resample_hidden: Resample, rng: np.random.Generator) -> None:
        """Draw again the facts that the agent has not seen.

        Raises:
            ReplayError: The function changes attributes that are not restored between rollouts.
        """
        # The first call is checked; a function that changes constants does so at each call.
        before = None if self._is_resampled else constants_digest(self._env)
        super().resample(resample_hidden, rng)
        if before is not None and constants_digest(self._env) != before:
            raise ReplayError(
                "resample_hidden changes the environment's tables or MuJoCo's model, which are not "
                "restored between rollouts of one process: take restore='os_fork'",
                episode_id=self._walker.episode.id,
            )
        self._is_resampled = True

    def close(self) -> None:
        """Close the environment. Closing twice is harmless."""
        self._walker.close()
        self._process_generators.put_back(self._noise.ids())

    def _follow_walker(self) -> None:
        self.restore_method = self._walker.restore_method
        self.observation = self._walker.observation
        # A reset may make new generators; a restored snapshot keeps the generator objects, so
        # finding them again at each rollout would only cost time.
        is_same = self._walker.handle is self._handle and self.restore_method == "snapshot"
        if not is_same or not self.n_generators:
            self._set_env(self._walker.handle)


def recorded_noise(episode: Episode, make_handle: Callable[[], EnvHandle]) -> RecordedNoise:
    """Re-execute an episode and return the states of its environment's generators, by step.

    Raises:
        ReplayError: The log has lost some of the steps.
    """
    check_step(episode, episode.end_step)
    walker = Walker(episode, make_handle, "reexecute")
    first = episode.first_step
    path = path_between(episode, first, episode.end_step)
    states: RecordedNoise = {}
    try:
        walker.reset_to(first)
        env = walker.handle.env
        noise = EnvNoise(env, 0)
        for step, (action, failure) in enumerate(path, first):
            states[step] = noise.get_states()
            # A step that raised in the recording raises again, and the episode continues.
            raised: BaseException | None = None
            try:
                env.step(action)
            except (Exception, SystemExit) as exc:
                raised = exc
            verify_failure(episode, step, recorded=failure, raised=raised)
    finally:
        walker.close()
    return states


def _other_reward(reward: Value) -> float:
    """Return a reward that is no float of Python; 0 for several, of which only a success counts."""
    return as_number(reward) if is_single(reward) else 0.0
