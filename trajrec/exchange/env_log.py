"""Writes a log of imported episodes of an environment: whole, or not at all.

The steps pass through the buffer and the writer of a recorder, so that the log is as compact as a
recorded one. It is written where `trajrec.exchange.import_log` writes its logs.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from trajrec.errors import LogWriteError
from trajrec.exchange.env_records import EnvEpisode, EnvStep
from trajrec.exchange.import_log import unfinished_path
from trajrec.log.events import Redaction, StepValues
from trajrec.log.folder import SUFFIX
from trajrec.log.items import encode_row
from trajrec.log.journal import delete_journal
from trajrec.log.schema import (
    Ending,
    EnvRecord,
    EpisodeEnd,
    EpisodeStart,
    Event,
    StateRecord,
    episode_id,
)
from trajrec.log.source_facts import source_data, unknown_data
from trajrec.log.writer import LogWriter
from trajrec.recording.buffer import NO_EPISODE, RESETTING, UNFINISHED, StepBuffer, make_entry
from trajrec.recording.env_record import redacted_env
from trajrec.recording.provenance import make_header
from trajrec.recording.step_fields import MisfitError
from trajrec.redaction.redactor import Redactor
from trajrec.types import JsonObject, Value
from trajrec.values import codec


class EnvImportLog:
    """A new log of one environment: a context manager, which deletes it unless `finish` was called.

    Args:
        folder: The corpus.
        log_id: The log's id.
        env: The environment.
        redactor: Removes secrets.

    Attributes:
        path: The log's place in the corpus.

    Raises:
        LogWriteError: The log cannot be written.
    """

    def __init__(self, folder: Path, log_id: str, env: EnvRecord, redactor: Redactor) -> None:
        self.path = folder / f"{log_id}{SUFFIX}"
        self._unfinished = unfinished_path(folder, log_id)
        header = make_header(
            log_id=log_id,
            created_ns=time.time_ns(),
            env=redacted_env(env, redactor),
            state=StateRecord(),
            keep_states="auto",
            redactor=redactor,
        )
        self.buffer = _CountingBuffer(redactor)
        with self._translated():
            self._writer = LogWriter(
                self._unfinished, header, self.buffer, on_full="raise", background=False
            )
        self.buffer.attach(self._writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        with contextlib.suppress(LogWriteError):
            self._writer.leave_unsealed()
        with contextlib.suppress(OSError):
            delete_journal(self._unfinished)
            self._unfinished.unlink(missing_ok=True)

    def add(self, event: Event) -> None:
        """Add an event outside of an episode."""
        with self._translated():
            self.buffer.add_event(event)

    def finish(self) -> None:
        """Seal the log and move it into the corpus.

        Raises:
            LogWriteError: The log cannot be written.
        """
        with self._translated():
            self._writer.close()
            with self._unfinished.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self._unfinished, self.path)

    @contextlib.contextmanager
    def _translated(self):  # type: ignore[no-untyped-def]
        """Raise an error that names the log's place in the corpus."""
        try:
            yield
        except OSError as exc:
            raise LogWriteError(
                f"cannot be written: {exc.strerror or exc}; nothing of the file was imported",
                path=self.path,
            ) from exc


class EnvEpisodeLogger:
    """Writes the episodes of one environment.

    Args:
        log: The log.
        source: The file, its digest and its format.
        redactor: Removes secrets.

    Attributes:
        ids: The ids of the episodes, in order.
        n_steps: Their steps.
        n_calls: 0: an environment has no tools.
    """

    def __init__(self, log: EnvImportLog, source: JsonObject, redactor: Redactor) -> None:
        self._log_id = log.path.stem
        self._buffer = log.buffer
        self._source = source
        self._redactor = redactor
        self.ids: list[str] = []
        self.n_steps = 0
        self.n_calls = 0

    @property
    def n_redacted(self) -> int:
        """The number of values from which secrets were removed."""
        return self._buffer.n_redacted

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self._redactor.text(text)

    def write(self, episode: EnvEpisode) -> None:
        """Write an episode.

        Raises:
            EncodeError: A value of it cannot be stored.
            LogWriteError: The log cannot be written.
        """
        buffer = self._buffer
        number = len(self.ids)
        self.ids.append(episode_id(self._log_id, number))
        start = self._start(number, episode)
        buffer.begun = RESETTING
        row = buffer.take_reset(episode.observation, number, 0)
        buffer.add_others([*map(make_entry, start), *row])
        buffer.end_call()
        for index, step in enumerate(episode.steps):
            self._write_step(number, index, step, is_last=index == episode.n_steps - 1)
        self._write_end(number, episode)
        self.n_steps += episode.n_steps

    def _start(self, number: int, episode: EnvEpisode) -> list[Event]:
        """Return the event of the reset, and those of the secrets in it."""
        data: dict[str, bytes | None] = {}
        events: list[Event] = []
        for name, value in (("options", episode.options), ("info", episode.info)):
            cleaned, n_secrets = self._redactor.redacted(value)
            data[name] = codec.encode(cleaned, where=name)
            if n_secrets:
                events.append(Redaction(number, -1, name, n_secrets))
                self._buffer.n_redacted += 1
        source = {**self._source, "position": episode.position}
        extra, _ = self._redactor.redacted(episode.extra)
        start = EpisodeStart(
            episode=number,
            time_ns=0,
            seed=episode.seed,
            seed_origin="none" if episode.seed is None else "caller",
            options_data=None if episode.options is None else data["options"],
            rng_data=None,
            info_data=data["info"] or b"",
            extra_data=source_data(source, extra),
        )
        return [start, *events]

    def _write_step(self, number: int, index: int, step: EnvStep, *, is_last: bool) -> None:
        buffer = self._buffer
        row = self._row(step)
        if is_last:
            buffer.add_last_row(row)
        else:
            buffer.add_encoded(encode_row(row), buffer.next_number)
        if step.values:
            begun = buffer.begun
            buffer.begun = UNFINISHED
            buffer.add_event(StepValues(number, index, codec.encode(step.values)))
            buffer.end_call(begun)
        if not is_last and buffer.next_number > buffer.limit:
            buffer.next_block()

    def _row(self, step: EnvStep) -> tuple[Value, ...]:
        """Return a step as a row of the present block, or of a new one that its values fit."""
        takes = self._buffer.takes
        try:
            action = takes.action(step.action)
        except MisfitError:
            self._buffer.refit(action=step.action)
            action = takes.action(step.action)
        try:
            return self._rest_of_row(action, step)
        except MisfitError:
            self._buffer.refit(obs=step.observation, reward=step.reward)
            return self._rest_of_row(action, step)

    def _rest_of_row(self, action: Value, step: EnvStep) -> tuple[Value, ...]:
        takes = self._buffer.takes
        return (
            action,
            takes.obs(step.observation),
            takes.reward(step.reward),
            takes.state(),
            *takes.extras(step.info, with_state=False),
        )

    def _write_end(self, number: int, episode: EnvEpisode) -> None:
        buffer = self._buffer
        is_known = episode.terminated or episode.truncated
        ending: Ending = "abandoned"
        if is_known:
            ending = "terminated" if episode.terminated else "truncated"
        buffer.add_event(
            EpisodeEnd(
                episode=number,
                time_ns=0,
                n_steps=episode.n_steps,
                ending=ending,
                terminated=episode.terminated,
                truncated=episode.truncated,
                extra_data=None if is_known else unknown_data(),
            )
        )
        if buffer.next_number > buffer.limit:
            buffer.next_block()
        buffer.end_call(NO_EPISODE)


class _CountingBuffer(StepBuffer):
    """Counts the values of steps from which secrets were removed."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__("none", None, time.time_ns, redactor)
        self.n_redacted = 0

    def _redactions(self, episode: int, step: int) -> list[Redaction]:
        events = super()._redactions(episode, step)
        self.n_redacted += len(events)
        return events
