"""Looks for the intact frames of a file, and for the damage between them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from trajrec.errors import LogFormatError
from trajrec.log import frames
from trajrec.log.format1 import FORMAT1
from trajrec.log.frames import FORMAT2, MAGIC, SIGNATURE, Damage, FileFormat, Frame, Trailer
from trajrec.log.remote import PLACEHOLDER
from trajrec.log.schema import FORMAT_VERSION
from trajrec.log.source import ByteSource, Head, Window

# A file may be made of false frames that each promise much: to check all of their bytes would take
# hours. Honest damage needs a small part of this.
_MAX_CHECKED = 64
"""The bytes of false frames that are checked, in sizes of the file."""

# A large file that is no log must not be searched for hours. Writers fill less with one frame.
_MAX_SEARCHED = 1 << 28
"""The first bytes of a file with a damaged signature in which a frame has to begin and end."""

_NOT_A_LOG = "not a trajrec log (its first bytes are not the signature of one)"


def read_format(head: bytes, path: Path) -> FileFormat | None:
    """Return the format that the first bytes of a file state, or None if they are damaged.

    Raises:
        LogFormatError: The file is not a log, or its format is newer.
    """
    if head.startswith(PLACEHOLDER):
        raise LogFormatError(
            "no log: it stands for a log in an object storage, of which it has no bytes; "
            "open its address instead",
            path=path,
            offset=0,
        )
    if len(head) < SIGNATURE.size or head[:8] != MAGIC:
        return None
    _, version, checksum = SIGNATURE.unpack(head[: SIGNATURE.size])
    if zlib.crc32(head[:12]) != checksum:
        return None
    if version > FORMAT_VERSION:
        raise LogFormatError(
            f"format version {version} is newer than {FORMAT_VERSION}, the newest that this "
            "trajrec reads; upgrade trajrec",
            path=path,
            offset=8,
            version=version,
        )
    formats: dict[int, FileFormat] = {1: FORMAT1, 2: FORMAT2}
    if version not in formats:
        raise LogFormatError(f"there is no format version {version}", path=path, offset=8)
    return formats[version]


def search_format(source: ByteSource) -> FileFormat:
    """Return the format of a file whose first bytes are damaged: that of its frames.

    Raises:
        LogFormatError: It has no frames, so it is not a log.
    """
    head = Head(source, _MAX_SEARCHED)
    for file_format in (FORMAT2, FORMAT1):
        if any(isinstance(item, Frame) for item in Scanner(head, file_format).scan(0)):
            return file_format
    raise LogFormatError(_NOT_A_LOG, path=source.path, offset=0)


def read_trailer(source: ByteSource, file_format: FileFormat) -> Trailer | None:
    """Return the trailer of a file, or None if it is not sealed."""
    start = source.size - file_format.trailer_size
    if start < file_format.first_frame:
        return None
    return file_format.trailer(source.range(start, source.size))


class Scanner:
    """Scans a file for frames.

    Args:
        source: The file.
        file_format: Its format.
        log_id: The log's id, b"" if it is not known: then it is that of the first frame.
        last_sequence: The sequence number of the last frame that is known.
    """

    def __init__(
        self,
        source: ByteSource,
        file_format: FileFormat,
        *,
        log_id: bytes = b"",
        last_sequence: int = -1,
    ) -> None:
        self._source = source
        self._format = file_format
        self._window = Window(source)
        self.log_id = log_id
        self._last_sequence = last_sequence
        self._n_checked = 0

    def scan(self, start: int) -> Iterator[Frame | Damage]:
        """Yield the intact frames from an offset on, and the damage between them.

        If a header is intact and its payload is not, the damage ends with that frame. If intact
        frames lie within it, the damage ends at the first of them: the sizes in the header then
        belong to bytes that were overwritten.

        A frame of another log, and one whose sequence number is not above the last, is damage too:
        it was copied to its place.
        """
        offset = start
        # A trailer is no part of the damage before it. That of another log is part of a value.
        trailer = read_trailer(self._source, self._format)
        has_trailer = trailer is not None and trailer.log_id in (self.log_id, b"")
        end = self._source.size - (self._format.trailer_size if has_trailer else 0)
        while offset < end:
            frame = self._frame_at(offset)
            if frame is not None and self._has_record(frame):
                refusal = self._refusal(frame)
                if refusal is None:
                    self.log_id = self.log_id or frame.log_id
                    self._last_sequence = frame.sequence
                    yield frame
                    if not frames.is_intact(frame, self._payload(frame)):
                        yield frames.damaged_columns(frame)
                else:
                    yield Damage(offset, frame.end - offset, refusal)
                offset = frame.end
                continue
            following = self._find_frame(offset + 1)
            if following is None:
                yield self._tail(offset, frame, end, has_trailer)
                return
            reason = "no intact frame header" if frame is None else "a frame's payload is damaged"
            yield Damage(offset, following - offset, reason)
            offset = following

    def _refusal(self, frame: Frame) -> str | None:
        """Return why an intact frame is not one of this log at its place, or None."""
        if self.log_id and frame.log_id != self.log_id:
            return f"a frame of another log ({frame.log_id.hex()})"
        if frame.sequence <= self._last_sequence:
            return (
                f"frame {frame.sequence} stands behind frame {self._last_sequence}: it is a copy, "
                "and is left out"
            )
        return None

    def _frame_at(self, offset: int) -> Frame | None:
        return self._format.frame(
            self._window.range(offset, offset + self._format.frame_size), offset
        )

    def _has_record(self, frame: Frame) -> bool:
        """Return whether a frame is complete and its record intact.

        Its columns may be damaged: it still has its events.
        """
        is_complete = frame.end <= self._source.size
        return is_complete and frames.is_meta_intact(frame, self._payload(frame))

    def _payload(self, frame: Frame) -> bytes:
        return self._window.range(frame.meta_offset, frame.end)

    def _find_frame(self, offset: int) -> int | None:
        """Return the offset of the next intact frame of this log, or None."""
        while (offset := self._window.find(self._format.frame_magic, offset)) >= 0:
            frame = self._frame_at(offset)
            if frame is not None and frame.end <= self._source.size:
                self._n_checked += frame.end - offset
                if self._n_checked > _MAX_CHECKED * self._source.size:
                    return None
                if self._has_record(frame) and self._refusal(frame) is None:
                    return offset
            offset += 1
        return None

    def _tail(self, offset: int, frame: Frame | None, end: int, has_trailer: bool) -> Damage:
        """Return the damage of a file that has no intact frame from an offset to its end."""
        size = end - offset
        is_short = (frame.end - offset if frame else self._format.frame_size) > size
        # A log with a trailer was written to its end.
        is_tail = is_short and not has_trailer
        reason = "no intact frame header" if frame is None else "a frame's payload is damaged"
        if is_tail:
            reason = "the file stops in the middle of a frame"
        return Damage(offset, size, reason, is_tail=is_tail)
