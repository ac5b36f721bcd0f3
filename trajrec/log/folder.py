"""Folders of logs: finds the logs, whatever else lies in it, and puts names on the disk."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from pathlib import Path
from typing import NamedTuple

SUFFIX = ".trj"

INDEX_FOLDER = ".trajrec"
"""The folder inside a corpus that holds what is derived from its logs, and what a repeated command
needs to know. It may be deleted."""

BAD_NAME = "its name is not UTF-8; rename it"
"""The problem of a file that is listed under another name than its own."""


class LogFile(NamedTuple):
    """A file with the name of a log, or a folder that cannot be searched.

    Attributes:
        size: Its size in bytes, 0 if unknown.
        mtime_ns: The time of its last change, 0 if unknown.
        is_link: Whether it is a symbolic link, whose target may change unseen by the folder.
        folder: The folder whose listing names it, relative to the corpus.
        problem: Why it cannot be opened, as far as its name and place show it; "" otherwise.
    """

    size: int = 0
    mtime_ns: int = 0
    is_link: bool = False
    folder: str = ""
    problem: str = ""


class Listing(NamedTuple):
    """The contents of one folder, by path relative to the corpus.

    Attributes:
        files: The logs.
        folders: The folders in it. Symbolic links to folders are not followed.
    """

    files: dict[str, LogFile]
    folders: list[str]


def find_logs(folder: Path) -> dict[str, LogFile]:
    """Return the logs of a folder at any depth, by their relative path with forward slashes.

    An inner folder that cannot be searched is listed like a log, with its problem.

    Raises:
        OSError: The folder itself cannot be searched.
    """
    files: dict[str, LogFile] = {}
    pending = [""]
    while pending:
        listing = list_folder(folder, pending.pop())
        files |= listing.files
        pending += listing.folders
    return dict(sorted(files.items()))


def has_logs(folder: Path) -> bool:
    """Return whether a folder has any log, at any depth.

    Raises:
        OSError: The folder itself cannot be searched.
    """
    pending = [""]
    while pending:
        name = pending.pop()
        with contextlib.ExitStack() as stack:
            try:
                entries = stack.enter_context(os.scandir(folder / name))
            except OSError:
                if not name:
                    raise
                # It is named in the corpus like a log that cannot be read.
                return True
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    return True
                if _is_folder(entry) and entry.name != INDEX_FOLDER:
                    pending.append(f"{name}/{entry.name}" if name else entry.name)
    return False


def list_folder(folder: Path, relative: str) -> Listing:
    """Return the logs and the folders in a folder of a corpus.

    Args:
        folder: The corpus.
        relative: The folder in it, "" for the corpus itself.

    Raises:
        OSError: The corpus itself cannot be searched.
    """
    files: dict[str, LogFile] = {}
    folders = []
    root = os.fspath(folder)
    try:
        with os.scandir(folder / relative) as entries:
            for entry in entries:
                name = f"{relative}/{entry.name}" if relative else entry.name
                if _is_folder(entry):
                    if entry.name != INDEX_FOLDER:
                        folders.append(name)
                elif entry.name.endswith(SUFFIX):
                    _add(files, root, name, relative)
    except FileNotFoundError:
        # Deleted since its parent was searched; the corpus itself has to be there.
        if not relative:
            raise
    except OSError as exc:
        if not relative:
            raise
        reason = f"the folder cannot be searched: {exc.strerror or exc}"
        files[name_text(relative)] = LogFile(folder=name_text(relative), problem=reason)
    return Listing(files, folders)


def stat_log(folder: Path, name: str) -> LogFile | None:
    """Return a file with the name of a log, None if there is none."""
    files: dict[str, LogFile] = {}
    _add(files, os.fspath(folder), name, posixpath.dirname(name))
    return files.get(name_text(name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _add(files: dict[str, LogFile], folder: str, name: str, inner: str) -> None:
    """Add a file with the name of a log.

    Args:
        files: Gets it.
        folder: The corpus. A text, because a folder that has just changed is listed at each query,
            and to join a `Path` for each of its logs would take longer than to look at them.
        name: The path of the file in it.
        inner: The path of its folder in it, "" for the corpus.
    """
    text = name_text(name)
    if text != name:
        files[text] = LogFile(folder=name_text(inner), problem=BAD_NAME)
        return
    path = f"{folder}/{name}"
    try:
        status = os.lstat(path)
        is_link = stat.S_ISLNK(status.st_mode)
    except FileNotFoundError:
        # Deleted meanwhile.
        return
    except OSError as exc:
        files[name] = LogFile(folder=inner, problem=_why_unread(exc))
        return
    if is_link:
        try:
            status = os.stat(path)
        except OSError as exc:
            # A link that leads nowhere stays.
            files[name] = LogFile(is_link=True, folder=inner, problem=_why_unread(exc))
            return
    files[name] = LogFile(status.st_size, status.st_mtime_ns, is_link, inner)


def _why_unread(exc: OSError) -> str:
    return f"cannot be read: {exc.strerror or exc}"


def name_text(name: str) -> str:
    """Return a name as a text that can be stored: bytes that are not UTF-8 are written out."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def is_inside(name: str) -> bool:
    """Return whether a relative path names a log inside of a corpus."""
    parts = name.split("/")
    return name.endswith(SUFFIX) and not os.path.isabs(name) and ".." not in parts


def sync_folder(folder: Path) -> None:
    """Put the names of a folder on the disk; Windows cannot open folders."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
