"""Execute a recorded episode on an environment and keep the returned values.

Stepping is the hot loop, so it only copies the returned values; the whole episode is compared
afterwards. Large observations are compared as they come: copies of all of them would fill the
memory. An environment that tries to end the process with `sys.exit` counts as one that raises
any other exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterable
from zlib import crc32

import numpy as np

from trajrec.corpus.episode import Episode
from trajrec.corpus.history import EpisodeTail, to_env_action
from trajrec.corpus.step import failed_action
from trajrec.errors import DivergenceError, EnvRefusedError, ReplayError, TrajrecError
from trajrec.log.fields import sparse_span
from trajrec.log.schema import Failure
from trajrec.replay.execute.column_compare import obs_collector
from trajrec.replay.execute.compare import describe
from trajrec.replay.execute.execution import Execution, LiveEnd, LiveFailure
from trajrec.replay.execute.handle import EnvHandle
from trajrec.replay.execute.kept_values import Encoded, is_plain_array, keep, keep_info
from trajrec.replay.execute.reach import (
    check_reset,
    check_step,
    enter_fork,
    prepare_reset,
    reach_step,
)
from trajrec.replay.execute.report import Divergence, ulp_distance
from trajrec.types import Action, Observation, Value
from trajrec.values import codec
from trajrec.values.arrays import PADDED
from trajrec.values.copies import copy_for_env, copy_for_record
from trajrec.values.digest import KEY_BYTES, state_key
from trajrec.values.plain import IMMUTABLE_TYPES


def execute(episode: Episode, handle: EnvHandle, first: int = 0) -> tuple[Episode, Execution]:
    """Reset as recorded and apply the recorded actions.

    The execution stops when the actions end, when the environment ends the episode, or when it
    raises an exception that was not recorded.

    Args:
        episode: The episode.
        handle: The environment.
        first: The first step whose values are kept; it is reached by the fastest method.

    Returns:
        The episode to compare with (its tail from step `first` on, if that is not 0), and the
        execution.
    """
    execution = Execution(episode.digest_bytes)
    beginning = begin(episode, handle, execution, first)
    if beginning is None:
        return episode, execution
    part, obs = beginning
    _keep_start(execution, handle, obs, part, is_verified=part is not episode)
    actions = part.actions
    failures = {failure.step: failure for failure in part.failures if failure.phase == "step"}
    gap = first_gap(part)
    if gap is not None:
        actions = actions[: int(np.searchsorted(part.step_numbers, gap))]
        failures = {step: failure for step, failure in failures.items() if step < gap}
    if failures:
        _apply_with_failures(execution, handle, part, actions, failures)
    else:
        _apply(execution, handle, part, actions, part.first_step)
    return part, execution


def first_gap(episode: Episode) -> int | None:
    """Return the first step that cannot be taken: it is missing, or its action had a secret.

    Nothing behind it can be reached.
    """
    gaps = [first for first, _ in episode.missing_steps[:1]]
    if episode.redacted_action_step is not None:
        gaps.append(episode.redacted_action_step)
    return min(gaps, default=None)


def decode_ahead(episode: Episode) -> None:
    """Decode the columns that executing and comparing an episode read.

    Decoding several episodes one after the other is faster than decoding each between two
    executions. A damaged episode is reported when it is executed.
    """
    with contextlib.suppress(TrajrecError):
        for chunk, _ in episode.rows.parts:
            chunk.decode()
        # Cached properties: reading one decodes it.
        for name in ("actions", "missing_steps"):
            getattr(episode, name)


def begin(
    episode: Episode, handle: EnvHandle, execution: Execution, first: int
) -> tuple[Episode, Observation] | None:
    """Reset as recorded and go to the first step that is compared.

    Returns:
        The part of the episode to execute, and the observation before it; None if the episode
        ended there, and `execution` then has the reason.
    """
    if first > episode.first_step:
        return _skip_to(episode, handle, execution, first)
    recorded = next((failure for failure in episode.failures if failure.phase == "reset"), None)
    try:
        check_reset(episode)
        arguments = prepare_reset(episode, handle)
    except EnvRefusedError:
        raise
    except ReplayError as exc:
        execution.problem = exc.what
        return None
    try:
        obs, info = handle.env.reset(**arguments)
    except (Exception, SystemExit) as exc:
        if not is_recorded(recorded, exc, execution):
            execution.failure = LiveFailure(-1, recorded, exc)
        return None
    if recorded is not None:
        execution.failure = LiveFailure(-1, recorded, None)
        return None
    execution.reset_info = codec.encode_info(info)
    try:
        return episode, enter_fork(episode, handle, obs)
    except DivergenceError as exc:
        execution.early_divergence = _divergence(exc)
    except ReplayError as exc:
        execution.problem = exc.what
    return None


def _skip_to(
    episode: Episode, handle: EnvHandle, execution: Execution, first: int
) -> tuple[Episode, Observation] | None:
    try:
        check_step(episode, first)
    except IndexError as exc:
        execution.problem = str(exc)
        return None
    except ReplayError as exc:
        execution.problem = exc.what
        return None
    try:
        obs, _ = reach_step(episode, handle, first)
    except DivergenceError as exc:
        execution.early_divergence = _divergence(exc)
    except EnvRefusedError:
        raise
    except ReplayError as exc:
        execution.problem = exc.what
    except TrajrecError:
        raise
    except (Exception, SystemExit) as exc:
        # Only the reset raises here; an exception of a step is a DivergenceError.
        execution.early_divergence = Divergence(
            step=-1, field="failure", expected="no exception", actual=describe(exc)
        )
    else:
        return EpisodeTail(episode, first), obs
    return None


def _divergence(exc: DivergenceError) -> Divergence:
    return Divergence(
        step=exc.step,
        field=exc.field,
        expected=exc.expected,
        actual=exc.actual,
        ulps=ulp_distance(exc.expected, exc.actual),
    )


def _apply(
    execution: Execution, handle: EnvHandle, episode: Episode, actions: list[Action], first: int
) -> None:
    """Take steps and copy the returned values: the hot loop."""
    # Local names: each attribute that is looked up in the loop costs as much as a short step's
    # bookkeeping.
    step = handle.env.step
    capture = None if handle.adapter is None else handle.adapter.capture
    add_observation = execution.observations.append
    add_reward = execution.rewards.append
    add_digest = execution.states.append
    infos = execution.infos
    whole_states = execution.whole_states
    whole = execution.whole_rows
    keeps_digests = execution.keeps_digests
    ndarray = np.ndarray
    digest = episode.digest_state
    # An array like the reset's: the CRC of `state_check` without its type checks. Comparing looks
    # at the low 24 bits only.
    digest_array = state_key if episode.digest_bytes == KEY_BYTES else crc32
    immutable = IMMUTABLE_TYPES
    template = execution.template
    dtype, shape = (None, None) if template is None else (template.dtype, template.shape)
    collect = execution.collect
    state_dtype = execution.state_dtype
    acted: Iterable[Action] = actions
    if not immutable.issuperset(map(type, actions)):
        # Copies: some environments change the action that they receive.
        acted = (copy_for_env(to_env_action(action)) for action in actions)
    for row, action in enumerate(acted, len(execution.rewards) + 1):
        try:
            obs, reward, terminated, truncated, info = step(action)
        except (Exception, SystemExit) as exc:
            execution.failure = LiveFailure(first + row - 1, None, exc)
            return
        if (
            type(obs) is ndarray
            # Identity first: most environments return the same dtype object, and comparing two
            # dtypes takes longer.
            and (obs.dtype is dtype or obs.dtype == dtype)
            and obs.shape == shape
        ):
            add_observation(collect(obs))
        elif dtype is None and obs is not None and type(obs) in immutable:
            add_observation(obs)
        else:
            execution.skip()
            add_observation(_kept_observation(obs, execution))
        add_reward(reward if type(reward) in immutable else copy_for_record(reward))
        if capture is not None:
            state = capture()
            if keeps_digests:
                try:
                    is_plain = type(state) is ndarray and state.dtype is state_dtype
                    add_digest(digest_array(state) if is_plain else digest(state))
                except ValueError:
                    # The array is not contiguous.
                    add_digest(digest(state))
            if row in whole:
                whole_states[row] = state if type(state) in immutable else keep(state)
        if info:
            infos[row - 1] = keep_info(info)
        if terminated or truncated:
            execution.end = LiveEnd(row - 1, bool(terminated), bool(truncated))
            return


def _apply_with_failures(
    execution: Execution,
    handle: EnvHandle,
    episode: Episode,
    actions: list[Action],
    failures: dict[int, Failure],
) -> None:
    """Apply the actions, and between them those that raised, which must raise again."""
    numbers = episode.step_numbers[: len(actions)]
    position = 0
    for step in sorted(failures):
        row = int(np.searchsorted(numbers, step))
        _apply(execution, handle, episode, actions[position:row], step - row)
        has_ended = execution.end is not None and execution.end.row < row
        if execution.failure is not None or has_ended:
            return
        recorded = failures[step]
        # A failure of the scaffold is the recorder's own: the environment took the step, and the
        # returned values could not be recorded.
        is_envs = recorded.origin != "scaffold"
        try:
            handle.env.step(to_env_action(failed_action(recorded)))
        except (Exception, SystemExit) as exc:
            if not is_envs or not is_recorded(recorded, exc, execution):
                execution.failure = LiveFailure(step, recorded if is_envs else None, exc)
                return
        else:
            if is_envs:
                execution.failure = LiveFailure(step, recorded, None)
                return
        execution.n_raised += 1
        position = row
    _apply(execution, handle, episode, actions[position:], episode.first_step + len(failures))


def _keep_start(
    execution: Execution,
    handle: EnvHandle,
    obs: Observation,
    episode: Episode,
    *,
    is_verified: bool,
) -> None:
    """Keep the observation and state of the first row.

    Those of a later step were compared when the step was reached.
    """
    if type(obs) is np.ndarray and is_plain_array(obs):
        execution.template = obs
    execution.collect = obs_collector(episode, execution)
    row = (
        execution.collect(obs)
        if execution.template is not None
        else _kept_observation(obs, execution)
    )
    execution.observations.append(None if is_verified else row)
    if handle.adapter is None:
        return
    execution.has_states = True
    execution.whole_rows = _whole_rows(episode)
    state = handle.adapter.capture()
    if type(state) is np.ndarray and state.dtype.kind in "biuf" and state.dtype.char not in PADDED:
        execution.state_dtype = state.dtype
    if is_verified:
        digests = episode.state_digests
        execution.states.append(0 if digests is None else int(digests[0]))
        return
    # Without digests in the log, those of live states are needed only to report a difference.
    execution.keeps_digests = episode.rows.has_digests()
    if execution.keeps_digests:
        execution.states.append(episode.digest_state(state))
    if 0 in execution.whole_rows:
        execution.whole_states[0] = keep(state)


def _whole_rows(episode: Episode) -> Container[int]:
    """Return the rows of which the log has the whole state, counted from the reset's, 0."""
    first_row = 0 if episode.has_reset else 1
    parts = episode.rows.parts
    if len(parts) == 1 and first_row == 0:
        # Nearly all episodes: without a look at each row.
        start, stop = parts[0].observation_rows
        numbers, _ = sparse_span(parts[0].chunk, "state", start, stop)
        if type(numbers) is range:
            return range(len(numbers))
        return {number - start for number in numbers}
    return {row + first_row for row in episode.rows.state_rows()}


def _kept_observation(obs: Observation, execution: Execution) -> Value:
    """Return an observation that is not like the template, kept."""
    if execution.template is not None or obs is None:
        return Encoded(codec.encode(obs, opaque=True))
    return keep(obs)


def is_recorded(failure: Failure | None, exc: BaseException, execution: Execution) -> bool:
    """Return whether an exception has the type of the recorded one.

    Another message is noted and does not count: a message may name a time or an address.
    """
    if failure is None or failure.error_type != codec.type_name(exc):
        return False
    if failure.message != str(exc).encode("utf-8", "backslashreplace").decode():
        step = "the reset" if failure.step < 0 else f"step {failure.step}"
        execution.ignored.add(f"the message of the exception at {step}")
    return True
