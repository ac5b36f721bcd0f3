"""Watches a folder: files with their modes and contents, links, empty folders."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from trajrec.errors import RestoreError
from trajrec.tracking.tree import Tree
from trajrec.values.diff import Change

WHOLE_BYTES = 1 << 16
"""Larger files are known by size and digest only."""

RACY_NS = 100_000_000
"""A file changed so shortly before it was read may change again without another time: it is read again."""

IGNORED = (".git", "__pycache__", "*.pyc", ".DS_Store")


class Known(NamedTuple):
    """What was read of a file, and when it was as it was."""

    stamp: tuple[int, ...]
    read_ns: int
    entry: dict[str, Any]


class Folder:
    """Watches a folder. A change is found at the file's path and `text`, `bytes`, `digest`, `mode` or `link` below it.

    Args:
        path: The folder.
        ignore: Patterns of names (not paths) that are left out, folders with all that is in them.
    """

    name, version = "folder", 1

    def __init__(self, path: Path, ignore: Sequence[str] = IGNORED) -> None:
        self.path, self.ignore = path, tuple(ignore)
        self._known: dict[str, Known] = {}
        self._tree = Tree(self._read)

    def begin(self) -> tuple[Any, str]:
        """Return the tree of files, and its digest."""
        return self._tree.begin()

    def update(self) -> tuple[list[Change], str]:
        """Return what changed, and the digest of all."""
        return self._tree.update()

    def restore(self, value: dict[str, Any]) -> None:
        """Write files, modes, links and folders as they were; what was not there is deleted, but for what is ignored.

        Raises:
            RestoreError: A large file, of which only the digest is known, is not as it was; nothing is changed then.
        """
        live = self._read()
        _check_large(value, live, "")
        self._write(self.path, value, live)

    def _write(self, folder: Path, wanted: dict[str, Any], live: dict[str, Any]) -> None:
        for name, entry in live.items():
            if wanted.get(name) != entry and (
                name not in wanted or is_file(entry) or is_file(wanted[name])
            ):
                place = folder / name
                shutil.rmtree(place) if not is_file(entry) else place.unlink()
        for name, entry in wanted.items():
            place, before = folder / name, live.get(name)
            if before == entry:
                continue
            if not is_file(entry):
                place.mkdir(exist_ok=True)
                self._write(
                    place, entry, before if before is not None and not is_file(before) else {}
                )
            elif "link" in entry:
                place.symlink_to(entry["link"])
            else:
                place.write_bytes(entry["text"].encode() if "text" in entry else entry["bytes"])
                place.chmod(int(entry["mode"], 8))

    def _read(self) -> dict[str, Any]:
        known: dict[str, Known] = {}
        found = self._scan(os.fspath(self.path), known)
        self._known = known
        return found

    def _scan(self, path: str, known: dict[str, Known]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if any(fnmatch(entry.name, pattern) for pattern in self.ignore):
                    continue
                name = os.fsencode(entry.name).decode("utf-8", "backslashreplace")
                if entry.is_symlink():
                    found[name] = {"link": os.readlink(entry.path)}
                elif entry.is_dir(follow_symlinks=False):
                    found[name] = self._scan(entry.path, known)
                elif entry.is_file(follow_symlinks=False):
                    found[name] = self._file(entry, known)
        return found

    def _file(self, entry: os.DirEntry[str], known: dict[str, Known]) -> dict[str, Any]:
        status = entry.stat(follow_symlinks=False)
        stamp = (
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_ino,
            status.st_mode,
        )
        old = self._known.get(entry.path)
        if old is None or old.stamp != stamp or old.read_ns - status.st_mtime_ns < RACY_NS:
            now = time.time_ns()
            old = Known(
                stamp, now, {"mode": f"{stat.S_IMODE(status.st_mode):o}", **_content(entry.path)}
            )
        known[entry.path] = old
        return old.entry


def is_file(entry: dict[str, Any]) -> bool:
    """Say whether an entry is a file or a link, not a folder: the values of a folder are entries."""
    return isinstance(entry.get("link", entry.get("mode")), str)


def _check_large(wanted: dict[str, Any], live: dict[str, Any], path: str) -> None:
    for name, entry in wanted.items():
        before = live.get(name)
        if not is_file(entry):
            _check_large(
                entry,
                before if before is not None and not is_file(before) else {},
                f"{path}{name}/",
            )
        elif "digest" in entry and entry != before:
            raise RestoreError(
                f"{path}{name}: only the digest of so large a file is recorded, and the file is not as it was"
            )


def _content(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        data = file.read(WHOLE_BYTES + 1)
        if len(data) > WHOLE_BYTES:
            hasher = hashlib.blake2b(data, digest_size=16)
            size = len(data)
            while part := file.read(1 << 20):
                hasher.update(part)
                size += len(part)
            return {"size": size, "digest": hasher.hexdigest()}
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"bytes": data}
