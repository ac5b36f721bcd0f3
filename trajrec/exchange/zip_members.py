"""Members of zip files that are compressed with zstd (method 93), which Python 3.13 cannot read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import zstandard

from trajrec.errors import ImportFileError

ZSTD = 93

MAX_MEMBER_BYTES = 1 << 30
"""The largest member that is read: it is held in memory whole."""

MAX_ALL_BYTES = 1 << 32
MAX_RATIO = 200
"""All members may have the first number of bytes, or the second times those of the file. Logs of
models pack by 5 to 50, bombs by a thousand and more."""

_LOCAL_HEADER = struct.Struct("<26xHH")


class ZipMembers:
    """The members of a zip file: a context manager.

    Args:
        path: The file.

    Attributes:
        names: The names of the members, in order; a name that is there twice, once.
        n_hidden: Members that a later one of the same name hides.

    Raises:
        ImportFileError: It is no whole zip file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as exc:
            raise ImportFileError(f"cannot be read: {exc.strerror or exc}", path=path) from exc
        try:
            self._zip = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as exc:
            self._file.close()
            raise ImportFileError(f"is no whole zip file: {exc}", path=path) from exc
        n_packed = path.stat().st_size
        n_bytes = sum(info.file_size for info in self._zip.infolist())
        if n_bytes > max(MAX_ALL_BYTES, MAX_RATIO * n_packed):
            self._file.close()
            what = f"unpacks to {n_bytes:,} bytes from {n_packed:,}: it is taken for a bomb"
            raise ImportFileError(what, path=path)
        self._infos = {info.filename: info for info in self._zip.infolist()}
        self.names = list(self._infos)
        self.n_hidden = len(self._zip.infolist()) - len(self.names)

    def __enter__(self) -> ZipMembers:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def read(self, name: str) -> bytes:
        """Return the bytes of a member.

        Raises:
            ImportFileError: It is damaged, or too large.
        """
        info = self._infos[name]
        if info.file_size > MAX_MEMBER_BYTES:
            raise self._error(name, f"has {info.file_size} bytes, more than {MAX_MEMBER_BYTES}")
        try:
            data = self._read_zstd(info) if info.compress_type == ZSTD else self._read(info)
        except (
            zipfile.BadZipFile,
            zstandard.ZstdError,
            zlib.error,
            struct.error,
            OSError,
            EOFError,
            RuntimeError,
            ValueError,
        ) as exc:
            raise self._error(name, f"is damaged: {exc}") from exc
        # The standard library compares the checksums of the members that it reads.
        is_zstd = info.compress_type == ZSTD
        if len(data) != info.file_size or (is_zstd and zlib.crc32(data) != info.CRC):
            raise self._error(name, "is damaged: its checksum differs")
        return data

    def _read(self, info: zipfile.ZipInfo) -> bytes:
        # One byte more than it states: a member may state a small size and hold gigabytes.
        with self._zip.open(info) as member:
            return member.read(info.file_size + 1)

    def _read_zstd(self, info: zipfile.ZipInfo) -> bytes:
        file = self._file
        file.seek(info.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        n_name, n_extra = _LOCAL_HEADER.unpack(header)
        file.seek(n_name + n_extra, 1)
        packed = file.read(info.compress_size)
        with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
            return reader.read(info.file_size + 1)

    def _error(self, name: str, what: str) -> ImportFileError:
        return ImportFileError(what, path=self._path, position=name)
