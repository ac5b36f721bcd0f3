"""Executes an episode on a stage: resets it as recorded, applies the recorded actions, keeps what came out.

Stepping is the hot loop: it only copies what each step returned; a whole episode is compared when it is over.
An environment that wants to end the process, with sys.exit, has failed as one that raises anything else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any
from zlib import crc32

import numpy as np

from trajrec.corpus.episode import Episode, failed_action
from trajrec.corpus.history import EpisodeTail, to_env_action
from trajrec.errors import DivergenceError, ReplayError, TrajrecError
from trajrec.log.schema import Failure
from trajrec.replay.execute.compare import EncodedObs, Run, describe, make_obs_collector
from trajrec.replay.execute.reach import (
    EnvHandle,
    check_step,
    enter_fork,
    prepare_reset,
    reach_step,
)
from trajrec.replay.execute.report import Divergence, ulp_distance
from trajrec.values import codec
from trajrec.values.copies import copy_for_env, copy_for_record
from trajrec.values.digest import state_digest
from trajrec.values.plain import IMMUTABLE_TYPES


def execute(episode: Episode, stage: EnvHandle, first: int = 0) -> tuple[Episode, Run]:
    """Reset as recorded and apply the recorded actions, until they end, the environment does, or it raises unrecorded.

    Args:
        episode: The episode.
        stage: What it is executed on.
        first: The step from which on what comes out is kept; it is gone to by the shortest way.

    Returns:
        What the run is to be compared with, which is the episode or the rest of it; and the run.
    """
    run = Run()
    begun = begin(episode, stage, run, first)
    if begun is None:
        return episode, run
    part, obs = begun
    _keep(run, stage, obs, part, is_verified=part is not episode)
    actions, missing = part.actions, part.missing_steps
    failed = {failure.step: failure for failure in part.failures if failure.phase == "step"}
    if missing:
        actions = actions[: int(np.searchsorted(part.step_numbers, missing[0][0]))]
        failed = {step: failure for step, failure in failed.items() if step < missing[0][0]}
    if failed:
        _apply_with_failures(run, stage, part, actions, failed)
    else:
        _apply(run, stage, part, actions, part.first_step)
    return part, run


def prepare(episode: Episode) -> None:
    """Decode what executing and comparing an episode take, so that several can be decoded one after the other; what cannot be
    is said when it is executed."""
    with contextlib.suppress(TrajrecError):
        for chunk, _ in episode.parts:
            chunk.decode()
        for name in ("actions", "missing_steps", "step_numbers", "states"):
            getattr(episode, name)


def begin(episode: Episode, stage: EnvHandle, run: Run, first: int) -> tuple[Episode, Any] | None:
    """Reset as recorded and go to the step where the comparing begins; return what is to be executed, and the observation.

    None where it ended there: `run` says how.
    """
    if first > episode.first_step:
        return _skip_to(episode, stage, run, first)
    failed = next((failure for failure in episode.failures if failure.phase == "reset"), None)
    try:
        arguments = prepare_reset(episode, stage)
    except ReplayError as exc:
        run.problem = exc.what
        return None
    try:
        obs, info = stage.env.reset(**arguments)
    except (Exception, SystemExit) as exc:
        run.failure = None if is_recorded(failed, exc, run) else (-1, failed, exc)
        return None
    if failed is not None:
        run.failure = (-1, failed, None)
        return None
    run.reset_info = codec.encode(info, opaque=True)
    try:
        return episode, enter_fork(episode, stage, obs)
    except DivergenceError as exc:
        run.early = _divergence(exc)
    except ReplayError as exc:
        run.problem = exc.what
    return None


def _skip_to(
    episode: Episode, stage: EnvHandle, run: Run, first: int
) -> tuple[Episode, Any] | None:
    try:
        check_step(episode, first)
    except IndexError as exc:
        run.problem = str(exc)
        return None
    except ReplayError as exc:
        run.problem = exc.what
        return None
    try:
        obs, _ = reach_step(episode, stage, first)
    except DivergenceError as exc:
        run.early = _divergence(exc)
    except ReplayError as exc:
        run.problem = exc.what
    except TrajrecError:
        raise
    except (Exception, SystemExit) as exc:  # of the reset: what a step raises is a divergence
        run.early = Divergence(-1, "failure", "no exception", describe(exc))
    else:
        return EpisodeTail(episode, first), obs
    return None


def _divergence(exc: DivergenceError) -> Divergence:
    return Divergence(
        exc.step, exc.field, exc.expected, exc.actual, ulps=ulp_distance(exc.expected, exc.actual)
    )


def _apply(run: Run, stage: EnvHandle, episode: Episode, actions: list[Any], first: int) -> None:
    """The hot loop: step, copy what came out."""
    step, capture = stage.env.step, None if stage.adapter is None else stage.adapter.capture
    observations, rewards, states = run.observations.append, run.rewards.append, run.states.append
    whole, ndarray, digest, copy, fixed = (
        episode.states,
        np.ndarray,
        state_digest,
        codec.encode,
        IMMUTABLE_TYPES,
    )
    like = run.like
    dtype, shape = (None, None) if like is None else (like.dtype, like.shape)
    take, state_dtype = run.take, run.state_dtype
    acted: Iterable[Any] = actions
    if not fixed.issuperset(map(type, actions)):
        acted = (
            copy_for_env(to_env_action(action)) for action in actions
        )  # some environments change the action that they are given
    for row, action in enumerate(acted, len(run.rewards) + 1):
        try:
            obs, reward, terminated, truncated, info = step(action)
        except (Exception, SystemExit) as exc:
            run.failure = (first + row - 1, None, exc)
            return
        if (
            type(obs) is ndarray
            and (obs.dtype is dtype or obs.dtype == dtype)
            and obs.shape == shape
        ):
            observations(take(obs))
        else:
            run.skip()
            observations(EncodedObs(copy(obs, opaque=True)))
        rewards(reward if type(reward) in fixed else copy_for_record(reward))
        if capture is not None:
            state = capture()
            try:
                # An array as at the reset: state_digest without its questions; comparing looks at the low bits.
                is_plain = type(state) is ndarray and state.dtype is state_dtype
                states(crc32(state) if is_plain else digest(state))
            except ValueError:  # not contiguous
                states(digest(state))
            if row in whole:
                run.whole_states[row] = state.copy() if is_plain else copy(state)
        if info:
            # What cannot be changed later is kept as it is: encoding ten numbers takes longer than some steps.
            is_fixed = type(info) is dict and fixed.issuperset(map(type, info.values()))
            run.infos[row - 1] = info.copy() if is_fixed else copy(info, opaque=True)
        if terminated or truncated:
            run.flags = (row - 1, bool(terminated), bool(truncated))
            return


def _apply_with_failures(
    run: Run, stage: EnvHandle, episode: Episode, actions: list[Any], failed: dict[int, Failure]
) -> None:
    """Apply the actions with those among them that raised, which must raise the same again."""
    numbers, position = episode.step_numbers[: len(actions)], 0
    for step in sorted(failed):
        end = int(np.searchsorted(numbers, step))
        _apply(run, stage, episode, actions[position:end], step - end)
        if run.failure is not None or (run.flags is not None and run.flags[0] < end):
            return
        failure = failed[step]
        action = to_env_action(failed_action(failure))
        # One of the scaffold is the recorder's: the environment took the step, and what came of it could not be recorded.
        is_envs = failure.origin != "scaffold"
        try:
            stage.env.step(action)
        except (Exception, SystemExit) as exc:
            if not is_envs or not is_recorded(failure, exc, run):
                run.failure = (step, failure if is_envs else None, exc)
                return
        else:
            if is_envs:
                run.failure = (step, failure, None)
                return
        position = end
    _apply(run, stage, episode, actions[position:], episode.first_step + len(failed))


def _keep(run: Run, stage: EnvHandle, obs: Any, episode: Episode, *, is_verified: bool) -> None:
    """Copy the observation and state of the reset; of a later step they were compared when it was reached."""
    run.like = obs if type(obs) is np.ndarray and obs.dtype.kind in "biufcmM" else None
    run.take = make_obs_collector(episode, run)
    first = EncodedObs(codec.encode(obs, opaque=True)) if run.like is None else run.take(obs)
    run.observations.append(None if is_verified else first)
    if stage.adapter is None:
        return
    state = stage.adapter.capture()
    if type(state) is np.ndarray and state.dtype.kind in "biuf":
        run.state_dtype = state.dtype
    if is_verified:
        digests = episode.state_digests
        run.states.append(0 if digests is None else int(digests[0]))
        return
    run.states.append(state_digest(state))
    if 0 in episode.states:
        run.whole_states[0] = codec.encode(state) if run.state_dtype is None else state.copy()


def is_recorded(failure: Failure | None, exc: BaseException, run: Run) -> bool:
    """Say whether an exception is of the type of the recorded one; another message, which may name a time, is noted."""
    if failure is None or failure.error_type != codec.type_name(exc):
        return False
    if failure.message != str(exc).encode("utf-8", "backslashreplace").decode():
        run.ignored.add(
            f"the message of the exception at {'the reset' if failure.step < 0 else f'step {failure.step}'}"
        )
    return True
