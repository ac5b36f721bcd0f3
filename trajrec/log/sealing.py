"""Writes the frames of a log into a new, sealed one. `trajrec.log.rewriting` replaces the old one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

import msgspec

from trajrec.errors import LogError
from trajrec.log import frames
from trajrec.log.bounds import MAX_COUNT
from trajrec.log.chunk import LogChunk
from trajrec.log.columns import Packer, place_columns
from trajrec.log.directory import Directory, FrameEntry, Returns, segment_returns
from trajrec.log.event_tables import to_tables
from trajrec.log.fields import field_values
from trajrec.log.frame_reader import NewFrame
from trajrec.log.reader import LogReader
from trajrec.log.record_encoder import encode_record
from trajrec.log.schema import Chunk


def write_sealed(file: BinaryIO, reader: LogReader, new_frames: Iterable[NewFrame]) -> None:
    """Write a log of the present format, sealed.

    Args:
        file: Takes the log; it is empty.
        reader: The old log, whose header goes into the footer.
        new_frames: The frames of the new log, the header's first.

    Raises:
        LogError: The file cannot be written.
    """
    log_id = frames.log_id_bytes(reader.header.log_id)
    directory = Directory()
    try:
        file.write(frames.signature(log_id))
        for frame in new_frames:
            parts = frames.pack_frame(
                frame.kind,
                len(directory.entries),
                log_id=log_id,
                meta=frame.meta,
                meta_raw=frame.meta_raw,
                data=frame.data,
            )
            offset = file.tell()
            file.writelines(parts)
            size = file.tell() - offset
            entry = FrameEntry(offset, size, frame.kind, len(directory.entries))
            if frame.chunk is None:
                directory.add_frame(parts[0], entry)
            else:
                directory.add_chunk(parts[0], entry, frame.chunk, frame.returns)
        _write_footer(file, directory, reader)
        file.flush()
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise LogError(f"cannot be rewritten: {reason}; it is unchanged", path=reader.path) from exc


def _write_footer(file: BinaryIO, directory: Directory, reader: LogReader) -> None:
    log_id = frames.log_id_bytes(reader.header.log_id)
    before = 0 if reader.trailer is None else reader.trailer.generation
    generation = min(before + 1, MAX_COUNT)
    offset = file.tell()
    footer = directory.footer(reader.header, generation)
    raw = encode_record(footer)
    parts = frames.pack_frame(
        frames.FOOTER,
        len(directory.entries),
        log_id=log_id,
        meta=Packer().compress(raw),
        meta_raw=len(raw),
    )
    file.writelines(parts)
    file.write(frames.pack_trailer(frames.Trailer(offset, log_id, footer.content, generation)))


def new_header_frame(reader: LogReader) -> NewFrame:
    """Return the header of a log as a frame."""
    raw = encode_record(reader.header)
    return NewFrame(frames.HEADER, Packer().compress(raw), len(raw))


def new_chunk_frame(
    chunk: Chunk,
    data: Sequence[bytes],
    returns: Returns,
    packer: Packer,
    *,
    by_kind: bool = False,
) -> NewFrame:
    """Return a chunk as a frame.

    Args:
        chunk: The record. Its columns get their positions and checksums here.
        data: The bytes of each column.
        returns: The returns of its rows.
        packer: Compresses the record.
        by_kind: Whether the events are stored by kind.
    """
    columns, parts = place_columns(chunk.columns, data)
    placed = msgspec.structs.replace(chunk, columns=columns)
    record = encode_record(to_tables(placed) if by_kind else placed)
    return NewFrame(
        frames.CHUNK, packer.compress(record), len(record), parts, chunk=placed, returns=returns
    )


def chunk_returns(chunk: LogChunk) -> Returns:
    """Return the returns of the rows of a chunk."""
    layout = chunk.layout("reward")
    if layout is None or layout[0] != "leaf":
        return segment_returns(chunk.record.segments, None)
    return segment_returns(chunk.record.segments, field_values(chunk, layout, 0, chunk.n_steps))
