"""The frames of a log file: found by its footer if it is sealed, else by scanning it.

`trajrec.log.reader` reads the contents of the frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import msgspec
import zstandard

from trajrec.errors import LogCorruptError, LogFormatError
from trajrec.log import format1, frames, records
from trajrec.log.directory import FrameEntry, Returns
from trajrec.log.directory_tables import read_entries, read_entries_of_format1
from trajrec.log.format1 import FORMAT1
from trajrec.log.frames import FORMAT2, Damage, FileFormat, Frame, Trailer
from trajrec.log.header_checks import check_footer, check_header
from trajrec.log.locks import is_being_written
from trajrec.log.remote import open_source
from trajrec.log.scan import Scanner, read_format, search_format
from trajrec.log.schema import Chunk, Footer, Header
from trajrec.log.source import ByteSource, read_whole
from trajrec.values.item_count import check_items
from trajrec.values.memory import MAX_RAW_BYTES, is_out_of_memory

# One read from the end finds the footer of most logs: that of 5,000 episodes takes about 60 kB.
_TAIL_BYTES = 1 << 16

# As objects, its tables take ten times as much. That of a million episodes has about 50 MB.
_MAX_FOOTER = 1 << 26
"""The largest footer that is read, in bytes. A log with a larger one is scanned."""

_NO_RECORD = (ValueError, RecursionError, MemoryError, msgspec.MsgspecError, zstandard.ZstdError)

_RECORD_NAMES = {frames.CHUNK: "chunk", frames.FOOTER: "footer"}

T = TypeVar("T")


class NewFrame(NamedTuple):
    """A frame of a rewritten log.

    Attributes:
        kind: The kind of the frame.
        meta: Its record, compressed.
        meta_raw: The size of the record before compression.
        data: The columns of a chunk.
        chunk: The record, if it is a chunk.
        returns: The returns of its rows.
    """

    kind: int
    meta: bytes
    meta_raw: int
    data: Sequence[bytes] = ()
    chunk: Chunk | None = None
    returns: Returns = {}  # noqa: RUF012 - never changed


class FrameReader:
    """The frames of a log file. A context manager.

    The reader sees the file as large as it was when it was opened; `refresh` reads the rest.

    Args:
        path: The file.
        source: Its bytes; by default those of the file.

    Attributes:
        path: The file.
        header: The log's first record. If none is left, it names the log and nothing else.
        frames: Its frames, in order. In a sealed log they are those that the footer lists.
        damage: Its unreadable bytes, as far as they were read. At most the last is a torn tail.
        is_sealed: Whether the writer closed the log.
        trailer: The last bytes of a sealed log, which name its contents; else None.
        footer: The footer of a sealed log of the present format, else None.

    Raises:
        LogFormatError: The file is not a log, or its format is newer.
        LogCorruptError: No intact frame is left.
        LogError: The file cannot be read.
    """

    _footer_header: Header | None = None

    def __init__(self, path: Path, source: ByteSource | None = None) -> None:
        self.path = path
        self._decompressor = zstandard.ZstdDecompressor()
        self._source = self._open_source() if source is None else source
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open_source(self) -> ByteSource:
        return open_source(self.path)

    def _open(self) -> None:
        self.frames: list[FrameEntry] = []
        self.damage: list[Damage] = []
        self.trailer: Trailer | None = None
        self.footer: Footer | None = None
        # The episodes of each frame, as the footer of format 1 lists them.
        self._listed_episodes: list[list[int]] = []
        size = self._source.size
        if not size:
            what = "an empty file, whose writer was killed before it wrote anything"
            raise LogFormatError(f"not a trajrec log: {what}", path=self.path)
        # Together: an object storage answers both with one round trip.
        head, tail = self._source.ranges(
            [(0, FORMAT2.first_frame), (max(0, size - _TAIL_BYTES), size)]
        )
        file_format = read_format(head, self.path)
        if file_format is None:
            file_format = search_format(self._source)
            self.damage.append(Damage(0, file_format.first_frame, "the signature is damaged"))
        self._format: FileFormat = file_format
        self._log_id = self._read_log_id(head)
        self._position = file_format.first_frame
        self.is_sealed = self._read_footer(tail) or self._scan()
        self.header = self._read_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Twice is harmless."""
        self._source.close()

    @property
    def size(self) -> int:
        """Size of the file when it was opened or refreshed, in bytes."""
        return self._source.size

    @property
    def position(self) -> int:
        """Offset up to which all frames are known; `refresh` continues from here."""
        return self._position

    @property
    def format_version(self) -> int:
        """Version of the log's format."""
        return self._format.version

    def refresh(self) -> bool:
        """Read the frames that were appended, and return whether there are any.

        A file that was put in the place of this one, or was cut, is read from its beginning.
        """
        size = self._source.size
        if not self._source.refresh():
            self._source.close()
            self._source = self._open_source()
            self._open()
            return True
        if self.is_sealed or self._source.size <= size:
            return False
        n_before = len(self.frames)
        self.damage = [damage for damage in self.damage if not damage.is_tail]
        self.is_sealed = self._scan()
        return len(self.frames) > n_before

    def slice(self, start: int, end: int) -> bytes:
        """Return bytes [start, end) of the file."""
        return read_whole(self._source, start, end)

    @property
    def has_losses(self) -> bool:
        """Whether bytes of the log are lost, as far as it was read; a torn tail does not count."""
        return any(not damage.is_tail for damage in self.damage)

    def is_intact(self, index: int) -> bool:
        """Return whether all bytes of frames[index] have the stored checksums."""
        try:
            frame, payload = self._read_frame(self.frames[index])
        except LogCorruptError:
            return False
        return frames.is_intact(frame, payload)

    def raw_frame(self, index: int) -> NewFrame:
        """Return frames[index] as it is stored, to be written into another file.

        Raises:
            LogCorruptError: Its record does not match its checksum.
        """
        entry = self.frames[index]
        frame, payload = self._read_frame(entry)
        return NewFrame(
            kind=entry.kind,
            meta=payload[: frame.meta_size],
            meta_raw=frame.meta_raw,
            data=[payload[frame.meta_size :]],
        )

    def is_being_written(self) -> bool | None:
        """Return whether a living writer holds the file, or None if it cannot be known."""
        return False if self.is_sealed else is_being_written(self.path)

    def _add_damage(self, damage: Damage) -> None:
        # The first reason stands: a frame that is read again may show another one.
        if all((damage.offset, damage.size) != (d.offset, d.size) for d in self.damage):
            self.damage.append(damage)

    def _read_log_id(self, head: bytes) -> bytes:
        """Return the log's id, b"" if it is damaged or the log is of format 1."""
        if self._format is FORMAT1:
            return b""
        log_id = frames.signature_log_id(head)
        if log_id is None and not self.damage:
            self.damage.append(Damage(0, self._format.first_frame, "the signature is damaged"))
        return log_id or b""

    def _read_footer(self, tail: bytes) -> bool:
        """Take the directory from the footer, and return whether it is intact.

        `tail` is the end of the file.
        """
        size = self._source.size
        trailer = self._format.trailer(tail[-self._format.trailer_size :])
        if trailer is None:
            return False
        self.trailer = trailer
        self._log_id = self._log_id or trailer.log_id
        end = size - self._format.trailer_size
        if not self._format.first_frame <= trailer.footer_offset < end:
            return False
        start = trailer.footer_offset - (size - len(tail))
        data = tail[start:] if start >= 0 else self._source.range(trailer.footer_offset, size)
        frame = self._format.frame(data[: self._format.frame_size], trailer.footer_offset)
        # Both ids: the trailer of another log may stand behind a log that was cut.
        is_own = frame is not None and {frame.log_id, trailer.log_id} == {self._log_id}
        if frame is None or frame.kind != frames.FOOTER or frame.end != end or not is_own:
            return False
        payload = data[frame.header_size : frame.end - frame.offset]
        if frame.meta_raw > _MAX_FOOTER or not frames.is_intact(frame, payload):
            return False
        try:
            self._take_footer(frame, payload)
        except LogCorruptError as exc:
            self._add_damage(Damage(frame.offset, frame.end - frame.offset, exc.what))
            return False
        self._position = frame.end
        return True

    def _take_footer(self, frame: Frame, payload: bytes) -> None:
        """Take the directory and the header from an intact footer.

        Raises:
            LogCorruptError: The footer contradicts itself, or the file.
        """
        try:
            if self._format is FORMAT1:
                footer1 = self._decode(frame, payload, format1.decode_footer)
                entries = read_entries_of_format1(footer1, self._format.first_frame)
                check_header(footer1.header, self._log_id)
                self._listed_episodes = [entry.episodes for entry in footer1.frames]
                header = footer1.header
            else:
                footer = self._decode(frame, payload, records.decode_footer)
                entries = read_entries(footer.frames, self._format.first_frame)
                check_header(footer.header, self._log_id)
                check_footer(footer, self.trailer)
                self.footer = footer
                header = footer.header
            if (entries[-1].end if entries else self._format.first_frame) != frame.offset:
                raise ValueError("the frames do not fill the file")
        except ValueError as exc:
            self.footer = None
            self._listed_episodes = []
            raise self._corrupt(frame.offset, f"the footer contradicts itself: {exc}") from exc
        self.frames = entries
        self._footer_header = header

    def _scan(self) -> bool:
        """Scan for frames from `position` on, and return whether the log is sealed."""
        last_sequence = self.frames[-1].sequence if self.frames else -1
        scanner = Scanner(
            self._source, self._format, log_id=self._log_id, last_sequence=last_sequence
        )
        for item in scanner.scan(self._position):
            if isinstance(item, Damage):
                self.damage.append(item)
                continue
            if item.kind == frames.FOOTER:
                self._take_scanned_footer(item)
            else:
                self._add_gap(item)
                entry = FrameEntry(item.offset, item.end - item.offset, item.kind, item.sequence)
                self.frames.append(entry)
            self._position = item.end
        self._log_id = scanner.log_id
        tail = self._source.range(
            max(0, self._source.size - self._format.trailer_size), self._source.size
        )
        trailer = self._format.trailer(tail)
        # That of another log lies in a value: this log was cut there.
        self.trailer = trailer if trailer and trailer.log_id == self._log_id else None
        return self.trailer is not None

    def _take_scanned_footer(self, frame: Frame) -> None:
        """Keep the header of a footer that was found by scanning, and note its contradictions.

        What it says of the frames is not believed: they were found.
        """
        payload = self.slice(frame.meta_offset, frame.end)
        if frame.meta_raw > _MAX_FOOTER:
            return
        try:
            if self._format is FORMAT1:
                header = self._decode(frame, payload, format1.decode_footer).header
            else:
                header = self._decode(frame, payload, records.decode_footer).header
            self._check_header(frame, header)
            self._footer_header = header
        except LogCorruptError as exc:
            self._add_damage(Damage(frame.offset, frame.end - frame.offset, exc.what))

    def _add_gap(self, frame: Frame) -> None:
        """Add missing frames before a frame to the damage, unless bytes before it are damaged."""
        last = self.frames[-1].sequence if self.frames else -1
        has_damage = bool(self.damage) and self.damage[-1].offset < frame.offset
        if frame.sequence != last + 1 and not has_damage:
            reason = f"frames {last + 1} to {frame.sequence - 1} are missing"
            self.damage.append(Damage(frame.offset, 0, reason))

    def _read_header(self) -> Header:
        """Return the log's header: the first one, a copy of it, or one that names the log alone."""
        if self._footer_header is not None:
            return self._footer_header
        for entry in self.frames:
            if entry.kind in (frames.HEADER, frames.HEADER_COPY):
                try:
                    frame, payload = self._read_frame(entry)
                    header = self._decode(frame, payload, self._decode_header)
                    self._check_header(frame, header)
                except LogCorruptError as exc:
                    self._add_damage(Damage(entry.offset, entry.size, exc.what))
                else:
                    return header
        # Not an empty log: every log begins with a header.
        if not self._log_id or not self.frames:
            raise LogCorruptError("no intact frame is left", path=self.path, offset=0)
        return records.unknown_header(self._log_id.hex())

    def _read_frame(self, entry: FrameEntry) -> tuple[Frame, bytes]:
        """Return the header and the payload of a frame, of which the record is intact."""
        data = self._source.range(entry.offset, entry.end)
        head = data[: self._format.frame_size]
        frame = self._format.frame(head, entry.offset)
        if frame is None or frame.end != entry.end or frame.kind != entry.kind:
            raise self._corrupt(entry.offset, "there is no frame as the footer lists it")
        # Format 1 lists no sequence numbers.
        if frame.sequence != entry.sequence and self._format is not FORMAT1:
            raise self._corrupt(entry.offset, f"frame {frame.sequence} in place of another one")
        if frame.log_id != self._log_id:
            raise self._corrupt(entry.offset, f"a frame of another log ({frame.log_id.hex()})")
        payload = data[frame.header_size :]
        if not frames.is_meta_intact(frame, payload):
            raise self._corrupt(entry.offset, "the payload does not match its checksum")
        return frame, payload

    def _decode(self, frame: Frame, payload: bytes, decode: Callable[[bytes], T]) -> T:
        """Return the record of a frame."""
        if frame.flags:
            raise self._corrupt(frame.offset, f"flags {frame.flags} are unknown; upgrade trajrec")
        meta = payload[: frame.meta_size]
        try:
            if zstandard.frame_content_size(meta) != frame.meta_raw:
                raise ValueError("its size is not the stated one")
            record = self._decompressor.decompress(meta)
            if frame.kind != frames.FOOTER:
                check_items(record)
            return decode(record)
        except _NO_RECORD as exc:
            # Memory that is short must not make a sound log a damaged one, in the index for ever.
            if is_out_of_memory(exc) and frame.meta_raw <= MAX_RAW_BYTES:
                raise MemoryError(f"a record of {frame.meta_raw} bytes") from exc
            kind = _RECORD_NAMES.get(frame.kind, "header")
            raise self._corrupt(frame.offset, f"not a {kind}: {exc}") from exc

    def _check_header(self, frame: Frame, header: Header) -> None:
        try:
            check_header(header, self._log_id)
        except ValueError as exc:
            raise self._corrupt(frame.offset, f"the header contradicts itself: {exc}") from exc

    def _decode_header(self, data: bytes) -> Header:
        return records.decode_header(data, self._format.version)

    def _corrupt(self, offset: int, reason: str) -> LogCorruptError:
        return LogCorruptError(reason, path=self.path, offset=offset)
