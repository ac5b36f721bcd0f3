"""The recorder: a Gymnasium wrapper that logs every episode whole and changes nothing."""

from __future__ import annotations

import os
import secrets
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Unpack

import gymnasium
import msgspec

from trajrec.envstate.adapters import find_adapter, function_adapter
from trajrec.envstate.generators import generator_state
from trajrec.envstate.keyframes import Keyframes
from trajrec.errors import EncodeError, EnvContractError, LogWriteError
from trajrec.log.schema import (
    Check,
    Ending,
    EpisodeEnd,
    EpisodeStart,
    Failure,
    Fork,
    Header,
    Keyframe,
    StateRecord,
    episode_id,
)
from trajrec.log.writer import Durability, LogWriter, OnError, new_log_id
from trajrec.protocols import StateAdapter, Verifier
from trajrec.recording.blocks import MisfitError
from trajrec.recording.buffer import StepBuffer
from trajrec.recording.options import (
    KeepStates,
    LogOrigin,
    RecordOptions,
    kept_states,
    stored_keep_states,
)
from trajrec.recording.provenance import describe_env, describe_runtime, hostname
from trajrec.types import AnyEnv, Value
from trajrec.values import codec
from trajrec.verifiers import code_digest, identify, run_check
from trajrec.version import __version__

KEYFRAME_STEPS = 8192
"""Steps between keyframes, at least: shorter episodes have none."""

NEVER = 1 << 62


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records every episode of an environment into a log file of its own.

    Args:
        env: The environment with its wrappers, which are recorded too.
        folder: The corpus: a folder, made if it is missing. The file in it is named by the log's id.
        checks: Verifiers, run on the environment at the end of each episode that terminated or was
            truncated.
        state: A function of the environment that returns its state as plain data or an array; by
            default an adapter is looked for. False records no state.
        keep_states: "auto", "all" or "digests".
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
        stored_word = stored_keep_states(keep_states)
        super().__init__(env)
        self._checks = tuple(checks)
        self._adapter = _adapter(env, state)
        self._capture = None if self._adapter is None else self._adapter.capture
        self._clock_ns = self._origin.clock_ns or time.time_ns
        self._episode = -1
        self._is_open = False
        self._has_failed = False
        self._keyframes: Keyframes | None = None
        self._keyframe_at = KEYFRAME_STEPS
        parent = self._origin.parent
        if parent is None:
            adapter = self._adapter
            env_record = describe_env(env)
            state_record = StateRecord(
                adapter="" if adapter is None else adapter.name,
                version=0 if adapter is None else adapter.version,
                keep=kept_states(adapter, keep_states),
            )
        else:
            env_record = parent.env
            state_record = parent.state
            stored_word = parent.record
        self._keep = state_record.keep
        header = Header(
            log_id=self._origin.log_id or new_log_id(),
            created_ns=self._clock_ns(),
            writer=f"trajrec {__version__}",
            env=env_record,
            state=state_record,
            record=stored_word,
            runtime=describe_runtime(),
            process_id=os.getpid(),
            host=hostname(),
            interface_data=None
            if interface is None
            else codec.encode(interface, where="interface"),
        )
        self._log_id = header.log_id
        self.path = Path(folder) / f"{header.log_id}.trj"
        self._buffer = StepBuffer(self._keep, self._clock_ns)
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
        """Whether an episode is being recorded: not before the first reset, nor after an end."""
        return self._is_open

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and record what came of it. An exception of the environment is recorded, then re-raised."""
        if not self._is_open:
            raise self._not_open()
        buffer = self._buffer
        try:
            try:
                # Before the environment sees it: some clip or scale actions in place.
                buffer.put_action(action)
            except MisfitError:
                buffer.refit([("action", action)])
        except BaseException as exc:
            buffer.next_block()
            if isinstance(exc, EncodeError):
                raise self._located(exc) from None
            raise
        try:
            obs, reward, terminated, truncated, info = result = self.env.step(action)
        except BaseException as exc:
            self._step_failed(action, exc)
            raise
        try:
            try:
                buffer.put_obs(obs)
                buffer.put_reward(reward)
                if self._capture is not None:
                    buffer.put_state(self._capture())
            except MisfitError:
                self._refit_step(action, obs, reward)
            if info:
                buffer.put_info(info)
            if (terminated or truncated) and self._keep == "digest" and self._capture is not None:
                # Before the step is counted: from then on the flusher may take its rows at any moment.
                buffer.keep_state(self._capture())
        except BaseException as exc:
            # Whatever it is (an interrupt among them): half a row would shift all that come after it.
            self._step_failed(action, exc, "scaffold")
            if isinstance(exc, EncodeError):
                raise self._located(exc) from None
            raise
        block = buffer.block
        if terminated or truncated:
            block.n += 1
            self._end(
                "terminated" if terminated else "truncated", bool(terminated), bool(truncated)
            )
            return result
        block.n = n = block.n + 1
        if n >= block.limit:
            if buffer.n_steps >= self._keyframe_at:
                self._add_keyframe()
            buffer.next_block()
        return result

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and begin a new episode; one that was in its middle is recorded as abandoned.

        A reset that nothing could repeat (no seed, and a generator that is not there yet or cannot be seen) is given a
        seed by the recorder, which is recorded with its origin.
        """
        self._writer.raise_error()
        if self._is_open:
            self._end("error" if self._has_failed else "abandoned", False, False)
        rng, origin = None, "caller"
        if seed is None:
            rng, origin = generator_state(self.env.unwrapped, self._adapter), "none"
            if rng is None:
                seed, origin = secrets.randbits(31), "recorder"
        self._episode, self._has_failed = self._episode + 1, False
        start = EpisodeStart(
            episode=self._episode,
            time_ns=self._clock_ns(),
            seed=seed,
            seed_origin=origin,  # type: ignore[arg-type]
            options_data=None
            if options is None
            else codec.encode(options, where="reset options", opaque=True),
            rng_data=rng,
            info_data=_NO_INFO,
        )
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except BaseException as exc:
            self._reset_failed(start, "reset", exc)
            raise
        try:
            self._begin(
                msgspec.structs.replace(start, info_data=codec.encode(info, opaque=True)), obs
            )
        except BaseException as exc:
            self._reset_failed(start, "state", exc)
            if isinstance(exc, EncodeError):
                raise self._located(exc) from None
            raise
        return obs, info

    def begin_fork(self, fork: Fork, start: EpisodeStart, obs: Any) -> None:
        """Begin an episode in the middle of another one, which the environment was brought to (see `trajrec.replay.fork`).

        Args:
            fork: Where it comes from; its `episode` is set here.
            start: The other's reset.
            obs: The last observation there.
        """
        self._writer.raise_error()
        if self._is_open:
            self._end("error" if self._has_failed else "abandoned", False, False)
        self._episode, self._has_failed = self._episode + 1, False
        replaced = msgspec.structs.replace(start, episode=self._episode, time_ns=self._clock_ns())
        self._begin(replaced, obs, msgspec.structs.replace(fork, episode=self._episode))

    def close(self) -> None:
        """Write everything and seal the log, then close the environment. Twice is harmless."""
        try:
            if self._is_open:
                self._end("error" if self._has_failed else "abandoned", False, False)
        finally:
            try:
                self._writer.close()
            finally:
                super().close()

    def flush(self) -> None:
        """Hand everything recorded so far to the operating system now."""
        self._writer.flush()

    def __del__(self) -> None:
        writer = getattr(self, "_writer", None)
        if writer is not None and not writer.is_closed:
            warnings.warn(
                f"{self.path} was not closed; what it holds is readable",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            with suppress(LogWriteError):
                writer.flush()

    def _begin(self, start: EpisodeStart, obs: Any, fork: Fork | None = None) -> None:
        """Record the rows and the event of a reset, or of where a fork begins."""
        buffer, state = self._buffer, None if self._capture is None else self._capture()
        try:
            buffer.put_obs(obs)
            if self._capture is not None:
                buffer.put_state(state)
        except MisfitError:
            buffer.refit(
                [("obs", obs)] if self._capture is None else [("obs", obs), ("state", state)]
            )
        if self._keep == "digest":
            buffer.keep_state(state)
        # The event before the rows are shown: whoever sees the rows of an episode has seen its start.
        buffer.add_event(start)
        if fork is not None:
            buffer.add_event(fork)
        buffer.begin_episode(self._episode, 0 if fork is None else fork.step)
        if self._keyframe_at != NEVER:
            self._keyframe_at = buffer.n_steps + KEYFRAME_STEPS
        self._is_open = True

    def _end(self, ending: Ending, terminated: bool, truncated: bool) -> None:
        buffer, n_steps = self._buffer, self._buffer.n_steps
        is_whole = ending in ("terminated", "truncated")
        self._is_open = False
        buffer.add_event(
            EpisodeEnd(
                episode=self._episode,
                time_ns=self._clock_ns(),
                n_steps=n_steps,
                ending=ending,
                terminated=terminated,
                truncated=truncated,
            )
        )
        buffer.end_episode()
        if self._checks and is_whole:
            self._run_checks(n_steps)
            self._flush_quietly()
        if buffer.block.n >= buffer.block.limit:
            buffer.next_block()

    def _run_checks(self, n_steps: int) -> None:
        for verifier in self._checks:
            result = run_check(verifier, self.env)
            if result.error is not None:
                # A fault of the verifier is not the episode's: it is recorded as the verifier's.
                self._buffer.add_event(self._failure(n_steps, "check", "verifier", result.error))
            identity = identify(verifier)
            evidence = result.evidence
            self._buffer.add_event(
                Check(
                    episode=self._episode,
                    step=n_steps,
                    time_ns=self._clock_ns(),
                    check_id=identity.id,
                    version=identity.version,
                    family=identity.family,
                    phase="terminal",
                    status=result.status,
                    verdict=result.passed,
                    score=result.score,
                    evidence_data=None if evidence is None else codec.encode(evidence, opaque=True),
                    code_digest=code_digest(verifier),
                    state_digest=None if self._capture is None else codec.digest(self._capture()),
                )
            )

    def _add_keyframe(self) -> None:
        """Record the whole state in the middle of a long episode, where the environment is made of plain data."""
        n_steps = self._buffer.n_steps
        try:
            if self._keyframes is None:
                self._keyframes = Keyframes(self.env)
            self._keyframe_at = n_steps + KEYFRAME_STEPS
            self._buffer.add_event(Keyframe(self._episode, n_steps, self._keyframes.take()))
        except LookupError:
            pass  # not in this state of the game
        except (
            Exception
        ):  # whatever its attributes raise: nothing that is recorded depends on keyframes
            self._keyframe_at = NEVER

    def _refit_step(self, action: Any, obs: Any, reward: Any) -> None:
        values = [("action", action), ("obs", obs), ("reward", reward)]
        if self._capture is not None:
            values.append(("state", self._capture()))
        self._buffer.refit(values)

    def _step_failed(
        self, action: Any, exc: BaseException, origin: Literal["env", "scaffold"] = "env"
    ) -> None:
        """Record a step that raised, or what came of which could not be recorded: the action tried, what went wrong, and no
        observation."""
        self._has_failed = True
        self._buffer.add_event(
            self._failure(
                self._buffer.n_steps, "step", origin, exc, codec.encode(action, opaque=True)
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
        buffer.add_event(self._failure(-1, phase, "env", exc))
        buffer.add_event(
            EpisodeEnd(
                episode=self._episode,
                time_ns=self._clock_ns(),
                n_steps=0,
                ending="error",
                terminated=False,
                truncated=False,
            )
        )
        self._flush_quietly()

    def _failure(
        self,
        step: int,
        phase: Literal["reset", "step", "state", "check"],
        origin: Literal["env", "scaffold", "verifier"],
        exc: BaseException,
        action_data: bytes | None = None,
    ) -> Failure:
        text = "".join(traceback.format_exception(exc))[-20_000:]
        message, text = (t.encode("utf-8", "backslashreplace").decode() for t in (str(exc), text))
        return Failure(
            episode=self._episode,
            step=step,
            attempt=0,
            time_ns=self._clock_ns(),
            phase=phase,
            origin=origin,
            error_type=codec.type_name(exc),
            message=message,
            traceback=text,
            action_data=action_data,
        )

    def _flush_quietly(self) -> None:
        """Flush without hiding the error that is on its way: a log that cannot be written is raised by the next call."""
        with suppress(LogWriteError):
            self._writer.flush()

    def _located(self, exc: EncodeError) -> EncodeError:
        return EncodeError(
            exc.what, where=f"episode {self.episode_id} step {self._buffer.n_steps}: {exc.where}"
        )

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
    # `__init__` reads it; users' constructor calls have no such argument.
    recorder._origin = origin
    Recorder.__init__(recorder, env, folder, **options)
    return recorder


_NO_INFO = codec.encode({})


def _adapter(env: Any, state: Callable[[Any], Any] | bool) -> StateAdapter | None:
    if callable(state):
        return function_adapter(env, state)
    return find_adapter(env) if state else None
