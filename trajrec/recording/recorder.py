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
from trajrec.log.schema import Ending, EpisodeEnd, EpisodeStart, Fork, Keyframe, episode_id
from trajrec.log.writer import Durability, LogWriter, OnError
from trajrec.protocols import Verifier
from trajrec.recording.buffer import StepBuffer
from trajrec.recording.episode_events import check_events, failure_event
from trajrec.recording.keyframe_schedule import KeyframeSchedule
from trajrec.recording.options import DIGESTED, KeepStates, LogOrigin, RecordOptions
from trajrec.recording.recorder_header import recorder_header
from trajrec.recording.step_fields import MisfitError
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
        on_error: "raise" or "warn", if the log cannot be written.
        durability: "process" or "machine".

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
        on_error: OnError = "raise",
        durability: Durability = "process",
    ) -> None:
        if not isinstance(env, gymnasium.Env):
            raise TypeError(f"env must be a gymnasium.Env, got {type(env).__name__}")
        super().__init__(env)
        self._checks = tuple(checks)
        self._adapter = choose_adapter(env, state)
        self._capture = None if self._adapter is None else self._adapter.capture
        self._clock_ns = self._origin.clock_ns or time.time_ns
        self._episode = -1
        self._is_open = False
        self._has_failed = False
        self._keyframes = KeyframeSchedule(env)
        header = recorder_header(
            env, self._adapter, self._origin, keep_states=keep_states, interface=interface
        )
        keep = header.state.keep
        self._is_digested = keep in DIGESTED
        self._log_id = header.log_id
        self.path = Path(folder) / f"{self._origin.name or header.log_id}.trj"
        # An object of its own: attribute reads of a wrapper pass through Gymnasium's `__getattr__`
        # hook, and a step makes many.
        self._buffer = StepBuffer(keep, self._clock_ns)
        self._writer = LogWriter(
            self.path, header, self._buffer, on_error=on_error, durability=durability
        )
        self._buffer.hand_over = self._writer.hand_over

    @property
    def episode_id(self) -> str | None:
        """Id of the current or last episode; None before the first reset."""
        return None if self._episode < 0 else episode_id(self._log_id, self._episode)

    @property
    def is_open(self) -> bool:
        """Whether an episode is being recorded: a reset has begun it, and no step has ended it."""
        return self._is_open

    def step(self, action: Action) -> tuple[Observation, Any, bool, bool, Info]:
        """Step the environment and record the step; an exception is recorded, then raised again."""
        if not self._is_open:
            raise self._not_open()
        buffer = self._buffer
        try:
            try:
                # Before the environment gets it: some clip or scale actions in place.
                buffer.put_action(action)
            except MisfitError:
                buffer.refit([("action", action)])
        except BaseException as exc:
            # The block may hold half of the action's row.
            buffer.next_block()
            if isinstance(exc, EncodeError):
                raise self._located(exc) from None
            raise
        try:
            obs, reward, terminated, truncated, info = result = self.env.step(action)
        except BaseException as exc:
            self._step_failed(action, exc, "env")
            raise
        try:
            try:
                buffer.put_obs(obs)
                buffer.put_reward(reward)
                if self._capture is not None:
                    buffer.put_state(self._capture())
            except MisfitError:
                self._refit_step(action, obs, reward)
            # An empty info, which most environments return, takes no row.
            if info:
                buffer.put_info(info)
            if (terminated or truncated) and self._is_digested and self._capture is not None:
                # Before the step is counted: the flusher may take the rows of a counted step.
                buffer.keep_state(self._capture())
        except BaseException as exc:
            # An interrupt too: half a row would shift all rows that come after it.
            self._step_failed(action, exc, "scaffold")
            if isinstance(exc, EncodeError):
                raise self._located(exc) from None
            raise
        block = buffer.block
        if terminated or truncated:
            block.n += 1
            ending: Ending = "terminated" if terminated else "truncated"
            self._end(ending, bool(terminated), bool(truncated))
            return result
        # The step counts from here on. One write of an attribute, so no thread sees half a step.
        block.n = n = block.n + 1
        if n >= block.limit:
            if buffer.n_steps >= self._keyframes.due_step:
                self._add_keyframe()
            buffer.next_block()
        return result

    def reset(
        self, *, seed: int | None = None, options: JsonObject | None = None
    ) -> tuple[Observation, Info]:
        """Reset the environment and begin an episode; an unfinished one is recorded as abandoned.

        Without a seed, and without a generator whose state can be read, nothing could repeat the
        reset: then the recorder gives a seed, and the log names the recorder as its origin.
        """
        self._writer.raise_error()
        if self._is_open:
            self._end_unfinished()
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
        start = EpisodeStart(
            episode=self._episode,
            time_ns=self._clock_ns(),
            seed=seed,
            seed_origin=origin,
            options_data=None
            if options is None
            else codec.encode(options, where="reset options", opaque=True),
            rng_data=rng_data,
            info_data=_EMPTY_INFO,
        )
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except BaseException as exc:
            self._reset_failed(start, "reset", exc)
            raise
        try:
            info_data = codec.encode(info, opaque=True)
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
        self._writer.raise_error()
        if self._is_open:
            self._end_unfinished()
        self._episode += 1
        self._has_failed = False
        own_start = msgspec.structs.replace(start, episode=self._episode, time_ns=self._clock_ns())
        self._begin(own_start, obs, msgspec.structs.replace(fork, episode=self._episode))

    def close(self) -> None:
        """Seal the log, then close the environment; a second call does nothing."""
        try:
            if self._is_open:
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
                writer.flush()

    def _begin(self, start: EpisodeStart, obs: Observation, fork: Fork | None = None) -> None:
        """Record the rows and the event of a reset, or of a fork's first state."""
        buffer = self._buffer
        state = None if self._capture is None else self._capture()
        try:
            buffer.put_obs(obs)
            if self._capture is not None:
                buffer.put_state(state)
        except MisfitError:
            rows = [("obs", obs)]
            if self._capture is not None:
                rows.append(("state", state))
            buffer.refit(rows)
        if self._is_digested:
            buffer.keep_state(state)
        # The event before the rows count: a reader that sees an episode's rows has seen its start.
        buffer.add_event(start)
        if fork is not None:
            buffer.add_event(fork)
        buffer.begin_episode(self._episode, 0 if fork is None else fork.step)
        self._keyframes.begin_episode(buffer.n_steps)
        self._is_open = True

    def _end_unfinished(self) -> None:
        """End the episode that a reset, a fork or `close` cuts off."""
        self._end("error" if self._has_failed else "abandoned", False, False)

    def _end(self, ending: Ending, terminated: bool, truncated: bool) -> None:
        buffer = self._buffer
        n_steps = buffer.n_steps
        self._is_open = False
        self._add_end(n_steps, ending, terminated, truncated)
        buffer.end_episode()
        # An episode that was cut off has no last state to judge.
        if self._checks and ending in ("terminated", "truncated"):
            for event in check_events(
                self._checks,
                self.env,
                episode=self._episode,
                step=n_steps,
                clock_ns=self._clock_ns,
                capture=self._capture,
            ):
                buffer.add_event(event)
            self._flush_quietly()
        if buffer.block.n >= buffer.block.limit:
            buffer.next_block()

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

    def _add_keyframe(self) -> None:
        n_steps = self._buffer.n_steps
        data = self._keyframes.take(n_steps)
        if data is not None:
            self._buffer.add_event(Keyframe(self._episode, n_steps, data))

    def _refit_step(self, action: Action, obs: Observation, reward: Value) -> None:
        rows = [("action", action), ("obs", obs), ("reward", reward)]
        if self._capture is not None:
            rows.append(("state", self._capture()))
        self._buffer.refit(rows)

    def _step_failed(
        self, action: Action, exc: BaseException, origin: Literal["env", "scaffold"]
    ) -> None:
        """Record a step without an observation: the environment raised, or the recorder did."""
        self._has_failed = True
        self._buffer.add_event(
            failure_event(
                exc,
                episode=self._episode,
                step=self._buffer.n_steps,
                time_ns=self._clock_ns(),
                phase="step",
                origin=origin,
                action_data=codec.encode(action, opaque=True),
            )
        )
        self._buffer.skip_step()
        self._flush_quietly()

    def _reset_failed(
        self, start: EpisodeStart, phase: Literal["reset", "state"], exc: BaseException
    ) -> None:
        """Record an episode that never began."""
        buffer = self._buffer
        buffer.next_block()
        buffer.add_event(start)
        buffer.add_event(
            failure_event(
                exc,
                episode=self._episode,
                step=-1,
                time_ns=self._clock_ns(),
                phase=phase,
                origin="env",
            )
        )
        self._add_end(0, "error", False, False)
        self._flush_quietly()

    def _flush_quietly(self) -> None:
        """Flush; leave an error of the log to the next reset, as it would hide another one here."""
        with suppress(LogWriteError):
            self._writer.flush()

    def _located(self, exc: EncodeError) -> EncodeError:
        where = f"episode {self.episode_id} step {self._buffer.n_steps}: {exc.where}"
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
