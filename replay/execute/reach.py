"""Bring a live environment to a step of a recorded episode, and verify its state there."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between, preceding_episodes, rewards_between
from trajrec.envstate.generators import restore_generator
from trajrec.envstate.keyframes import EARLY_STEPS, Keyframes
from trajrec.envstate.outer_state import OuterState
from trajrec.envstate.reseeding import reseed
from trajrec.errors import DivergenceError, ReplayError, SnapshotError
from trajrec.log.schema import Keyframe
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.execute.secrets import redacted_error
from trajrec.replay.execute.trust import check_options
from trajrec.replay.execute.verify import verify_failure, verify_reward, verify_step
from trajrec.types import Info, Observation
from trajrec.values.diff import is_same

# Further ways to a step on which an unseeded reward of two values agrees by chance in 1 case of 16.
REPEATS = 4


def repeats_itself(error: DivergenceError, run: Callable[[], object]) -> bool:
    """Return whether an environment differs from its recording in the same way each time.

    Args:
        error: The first difference.
        run: Reaches the step again.
    """
    for _ in range(REPEATS):
        try:
            run()
        except DivergenceError as again:
            if (again.step, again.field) != (error.step, error.field):
                return False
            if not is_same(again.actual, error.actual):
                return False
        else:
            return False
    return True


def prepare_reset(episode: Episode, handle: EnvHandle) -> dict[str, Any]:
    """Restore the generators to their state before an episode's reset.

    Returns:
        The arguments of the recorded reset: `seed` and `options`.

    Raises:
        ReplayError: The log has lost the reset, or the generators do not accept the state.
        EnvRefusedError: An option may be a path, and the environment's module is not allowed.
    """
    start = episode.start
    if start is None:
        raise ReplayError("the log has lost this episode's reset", episode_id=episode.id)
    options = None if start.options_data is None else episode.value(start.options_data)
    check_options(options, handle.env.unwrapped, allow=handle.allow, episode_id=episode.id)
    if episode.redacted_action_step == -1:
        raise redacted_error(episode, "the reset cannot be made again")
    try:
        if start.seed is None and start.rng_data is not None:
            try:
                restore_generator(handle.env.unwrapped, handle.native, start.rng_data)
            except LookupError:
                # The environment makes the object that holds its generators in its first reset.
                handle.env.reset(seed=0)
                restore_generator(handle.env.unwrapped, handle.native, start.rng_data)
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise ReplayError(
            f"the generator's state could not be restored: {exc}", episode_id=episode.id
        ) from exc
    return {"seed": start.seed, "options": options}


def apply_steps(
    episode: Episode,
    handle: EnvHandle,
    obs: Observation,
    info: Info,
    *,
    first: int,
    last: int,
    compare_rewards: bool = False,
) -> tuple[Observation, Info]:
    """Apply the recorded actions of the steps [first, last), those of the parent episode included.

    A step that raised when it was recorded must raise again.

    Args:
        episode: The episode.
        handle: The environment, in the state before step `first`.
        obs: The observation before step `first`.
        info: The info before step `first`.
        first: The first step.
        last: The step after the last one.
        compare_rewards: Whether each reward must be the recorded one. Wrappers that carry state
            from one episode to the next, as NormalizeReward does, show it in rewards only.

    Returns:
        The last observation and info.

    Raises:
        DivergenceError: A step raises that did not raise before, or the other way round, or a
            reward differs.
    """
    step = handle.env.step
    path = path_between(episode, first, last)
    rewards = rewards_between(episode, first, last) if compare_rewards else {}
    for number, (action, failure) in enumerate(path, first):
        try:
            obs, reward, _, _, info = step(action)
        except (Exception, SystemExit) as exc:
            verify_failure(episode, number, recorded=failure, raised=exc)
            continue
        if failure is not None:
            verify_failure(episode, number, recorded=failure, raised=None)
        if number in rewards:
            verify_reward(episode, handle, number, expected=rewards[number], reward=reward)
    return obs, info


def enter_fork(episode: Episode, handle: EnvHandle, obs: Observation) -> Observation:
    """Bring an environment from its reset to the step at which a fork begins.

    Returns:
        The observation before the fork's first step; of an episode that is no fork, `obs`.

    Raises:
        DivergenceError: A step of the parent raises that did not raise before.
        ReplayError: The environment's generators cannot be seeded as the fork's were.
    """
    fork = episode.fork
    if fork is None:
        return obs
    parent = episode.parent
    assert parent is not None
    # The parent may be a fork itself, whose randomness was seeded again at its own first step.
    obs = enter_fork(parent, handle, obs)
    obs, _ = apply_steps(parent, handle, obs, {}, first=parent.first_step, last=fork.step)
    if fork.noise != "recorded":
        try:
            reseed(handle.env, fork.noise)
        except SnapshotError as exc:
            raise ReplayError(str(exc), episode_id=episode.id) from exc
    return obs


def reach_step(
    episode: Episode, handle: EnvHandle, step: int, *, compare_rewards: bool = False
) -> tuple[Observation, Info]:
    """Reset an environment as recorded, bring it to a step, and verify that it is there.

    The last keyframe before the step is restored if there is one, it leads to the recorded state,
    and neither the episode's first steps nor those from there change a variable that it does not
    have. Otherwise all recorded actions before the step are applied.

    Args:
        episode: The episode.
        handle: The environment.
        step: The step, in [first_step, end_step].
        compare_rewards: Whether each reward on the way must be the recorded one.

    Returns:
        The last observation and info before the step.

    Raises:
        DivergenceError: The environment is not in the recorded state.
        IndexError: The episode has no such step.
        ReplayError: The log has lost a step before this one.
    """
    check_step(episode, step)
    check_reset(episode)
    apply = functools.partial(apply_steps, episode, handle, compare_rewards=compare_rewards)
    obs, info = handle.env.reset(**prepare_reset(episode, handle))
    first = episode.first_step
    keyframes = [keyframe for keyframe in episode.keyframes if first < keyframe.step < step]
    if keyframes:
        keyframe = max(keyframes, key=lambda keyframe: keyframe.step)
        outer = OuterState.of_env(handle.env)
        obs = enter_fork(episode, handle, obs)
        # A keyframe has no variables outside, and its recorder did not look at them before.
        early = min(first + EARLY_STEPS, keyframe.step)
        obs, info = apply(obs, info, first=first, last=early)
        if outer.changed(OuterState.of_env(handle.env)):
            first = early
        elif late := _from_keyframe(
            episode, handle, keyframe, outer, step, compare_rewards=compare_rewards
        ):
            return late
        else:
            # It does not lead to the recorded state in this process: take all steps.
            obs, info = handle.env.reset(**prepare_reset(episode, handle))
    if first == episode.first_step:
        obs = enter_fork(episode, handle, obs)
    obs, info = apply(obs, info, first=first, last=step)
    verify_step(episode, handle, step, obs)
    return obs, info


def _from_keyframe(
    episode: Episode,
    handle: EnvHandle,
    keyframe: Keyframe,
    outer: OuterState,
    step: int,
    *,
    compare_rewards: bool,
) -> tuple[Observation, Info] | None:
    """Bring an environment to a step from a keyframe; None if it does not lead there.

    Args:
        episode: The episode.
        handle: The environment.
        keyframe: The keyframe, which is before the step.
        outer: The variables outside of the environment before the episode's steps.
        step: The step.
        compare_rewards: Whether each reward on the way must be the recorded one.

    Returns:
        The last observation and info before the step.
    """
    with contextlib.suppress(DivergenceError, SnapshotError, LookupError, ValueError):
        Keyframes(handle.env).put(keyframe.data)
        # Nothing is known of them but by the steps after the keyframe.
        obs, info = apply_steps(
            episode,
            handle,
            None,
            {},
            first=keyframe.step,
            last=step,
            compare_rewards=compare_rewards,
        )
        verify_step(episode, handle, step, obs)
        # Earlier versions took keyframes also if steps change variables that they do not have.
        if not outer.changed(OuterState.of_env(handle.env)):
            return obs, info
    return None


def verify_continuation(
    episode: Episode, handle: EnvHandle, step: int, n_steps: int, *, compare_rewards: bool = False
) -> None:
    """Bring an environment to a step and verify the recorded steps that follow.

    Args:
        episode: The episode.
        handle: The environment.
        step: The step to begin at; earlier if the episode ends within `n_steps` of it.
        n_steps: The number of steps to verify.
        compare_rewards: Whether each reward must be the recorded one.

    Raises:
        DivergenceError: A step differs from the recording.
    """
    last = next((lost for lost, _ in episode.missing_steps if lost >= step), episode.end_step)
    start = max(episode.first_step, min(step, last - n_steps))
    obs, info = reach_step(episode, handle, start, compare_rewards=compare_rewards)
    for number in range(start, min(start + n_steps, last)):
        obs, info = apply_steps(
            episode,
            handle,
            obs,
            info,
            first=number,
            last=number + 1,
            compare_rewards=compare_rewards,
        )
        verify_step(episode, handle, number + 1, obs)


def replay_predecessors(episode: Episode, handle: EnvHandle) -> None:
    """Run a fresh environment through the episodes that the recorded one had before.

    Some environments carry state from one episode to the next. Such an episode is only the same
    after its predecessors.
    """
    for earlier in preceding_episodes(episode):
        # An episode that cannot be replayed carries over as much as it can.
        with contextlib.suppress(Exception, SystemExit):
            handle.env.reset(**prepare_reset(earlier, handle))
            for action, _ in path_between(earlier, 0, earlier.end_step):
                with contextlib.suppress(Exception, SystemExit):
                    handle.env.step(action)


def check_reset(episode: Episode) -> None:
    """Check that the log has the result of an episode's reset.

    Raises:
        ReplayError: It could not be recorded, so nobody knows whether another reset gives the same.
    """
    if episode.has_reset:
        return
    for failure in episode.failures:
        # That of an environment whose reset raised is no failure of the recorder.
        if failure.step < 0 and failure.phase == "state":
            raise ReplayError(
                f"the result of its reset could not be recorded ({failure.message}), so nothing "
                "can be compared with it: record an environment whose observations can be stored",
                episode_id=episode.id,
            )


def check_step(episode: Episode, step: int) -> None:
    """Check that an episode has a step and that the log has all steps before it.

    Raises:
        IndexError: The episode has no such step.
        RedactedError: A secret was redacted in an action or state before this step.
        ReplayError: The log has lost a step before this one.
    """
    if not episode.first_step <= step <= episode.end_step:
        raise IndexError(
            f"step must be in [{episode.first_step}, {episode.end_step}] for episode {episode.id}, "
            f"got {step}"
        )
    redacted = episode.redacted_step
    if redacted is not None and redacted < step:
        raise redacted_error(episode, f"step {step} cannot be reached and verified")
    lost = next((first for first, _ in episode.missing_steps if first < step), None)
    if lost is not None:
        raise ReplayError(
            f"step {step} cannot be reached: the log has lost step {lost}", episode_id=episode.id
        )
