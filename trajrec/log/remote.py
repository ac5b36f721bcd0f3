"""Logs in an object storage, read by ranges.

A mirror is a folder on this machine that stands for a corpus in an object storage. In the place of
each of its logs lies a placeholder: a file of the log's size and time that has none of its bytes.
So the corpus is listed and indexed like any other folder, in every process.

Only the folder of mirrors is asked for placeholders: a file that somebody else sends must not make
this process open an address.
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trajrec.errors import LogError, MissingPackageError
from trajrec.log.source import ByteSource, FileSource
from trajrec.paths import fixed_path

PLACEHOLDER = b"trajrec placeholder\n"
"""The first bytes of a file that stands for a log in an object storage."""

MIRROR_NAME = ".trajrec/mirror.json"
"""The file in a mirror that names the address that it stands for."""

# One request takes as long as 64 KiB of data, and the next range is mostly right behind.
_BLOCK_BYTES = 1 << 16

# A sequential reader asks for megabytes at once. Blocks are for its small ranges in between.
_CACHED_BLOCKS = 64

# Windows has drives of one letter.
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/+(?P<rest>.*)", re.DOTALL)


class Mirror(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a mirror stands for.

    Attributes:
        url: The address of the corpus.
        manifest: The digest of the manifest that the placeholders were made by.
        index: The name of the index that was fetched, None if there was none.
    """

    url: str
    manifest: str = ""
    index: str | None = None


def url_of(path: str | Path) -> str | None:
    """Return the address that a text or path names, None if it names a local file.

    `Path` makes one slash of two.

    Raises:
        TypeError: It is neither a text nor a path.

    >>> url_of(Path("s3://bucket/runs"))
    's3://bucket/runs'
    >>> url_of("runs/")
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise TypeError(f"a folder must be a str or a pathlib.Path, got {path!r:.200}")
    match = _URL.fullmatch(text)
    if match is None:
        return None
    slashes = "///" if match["scheme"] in ("file", "local") else "//"
    return f"{match['scheme']}:{slashes}{match['rest']}"


def local_folder(folder: str | Path) -> Path:
    """Return the folder to record into; the program may change its working folder meanwhile.

    Raises:
        ValueError: It is an address.
    """
    url = url_of(folder)
    if url is not None:
        raise ValueError(
            f"logs are recorded on this machine, not to {url}: record into a folder, then run "
            f"`trajrec push FOLDER {url}`"
        )
    return fixed_path(folder)


def mirrors_folder() -> Path:
    """Return the folder of all mirrors of this user."""
    return _mirrors_in(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


@functools.cache
def _mirrors_in(cache: str) -> Path:
    # Each log that is opened asks for it.
    return Path(os.path.abspath(os.path.expanduser(cache))) / "trajrec" / "mirrors"


def open_source(path: Path) -> ByteSource:
    """Return the bytes of a log: those of its file, or of the object that the file stands for.

    Raises:
        LogError: They cannot be read.
    """
    source = FileSource(path)
    mirrors = mirrors_folder()
    if not os.fspath(path).startswith(os.fspath(mirrors)) or not is_placeholder(source):
        return source
    source.close()
    name, *inner = path.relative_to(mirrors).parts
    try:
        mirror = msgspec.json.decode((mirrors / name / MIRROR_NAME).read_bytes(), type=Mirror)
    except (OSError, ValueError) as exc:
        raise LogError(
            f"the mirror has lost its address ({exc}); delete {mirrors / name}", path=path
        ) from exc
    return RemoteSource(path, "/".join((mirror.url, *inner)), source.size)


def is_placeholder(source: ByteSource) -> bool:
    """Return whether a file stands for a log in an object storage."""
    return source.range(0, len(PLACEHOLDER)) == PLACEHOLDER


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for an address, and its path there.

    Raises:
        MissingPackageError: fsspec or s3fs is not installed.
        ImportError: The package for another kind of address is not installed.
        ValueError: There are no such addresses.
    """
    try:
        import fsspec
    except ImportError as exc:
        raise MissingPackageError("fsspec", "s3") from exc
    try:
        # Asked for anew each time: a forked child must not use the connections of its parent.
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as exc:
        if url.startswith("s3"):
            raise MissingPackageError("s3fs", "s3") from exc
        # fsspec names the package.
        raise
    return system, path


class RemoteSource:
    """An object, read by ranges.

    Args:
        path: The name in messages.
        url: The address.
        size: The number of bytes, as the manifest of its corpus gives it.
    """

    def __init__(self, path: Path, url: str, size: int) -> None:
        self.path = path
        self.size = size
        self._url = url
        self._lock = threading.Lock()
        self._process = os.getpid()
        # The block that was used last stands at the end.
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def range(self, start: int, end: int) -> bytes:
        """Return bytes [start, end), fewer if the object has no more."""
        return self.ranges([(start, end)])[0]

    def ranges(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges, with one round trip for all that was not read before."""
        spans = [(max(0, start), min(end, self.size)) for start, end in spans]
        if self._process != os.getpid():
            # A thread that is not in this forked child may hold the lock.
            self._lock = threading.Lock()
            self._process = os.getpid()
        with self._lock:
            self._fetch([span for span in spans if span[0] < span[1]])
            data = [self._joined(*span) for span in spans]
            while len(self._blocks) > _CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        return data

    def next_data(self, start: int) -> int:
        """Return `start`: an object has no holes."""
        return start

    def refresh(self) -> bool:
        """Return True: an object is as it was when its corpus was opened."""
        return True

    def close(self) -> None:
        """Forget what was read."""
        self._blocks.clear()

    def _fetch(self, spans: list[tuple[int, int]]) -> None:
        """Fetch the blocks of some ranges that are missing, neighbours with one request."""
        wanted = sorted(
            {
                block
                for start, end in spans
                for block in range(start // _BLOCK_BYTES, (end - 1) // _BLOCK_BYTES + 1)
                if block not in self._blocks
            }
        )
        runs: list[list[int]] = []
        for block in wanted:
            if runs and runs[-1][1] == block:
                runs[-1][1] += 1
            else:
                runs.append([block, block + 1])
        if not runs:
            return
        starts = [first * _BLOCK_BYTES for first, _ in runs]
        ends = [min(stop * _BLOCK_BYTES, self.size) for _, stop in runs]
        for start, end, data in zip(starts, ends, self._request(starts, ends), strict=True):
            if len(data) != end - start:
                raise LogError(
                    f"{self._url} has other contents than when its corpus was opened; open it again; "
                    "if that does not help, a push was killed half-way: run that push again",
                    path=self.path,
                )
            for offset in range(0, len(data), _BLOCK_BYTES):
                self._blocks[(start + offset) // _BLOCK_BYTES] = data[
                    offset : offset + _BLOCK_BYTES
                ]

    def _request(self, starts: list[int], ends: list[int]) -> list[bytes]:
        try:
            system, path = file_system(self._url)
            paths = [path] * len(starts)
            data: list[bytes] = system.cat_ranges(paths, starts, ends, on_error="raise")
        except MissingPackageError:
            raise
        # Each kind of storage has errors of its own.
        except Exception as exc:
            raise LogError(f"{self._url} cannot be read: {exc}", path=self.path) from exc
        return data

    def _joined(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        first = start // _BLOCK_BYTES
        parts = []
        for block in range(first, (end - 1) // _BLOCK_BYTES + 1):
            parts.append(self._blocks[block])
            self._blocks.move_to_end(block)
        offset = first * _BLOCK_BYTES
        return b"".join(parts)[start - offset : end - offset]
