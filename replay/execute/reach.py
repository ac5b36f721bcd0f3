"""Stages: environments that episodes are replayed on, and how they are brought to a step of an episode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import path_between, preceding_episodes, rewards_between
from trajrec.envstate.adapters import find_adapter, function_adapter
from trajrec.envstate.generators import reseed, restore_generator
from trajrec.envstate.keyframes import Keyframes
from trajrec.envstate.pettingzoo import as_gymnasium
from trajrec.errors import DivergenceError, ReplayError, SnapshotError
from trajrec.protocols import StateAdapter
from trajrec.values import codec
from trajrec.values.diff import first_change, is_same
from trajrec.values.digest import state_digest

_AS_THEY_ARE = frozenset((np.ndarray, int, float, bool, str, bytes, type(None)))


class EnvHandle(NamedTuple):
    """An environment, the adapter that sees its state as the recording did (or None), and the one that knows its generators."""

    env: gymnasium.Env[Any, Any]
    adapter: StateAdapter | None
    native: StateAdapter | None


def env_handle(env: Any, episode: Episode, state: Callable[[Any], Any] | None = None) -> EnvHandle:
    """Return the stage that an environment is for an episode.

    Args:
        env: The environment, Gymnasium's or PettingZoo's.
        episode: The episode.
        state: The function that its states were captured with, where the recorder was given one.
    """
    env = as_gymnasium(env)
    record, native = episode.header.state, find_adapter(env)
    adapter = native if state is None else function_adapter(env, state)
    if record.keep == "none" or adapter is None:
        return EnvHandle(env, None, native)
    if state is None and (adapter.name, adapter.version) != (record.adapter, record.version):
        return EnvHandle(env, None, native)
    return EnvHandle(env, adapter, native)


def prepare_reset(episode: Episode, stage: EnvHandle) -> dict[str, Any]:
    """Give the generators the state that they had before an episode's reset; return the arguments of that reset.

    Raises:
        ReplayError: The log has lost the reset, or the generators cannot be given that state.
    """
    start = episode.start
    if start is None:
        raise ReplayError("the log has lost this episode's reset", episode_id=episode.id)
    try:
        if start.seed is None and start.rng_data is not None:
            try:
                restore_generator(stage.env.unwrapped, stage.native, start.rng_data)
            except LookupError:  # it makes what holds its generators when it is reset
                stage.env.reset(seed=0)
                restore_generator(stage.env.unwrapped, stage.native, start.rng_data)
    except (ValueError, LookupError, TypeError) as exc:
        raise ReplayError(
            f"the generator's state could not be restored: {exc}", episode_id=episode.id
        ) from exc
    options = None if start.options_data is None else codec.decode(start.options_data)
    return {"seed": start.seed, "options": options}


def apply_path(
    episode: Episode,
    stage: EnvHandle,
    obs: Any,
    info: Any,
    first: int,
    last: int,
    *,
    is_paid: bool = False,
) -> tuple[Any, Any]:
    """Apply the steps [first, last) of what an episode was recorded with (its parents' among them); return the last observation
    and info. What raised then may raise again.

    Args:
        episode: The episode.
        stage: Stands before the first of them.
        obs: The observation there.
        info: The info there.
        first: The first step.
        last: The step after the last.
        is_paid: Whether rewards are to be the recorded ones: of what wrappers carry over from one episode to the next they are
            all that is seen.

    Raises:
        DivergenceError: Something raises that did not, or a reward is another one.
    """
    step = stage.env.step
    path, rewards = (
        path_between(episode, first, last),
        rewards_between(episode, first, last) if is_paid else {},
    )
    for number, (action, has_raised) in enumerate(path, first):
        try:
            obs, reward, _, _, info = step(action)
        except (Exception, SystemExit) as exc:
            if not has_raised:
                raise _diverged(
                    episode, number, "failure", "no exception", f"{codec.type_name(exc)}: {exc}"
                ) from exc
            continue
        if number in rewards and not is_same(rewards[number], as_recorded(reward)):
            raise _diverged(episode, number, "reward", rewards[number], reward)
    return obs, info


def enter_fork(episode: Episode, stage: EnvHandle, obs: Any) -> Any:
    """Bring a stage that was just reset to where a fork begins; return the observation there."""
    fork = episode.fork
    if fork is None:
        return obs
    before = episode.parent
    assert before is not None
    # What it was forked from may be a fork itself, with randomness of its own from there on.
    obs, _ = apply_path(
        before, stage, enter_fork(before, stage, obs), {}, before.first_step, fork.step
    )
    if fork.noise != "recorded":
        try:
            reseed(stage.env, fork.noise)
        except SnapshotError as exc:
            raise ReplayError(str(exc), episode_id=episode.id) from exc
    return obs


def reach_step(
    episode: Episode, stage: EnvHandle, step: int, *, is_paid: bool = False
) -> tuple[Any, Any]:
    """Reset a stage as recorded and apply the recorded actions before a step; return the last observation and info.

    With `is_paid` rewards are compared too, see `apply_path`.

    Raises:
        DivergenceError: The environment is not in the recorded state there.
        ReplayError: The log has lost what leads there.
    """
    check_step(episode, step)
    obs, info = stage.env.reset(**prepare_reset(episode, stage))
    keyframe = max(
        (k for k in episode.keyframes if k.step < step), key=lambda k: k.step, default=None
    )
    if keyframe is not None:
        with contextlib.suppress(DivergenceError, SnapshotError, LookupError, ValueError):
            Keyframes(stage.env).put(keyframe.data)
            obs, info = apply_path(episode, stage, obs, info, keyframe.step, step, is_paid=is_paid)
            verify(episode, stage, step, obs)
            return obs, info
        # It does not lead there, here: all steps are taken instead.
        obs, info = stage.env.reset(**prepare_reset(episode, stage))
    if episode.fork is not None:
        obs = enter_fork(episode, stage, obs)
    obs, info = apply_path(episode, stage, obs, info, episode.first_step, step, is_paid=is_paid)
    verify(episode, stage, step, obs)
    return obs, info


def verify_continuation(
    episode: Episode, stage: EnvHandle, step: int, n_steps: int, *, is_paid: bool = False
) -> None:
    """Walk to a step, see `walk_to`, and take so many of the recorded steps from there; verify each. Begins before the step
    where the episode ends too early.

    Raises:
        DivergenceError: The environment does something else.
    """
    last = next((first for first, _ in episode.missing_steps if first >= step), episode.n_steps)
    start = max(episode.first_step, min(step, last - n_steps))
    obs, info = reach_step(episode, stage, start, is_paid=is_paid)
    for number in range(start, min(start + n_steps, last)):
        obs, info = apply_path(episode, stage, obs, info, number, number + 1, is_paid=is_paid)
        verify(episode, stage, number + 1, obs)


def replay_predecessors(episode: Episode, stage: EnvHandle) -> None:
    """Run a fresh stage through the episodes that the recorded environment had before: some carry state over from one to the
    next, and an episode is then the same only after those before it."""
    for before in preceding_episodes(episode):
        with contextlib.suppress(
            Exception, SystemExit
        ):  # an episode that cannot be relived leaves no more behind than it does
            stage.env.reset(**prepare_reset(before, stage))
            for action, _ in path_between(before, 0, before.n_steps):
                with contextlib.suppress(Exception, SystemExit):
                    stage.env.step(action)


def check_step(episode: Episode, step: int) -> None:
    """Check that an episode has a step, and that what leads there is not lost.

    Raises:
        IndexError: It has no such step.
        ReplayError: The log has lost a step before it.
    """
    if not episode.first_step <= step <= episode.n_steps:
        raise IndexError(
            f"episode {episode.id} has the steps {episode.first_step} to {episode.n_steps}, not {step}"
        )
    lost = next((first for first, _ in episode.missing_steps if first < step), None)
    if lost is not None:
        raise ReplayError(
            f"step {step} cannot be reached: the log has lost step {lost}", episode_id=episode.id
        )


def verify(episode: Episode, stage: EnvHandle, step: int, obs: Any) -> None:
    """Check that an environment is where an episode was before a step, by its observation and the digest of its state.

    Raises:
        DivergenceError: It is not.
    """
    row = int(np.searchsorted(episode.step_numbers, step))
    if not episode.has_reset or any(failure.step == step - 1 for failure in episode.failures):
        return  # a step that raised has no observation to compare with
    change = first_change(episode.observation_at(row), as_recorded(obs))
    if change is not None:
        field = f"observation/{change.path}" if change.path else "observation"
        raise _diverged(episode, step - 1, field, change.before, change.after)
    verify_state(episode, stage, step)


def as_recorded(value: Any) -> Any:
    """Return a value as a log gives it back: objects of classes are plain there."""
    return value if type(value) in _AS_THEY_ARE else codec.decode(codec.encode(value, opaque=True))


def verify_state(episode: Episode, stage: EnvHandle, step: int) -> None:
    """Check that an environment is in the state that an episode was in before a step, where its digest is known.

    Raises:
        DivergenceError: It is not.
    """
    if any(failure.step == step - 1 for failure in episode.failures):
        return
    row = int(np.searchsorted(episode.step_numbers, step))
    digests = None if stage.adapter is None else episode.state_digests
    if stage.adapter is not None and digests is not None:
        live = state_digest(stage.adapter.capture())
        if live != digests[row]:
            raise _diverged(
                episode, step - 1, "state", f"digest {int(digests[row]):06x}", f"digest {live:06x}"
            )


def _diverged(
    episode: Episode, step: int, field: str, expected: Any, actual: Any
) -> DivergenceError:
    where = "the reset" if step < 0 else f"step {step}"
    message = f"the environment is not in the recorded state: after {where}, {field}: recorded {expected!r}, now {actual!r}"
    return DivergenceError(
        message, episode_id=episode.id, step=step, field=field, expected=expected, actual=actual
    )
