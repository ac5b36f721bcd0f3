"""The recorder: a Gymnasium wrapper that logs every episode whole and does not change it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import gymnasium
import msgspec

from trajrec.envstate.adapters import choose_adapter
from trajrec.envstate.results import reset_parts, step_error
from trajrec.errors import EncodeError, LogWriteError
from trajrec.log.events import TaskStart
from trajrec.log.schema import EpisodeStart, Fork, StateRecord
from trajrec.log.writer import Durability, OnFull
from trajrec.protocols import Verifier
from trajrec.recording.buffer import NOT_RECORDED, PENDING, SKIPPED, StepBuffer
from trajrec.recording.episode_writer import EpisodeWriter, StepResult
from trajrec.recording.log_series import LogSeries
from trajrec.recording.options import KeepStates, LogOrigin, TaskOfReset, check_volume
from trajrec.recording.recordable import check_recordable
from trajrec.recording.recorder_errors import is_unrecordable, located, not_open, warn_of_end
from trajrec.recording.recorder_header import recorder_header
from trajrec.recording.reset_seed import choose_seed
from trajrec.recording.step_fields import MisfitError
from trajrec.recording.step_redaction import encode_info
from trajrec.recording.task_event import TaskDescription
from trajrec.recording.unrecorded_copies import CopiedUnrecorded
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.task_options import primary_check
from trajrec.types import Action, AnyEnv, Info, JsonObject, Observation, Value
from trajrec.values import codec
from trajrec.verifiers import identify

_EMPTY_INFO = codec.encode({})


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any], CopiedUnrecorded):
    """Records every episode of an environment into a log file of its own.

    Args:
        env: The environment with its wrappers, which are recorded too.
        folder: The corpus: a folder, made if it is missing. The file is named by the log's id.
        checks: Verifiers, run on the environment when an episode terminates or is truncated.
        primary: The check, or its id, that decides the outcome; by default the first one.
        task: Id of the task, or a function of the seed and the options of a reset.
        task_revision: Version of the task.
        metadata: Further plain data of each episode.
        state: A function of the environment that returns its state as plain data or an array; by
            default an adapter is looked for. False records no state.
        keep_states: "auto", "keys", "all" or "digests".
        interface: The interface of the run, as plain data.
        on_full: "stop-recording" or "raise", if the log cannot be written.
        durability: "process" or "machine".
        every: Record the first of so many episodes, and no other.
        max_bytes: The most bytes that the log may take.
        keep_last: Keep the last so many episodes, and delete older ones.
        redact: Whether to keep secrets out of the log, or the `Redactor` that does so.
        factory: A function that makes the environment again.

    `RecordOptions` explains the options from `checks` on.

    Attributes:
        path: The log file; with `keep_last` the one that is written.
        episode_id: The id of the current or last episode, None before the first reset.

    Raises:
        EncodeError: An action or observation cannot be stored losslessly; names the path in it.
        EnvContractError: A step outside of an episode, or a result that Gymnasium does not allow.
        LogWriteError: The log cannot be created or written.
    """

    # Set before `__init__` by `open_recorder`, so that users' calls have no such argument.
    _origin = LogOrigin()

    def __init__(
        self,
        env: AnyEnv,
        folder: str | Path,
        *,
        checks: Sequence[Verifier] = (),
        primary: Verifier | str | None = None,
        task: TaskOfReset = "",
        task_revision: str = "",
        metadata: Mapping[str, Value] | None = None,
        state: Callable[[Value], Value] | bool = True,
        keep_states: KeepStates = "auto",
        interface: Mapping[str, Value] | None = None,
        on_full: OnFull = "stop-recording",
        durability: Durability = "process",
        every: int = 1,
        max_bytes: int | None = None,
        keep_last: int | None = None,
        redact: bool | Redactor = True,
        factory: Callable[[], Value] | None = None,
    ) -> None:
        check_recordable(env)
        check_volume(every=every, max_bytes=max_bytes, keep_last=keep_last)
        super().__init__(env)
        self._checks = tuple(checks)
        self._primary = primary_check(self._checks, primary)
        if self._primary and self._primary not in {identify(check).id for check in checks}:
            raise ValueError(f"primary must be one of the checks, got {primary!r}")
        self._adapter = choose_adapter(env, state)
        self._clock_ns = self._origin.clock_ns or time.time_ns
        self._every = every
        self._n_resets = 0
        self._is_closed = False
        self._has_checked_state = self._origin.parent is not None
        self._has_warned_of_end = False
        self._redactor = as_redactor(redact)
        self._task = TaskDescription(task, task_revision, metadata, self._redactor)
        header = recorder_header(
            env,
            self._adapter,
            self._origin,
            keep_states=keep_states,
            interface=interface,
            redactor=self._redactor,
            factory=factory,
        )
        self._stored_states = header.state.keep
        self._logs = LogSeries(
            Path(folder),
            header,
            name=self._origin.name,
            on_full=on_full,
            durability=durability,
            max_bytes=max_bytes,
            keep_last=keep_last,
        )
        self._open_log()

    def _open_log(self) -> None:
        """Open the first log, or the next one."""
        capture = None if self._adapter is None else self._adapter.capture
        # An object of its own: a step reads many attributes, and each of a wrapper passes a hook.
        buffer = StepBuffer(self._stored_states, capture, self._clock_ns, self._redactor)
        writer = self._logs.open(buffer)
        buffer.attach(writer)
        self._buffer = buffer
        self._episodes = EpisodeWriter(
            self.env,
            buffer,
            writer,
            checks=self._checks,
            capture=capture,
            clock_ns=self._clock_ns,
            redactor=self._redactor,
            primary=self._primary,
        )
        # Last: as long as the writer is a closed one, the next reset opens a log again.
        self._writer = writer

    @property
    def path(self) -> Path:
        """The log file; with `keep_last` the one that is written."""
        return self._writer.path

    @property
    def episode_id(self) -> str | None:
        """Id of the current or last recorded episode; None before the first."""
        return self._episodes.id

    @property
    def is_open(self) -> bool:
        """Whether an episode is being recorded: a reset has begun it, and no step has ended it."""
        return self._episodes.is_open

    def step(self, action: Action) -> StepResult:
        """Step the environment and record the step; an exception is recorded, then raised again."""
        buffer = self._buffer
        if buffer.begun is not None:
            if buffer.begun == PENDING:
                self._episodes.begin_pending()
            if buffer.begun is not None:
                return self._step_otherwise(action)
        try:
            # Before the environment gets it: some clip or scale actions in place.
            action_part = buffer.takes.action(action)
        except MisfitError:
            buffer.refit(action=action)
            action_part = buffer.takes.action(action)
        except EncodeError as exc:
            raise located(exc, self.episode_id, buffer.position.step) from None
        number = buffer.number
        buffer.action_part = action_part
        buffer.begun = number
        try:
            result = self.env.step(action)
        except BaseException as exc:
            self._episodes.fail_step(exc, "env", action)
            raise
        try:
            try:
                obs, reward, terminated, truncated, info = result
                # Most steps have an empty info, and need no whole state beside its digest.
                if info or terminated or truncated or number == buffer.block.first_number:
                    self._episodes.add_special_step(action_part, result)
                else:
                    buffer.add_step(action_part, obs, reward, number)
            except MisfitError:
                buffer.refit(obs=obs, reward=reward)
                self._episodes.add_special_step(action_part, result)
        except BaseException as exc:
            if buffer.next_number > number:
                # The step is recorded, and then something else was interrupted.
                raise
            # An interrupt too: the environment has made the step, so the log must count it.
            cause = step_error(exc, result) or exc
            self._episodes.fail_step(cause, "scaffold", action)
            if isinstance(cause, EncodeError):
                raise located(cause, self.episode_id, buffer.position.step - 1) from None
            if cause is exc:
                raise
            raise cause from None
        if number >= buffer.limit:
            self._episodes.end_block()
        return result

    def _step_otherwise(self, action: Action) -> StepResult:
        """Step outside of a recorded episode, or after a call that was interrupted."""
        self._episodes.mend()
        begun = self._buffer.begun
        if begun is None or begun == PENDING:
            return self.step(action)
        if begun in (NOT_RECORDED, SKIPPED):
            return self.env.step(action)
        raise not_open(self.episode_id)

    def annotate(self, **values: Value) -> None:
        """Add named values to the last step: `env.annotate(logprob=-0.7, value=1.2)`.

        They are read as `Episode.step_values`, and as columns of `corpus.transitions`.

        Args:
            **values: Plain data or arrays by name; of several under one name the last counts.

        Raises:
            EnvContractError: No step has been taken since the reset.
            EncodeError: A value cannot be stored losslessly.
        """
        self._episodes.annotate(values)

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[Observation, Info]:
        """Reset the environment and begin an episode; an unfinished one is recorded as abandoned.

        The reset is recorded with the first step, before the environment makes it. A reset that no
        step follows leaves no episode; one that raises is recorded at once.

        Without a seed, and without a generator whose state can be read, nothing could repeat the
        reset: then the recorder gives a seed, and the log names the recorder as its origin.
        """
        had_no_step = self._buffer.begun == PENDING
        if not self._begin_call():
            return self.env.reset(seed=seed, options=options)
        n_resets = self._n_resets
        self._n_resets += 1
        if n_resets % self._every and not had_no_step:
            self._buffer.begun = SKIPPED
            return self.env.reset(seed=seed, options=options)
        seed, origin, rng_data = choose_seed(seed, self.env, self._adapter)
        options_data = None
        n_secrets: dict[str, int] = {}
        if options is not None:
            cleaned, n_secrets["options"] = self._redactor.redacted(options)
            options_data = codec.encode(cleaned, where="reset options", opaque=True)
        episodes = self._episodes
        start = EpisodeStart(
            episode=episodes.new_episode(),
            time_ns=self._clock_ns(),
            seed=seed,
            seed_origin=origin,
            options_data=options_data,
            rng_data=rng_data,
            info_data=_EMPTY_INFO,
            extra_data=None if self._every == 1 else codec.encode({"reset": n_resets}),
        )
        task = self._task.event(episodes.number, seed, options)
        try:
            result = self.env.reset(seed=seed, options=options)
        except BaseException as exc:
            episodes.fail_reset(start, "reset", exc, n_secrets=n_secrets, task=task)
            raise
        # Not by the number of the reset: the first ones may have raised.
        if not self._has_checked_state and is_unrecordable(self._adapter):
            self._leave_states_out()
            episodes = self._episodes
            start = msgspec.structs.replace(start, episode=episodes.new_episode())
            task = task and msgspec.structs.replace(task, episode=start.episode)
        self._has_checked_state = True
        try:
            obs, info = reset_parts(result)
            info_data, n_secrets["info"] = encode_info(self._redactor, info)
            own_start = msgspec.structs.replace(start, info_data=info_data)
            episodes.begin(own_start, obs, n_secrets=n_secrets, task=task)
        except BaseException as exc:
            episodes.fail_reset(start, "state", exc, n_secrets=n_secrets, task=task)
            if isinstance(exc, EncodeError):
                raise located(exc, self.episode_id, -1) from None
            raise
        return obs, info

    def _leave_states_out(self) -> None:
        """Begin the log again without states. Nothing is recorded yet but resets that raised."""
        self._adapter = None
        no_state = StateRecord(adapter="", version=0, keep="none")
        self._logs.begin_again(self._writer, no_state, self._episodes.n_recorded, self._clock_ns())
        self._stored_states = "none"
        self._open_log()

    def begin_fork(
        self, fork: Fork, start: EpisodeStart, obs: Observation, *, task: TaskStart | None
    ) -> None:
        """Begin an episode that continues another one; `trajrec.replay.fork` calls it.

        Args:
            fork: The step that the episode continues; its field `episode` is set here.
            start: The reset of the other episode.
            obs: The last observation before that step.
            task: The task of the other episode.
        """
        if not self._begin_call():
            return
        number = self._episodes.new_episode()
        own_start = msgspec.structs.replace(start, episode=number, time_ns=self._clock_ns())
        own_fork = msgspec.structs.replace(fork, episode=number)
        task = task and msgspec.structs.replace(task, episode=number)
        self._episodes.begin(own_start, obs, n_secrets={}, task=task, fork=own_fork)

    def _begin_call(self) -> bool:
        """End the episode before, and return whether the next one is recorded.

        Raises:
            LogWriteError: The log cannot be written, and `on_full` is "raise".
        """
        self._writer.raise_error()
        self._episodes.mend()
        self._episodes.end_unfinished()
        n_episodes = self._episodes.n_recorded
        if not self._is_closed and self._logs.is_done(self._writer, n_episodes):
            self._begin_log(n_episodes)
        if self._buffer.check_writer():
            self._buffer.drop_redactions()
            return True
        if self._writer.error is None and not self._has_warned_of_end:
            self._has_warned_of_end = True
            warn_of_end(self.path)
        return False

    def _begin_log(self, n_episodes: int) -> None:
        """Seal the log, and begin the next one.

        Raises:
            LogWriteError: The next one cannot be created, and `on_full` is "raise".
        """
        self._logs.finish(self._writer, n_episodes, self._clock_ns())
        try:
            self._open_log()
        except LogWriteError as exc:
            self._writer.error = exc
            self._writer.raise_error()

    def close(self) -> None:
        """Seal the log, then close the environment, each time as without a recorder."""
        self._is_closed = True
        try:
            self._episodes.mend()
            self._episodes.end_unfinished()
        finally:
            try:
                self._writer.close()
                self._logs.delete_unused(self._writer)
            finally:
                super().close()

    def flush(self) -> None:
        """Hand everything recorded so far to the operating system now."""
        self._writer.flush()

    def __del__(self) -> None:
        # `_writer` is missing if `__init__` raised.
        writer = getattr(self, "_writer", None)
        # At the end of the interpreter a lock may be held by a thread that never runs again.
        if writer is not None and not (writer.is_closed or writer.is_paused):
            warnings.warn(
                f"{self.path} was not closed; its steps are readable. Call close() on the recorder",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            with suppress(LogWriteError):
                writer.leave_unsealed()
