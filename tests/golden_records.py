"""Golden logs with records that later programs write, copies of the header, and unknown things."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import zstandard
from conftest import Scripted

import trajrec
from trajrec.log import frame_writer, frames
from trajrec.log.annotations import ImportRecord, Label, ReplayVerdict, Tombstone
from trajrec.log.events import (
    ExchangeEnd,
    ExchangePart,
    ExchangeStart,
    Redaction,
    StateChange,
    StepValues,
)
from trajrec.log.reader import LogReader
from trajrec.recording.event_log import EventLog, open_event_log
from trajrec.recording.opening import open_recorder
from trajrec.recording.options import LogOrigin
from trajrec.values import codec

BEGIN_NS = 1_750_000_000_000_000_000
STEP_NS = 1_000_000
TARGET = "0123456789abcdef"


def encode(value: Any) -> bytes:
    return codec.encode(value)


def make_records(folder: Path) -> None:
    """Make the log of an agent with a record of each kind that has room in the format."""
    with trajrec.episode(folder, task="records", watch={"n": [1]}) as ep:
        ep.side_effect("clock", lambda: 1)
        log = open_event_log(folder, "stop-recording", "process")
        number = log.new_episode() - 1
        add_exchanges(log, number)
        log.add(StepValues(number, 0, encode({"logprob": np.float32(-0.5), "entropy": 1.25})))
        log.add(Redaction(number, 0, "info", 2))
        log.add(
            StateChange(
                episode=number,
                step=0,
                call=0,
                attempt=0,
                part="reported",
                digest="",
                data=None,
                actor="env",
                origin="reported",
            )
        )
    add_annotations(log)
    trajrec.close_logs()


def add_exchanges(log: EventLog, number: int) -> None:
    """Add an HTTP request that failed, and one whose response was streamed."""
    headers = [("content-type", "application/json"), ("x-run", "ü")]
    for exchange in (0, 1):
        log.add(
            ExchangeStart(
                episode=number,
                step=0,
                number=exchange,
                time_ns=BEGIN_NS + exchange,
                method="POST",
                url="https://models.example/v1/chat",
                headers=headers,
                body_data=encode(b'{"model": "m"}'),
                model_call=0,
                attempt=exchange,
                retry_by="transport" if exchange else "",
                is_redacted=True,
                actor="scaffold",
                extra_data=encode({"proxy": True}),
            )
        )
        if exchange:
            for data in (b"data: a\n\n", b"", bytes(range(256))):
                log.add(ExchangePart(number, exchange, 0, data))
        log.add(
            ExchangeEnd(
                episode=number,
                number=exchange,
                time_ns=0,
                status=200 if exchange else None,
                headers=headers[:exchange],
                body_data=None,
                error_type="" if exchange else "builtins.ConnectionError",
                message="" if exchange else "reset by peer",
            )
        )


def add_annotations(log: EventLog) -> None:
    """Add an annotation of each kind that is not made by a function of trajrec yet."""
    log.add(
        ReplayVerdict(
            episode=-1,
            target=TARGET,
            run_id="run",
            time_ns=BEGIN_NS,
            against="",
            grade="diverged",
            n_steps=12,
            step=12,
            field="obs",
            expected_data=encode(np.array([1.0, 2.0], np.float32)),
            actual_data=encode(np.array([1.0, 2.5], np.float32)),
            cause="versions",
            ulps=0,
            compared=["obs", "reward"],
            notes=["the wall clock is not held"],
            versions_data=encode({"numpy": ("2.4.0", "2.4.6")}),
        )
    )
    for by, step, value in (
        ("person", None, None),
        ("judge", 3, {"grade": 0.25}),
        ("program", 0, 1),
    ):
        log.add(
            Label(
                episode=-1,
                target=TARGET,
                step=step,
                time_ns=BEGIN_NS,
                name="mistake",
                value_data=None if value is None else encode(value),
                by=by,
                author="someone",
                rationale="it paid twice",
            )
        )
    log.add(
        ImportRecord(
            episode=-1,
            time_ns=BEGIN_NS,
            source="runs.jsonl",
            sha256="00" * 32,
            format="example",
            format_version="",
            importer="trajrec 0.1.0",
            targets=[TARGET],
            report_data=encode({"found": 3, "dropped": []}),
        )
    )
    log.add(
        Tombstone(
            episode=-1,
            time_ns=BEGIN_NS,
            log_id="ab" * 16,
            targets=[TARGET, TARGET[::-1]],
            reason="asked for by its author",
        )
    )


def make_copies(folder: Path) -> None:
    """Make a log with copies of its header, the first of them early."""
    with mock.patch.object(frame_writer, "_FIRST_COPY_BYTES", 1 << 10):
        clock = itertools.count(BEGIN_NS, STEP_NS)
        origin = LogOrigin(name="copies", clock_ns=lambda: next(clock))
        env = Scripted(lambda k: (np.full(2, k, np.float32), float(k), k == 8, False, {}))
        recording = open_recorder(env, folder, origin)
        for seed in range(8):
            recording.reset(seed=seed)
            for action in range(9):
                recording.step(action)
            recording.flush()
        recording.close()


def make_unknown(folder: Path) -> None:
    """Make a log of a killed writer that holds a kind of frame, an event and fields to come."""
    clock = itertools.count(BEGIN_NS, STEP_NS)
    origin = LogOrigin(name="unknown", clock_ns=lambda: next(clock))
    env = Scripted(lambda k: (np.full(2, k, np.float32), float(k), k == 4, False, {"k": k}))
    recording = open_recorder(env, folder, origin)
    recording.reset(seed=0)
    for action in range(5):
        recording.step(action)
    recording.close()
    path = recording.path
    with LogReader(path) as reader:
        log_id = frames.log_id_bytes(reader.header.log_id)
        header, chunk = (reader.raw_frame(index) for index in (0, 1))
        signature = reader.slice(0, reader.frames[0].offset)
    record = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(chunk.meta))
    add_unknown(record)
    rows = [
        (frames.HEADER, zstandard.ZstdDecompressor().decompress(header.meta), b""),
        (9, msgspec.msgpack.encode(["a record of a kind to come"]), b"its data"),
        (frames.CHUNK, msgspec.msgpack.encode(record), b"".join(chunk.data)),
    ]
    compress = zstandard.ZstdCompressor().compress
    parts = [signature]
    for sequence, (kind, meta, data) in enumerate(rows):
        parts += frames.pack_frame(
            kind,
            sequence,
            log_id=log_id,
            meta=compress(meta),
            meta_raw=len(meta),
            data=[data],
        )
    path.write_bytes(b"".join(parts))


def add_unknown(chunk: list[Any]) -> None:
    """Add an event, fields at the ends of structs, and a layout that no program knows yet."""
    _, segments, columns, layouts, events, *_ = chunk
    events.insert(1, ["omen", 0, 3, {"what": "a field of a later program"}])
    events[0].append("a later field")
    segments[0].append(7)
    columns[0].append(None)
    layouts["mood"] = ["leaf", 0]
    chunk.append("a later field")
