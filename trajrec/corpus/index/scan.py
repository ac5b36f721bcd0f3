"""Finds the files of a corpus that differ from those that the index knows.

A file that appears, goes or is replaced changes the time of its folder. So only folders whose time
has changed are listed, and of the others only the files that may change in place are looked at:
logs that are not sealed.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

from trajrec.errors import LogError
from trajrec.log.folder import BAD_NAME, LogFile, list_folder, name_text, stat_log
from trajrec.log.source import UNREADABLE, FileSource

ScanMode: TypeAlias = Literal["changed", "full"]
"""Which folders are listed: "changed" those whose time has changed, "full" all of them."""

# The clock of a file system may tick as slowly as this: a folder that was listed so soon after its
# last change may have changed again at the same time.
_SETTLED_NS = 2_000_000_000


class FolderState(NamedTuple):
    """A folder as it was listed.

    Attributes:
        mtime_ns: The time of its last change.
        ctime_ns: The same, as no program can set it; on Windows the time that it was made.
        inode: Its number on its file system.
        is_settled: Whether its last change was long before: if not, it is listed again.
    """

    mtime_ns: int
    ctime_ns: int
    inode: int
    is_settled: bool = True


class KnownFile(NamedTuple):
    """A file as the index knows it.

    Attributes:
        folder: The folder whose listing names it.
        log_key: The key of its contents, None if it could not be read.
        is_original: Whether it is the file that the index names for these contents.
        problem: Why it could not be read, "" if it could.
    """

    folder: str
    size: int
    mtime_ns: int
    log_key: int | None
    is_original: bool
    is_link: bool
    problem: str


class KnownFiles(Protocol):
    """The files that the index knows."""

    def in_folders(self, folders: Iterable[str] | None) -> Mapping[str, KnownFile]:
        """Return the files right in some folders, or all."""
        ...

    def watched(self) -> Mapping[str, KnownFile]:
        """Return the files that may change in place, or become readable."""
        ...


class Scan(NamedTuple):
    """The difference between a folder and the index.

    Attributes:
        found: Files that are new, have changed, or could not be read before.
        gone: Files that are not there any more.
        folders: The folders as they are now, to be kept once the difference is indexed.
        n_listed: The number of files that were listed.
    """

    found: dict[str, LogFile]
    gone: set[str]
    folders: dict[str, FolderState]
    n_listed: int

    @property
    def has_news(self) -> bool:
        """Whether anything differs."""
        return bool(self.found or self.gone)


def scan_folder(
    root: Path, folders: Mapping[str, FolderState], known: KnownFiles, *, mode: ScanMode
) -> Scan:
    """Look for files that differ from those that are known.

    Args:
        root: The corpus.
        folders: Its folders as they were listed last.
        known: Its files as they are known.
        mode: Which folders are listed.

    Raises:
        OSError: The corpus itself cannot be searched.
    """
    if mode == "full":
        folders = {}
    states = dict(folders)
    listed: dict[str, LogFile] = {}
    searched: set[str] = set()
    pending = _changed(root, states) if states else [""]
    while pending:
        name = pending.pop()
        if name in searched:
            continue
        searched.add(name)
        # Before it is listed: a change meanwhile shows next time.
        state = _state(root / name)
        listing = list_folder(root, name)
        listed |= listing.files
        pending += [inner for inner in listing.folders if inner not in folders]
        if state is None or name != name_text(name):
            states.pop(name, None)
        else:
            # What cannot be stored is listed again each time: an unreadable folder, and one whose
            # name is not UTF-8, through the folder that it is in.
            is_whole = name not in listing.files and all(
                inner == name_text(inner) for inner in listing.folders
            )
            states[name] = state._replace(is_settled=state.is_settled and is_whole)
    names = list(map(name_text, searched)) if folders else None
    before = known.in_folders(names) if searched else {}
    found = {
        log: file for log, file in listed.items() if _differs(root, log, file, before.get(log))
    }
    gone = set(before.keys() - listed.keys())
    for log, file in known.watched().items():
        if log in before or log in listed:
            continue
        if BAD_NAME in file.problem:
            # No file is found by this name: its folder was listed if it has changed, and each time
            # if its own name is one that cannot be stored.
            if posixpath.dirname(log) not in states:
                gone.add(log)
            continue
        now = stat_log(root, log)
        if now is None:
            gone.add(log)
        elif _differs(root, log, now, file):
            found[log] = now
    return Scan(dict(sorted(found.items())), gone, states, len(listed))


def _changed(root: Path, states: Mapping[str, FolderState]) -> list[str]:
    """Return the folders that must be listed."""
    return [
        name
        for name, before in states.items()
        if not before.is_settled or _state(os.path.join(root, name)) != before
    ]


def _state(path: str | Path) -> FolderState | None:
    """Return the state of a folder, None if it is gone or not permitted."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    age_ns = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    return FolderState(
        status.st_mtime_ns, status.st_ctime_ns, status.st_ino, is_settled=age_ns > _SETTLED_NS
    )


def _differs(root: Path, log: str, file: LogFile, before: KnownFile | None) -> bool:
    """Return whether a file is not as the index knows it, or can be read by now."""
    if before is None or (file.size, file.mtime_ns) != (before.size, before.mtime_ns):
        return True
    if file.problem:
        return file.problem != before.problem
    # Not so with a file that is no log: it stays none until it changes.
    return UNREADABLE in before.problem and _is_readable(root / log)


def _is_readable(path: Path) -> bool:
    try:
        with contextlib.closing(FileSource(path)) as source:
            source.range(0, 1)
    except LogError:
        return False
    return True
