"""Decodes the records of frames, of each version of the format, into those of the present one."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from trajrec.log import format1
from trajrec.log.bounds import Count, LargeCountOrNone, Time
from trajrec.log.event_tables import unpack_events
from trajrec.log.events import Record
from trajrec.log.schema import (
    Chunk,
    Column,
    EnvRecord,
    Event,
    EventTable,
    Footer,
    Header,
    Segment,
    StateRecord,
)

_header_decoder = msgspec.msgpack.Decoder(Header)
_chunk_decoder = msgspec.msgpack.Decoder(Chunk)
_footer_decoder = msgspec.msgpack.Decoder(Footer)
_event_decoder = msgspec.msgpack.Decoder(Event)

_VALUES = "values"
_VALUES_TAG = msgspec.msgpack.encode(_VALUES)

KNOWN_TAGS = frozenset(
    str(cls.__struct_config__.tag) for cls in get_args(Event) if issubclass(cls, Record)
)
"""The kinds of events that this program knows."""


class _ChunkOfAnyEvents(Record, frozen=True, kw_only=True):
    """A chunk whose events are not decoded. Its fields are those of `Chunk`."""

    time_ns: Time
    segments: list[Segment]
    columns: list[Column]
    layouts: dict[str, Any]
    events: list[msgspec.Raw]
    irregular: list[tuple[Count, Count, bytes]] = msgspec.field(default_factory=list)
    journal: LargeCountOrNone = -1
    tables: list[EventTable] = msgspec.field(default_factory=list)
    order: bytes = b""


_encode = msgspec.msgpack.Encoder().encode
_any_decoder = msgspec.msgpack.Decoder(_ChunkOfAnyEvents)
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])


def decode_header(data: bytes, version: int) -> Header:
    """Decode a header."""
    return format1.decode_header(data) if version == 1 else _header_decoder.decode(data)


def decode_chunk(data: bytes, version: int, unknown_tags: set[str]) -> Chunk:
    """Decode a chunk. Events of kinds that this program does not know are left out.

    Args:
        data: The record.
        version: The version of the format.
        unknown_tags: The kinds that were left out are added here.

    Raises:
        msgspec.MsgspecError: It is no chunk.
    """
    if version == 1:
        return format1.decode_chunk(data)
    try:
        chunk = _chunk_decoder.decode(data)
        raw_events = None
    except msgspec.ValidationError:
        # A later writer may add kinds of events. One by one: this is much slower.
        any_chunk = _any_decoder.decode(data)
        chunk, raw_events = _without_events(any_chunk), any_chunk.events
    if chunk.tables:
        if raw_events or chunk.events:
            raise ValueError("its events stand in tables and in a list")
        raw_events = _raw_decoder.decode(_encode(unpack_events(chunk.tables, chunk.order)))
    if raw_events is None:
        return chunk
    events = _decode_events(raw_events, unknown_tags)
    return msgspec.structs.replace(chunk, events=events, tables=[], order=b"")


def checked_rows(chunk: Chunk) -> Chunk:
    """Return a chunk of the journal whose numbers are checked; those of its events are already.

    Only the decoder checks numbers.

    Raises:
        msgspec.MsgspecError: It is no chunk.
    """
    rows = _chunk_decoder.decode(_encode(msgspec.structs.replace(chunk, events=[])))
    return msgspec.structs.replace(rows, events=chunk.events)


def decode_rows(data: bytes, version: int) -> Chunk:
    """Decode a chunk with the events of named values alone.

    All events take half of the time if episodes are short.

    Raises:
        msgspec.MsgspecError: It is no chunk.
    """
    if version == 1:
        return msgspec.structs.replace(format1.decode_chunk(data), events=[])
    chunk = _any_decoder.decode(data)
    raw_events = chunk.events
    if any(table.tag == _VALUES for table in chunk.tables):
        raw_events = _raw_decoder.decode(_encode(unpack_events(chunk.tables, chunk.order)))
    # The tag stands behind the byte of a short array.
    values = [raw for raw in raw_events if memoryview(raw)[1:8] == _VALUES_TAG]
    return msgspec.structs.replace(
        _without_events(chunk),
        events=[_event_decoder.decode(raw) for raw in values],
        tables=[],
        order=b"",
    )


def _decode_events(raw_events: list[msgspec.Raw], unknown_tags: set[str]) -> list[Event]:
    """Decode events one by one, and leave out those of unknown kinds."""
    events: list[Event] = []
    for raw in raw_events:
        try:
            events.append(_event_decoder.decode(raw))
        except msgspec.ValidationError:
            fields = msgspec.msgpack.decode(raw)
            tag = fields[0] if isinstance(fields, list) and fields else None
            if not isinstance(tag, str) or tag in KNOWN_TAGS:
                raise
            unknown_tags.add(tag)
    return events


def _without_events(chunk: _ChunkOfAnyEvents) -> Chunk:
    return Chunk(
        time_ns=chunk.time_ns,
        segments=chunk.segments,
        columns=chunk.columns,
        layouts=chunk.layouts,
        events=[],
        irregular=chunk.irregular,
        journal=chunk.journal,
        tables=chunk.tables,
        order=chunk.order,
    )


def drop_rows(data: bytes) -> bytes:
    """Return the record of a chunk without its rows; events of unknown kinds stay."""
    chunk = _any_decoder.decode(data)
    return _encode(
        msgspec.structs.replace(chunk, segments=[], columns=[], layouts={}, irregular=[])
    )


def decode_footer(data: bytes) -> Footer:
    """Decode a footer of format 2."""
    return _footer_decoder.decode(data)


def env_without_description(*, class_name: str, reason: str) -> EnvRecord:
    """Return the record of an environment that cannot be made, since nothing describes it.

    Args:
        class_name: "" for a log of agents, which has no environment.
        reason: Why it cannot be made.
    """
    return EnvRecord(
        env_id="",
        entry_point="",
        kwargs_data=b"",
        max_episode_steps=None,
        spec_fields={},
        wrappers=[],
        class_name=class_name,
        recreatable=reason,
    )


def unknown_header(log_id: str) -> Header:
    """Return the header of a log of which no header is left: it names the log, and nothing else."""
    reason = "the log's header is lost, so the environment is unknown"
    return Header(
        log_id=log_id,
        created_ns=0,
        writer="",
        # Not empty: an empty name says that the log is one of agents.
        env=env_without_description(class_name="(unknown)", reason=reason),
        state=StateRecord(),
        keep_states="",
        runtime={},
        process_id=0,
        host="",
    )
