"""Format 1: its frames, and its records as those of the present format.

Logs of format 1 stay readable for ever. Nothing writes it any more.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgspec

from trajrec.log import schema
from trajrec.log.annotations import CreditRun, PostHocCheck
from trajrec.log.bounds import Count, CountOrNone, LargeCount, Time
from trajrec.log.events import AgentEvent, Record, SideEffect
from trajrec.log.frames import MAX_PART, SIGNATURE, Frame, Trailer
from trajrec.log.schema import Chunk, Column, EnvRecord, Header, Segment, StateRecord
from trajrec.values import codec

_FRAME = struct.Struct("<4sBBHIIIIII")
_FRAME_MAGIC = b"\xf5trj"
_TRAILER = struct.Struct("<QI4s8s")
_TRAILER_MAGIC = b"trjSEAL\n"


class Format1:
    """The bytes around the records of format 1: frames do not say which log they belong to."""

    version = 1
    first_frame = SIGNATURE.size
    frame_magic = _FRAME_MAGIC
    frame_size = _FRAME.size
    trailer_size = _TRAILER.size

    def frame(self, head: bytes, offset: int) -> Frame | None:
        """Return the frame that begins with these bytes, or None if they are no intact header."""
        if len(head) < _FRAME.size or head[:4] != _FRAME_MAGIC:
            return None
        if zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
            return None
        _, kind, flags, _, sequence, meta_size, meta_raw, data_size, checksum, _ = _FRAME.unpack(
            head
        )
        if max(meta_size, meta_raw, data_size) > MAX_PART:
            return None
        return Frame(
            offset=offset,
            kind=kind,
            flags=flags,
            sequence=sequence,
            header_size=_FRAME.size,
            meta_size=meta_size,
            meta_raw=meta_raw,
            data_size=data_size,
            meta_checksum=None,
            data_checksum=checksum,
            log_id=b"",
            header=head,
        )

    def trailer(self, tail: bytes) -> Trailer | None:
        """Return the trailer that these last bytes of a file are, or None."""
        if len(tail) != _TRAILER.size:
            return None
        offset, checksum, zeros, magic = _TRAILER.unpack(tail)
        if magic != _TRAILER_MAGIC or zeros != b"\0" * 4 or zlib.crc32(tail[:8]) != checksum:
            return None
        return Trailer(offset)


FORMAT1 = Format1()

_KEEP_STATES = {"default": "auto", "full": "all", "minimal": "digests"}
_RESTORE = {
    "prefix": "reexecute",
    "native": "snapshot",
    "pickle": "pickle",
    "sandbox": "env_snapshot",
    "process": "os_fork",
}
_ESTIMATES = {"lo": "ci_low", "hi": "ci_high", "n_lost": "n_invalid"}
_ROLLOUTS = {"universe": "scenario", "returned": "episode_return"}


class _Header(Record, frozen=True, kw_only=True):
    log_id: str
    created_ns: Time
    writer: str
    env: EnvRecord
    state: StateRecord
    record: str
    runtime: dict[str, Any]
    process_id: int
    host: str
    interface_data: bytes | None = None


# The tags of these two were renamed. Their fields are those of format 2, which only adds to them.
class _Effect(SideEffect, tag="effect", frozen=True, kw_only=True):
    pass


class _Regrade(PostHocCheck, tag="regrade", frozen=True, kw_only=True):
    pass


_Event = (
    schema.EpisodeStart
    | schema.Fork
    | schema.Keyframe
    | schema.EpisodeEnd
    | schema.Failure
    | schema.Check
    | AgentEvent
    | CreditRun
    | _Effect
    | _Regrade
)


class _Chunk(Record, frozen=True, kw_only=True):
    time_ns: Time
    segments: list[Segment]
    columns: list[Column]
    layouts: dict[str, Any]
    events: list[_Event]
    irregular: list[tuple[Count, Count, bytes]] = msgspec.field(default_factory=list)


class FrameEntry(Record, frozen=True):
    """The position of a frame, and the episodes that have steps or events in it."""

    offset: LargeCount
    size: Count
    kind: Count
    episodes: list[CountOrNone]


class _Footer(Record, frozen=True):
    header: _Header
    frames: list[FrameEntry]
    n_episodes: int
    n_steps: int


class Footer1(Record, frozen=True):
    """The footer of a log of format 1, with a present header."""

    header: Header
    frames: list[FrameEntry]


_header_decoder = msgspec.msgpack.Decoder(_Header)
_chunk_decoder = msgspec.msgpack.Decoder(_Chunk)
_footer_decoder = msgspec.msgpack.Decoder(_Footer)


def decode_header(data: bytes) -> Header:
    """Decode a header of format 1."""
    return _present_header(_header_decoder.decode(data))


def decode_chunk(data: bytes) -> Chunk:
    """Decode a chunk of format 1."""
    chunk = _chunk_decoder.decode(data)
    return Chunk(
        time_ns=chunk.time_ns,
        segments=chunk.segments,
        columns=chunk.columns,
        layouts=chunk.layouts,
        events=[_present_event(event) for event in chunk.events],
        irregular=chunk.irregular,
    )


def decode_footer(data: bytes) -> Footer1:
    """Decode a footer of format 1."""
    footer = _footer_decoder.decode(data)
    return Footer1(_present_header(footer.header), footer.frames)


def _present_header(header: _Header) -> Header:
    return Header(
        log_id=header.log_id,
        created_ns=header.created_ns,
        writer=header.writer,
        env=header.env,
        state=header.state,
        keep_states=_KEEP_STATES.get(header.record, header.record),
        runtime=header.runtime,
        process_id=header.process_id,
        host=header.host,
        interface_data=header.interface_data,
    )


def _present_event(event: _Event) -> schema.Event:
    if isinstance(event, _Effect):
        return SideEffect(**msgspec.structs.asdict(event))
    if isinstance(event, _Regrade):
        return PostHocCheck(**msgspec.structs.asdict(event))
    if isinstance(event, schema.Fork):
        return msgspec.structs.replace(event, restore=_RESTORE.get(event.restore, event.restore))
    if isinstance(event, CreditRun):
        return msgspec.structs.replace(
            event,
            restore=_RESTORE.get(event.restore, event.restore),
            estimates_data=_renamed(event.estimates_data, _ESTIMATES),
            rollouts_data=_renamed(event.rollouts_data, _ROLLOUTS),
        )
    return event


def _renamed(columns_data: bytes, names: dict[str, str]) -> bytes:
    """Return encoded columns under their present names."""
    columns = codec.decode(columns_data)
    if not isinstance(columns, dict):
        return columns_data
    return codec.encode({names.get(name, name): column for name, column in columns.items()})
