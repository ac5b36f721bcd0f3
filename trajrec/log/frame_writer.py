"""Writes the frames of one log file, and its footer.

An exception may come at any point, for instance by Ctrl-C. So the state changes by one assignment,
when a frame is in the file whole. Bytes of an unfinished frame are cut off before the next one.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from trajrec.log import frames, locks
from trajrec.log.columns import Packer, place_columns
from trajrec.log.directory import Directory, FrameEntry
from trajrec.log.events import Blob
from trajrec.log.folder import sync_folder
from trajrec.log.packing import Drained
from trajrec.log.record_encoder import encode_record
from trajrec.log.relisting import read_directory
from trajrec.log.schema import Chunk, EpisodeStart, Event, Footer, Header

# The header is needed to read an episode, and the first block of a file may be damaged: copies lie
# where the log has grown to 64 KiB, 256 KiB, 1 MiB, ... They take less than 1 % of it.
_FIRST_COPY_BYTES = 1 << 16
_COPY_GROWTH = 4

# About the bytes of a footer without its tables, and of the parts of its tables.
_FOOTER_BYTES = 4096
_FRAME_BYTES = 32
_FOOTER_PARTS: dict[type[Event], int] = {EpisodeStart: 64, Blob: 24}


class SizeLimitError(Exception):
    """The log would become larger than it may."""


class DeletedError(OSError):
    """The file was deleted while it was written."""

    def __init__(self) -> None:
        super().__init__(errno.ENOENT, "the file was deleted")


class Written(NamedTuple):
    """The whole frames in the file.

    Attributes:
        size: The end of the last one.
        n_frames: Their number.
        last_item: The number of the last item in them, -1 if there is none.
    """

    size: int = 0
    n_frames: int = 0
    last_item: int = -1


class FrameWriter:
    """Writes the frames of one log file, which it creates and locks.

    Args:
        path: The file, which must not exist.
        header: The log's first record.
        packer: Compresses records.
        max_bytes: The most bytes that the file may have; None for no limit.

    Attributes:
        written: The frames in the file.
        is_sealed: Whether the file has its footer.

    Raises:
        OSError: The file cannot be created or written.
    """

    def __init__(
        self, path: Path, header: Header, packer: Packer, *, max_bytes: int | None = None
    ) -> None:
        self.written = Written()
        self.is_sealed = False
        self._path = path
        self._header = header
        self._packer = packer
        self._max_bytes = max_bytes
        self._footer_bytes = _FOOTER_BYTES
        self._log_id = frames.log_id_bytes(header.log_id)
        self._next_copy = _FIRST_COPY_BYTES
        self._has_name_on_disk = False
        self._directory = Directory()
        # The number of frames in the directory; -1 if the last one was perhaps added by half.
        self._n_listed = 0
        # O_BINARY exists on Windows, where text files would get other line ends.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, flags, 0o666)
        try:
            locks.hold(self._descriptor)
            self._write_header(frames.HEADER, prefix=frames.signature(self._log_id))
        except BaseException:
            self.delete()
            raise

    def write_chunk(self, drained: Drained) -> None:
        """Write a chunk.

        Raises:
            OSError: The system refuses to write.
            ValueError: A part is larger than readers accept.
            SizeLimitError: The file would become larger than it may.
        """
        columns, data = place_columns(drained.chunk.columns, drained.data)
        # The record is only encoded, and encoded events stand for themselves.
        events = [msgspec.Raw(raw) for raw in drained.raw_events]
        chunk = msgspec.structs.replace(drained.chunk, columns=columns, events=events)
        header, entry = self._write_frame(frames.CHUNK, chunk, data, last_item=drained.last_item)
        if self._begin_listing():
            self._directory.add_chunk(header, entry, drained.chunk, drained.returns)
            self._n_listed = self.written.n_frames
        if self._max_bytes is not None:
            self._footer_bytes += _FRAME_BYTES
            self._footer_bytes += sum(_FOOTER_PARTS.get(type(e), 0) for e in drained.chunk.events)
        if self.written.size >= self._next_copy:
            self._next_copy *= _COPY_GROWTH
            self._write_header(frames.HEADER_COPY)

    def sync(self) -> None:
        """Force the file to the disk, and its name the first time.

        Raises:
            OSError: The system cannot do so.
        """
        # macOS has no fdatasync.
        getattr(os, "fdatasync", os.fsync)(self._descriptor)
        if not self._has_name_on_disk:
            # The folder may be new, too. Some systems cannot sync a folder, or may not read it.
            for folder in (self._path.parent, self._path.parent.parent):
                with contextlib.suppress(OSError):
                    sync_folder(folder)
            self._has_name_on_disk = True

    def seal(self) -> None:
        """Write the footer. A second call, after an exception, writes it again.

        Raises:
            OSError: The system refuses to write.
            ValueError: The footer is larger than readers accept.
            LogError: The file cannot be read, which an exception has made necessary.
        """
        if self._n_listed != self.written.n_frames:
            self._cut_off_unfinished()
            self._directory = read_directory(self._path)
            self._n_listed = self.written.n_frames
        footer = self._directory.footer(self._header, generation=0)
        trailer = frames.Trailer(self.written.size, self._log_id, footer.content, footer.generation)
        self._append([*self._pack_frame(frames.FOOTER, footer), frames.pack_trailer(trailer)])
        self.is_sealed = True

    def close(self) -> None:
        """Close the file, which releases its lock. Twice is harmless."""
        if self._descriptor >= 0:
            descriptor = self._descriptor
            self._descriptor = -1
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def delete(self) -> None:
        """Close and delete the file: an empty log would look as if it were being written."""
        self.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _write_header(self, kind: int, prefix: bytes = b"") -> None:
        header, entry = self._write_frame(
            kind, self._header, last_item=self.written.last_item, prefix=prefix
        )
        if self._begin_listing():
            self._directory.add_frame(header, entry)
            self._n_listed = self.written.n_frames

    def _begin_listing(self) -> bool:
        """Return whether the directory has all frames but the last.

        If an exception has broken off an addition, the directory is read from the file at the end.
        """
        is_whole = self._n_listed == self.written.n_frames - 1
        self._n_listed = -1
        return is_whole

    def _write_frame(
        self,
        kind: int,
        record: Header | Chunk,
        data: Sequence[bytes] = (),
        *,
        last_item: int,
        prefix: bytes = b"",
    ) -> tuple[bytes, FrameEntry]:
        """Write a frame; return its header's bytes and its entry."""
        size, n_frames, _ = self.written
        parts = self._pack_frame(kind, record, data)
        if kind == frames.CHUNK:
            self._check_size(size + sum(map(len, parts)))
        offset = size + len(prefix)
        end = self._append([prefix, *parts])
        # From here on the frame is in the log.
        self.written = Written(end, n_frames + 1, last_item)
        return parts[0], FrameEntry(offset, end - offset, kind, n_frames)

    def _check_size(self, size: int) -> None:
        """Check that the file and its footer may have a size.

        Raises:
            SizeLimitError: They may not.
        """
        limit = self._max_bytes
        if limit is not None and size + _FRAME_BYTES + self._footer_bytes > limit:
            raise SizeLimitError(f"it has reached max_bytes={limit}")

    def _pack_frame(
        self, kind: int, record: Header | Chunk | Footer, data: Sequence[bytes] = ()
    ) -> list[bytes]:
        raw = encode_record(record)
        return frames.pack_frame(
            kind,
            self.written.n_frames,
            log_id=self._log_id,
            meta=self._packer.compress(raw),
            meta_raw=len(raw),
            data=data,
        )

    def _append(self, parts: Sequence[bytes]) -> int:
        """Append some parts in one write, and return the end of the file.

        The system may write a part of the bytes only; the rest is written then.
        """
        data = b"".join(parts)
        if os.fstat(self._descriptor).st_nlink == 0:
            # The system would write, and nobody could read.
            raise DeletedError
        self._cut_off_unfinished()
        n_written = 0
        try:
            while n_written < len(data):
                rest = memoryview(data)[n_written:] if n_written else data
                n_written += os.write(self._descriptor, rest)
        except OSError:
            with contextlib.suppress(OSError):
                self._cut_off_unfinished()
            raise
        return self.written.size + len(data)

    def _cut_off_unfinished(self) -> None:
        """Cut off the bytes of a frame that an exception or a full disk has interrupted."""
        if os.fstat(self._descriptor).st_size > self.written.size:
            os.ftruncate(self._descriptor, self.written.size)
