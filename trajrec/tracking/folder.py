"""A tracker of folders: files with their modes and contents, links, and empty folders."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from trajrec.errors import RestoreError
from trajrec.paths import fixed_path
from trajrec.tracking.locked_files import open_to_read
from trajrec.tracking.tree import Tree
from trajrec.values.diff import Change

WHOLE_BYTES = 1 << 16
"""Of larger files only the size and digest are stored: a log of an agent's edits should not hold
every build and every download."""

RACY_NS = 100_000_000
"""A file that was read within this time after its last change is read again: clocks of file systems
tick every few ms, so a second change may leave the same time."""

HASHED_BYTES = 1 << 20
"""Bytes of a large file that are in memory at a time."""

LARGE_FILES = 20
"""The status of so many files is read in 0.1 ms."""

IGNORED = (".git", "__pycache__", "*.pyc", ".DS_Store")

Entry = dict[Any, Any]
"""A file ({"mode", "text"}, {"mode", "bytes"} or {"mode", "size", "digest"}), a link ({"link"}), or
a folder (name -> entry). Names that are not UTF-8 are bytes."""


Status: TypeAlias = tuple[int, ...] | str | None
"""The status of a file, the target of a link, or None for a folder."""


class ReadFile(NamedTuple):
    """The entry of a file, and the time and the file's status when it was read."""

    status: tuple[int, ...]
    read_ns: int
    entry: Entry


class Folder:
    """Watches a folder.

    The path of a change is the file's names, then "text", "bytes", "digest", "mode" or "link".

    Args:
        path: The folder.
        ignore: Patterns of names (not paths) that are left out; a folder with everything in it.
    """

    name = "folder"
    version = 2

    def __init__(self, path: Path, ignore: Sequence[str] = IGNORED) -> None:
        self.path = fixed_path(path)
        self.ignore = tuple(ignore)
        # Files by path, so that one whose status is the same is not read again.
        self._files: dict[str, ReadFile] = {}
        self._tree = Tree(self._read)
        # What was there at the last look, whether a file must be read again in any case, and whether
        # all was read: a read that raises is made again.
        self._listing: dict[str, Status] = {}
        self._is_racy = True
        self._is_read = False
        self._digest = ""
        self._is_ignored = functools.lru_cache(maxsize=1 << 16)(self._matches_ignored)

    @property
    def is_large(self) -> bool:
        """Whether a look at the folder costs more than 0.1 ms."""
        return len(self._files) > LARGE_FILES or self._tree.is_large

    def begin(self) -> tuple[Any, str]:
        """Return the tree of files, and its digest."""
        # The listing first: a change while the files are read shows in the next one.
        self._listing = self._list()
        self._is_read = False
        value, self._digest = self._tree.begin()
        self._is_read = True
        return value, self._digest

    def update(self) -> tuple[list[Change], str]:
        """Return the changes since the last call, and the digest of the tree."""
        listing = self._list()
        if listing == self._listing and self._is_read and not self._is_racy:
            return [], self._digest
        self._listing = listing
        self._is_read = False
        changes, self._digest = self._tree.update()
        self._is_read = True
        return changes, self._digest

    def restore(self, value: Entry) -> None:
        """Write files, modes, links and folders as they were.

        Files that were not there are deleted, except for ignored ones.

        Raises:
            RestoreError: A large file, of which only the digest is stored, has changed. No file is
                written then. Or the system does not let a file be written or deleted.
        """
        live = self._read()
        _check_large_files(value, live, "")
        try:
            self._write(self.path, value, live)
        except OSError as exc:
            raise RestoreError(f"the folder cannot be restored: {exc}") from exc

    def _write(self, folder: Path, wanted: Entry, live: Entry) -> None:
        # Deletions first: a file may become a folder, or a folder a file.
        for name, entry in live.items():
            if wanted.get(name) == entry:
                continue
            if name not in wanted or is_file(entry) or is_file(wanted[name]):
                path = folder / os.fsdecode(name)
                if is_file(entry):
                    path.unlink()
                else:
                    shutil.rmtree(path)
        for name, entry in wanted.items():
            path = folder / os.fsdecode(name)
            before = live.get(name)
            if before == entry:
                continue
            if not is_file(entry):
                path.mkdir(exist_ok=True)
                self._write(path, entry, _as_folder(before))
            elif "link" in entry:
                path.symlink_to(os.fsdecode(entry["link"]))
            else:
                path.write_bytes(entry["text"].encode() if "text" in entry else entry["bytes"])
                path.chmod(int(entry["mode"], 8))

    def _list(self) -> dict[str, Status]:
        """Return the status of each file, the target of each link, and the folders, by path."""
        listing: dict[str, Status] = {}
        folders = [os.fspath(self.path)]
        is_ignored = self._is_ignored
        for folder in folders:
            with os.scandir(folder) as scanned:
                for item in scanned:
                    if is_ignored(item.name):
                        continue
                    path = item.path
                    if item.is_symlink():
                        listing[path] = os.readlink(path)
                    elif item.is_dir(follow_symlinks=False):
                        listing[path] = None
                        folders.append(path)
                    elif item.is_file(follow_symlinks=False):
                        listing[path] = _status(item.stat(follow_symlinks=False))
        return listing

    def _read(self) -> Entry:
        files: dict[str, ReadFile] = {}
        entry = self._scan(os.fspath(self.path), files)
        self._files = files
        self._is_racy = any(map(_is_racy, files.values()))
        return entry

    def _matches_ignored(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.ignore)

    def _scan(self, path: str, files: dict[str, ReadFile]) -> Entry:
        """Return a folder's entry; add its files to `files`."""
        entries: Entry = {}
        with os.scandir(path) as scanned:
            for item in sorted(scanned, key=lambda item: item.name):
                if self._is_ignored(item.name):
                    continue
                name = _name(item.name)
                # Links are not followed: they may lead out of the folder, or in a circle.
                if item.is_symlink():
                    entries[name] = {"link": _name(os.readlink(item.path))}
                elif item.is_dir(follow_symlinks=False):
                    entries[name] = self._scan(item.path, files)
                elif item.is_file(follow_symlinks=False):
                    entries[name] = self._file(item, files)
        return entries

    def _file(self, item: os.DirEntry[str], files: dict[str, ReadFile]) -> Entry:
        stats = item.stat(follow_symlinks=False)
        status = _status(stats)
        file = self._files.get(item.path)
        if file is None or file.status != status or _is_racy(file):
            # The time before the content: a change while the file is read must not be missed.
            read_ns = time.time_ns()
            entry = {"mode": f"{stat.S_IMODE(stats.st_mode):o}", **_content(item.path)}
            file = ReadFile(status, read_ns, entry)
        files[item.path] = file
        return file.entry


def _status(stats: os.stat_result) -> tuple[int, ...]:
    return (
        stats.st_size,
        stats.st_mtime_ns,
        stats.st_ctime_ns,
        stats.st_ino,
        stats.st_mode,
    )


def _is_racy(file: ReadFile) -> bool:
    """Return whether a file may have changed after it was read, and its status may not tell."""
    return file.read_ns - file.status[1] < RACY_NS


def _name(name: str) -> str | bytes:
    """Return a name as plain data: as bytes if it is not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def is_file(entry: Entry) -> bool:
    """Return whether an entry is a file or a link, not a folder."""
    # The values of a folder are entries, so a file called "mode" in it has a dict there.
    return isinstance(entry.get("link", entry.get("mode")), (str, bytes))


def _as_folder(entry: Entry | None) -> Entry:
    """Return an entry if it is a folder, else an empty folder."""
    return {} if entry is None or is_file(entry) else entry


def _check_large_files(wanted: Entry, live: Entry, path: str) -> None:
    for name, entry in wanted.items():
        before = live.get(name)
        if not is_file(entry):
            _check_large_files(entry, _as_folder(before), f"{path}{os.fsdecode(name)}/")
        elif "digest" in entry and entry != before:
            raise RestoreError(
                f"{path}{os.fsdecode(name)}: the file is not the recorded one, and only its digest is stored, "
                f"because it has more than {WHOLE_BYTES} bytes; replay without resync"
            )


def _content(path: str) -> Entry:
    with open_to_read(path) as file:
        data = file.read(WHOLE_BYTES + 1)
        if len(data) > WHOLE_BYTES:
            hasher = hashlib.blake2b(data, digest_size=16)
            size = len(data)
            while part := file.read(HASHED_BYTES):
                hasher.update(part)
                size += len(part)
            return {"size": size, "digest": hasher.hexdigest()}
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"bytes": data}
