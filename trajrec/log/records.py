"""Decodes the records of frames, of each version of the format, into those of the present one."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from trajrec.log import format1
from trajrec.log.events import Record
from trajrec.log.schema import (
    Chunk,
    Column,
    EnvRecord,
    Event,
    Footer,
    Header,
    Segment,
    StateRecord,
)

_header_decoder = msgspec.msgpack.Decoder(Header)
_chunk_decoder = msgspec.msgpack.Decoder(Chunk)
_footer_decoder = msgspec.msgpack.Decoder(Footer)
_event_decoder = msgspec.msgpack.Decoder(Event)

KNOWN_TAGS = frozenset(
    str(cls.__struct_config__.tag) for cls in get_args(Event) if issubclass(cls, Record)
)
"""The kinds of events that this program knows."""


class _ChunkOfAnyEvents(Record, frozen=True, kw_only=True):
    """A chunk whose events are not decoded. Its fields are those of `Chunk`."""

    time_ns: int
    segments: list[Segment]
    columns: list[Column]
    layouts: dict[str, Any]
    events: list[msgspec.Raw]
    irregular: list[tuple[int, int, bytes]] = msgspec.field(default_factory=list)
    journal: int = -1


_any_decoder = msgspec.msgpack.Decoder(_ChunkOfAnyEvents)


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
        return _chunk_decoder.decode(data)
    except msgspec.ValidationError:
        # A later writer may add kinds of events. One by one: this is much slower.
        chunk = _any_decoder.decode(data)
    events: list[Event] = []
    for raw in chunk.events:
        fields = msgspec.msgpack.decode(raw, strict=True)
        tag = fields[0] if isinstance(fields, list) and fields else None
        if isinstance(tag, str) and tag not in KNOWN_TAGS:
            unknown_tags.add(tag)
        else:
            events.append(_event_decoder.decode(raw))
    return Chunk(
        time_ns=chunk.time_ns,
        segments=chunk.segments,
        columns=chunk.columns,
        layouts=chunk.layouts,
        events=events,
        irregular=chunk.irregular,
        journal=chunk.journal,
    )


def decode_footer(data: bytes) -> Footer:
    """Decode a footer of format 2."""
    return _footer_decoder.decode(data)


def unknown_header(log_id: str) -> Header:
    """Return the header of a log of which no header is left: it names the log, and nothing else."""
    reason = "the log's header is lost, so the environment is unknown"
    return Header(
        log_id=log_id,
        created_ns=0,
        writer="",
        env=EnvRecord(
            env_id="",
            entry_point="",
            kwargs_data=b"",
            max_episode_steps=None,
            spec_fields={},
            wrappers=[],
            # Not empty: an empty name says that the log is one of agents.
            class_name="(unknown)",
            recreatable=reason,
        ),
        state=StateRecord(),
        keep_states="",
        runtime={},
        process_id=0,
        host="",
    )
