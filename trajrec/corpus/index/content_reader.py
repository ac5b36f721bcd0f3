"""Reads the contents of logs into rows, log by log, and hands them on in batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from trajrec.corpus.index.agents import AgentRows, frame_spans
from trajrec.corpus.index.batch import Batch, to_batch
from trajrec.corpus.index.environments import LogRows
from trajrec.corpus.index.plan import FileEntry, Reading
from trajrec.corpus.index.row_batch import Rows
from trajrec.corpus.index.rows import EpisodeRow
from trajrec.errors import LogError
from trajrec.log.chunk import LogChunk
from trajrec.log.identity import frame_digest, identity_of
from trajrec.log.reader import LogReader
from trajrec.types import Value
from trajrec.values import codec
from trajrec.values.garbage import collector_off
from trajrec.values.json import stored_to_json

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (bytes read, bytes to read)."""

ContentsRow: TypeAlias = dict[str, Value]
"""A row of the table `contents`."""

# Logs read before their rows are handed on, which bounds the memory of rows that are no steps.
BATCH_LOGS = 2_000


class Sink(Protocol):
    """Takes the rows."""

    def insert(self, batch: Batch) -> None:
        """Take rows; those of episodes that are there already are replaced."""
        ...

    def add_contents(self, rows: Sequence[Mapping[str, Value]]) -> None:
        """Take rows of contents."""
        ...

    def drop(self, keys: set[int]) -> None:
        """Drop all rows of some contents, of which a part was handed on."""
        ...

    def open_rows(self, log_key: int) -> dict[int, EpisodeRow]:
        """Return the rows of a log's episodes without an end, which new frames go on with."""
        ...


class ContentReader:
    """Reads contents, and hands their rows to a sink.

    Args:
        folder: The corpus.
        sink: Takes the rows.
        progress: Called with (bytes read, bytes to read) after each log.

    Attributes:
        stale_episodes: Episodes whose earlier rows hold no more.
    """

    def __init__(self, folder: Path, sink: Sink, progress: Progress | None = None) -> None:
        self._folder = folder
        self._sink = sink
        self._progress = progress
        self._rows = Rows()
        self._contents: list[ContentsRow] = []
        self.stale_episodes: set[str] = set()

    def read_all(self, readings: Sequence[Reading], files: dict[str, FileEntry]) -> None:
        """Read contents, and note in `files` which files cannot be read."""
        sizes = [files[reading.logs[0]].file.size for reading in readings]
        total = sum(sizes)
        done = 0
        for reading, size in zip(readings, sizes, strict=True):
            self._read(reading, files)
            done += size
            if self._progress is not None:
                self._progress(done, total)
            if self._rows.is_full or len(self._contents) > BATCH_LOGS:
                self.flush()
        self.flush()

    def flush(self, log_key: int | None = None) -> None:
        """Hand on the rows gathered so far; the next ones may be of the same log."""
        # New containers first: if an insert fails, no row can be inserted twice.
        rows = self._rows
        contents = self._contents
        self._rows = Rows()
        self._contents = []
        if log_key is not None:
            self._rows.begin_log(log_key)
        self.stale_episodes |= rows.replaced
        self._sink.insert(to_batch(rows))
        self._sink.add_contents(contents)

    def _read(self, reading: Reading, files: dict[str, FileEntry]) -> None:
        """Read contents from the first of their files that can be read."""
        key = reading.log_key
        for log in reading.logs:
            try:
                # The items of a journal are in frames later: their rows are not stored.
                with LogReader(self._folder / log, with_journal=False) as reader:
                    self._read_log(reader, reading)
            except LogError as exc:
                # An error in the middle: nothing of it is taken for the contents.
                self.flush()
                self._sink.drop({key})
                files[log] = FileEntry(files[log].file._replace(problem=str(exc)))
                continue
            for other in reading.logs:
                if files[other].log_key == key:
                    files[other] = files[other]._replace(is_original=other == log)
            return

    def _read_log(self, reader: LogReader, reading: Reading) -> None:
        """Read the frames of contents that are new."""
        before = reading.before
        if reading.is_copy:
            self._add_copy(reading.log_key, reader)
            problem = _contradiction(reader, self._folder / reading.original)
        else:
            self.read_chunks(reading.log_key, reader, 0 if before is None else before.n_frames)
            problem = ""
        identity = identity_of(reader)
        damage = [[d.offset, d.size, d.reason, d.is_tail] for d in reader.damage]
        if before is not None:
            damage = [cell for cell in before.losses if cell not in damage] + damage
        n_frames = len(reader.frames)
        self._contents.append(
            {
                "log_key": reading.log_key,
                "identity": identity.log,
                "log_id": reader.header.log_id,
                "seal": identity.seal or None,
                "generation": identity.generation,
                "size_bytes": reader.size,
                "n_frames": n_frames,
                "last_frame": frame_digest(reader, n_frames - 1) if n_frames else "",
                "last_item": reader.last_written(),
                "is_sealed": reader.is_sealed,
                "is_copy": reading.is_copy,
                "damage": json.dumps(damage) if damage else None,
                "problem": problem or None,
                "header": _header_json(reader),
            }
        )

    def read_chunks(
        self,
        log_key: int,
        reader: LogReader,
        start: int,
        *,
        chunks: Iterable[LogChunk] | None = None,
        only: Collection[int] | None = None,
    ) -> None:
        """Gather the rows of the chunks from a frame on.

        Args:
            log_key: The key of the log.
            reader: Its reader.
            start: The first frame.
            chunks: The chunks, if they were read already.
            only: The episodes of an agents' log to read; None for all.
        """
        log_rows: LogRows | AgentRows
        open_rows = None
        if start:
            # Of the rows that were gathered, too.
            self.flush()
            open_rows = self._sink.open_rows(log_key)
        if reader.header.env.class_name:
            log_rows = LogRows(reader, open_rows or {})
            if start:
                log_rows.prime(start)
        else:
            log_rows = AgentRows(reader, frame_spans(open_rows), only=only)
        self._rows.begin_log(log_key)
        # Recorded numbers may be at the ends of the range, and the caller's program may raise there.
        with collector_off(), np.errstate(all="ignore"):
            for chunk in reader.chunks(start) if chunks is None else chunks:
                log_rows.add(chunk, self._rows)
                if self._rows.is_full:
                    self.flush(log_key)
            for of_episode in log_rows.finish() if isinstance(log_rows, AgentRows) else ():
                is_again = not of_episode.replaced.isdisjoint(self._rows.episodes)
                if is_again or self._rows.is_full:
                    self.flush(log_key)
                self._rows.extend(of_episode)

    def _add_copy(self, log_key: int, reader: LogReader) -> None:
        """Gather the episodes of a copy, and nothing else."""
        is_agents = not reader.header.env.class_name
        log_rows = AgentRows(reader) if is_agents else LogRows(reader, open_rows={})
        episodes: dict[str, EpisodeRow] = {}
        for chunk in reader.chunks(0):
            rows = Rows()
            log_rows.add(chunk, rows)
            episodes |= rows.episodes
        for rows in log_rows.finish() if isinstance(log_rows, AgentRows) else ():
            episodes |= rows.episodes
        for episode in episodes.values():
            episode.is_copy = True
        self._rows.begin_log(log_key)
        self._rows.copies += episodes.values()


def _contradiction(reader: LogReader, original: Path) -> str:
    """Return how a copy contradicts the original, "" if it is only an earlier state of it."""
    with LogReader(original, with_journal=False) as other:
        last = min(len(reader.frames), len(other.frames)) - 1
        is_rewritten = identity_of(reader).generation != identity_of(other).generation
        if last < 0 or is_rewritten or reader.has_losses or other.has_losses:
            return ""
        if frame_digest(reader, last) == frame_digest(other, last):
            return ""
    return (
        f"it differs from {original.name}, which has the same id: two programs went on with copies "
        "of one log; the episodes of this file are not counted"
    )


def _header_json(reader: LogReader) -> str:
    header = reader.header
    env = header.env
    return stored_to_json(
        {
            "writer": header.writer,
            "host": header.host,
            "process_id": header.process_id,
            "keep_states": header.keep_states,
            "runtime": header.runtime,
            "env_id": env.env_id,
            "class_name": env.class_name,
            "entry_point": env.entry_point,
            "kwargs": codec.decode(env.kwargs_data) if env.kwargs_data else None,
            "wrappers": [
                [name, None if data is None else codec.decode(data)] for name, data in env.wrappers
            ],
            "recreatable": env.recreatable or "yes",
            "state": [header.state.adapter, header.state.version, header.state.keep],
        }
    )
