"""Reads the journal of a log: the items that are not in the log yet, as chunks."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from trajrec.errors import LogCorruptError, LogError
from trajrec.log.columns import Packer, place_columns
from trajrec.log.items import (
    BlockStart,
    Entry,
    Items,
    Position,
    Reset,
    RowLayout,
    decode_item,
    max_rows,
)
from trajrec.log.journal import (
    EVENT,
    FILE_HEADER,
    FIRST_HALF,
    HALF_HEADER,
    HALF_MAGIC,
    LAYOUT,
    MAGIC,
    MAX_CONTENT,
    RECORD_HEADER,
    ROW,
    VERSION,
    journal_path,
    record_checksum,
)
from trajrec.log.packing import Drained, ItemPacker
from trajrec.log.schema import Chunk, Event

MAX_JOURNAL = 1 << 26
"""The largest journal that is read, in bytes."""

_decode_event = msgspec.msgpack.Decoder(Event).decode

# A half that a writer begins while it is read is read once more.
_TRIES = 8


class Record:
    """A record of a journal.

    Attributes:
        number: The number of the item, or of the item after a record that is none.
        kind: LAYOUT, ROW or EVENT.
        content: Its bytes.
    """

    __slots__ = ("_entry", "content", "kind", "number")

    def __init__(self, number: int, kind: int, content: bytes) -> None:
        self.number = number
        self.kind = kind
        self.content = content
        self._entry: Entry | None = None

    def entry(self) -> Entry:
        """Return the event; a journal that is followed has it decoded once.

        Raises:
            msgspec.MsgspecError: It is none.
        """
        if self._entry is None:
            self._entry = Entry(_decode_event(self.content), self.content)
        return self._entry


class Half(NamedTuple):
    """The intact records of a half.

    Attributes:
        log_id: The id of its log.
        first_number: The number of its first item.
        records: Its records.
        end: The end of the last one in the file.
        check: The CRC-32 of their bytes.
    """

    log_id: str
    first_number: int
    records: list[Record]
    end: int
    check: int


class _Block(NamedTuple):
    """The items of one block."""

    first_number: int
    position: Position
    items: Items


def read_journal(log: Path, known: Sequence[Half] = ()) -> list[Half]:
    """Return the contents of a log's journal at this moment.

    Read it before the log: the log then has all items that are older.

    Args:
        log: The path of the log.
        known: What an earlier call has returned: records that are still there are not read again.

    Returns:
        The halves, the older one first; none if there is no journal.

    Raises:
        LogError: The file cannot be read.
    """
    path = journal_path(log)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise LogError("not a regular file", path=path)
        if status.st_size > MAX_JOURNAL:
            raise LogError(f"{status.st_size} bytes are more than a journal has", path=path)
        with open(path, "rb", buffering=0) as file:
            return _read_halves(file, known)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise LogError(f"cannot be read: {exc.strerror or exc}", path=path) from exc


def _read_halves(file: io.FileIO, known: Sequence[Half]) -> list[Half]:
    """Return the halves of a journal as they were at one moment, the older one first."""
    halves: list[Half] = []
    heads = _read_heads(file)
    for _ in range(_TRIES):
        file.seek(0)
        data = file.readall()
        halves = [_read_half(data, head, known) for head in heads]
        halves.sort(key=attrgetter("first_number"))
        # A read takes a while. If the writer has filled one half meanwhile and begun the other one,
        # the read may have the beginnings of both, and not what is between.
        heads_before, heads = heads, _read_heads(file)
        if heads == heads_before:
            return halves
    # The writer begins halves faster than they can be read: the older one was read as it was.
    return halves[:1]


def _read_heads(file: io.FileIO) -> list[_HalfHead]:
    """Return the heads of the halves that are intact."""
    file.seek(0)
    head = file.read(FILE_HEADER.size)
    if len(head) < FILE_HEADER.size:
        return []
    magic, version, half_bytes, log_id, check = FILE_HEADER.unpack(head)
    is_intact = magic == MAGIC and version == VERSION and crc32(head[:-4]) == check
    if not is_intact or os.fstat(file.fileno()).st_size != FIRST_HALF + 2 * half_bytes:
        return []
    heads = []
    for offset in (FIRST_HALF, FIRST_HALF + half_bytes):
        file.seek(offset)
        head = file.read(HALF_HEADER.size)
        if len(head) < HALF_HEADER.size:
            continue
        magic, half_log_id, number, check = HALF_HEADER.unpack(head)
        if magic == HALF_MAGIC and crc32(head[:-4]) == check and half_log_id == log_id:
            heads.append(_HalfHead(log_id, number, offset + HALF_HEADER.size, offset + half_bytes))
    return heads


def journal_chunks(
    halves: list[Half], last_written: int, *, log_id: str, log: Path
) -> list[tuple[Chunk, bytes]]:
    """Return the items of a journal that its log does not have, as chunks with their data.

    Args:
        halves: The result of `read_journal`.
        last_written: The number of the last item in the log, -1 if it has none.
        log_id: The id of the log. The journal of another log has nothing for it.
        log: The path of the log.

    Raises:
        LogCorruptError: A record with the right checksum is no item.
    """
    own = [half for half in halves if half.log_id == log_id]
    try:
        return [_placed(part) for part in _pack(own, last_written)]
    except (ValueError, TypeError, LookupError, AttributeError, msgspec.MsgspecError) as exc:
        raise LogCorruptError(
            f"a record of the journal contradicts itself: {exc}", path=journal_path(log), offset=0
        ) from exc


def _placed(part: Drained) -> tuple[Chunk, bytes]:
    columns, data = place_columns(part.chunk.columns, part.data)
    return msgspec.structs.replace(part.chunk, columns=columns), b"".join(data)


def lost_items(halves: list[Half], last_written: int, *, log_id: str) -> str:
    """Return which are the first items that neither the log nor its journal has, "" if none.

    A machine that lost its power may have kept a later page of the journal and not an earlier one.
    """
    end = last_written + 1
    for half in halves:
        n_items = sum(record.kind != LAYOUT for record in half.records)
        if half.log_id == log_id and n_items:
            if half.first_number > end:
                numbers = f"items {end} to {half.first_number - 1}"
                return f"{numbers} are neither in the log nor in its journal"
            end = max(end, half.first_number + n_items)
    return ""


def _pack(halves: list[Half], last_written: int) -> Iterator[Drained]:
    packer = Packer()
    for half in halves:
        for block, layout in _blocks(half):
            begin = max(0, last_written + 1 - block.first_number)
            end = len(block.items.all)
            n_rows = max_rows(layout)
            of_block = ItemPacker(block.first_number, block.position)
            for start in range(begin, end, n_rows):
                stop = min(start + n_rows, end)
                yield of_block.pack(
                    block.items, layout, start=start, stop=stop, packer=packer, time_ns=0
                )


def _blocks(half: Half) -> Iterator[tuple[_Block, RowLayout]]:
    """Yield the blocks of a half, and the last layout of each."""
    decode_start = msgspec.msgpack.Decoder(BlockStart).decode
    block = _Block(half.first_number, Position(), Items())
    layout = RowLayout({})
    for record in half.records:
        if record.kind == LAYOUT:
            start = decode_start(record.content)
            if start.position is not None:
                if block.items.all:
                    yield block, layout
                block = _Block(record.number, start.position, Items())
            layout = start.layout
        elif record.kind == ROW:
            _append_row(block.items, record.content)
        elif record.kind == EVENT:
            block.items.append_other(record.entry())
    if block.items.all:
        yield block, layout


def _append_row(items: Items, content: bytes) -> None:
    item = decode_item(content)
    if isinstance(item, Reset):
        items.append_other(item)
    else:
        items.all.append(item)


class _HalfHead(NamedTuple):
    log_id: bytes
    first_number: int
    start: int
    end: int


def _read_half(data: bytes, head: _HalfHead, known: Sequence[Half]) -> Half:
    """Return the records of a half up to the first one that is not intact."""
    view = memoryview(data)
    records: list[Record] = []
    number = head.first_number
    position = head.start
    for half in known:
        is_same = half.first_number == head.first_number and half.log_id == head.log_id.hex()
        is_whole = all(record.kind in (LAYOUT, ROW, EVENT) for record in half.records[-1:])
        if is_same and is_whole and crc32(view[head.start : half.end]) == half.check:
            records = list(half.records)
            number += sum(record.kind != LAYOUT for record in records)
            position = half.end
    last = position
    end = min(head.end, len(data))
    while position + RECORD_HEADER.size <= end:
        word, check = RECORD_HEADER.unpack_from(data, position)
        start = position + RECORD_HEADER.size
        position = start + (word & MAX_CONTENT)
        content = view[start:position]
        if position == start:
            # Zeros: as item 0, an empty row would have the right checksum, 0.
            break
        if position > end or record_checksum(content, word & ~MAX_CONTENT, number) != check:
            break
        kind = word & ~MAX_CONTENT
        records.append(Record(number, kind, bytes(content)))
        last = position
        if kind in (ROW, EVENT):
            number += 1
        elif kind != LAYOUT:
            break
    check = crc32(view[head.start : last])
    return Half(head.log_id.hex(), head.first_number, records, last, check)
