"""The recorder: a Gymnasium wrapper that logs every episode whole and changes nothing."""

from __future__ import annotations

import os
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np

from trajrec import codec
from trajrec.blocks import Block, Mark, MisfitError
from trajrec.errors import EncodeError, EnvContractError, LogWriteError
from trajrec.log.columns import Packer
from trajrec.log.writer import Drained, Durability, LogWriter, OnError, new_log_id, wake_flusher
from trajrec.protocols import StateAdapter, Verdict, Verifier
from trajrec.provenance import describe_env, describe_runtime, hostname
from trajrec.schema import (
    Check,
    Ending,
    EpisodeEnd,
    EpisodeStart,
    Event,
    Failure,
    Header,
    StateRecord,
    episode_id,
)
from trajrec.state.adapters import find_adapter, function_adapter
from trajrec.state.digests import state_digest
from trajrec.state.generators import generator_state
from trajrec.verifiers import as_verdict, code_digest, identity
from trajrec.version import __version__

Keep = Literal["default", "full", "minimal"]
MAX_PENDING = 2
"""Full blocks waiting to be written; beyond it the recorder writes one itself: slower, but nothing is dropped."""


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records every episode of an environment into a log file of its own.

    Args:
        env: The environment, with whatever wrappers it has; these are recorded too.
        folder: The corpus: a folder, made if it is missing. The file in it is named by the log's id.
        checks: Verifiers, run on the environment at the end of each episode that terminated or was truncated.
        state: A function of the environment that returns its state as plain data or an array; by default an adapter is
            looked for. False records no state.
        record: "default" keeps what replay needs to prove every step: observations, and states or their digests. "full"
            keeps every state. "minimal" keeps no states beyond digests.
        interface: What the episode ran under (verifier, base, lineage, optimizer, scaffold, budget), as plain data.
        on_error: What a log that cannot be written does to the loop: "raise" a LogWriteError, or "warn" and go on.
        durability: "process": what is older than 100 ms survives the end of the process. "machine": an ended episode
            also survives a power cut.
        log_id: The log's id, random by default.
        clock_ns: The wall clock, in ns.

    Attributes:
        path: The log file.
        episode_id: The id of the current or last episode, None before the first reset.

    Raises:
        EncodeError: An action or observation cannot be stored losslessly; names the path in it.
        EnvContractError: A step before the first reset or after an episode's end.
        LogWriteError: The log cannot be created or written.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        folder: str | Path,
        *,
        checks: Sequence[Verifier] = (),
        state: Callable[[Any], Any] | bool = True,
        record: Keep = "default",
        interface: Any = None,
        on_error: OnError = "raise",
        durability: Durability = "process",
        log_id: str | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        if not hasattr(env, "step") or not hasattr(env, "reset"):
            raise TypeError(f"env must be a gymnasium.Env, got {type(env).__name__}")
        if record not in ("default", "full", "minimal"):
            raise ValueError(f"record must be 'default', 'full' or 'minimal', got {record!r}")
        super().__init__(env)
        self._checks = tuple(checks)
        self._adapter = _adapter(env, state)
        self._capture = None if self._adapter is None else self._adapter.capture
        self._keep = _keep(self._adapter, record)
        self._clock_ns = clock_ns
        self._bare = env.unwrapped
        self._block = Block(self._keep)
        self._pending: list[Block] = []
        self._whole: set[str] = set()
        self._misfit_infos = self._infos = 0
        self._episode = -1
        self._first_step = 0
        self._terminated = self._truncated = self._is_open = self._has_failed = False
        header = Header(
            log_id or new_log_id(),
            clock_ns(),
            f"trajrec {__version__}",
            describe_env(env),
            StateRecord(*(("", 0) if self._adapter is None else (self._adapter.name, self._adapter.version)), self._keep),
            record,
            describe_runtime(),
            os.getpid(),
            hostname(),
            None if interface is None else codec.encode(interface, where="interface"),
        )
        self.path = Path(folder) / f"{header.log_id}.trj"
        self._writer = LogWriter(self.path, header, self, on_error=on_error, durability=durability, clock_ns=clock_ns)
        self._log_id = header.log_id
        self._fit_puts()

    @property
    def episode_id(self) -> str | None:
        """Id of the current or last episode; None before the first reset."""
        return None if self._episode < 0 else episode_id(self._log_id, self._episode)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and record what came of it. An exception of the environment is recorded, then re-raised."""
        if not self._is_open:
            raise self._not_open()
        try:
            # Before the environment sees it: some clip or scale actions in place.
            self._put_action(action)
        except MisfitError:
            self._refit("action", [("action", action)])
        try:
            result = self.env.step(action)
        except BaseException as exc:
            self._step_failed(action, exc)
            raise
        obs, reward, terminated, truncated, info = result
        block = self._block
        try:
            self._put_obs(obs)
            self._put_reward(reward)
            if self._capture is not None:
                self._put_state(self._capture())
        except MisfitError:
            block = self._refit_step(action, obs, reward)
        except EncodeError as exc:
            self._step_failed(action, exc)
            raise self._located(exc) from None
        if info:
            self._put_some_info(block, info)
        block.n = n = block.n + 1
        if terminated or truncated:
            self._end("terminated" if terminated else "truncated", bool(terminated), bool(truncated))
        elif n >= block.limit:
            self._next_block()
        return result

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and begin a new episode; one that was in its middle is recorded as abandoned.

        A reset that nothing could repeat (no seed, and a generator that is not there yet or cannot be seen) is given a
        seed by the recorder, which is recorded with its origin.
        """
        self._writer.raise_error()
        if self._is_open:
            self._end("error" if self._has_failed else "abandoned", self._terminated, self._truncated)
        rng, origin = None, "caller"
        if seed is None:
            rng, origin = generator_state(self._bare, self._adapter), "none"
            if rng is None:
                seed, origin = int(codec.digest(new_log_id())[:7], 16), "recorder"
        encoded_options = None if options is None else codec.encode(options, where="reset options", opaque=True)
        self._episode += 1
        self._first_step, self._has_failed = 0, False
        now = self._clock_ns()
        try:
            obs, info = self.env.reset(seed=seed, options=options)
        except BaseException as exc:
            self._log(EpisodeStart(self._episode, now, seed, origin, encoded_options, rng, codec.encode({})))  # type: ignore[arg-type]
            self._log(self._failure(-1, "reset", exc))
            self._log(EpisodeEnd(self._episode, self._clock_ns(), 0, "error", False, False))
            self._flush_quietly()
            raise
        start = EpisodeStart(
            self._episode,
            now,
            seed,
            origin,
            encoded_options,
            rng,
            codec.encode(info, opaque=True),  # type: ignore[arg-type]
        )
        try:
            self._begin(start, obs)
        except EncodeError as exc:
            self._log(start)
            self._log(self._failure(-1, "state", exc))
            self._log(EpisodeEnd(self._episode, self._clock_ns(), 0, "error", False, False))
            raise
        return obs, info

    def close(self) -> None:
        """Write everything and seal the log, then close the environment. Twice is harmless."""
        try:
            if self._is_open:
                self._end("error" if self._has_failed else "abandoned", self._terminated, self._truncated)
            self._writer.close()
        finally:
            super().close()

    def flush(self) -> None:
        """Hand everything recorded so far to the operating system now."""
        self._writer.flush()

    def __del__(self) -> None:
        writer = getattr(self, "_writer", None)
        if writer is not None and not writer._closed:
            warnings.warn(f"{self.path} was not closed; what it holds is readable", ResourceWarning, stacklevel=2, source=self)
            with suppress(LogWriteError):
                writer.flush()

    def drain(self, packer: Packer) -> Iterator[Drained]:
        """Yield what is pending, oldest first: called by the writer, in the flusher's thread or this one."""
        now = self._clock_ns()
        while self._pending:
            if (drained := self._pending[0].drain(packer, now)) is not None:
                yield drained
            else:
                self._pending.pop(0)
        if (drained := self._block.drain(packer, now)) is not None:
            yield drained

    def _begin(self, start: EpisodeStart, obs: Any) -> None:
        """Record the rows and the event of a reset."""
        state = None if self._capture is None else self._capture()
        try:
            self._put_obs(obs)
            if self._capture is not None:
                self._put_state(state)
        except MisfitError:
            self._refit("reset", [("obs", obs)] if self._capture is None else [("obs", obs), ("state", state)])
        self._is_open, self._terminated, self._truncated = True, False, False
        if self._keep == "digest":
            self._keep_whole(state)
        # The event before the mark: whoever sees the rows of an episode has seen its start.
        self._log(start)
        self._mark(first_step=0, has_reset=True)

    def _end(self, ending: Ending, terminated: bool, truncated: bool) -> None:
        n_steps = self._n_steps()
        self._is_open = False
        if self._keep == "digest" and self._capture is not None and ending in ("terminated", "truncated"):
            self._keep_whole(self._capture())
        self._log(EpisodeEnd(self._episode, self._clock_ns(), n_steps, ending, terminated, truncated))
        if self._checks and ending in ("terminated", "truncated"):
            self._run_checks(n_steps)
            self._flush_quietly()
        if self._block.n >= self._block.limit:
            self._next_block()

    def _keep_whole(self, state: Any) -> None:
        """Keep the current state itself besides its digest."""
        block = self._block
        if not block.state_rows or block.state_rows[-1] != len(block.digests) - 1:
            try:
                block.add_state(state, whole="state" in self._whole)
            except MisfitError:
                self._whole.add("state")  # from the next block on; its digest is there in any case

    def _run_checks(self, n_steps: int) -> None:
        for check in self._checks:
            check_id, version, family = identity(check)
            verdict: Verdict | None = None
            try:
                verdict = as_verdict(check(self.env))
            except Exception as exc:  # a verifier's fault is not the episode's: it is recorded as its own
                self._log(self._failure(n_steps, "check", exc))
            digest = None if self._capture is None else codec.digest(self._capture())
            self._log(
                Check(
                    self._episode,
                    n_steps,
                    self._clock_ns(),
                    check_id,
                    version,
                    family,
                    "terminal",
                    "error" if verdict is None else "not_evaluated" if verdict.passed is None is verdict.score else "ok",
                    None if verdict is None else verdict.passed,
                    None if verdict is None else verdict.score,
                    None if verdict is None or verdict.evidence is None else codec.encode(verdict.evidence, opaque=True),
                    code_digest(check),
                    digest,
                )
            )

    def _put_some_info(self, block: Block, info: dict[str, Any]) -> None:
        """Record an info: by columns where it has the usual keys, as a value of its own where it does not."""
        self._infos += 1
        put = self._put_info
        try:
            if put is None:
                put = self._put_info = block.add_field("info", info, whole="info" in self._whole)
            put(info)
            block.info_rows.append(block.n)
        except MisfitError:
            field = block.fields["info"]
            for leaf in field.leaves:
                del leaf.rows[len(block.info_rows) :]
            step = self._n_steps()
            block.irregular.append((block.n, self._episode, step, codec.encode(info, opaque=True)))
            self._misfit_infos += 1
            if self._misfit_infos > 8 and 4 * self._misfit_infos > self._infos:
                self._whole.add("info")  # from the next block on: keys come and go, so each info is a value of its own

    def _refit(self, where: str, values: list[tuple[str, Any]]) -> Block:
        """Start a block in which the fields that do not fit are whole values, with the rows of the current step."""
        for name, value in values:
            field = self._block.fields.get(name)
            if field is not None and not _fits(field.put, value, field.leaves):
                self._whole.add(name)
        block = self._next_block()
        for name, value in values:
            (self._putter(name))(value)
        return block

    def _refit_step(self, action: Any, obs: Any, reward: Any) -> Block:
        values = [("action", action), ("obs", obs), ("reward", reward)]
        if self._capture is not None:
            values.append(("state", self._capture()))
        return self._refit("step", values)

    def _next_block(self) -> Block:
        """Hand the block over to the writer and begin the next."""
        old = self._block
        step = self._n_steps()
        block = Block(self._keep)
        if self._is_open:
            block.marks.append(Mark(0, self._episode, step, False))
            self._first_step = step
        # First pending, then replaced: the flusher never sees the new block before the old one.
        self._pending.append(old)
        self._block = block
        self._mark_row = 0
        self._fit_puts()
        if len(self._pending) > MAX_PENDING:
            self._writer.flush()
        else:
            wake_flusher()
            self._writer.raise_error()
        return block

    def _fit_puts(self) -> None:
        """Let each field be fitted by the next value that it gets."""
        self._put_info: Callable[[Any], None] | None = None
        for name in ("action", "obs", "reward", "state"):
            setattr(self, f"_put_{name}", self._first_put(name))

    def _first_put(self, name: str) -> Callable[[Any], None]:
        block = self._block
        if name == "state" and self._keep == "digest":
            return self._first_digest(block)

        def put_first(value: Any) -> None:
            try:
                put = block.add_field(name, value, whole=name in self._whole)
            except EncodeError as exc:
                raise self._located(exc) from None
            setattr(self, f"_put_{name}", put)
            put(value)

        return put_first

    def _first_digest(self, block: Block) -> Callable[[Any], None]:
        append, crc32 = block.digests.append, zlib.crc32

        def put_digest(value: Any) -> None:
            append(state_digest(value))

        def put_array(value: Any) -> None:
            # What most states are: state_digest without its questions.
            try:
                append(crc32(value) & 0xFFFFFF)
            except (TypeError, ValueError):
                put_digest(value)

        def put_first(value: Any) -> None:
            is_array = type(value) is np.ndarray and value.dtype.kind in "iuf" and value.flags.c_contiguous
            self._put_state = put_array if is_array else put_digest
            put_digest(value)
            self._keep_whole(value)

        return put_first

    def _putter(self, name: str) -> Callable[[Any], None]:
        put: Callable[[Any], None] = getattr(self, f"_put_{name}")
        return put

    _put_action: Callable[[Any], None]
    _put_obs: Callable[[Any], None]
    _put_reward: Callable[[Any], None]
    _put_state: Callable[[Any], None]
    _mark_row = 0

    def _mark(self, first_step: int, has_reset: bool) -> None:
        self._block.marks.append(Mark(self._block.n, self._episode, first_step, has_reset))
        self._first_step, self._mark_row = first_step, self._block.n

    def _n_steps(self) -> int:
        """Steps of the current episode so far, failed ones included."""
        return self._first_step + self._block.n - self._mark_row

    def _log(self, event: Event) -> None:
        self._block.events.append((self._block.n, event))

    def _step_failed(self, action: Any, exc: BaseException) -> None:
        """Record a step that raised: the action tried, what went wrong, and no observation."""
        step = self._n_steps()
        self._log(self._failure(step, "step", exc, action))
        self._has_failed = True
        # The failed step has a number and no row: a new block begins after it, without the half row of this one.
        self._next_block()
        self._block.marks[-1] = Mark(0, self._episode, step + 1, False)
        self._first_step = step + 1
        self._flush_quietly()

    def _failure(self, step: int, phase: str, exc: BaseException, action: Any = None) -> Failure:
        origin = "verifier" if phase == "check" else "env"
        text = "".join(traceback.format_exception(exc))
        return Failure(
            self._episode,
            step,
            0,
            self._clock_ns(),
            phase,
            origin,
            codec.type_name(exc),  # type: ignore[arg-type]
            _storable(str(exc)),
            _storable(text[-20_000:]),
            None if phase != "step" else codec.encode(action, opaque=True),
        )

    def _flush_quietly(self) -> None:
        """Flush without letting a log that cannot be written hide the error that is on its way; the next call raises it."""
        with suppress(LogWriteError):
            self._writer.flush()
            return
        self._writer._raised = False

    def _located(self, exc: EncodeError) -> EncodeError:
        return EncodeError(exc.what, where=f"episode {self.episode_id} step {self._n_steps()}: {exc.where}")

    def _not_open(self) -> EnvContractError:
        if self._episode < 0:
            return EnvContractError("step before the first reset; call reset first")
        return EnvContractError(f"step after the end of episode {self.episode_id}; call reset first")


def _adapter(env: Any, state: Callable[[Any], Any] | bool) -> StateAdapter | None:
    if callable(state):
        return function_adapter(env, state)
    return find_adapter(env) if state else None


def _keep(adapter: StateAdapter | None, record: Keep) -> Literal["every", "digest", "none"]:
    if adapter is None:
        return "none"
    if record == "full":
        return "every"
    return "digest" if record == "minimal" else adapter.keep


def _fits(put: Callable[[Any], None], value: Any, leaves: Sequence[Any]) -> bool:
    """Try a value on a block that is done: its rows beyond `n` are never read."""
    try:
        put(value)
    except MisfitError:
        return False
    return True


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
