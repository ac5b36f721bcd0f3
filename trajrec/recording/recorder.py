"""The recorder: a Gymnasium wrapper that logs every episode whole and does not change it."""

from __future__ import annotations

import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Unpack

import gymnasium
import msgspec

from trajrec.envstate.adapters import choose_adapter
from trajrec.envstate.generators import generator_state
from trajrec.errors import EncodeError, EnvContractError, LogWriteError
from trajrec.log.events import Redaction
from trajrec.log.items import encode_row
from trajrec.log.schema import Ending, EpisodeEnd, EpisodeStart, Fork, Keyframe, episode_id
from trajrec.log.writer import Durability, LogWriter, OnFull
from trajrec.protocols import Verifier
from trajrec.recording.buffer import (
    NO_EPISODE,
    NOT_RECORDED,
    RESETTING,
    UNFINISHED,
    StepBuffer,
)
from trajrec.recording.episode_events import check_events, failure_event
from trajrec.recording.keyframe_schedule import KeyframeSchedule
from trajrec.recording.options import KeepStates, LogOrigin, RecordOptions
from trajrec.recording.recorder_header import recorder_header
from trajrec.recording.step_fields import MisfitError
from trajrec.redaction.redactor import Redactor, as_redactor
from trajrec.types import Action, AnyEnv, Info, JsonObject, Observation, Value
from trajrec.values import codec


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records every episode of an environment into a log file of its own.

    Args:
        env: The environment with its wrappers, which are recorded too.
        folder: The corpus: a folder, made if it is missing. The file is named by the log's id.
        checks: Verifiers, run on the environment at the end of each episode that terminated or was
            truncated.
        state: A function of the environment that returns its state as plain data or an array; by
            default an adapter is looked for. False records no state.
        keep_states: "auto", "keys", "all" or "digests".
        interface: The interface of the run, as plain data.
        on_full: "stop-recording" or "raise", if the log cannot be written.
        durability: "process" or "machine".
        redact: Whether to keep secrets out of the log, or the `Redactor` that does so.

    `RecordOptions` explains the options from `checks` on.

    Attributes:
        path: The log file.
        episode_id: The id of the current or last episode, None before the first reset.

    Raises:
        EncodeError: An action or observation cannot be stored losslessly; names the path in it.
        EnvContractError: A step before the first reset or after an episode's end.
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
        state: Callable[[Value], Value] | bool = True,
        keep_states: KeepStates = "auto",
        interface: Mapping[str, Value] | None = None,
        on_full: OnFull = "stop-recording",
        durability: Durability = "process",
        redact: bool | Redactor = True,
    ) -> None:
        if not isinstance(env, gymnasium.Env):
            raise TypeError(f"env must be a gymnasium.Env, got {type(env).__name__}")
        super().__init__(env)
        self._checks = tuple(checks)
        self._adapter = choose_adapter(env, state)
        self._capture = None if self._adapter is None else self._adapter.capture
        self._clock_ns = self._origin.clock_ns or time.time_ns
        self._episode = -1
        self._has_failed = False
        # The end of an episode whose last step is recorded: (ending, terminated, truncated).
        self._due_end: tuple[Ending, bool, bool] | None = None
        self._keyframes = KeyframeSchedule(env)
        self._redactor = as_redactor(redact)
        # Number of secrets in the options and the info of the last reset.
        self._reset_secrets: dict[str, int] = {}
        header = recorder_header(
            env,
            self._adapter,
            self._origin,
            keep_states=keep_states,
            interface=interface,
            redactor=self._redactor,
        )
        self._log_id = header.log_id
        self.path = Path(folder) / f"{self._origin.name or header.log_id}.trj"
        # An object of its own: attribute reads of a wrapper pass through Gymnasium's `__getattr__`
        # hook, and a step makes many.
        self._buffer = StepBuffer(header.state.keep, self._capture, self._clock_ns, self._redactor)
        self._writer = LogWriter(
            self.path, header, self._buffer, on_full=on_full, durability=durability
        )
        self._buffer.attach(self._writer)

    @property
    def episode_id(self) -> str | None:
        """Id of the current or last episode; None before the first reset."""
        return None if self._episode < 0 else episode_id(self._log_id, self._episode)

    @property
    def is_open(self) -> bool:
        """Whether an episode is being recorded: a reset has begun it, and no step has ended it."""
        return self._buffer.position.is_open and self._due_end is None

    def step(self, action: Action) -> tuple[Observation, Any, bool, bool, Info]:
        """Step the environment and record the step; an exception is recorded, then raised again."""
        buffer = self._buffer
        if buffer.begun is not None:
            return self._step_otherwise(action)
        try:
            # Before the environment gets it: some clip or scale actions in place.
            action_part = buffer.take_action(action)
        except MisfitError:
            buffer.refit(action=action)
            action_part = buffer.take_action(action)
        except EncodeError as exc:
            raise self._located(exc) from None
        number = buffer.number
        buffer.action = action
        buffer.begun = number
        try:
            obs, reward, terminated, truncated, info = result = self.env.step(action)
        except BaseException as exc:
            self._step_failed(action, exc, "env")
            raise
        try:
            try:
                # Most steps have an empty info, and need no whole state beside its digest.
                if info or terminated or truncated or number == buffer.block.first_number:
                    self._add_special_step(action_part, result)
                else:
                    buffer.add_step(action_part, obs, reward, number)
            except MisfitError:
                buffer.refit_step(obs, reward)
                self._add_special_step(action_part, result)
        except BaseException as exc:
            if buffer.next_number > number:
                # The step is recorded, and then something else was interrupted.
                raise
            # An interrupt too: the environment has made the step, so the log must count it.
            self._step_failed(action, exc, "scaffold")
            if isinstance(exc, EncodeError):
                raise self._located(exc) from None
            raise
        if number >= buffer.limit:
            self._end_block()
        return result

    def _add_special_step(
        self, action_part: Any, result: tuple[Observation, Any, bool, bool, Info]
    ) -> None:
        """Record a step with an info, the first one of a block, or the last of an episode."""
        buffer = self._buffer
        obs, reward, terminated, truncated, info = result
        is_over = bool(terminated or truncated)
        is_first = buffer.next_number == buffer.block.first_number
        row = (
            action_part,
            buffer.take_obs(obs),
            buffer.take_reward(reward),
            buffer.take_state(),
            *buffer.take_extras(info, with_state=is_over or is_first),
        )
        if is_over:
            # Before the row: if an exception comes in between, the next call ends the episode.
            ending: Ending = "terminated" if terminated else "truncated"
            self._due_end = (ending, bool(terminated), bool(truncated))
            buffer.add_last_row(row)
            self._end_due()
        else:
            buffer.add_encoded(encode_row(row), buffer.next_number)

    def _step_otherwise(self, action: Action) -> tuple[Observation, Any, bool, bool, Info]:
        """Step outside of a recorded episode, or after a call that was interrupted."""
        self._mend()
        if self._buffer.begun == NOT_RECORDED:
            return self.env.step(action)
        if self._buffer.begun is not None:
            raise self._not_open()
        return self.step(action)

    def _mend(self) -> None:
        """Complete the record of a call that an exception has broken off.

        An exception may come at any point, for instance by Ctrl-C, also while another one is being
        recorded. The call that it has interrupted may have left a step unrecorded.
        """
        buffer = self._buffer
        begun = buffer.begun
        if begun is None or begun in (NO_EPISODE, NOT_RECORDED):
            return
        buffer.resume()
        if begun >= buffer.next_number:
            self._due_end = None
            self._add_failure(_BrokenOffError(), buffer.action, "scaffold")
        if self._due_end is not None:
            self._end_due()
        else:
            is_running = buffer.position.is_open and begun != RESETTING
            buffer.end_call(None if is_running else NO_EPISODE)

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[Observation, Info]:
        """Reset the environment and begin an episode; an unfinished one is recorded as abandoned.

        Without a seed, and without a generator whose state can be read, nothing could repeat the
        reset: then the recorder gives a seed, and the log names the recorder as its origin.
        """
        if not self._begin_call():
            return self.env.reset(seed=seed, options=options)
        rng_data = None
        origin: Literal["caller", "recorder", "none"] = "caller"
        if seed is None:
            rng_data = generator_state(self.env.unwrapped, self._adapter)
            origin = "none"
            if rng_data is None:
                # 31 bits, so that the seed fits into a signed 32-bit integer of a simulator in C.
                seed = secrets.randbits(31)
                origin = "recorder"
        self._episode += 1
        self._has_failed = False
        options_data = None
        self._reset_secrets = {}
        if options is not None:
            cleaned, self._reset_secrets["options"] = self._redactor.redacted(options)
            options_data = codec.encode(cleaned, where="reset options", opaque=True)
        start = EpisodeStart(
            episode=self._episode,
            time_ns=self._clock_ns(),
            seed=seed,
            seed_origin=origin,
            options_data=options_data,
            rng_data=rng_data,
            info_data=_EMPTY_INFO,
        )
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except BaseException as exc:
            self._reset_failed(start, "reset", exc)
            raise
        try:
            cleaned, self._reset_secrets["info"] = self._redactor.redacted(info)
            info_data = codec.encode(cleaned, opaque=True)
            self._begin(msgspec.structs.replace(start, info_data=info_data), obs)
        except BaseException as exc:
            self._reset_failed(start, "state", exc)
            if isinstance(exc, EncodeError):
                raise self._located(exc) from None
            raise
        return obs, info

    def begin_fork(self, fork: Fork, start: EpisodeStart, obs: Observation) -> None:
        """Begin an episode that continues another one; `trajrec.replay.fork` calls it.

        Args:
            fork: The step that the episode continues; its field `episode` is set here.
            start: The reset of the other episode.
            obs: The last observation before that step.
        """
        if not self._begin_call():
            return
        self._episode += 1
        self._has_failed = False
        own_start = msgspec.structs.replace(start, episode=self._episode, time_ns=self._clock_ns())
        self._reset_secrets = {}
        self._begin(own_start, obs, msgspec.structs.replace(fork, episode=self._episode))

    def _begin_call(self) -> bool:
        """End the episode before, and return whether the next one is recorded.

        Raises:
            LogWriteError: The log cannot be written, and `on_full` is "raise".
        """
        self._writer.raise_error()
        self._mend()
        if not self._buffer.check_writer():
            return False
        self._buffer.drop_redactions()
        if self._buffer.begun != NO_EPISODE and self._buffer.position.is_open:
            self._end_unfinished()
        return True

    def close(self) -> None:
        """Seal the log, then close the environment; a second call does nothing."""
        try:
            self._mend()
            if self._buffer.position.is_open:
                self._end_unfinished()
        finally:
            try:
                self._writer.close()
            finally:
                super().close()

    def flush(self) -> None:
        """Hand everything recorded so far to the operating system now."""
        self._writer.flush()

    def __del__(self) -> None:
        # `_writer` is missing if `__init__` raised.
        writer = getattr(self, "_writer", None)
        if writer is not None and not writer.is_closed:
            warnings.warn(
                f"{self.path} was not closed; its steps are readable. Call close() on the recorder",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            with suppress(LogWriteError):
                writer.leave_unsealed()

    def _begin(self, start: EpisodeStart, obs: Observation, fork: Fork | None = None) -> None:
        """Record the events of a reset or of a fork, and the first observation and state."""
        buffer = self._buffer
        buffer.begun = RESETTING
        # The event before the observation: a reader that sees an episode's rows has seen its start.
        self._add_start(start)
        if fork is not None:
            buffer.add_event(fork)
        first_step = 0 if fork is None else fork.step
        buffer.add_reset(obs, self._episode, first_step)
        self._keyframes.begin_episode(first_step)
        buffer.end_call()

    def _add_start(self, start: EpisodeStart) -> None:
        """Record the event of a reset, and the secrets that its options and info had."""
        self._buffer.add_event(start)
        for name, n in self._reset_secrets.items():
            if n:
                self._buffer.add_event(Redaction(self._episode, -1, name, n))

    def _end_unfinished(self) -> None:
        """End the episode that a reset, a fork or `close` cuts off."""
        self._due_end = ("error" if self._has_failed else "abandoned", False, False)
        self._buffer.begun = UNFINISHED
        self._end_due()

    def _end_due(self) -> None:
        """Record the end of the episode, which `_due_end` describes, and judge its last state."""
        assert self._due_end is not None
        buffer = self._buffer
        ending, terminated, truncated = self._due_end
        position = buffer.position
        if position.is_open:
            self._add_end(position.step, ending, terminated, truncated)
        # Not before: if an exception comes earlier, the next call ends the episode.
        self._due_end = None
        # An episode that was cut off has no last state to judge.
        if self._checks and ending in ("terminated", "truncated"):
            for event in check_events(
                self._checks,
                self.env,
                episode=self._episode,
                step=position.step,
                clock_ns=self._clock_ns,
                capture=self._capture,
                redactor=self._redactor,
            ):
                buffer.add_event(event)
        if self._writer.durability == "machine":
            self._writer.flush()
        if buffer.next_number > buffer.limit:
            buffer.next_block()
        buffer.end_call(NO_EPISODE)

    def _add_end(self, n_steps: int, ending: Ending, terminated: bool, truncated: bool) -> None:
        self._buffer.add_event(
            EpisodeEnd(
                episode=self._episode,
                time_ns=self._clock_ns(),
                n_steps=n_steps,
                ending=ending,
                terminated=terminated,
                truncated=truncated,
            )
        )

    def _end_block(self) -> None:
        """End a full block in the middle of an episode, perhaps with a keyframe."""
        buffer = self._buffer
        n_steps = buffer.position.step
        if n_steps >= self._keyframes.due_step:
            data = self._keyframes.take(n_steps)
            # A state without its secrets leads nowhere.
            if data is not None and not self._redactor.redacted(codec.decode(data))[1]:
                buffer.begun = UNFINISHED
                buffer.add_event(Keyframe(self._episode, n_steps, data))
                buffer.end_call()
        buffer.next_block()

    def _step_failed(
        self, action: Action, exc: BaseException, origin: Literal["env", "scaffold"]
    ) -> None:
        """Record a step without an observation: the environment raised, or the recorder did."""
        buffer = self._buffer
        self._add_failure(exc, action, origin)
        if origin == "scaffold" and buffer.has_pixels:
            # A change of pixels was perhaps taken that no row has.
            buffer.begin_block()
        buffer.end_call()

    def _add_failure(
        self, exc: BaseException, action: Action, origin: Literal["env", "scaffold"]
    ) -> None:
        """Record a step that failed. It counts as a step, because the environment may have moved."""
        self._has_failed = True
        self._buffer.drop_redactions()
        self._buffer.add_event(
            failure_event(
                exc,
                episode=self._episode,
                step=self._buffer.position.step,
                time_ns=self._clock_ns(),
                phase="step",
                origin=origin,
                redactor=self._redactor,
                action_data=self._redactor.encode(action)[0],
            )
        )

    def _reset_failed(
        self, start: EpisodeStart, phase: Literal["reset", "state"], exc: BaseException
    ) -> None:
        """Record an episode that never began."""
        buffer = self._buffer
        buffer.begun = RESETTING
        if buffer.has_pixels:
            buffer.begin_block()
        if not buffer.position.is_open:
            self._add_start(start)
        buffer.add_event(
            failure_event(
                exc,
                episode=self._episode,
                step=-1,
                time_ns=self._clock_ns(),
                phase=phase,
                origin="env",
                redactor=self._redactor,
            )
        )
        self._add_end(0, "error", False, False)
        buffer.end_call(NO_EPISODE)

    def _located(self, exc: EncodeError) -> EncodeError:
        where = f"episode {self.episode_id} step {self._buffer.position.step}: {exc.where}"
        return EncodeError(exc.what, where=where)

    def _not_open(self) -> EnvContractError:
        if self._episode < 0:
            return EnvContractError("step before the first reset; call reset first")
        return EnvContractError(
            f"step after the end of episode {self.episode_id}; call reset first"
        )


def open_recorder(
    env: AnyEnv,
    folder: str | Path,
    origin: LogOrigin,
    **options: Unpack[RecordOptions],
) -> Recorder:
    """Return a recorder whose log has the given origin; for forks, tests and samples."""
    recorder = Recorder.__new__(Recorder)
    recorder._origin = origin
    Recorder.__init__(recorder, env, folder, **options)
    return recorder


_EMPTY_INFO = codec.encode({})


class _BrokenOffError(Exception):
    """An exception has broken off the record of a step, so that its values are missing."""

    def __str__(self) -> str:
        return str(self.__doc__)
