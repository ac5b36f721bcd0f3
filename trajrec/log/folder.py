"""Folders of logs: finds the logs, whatever else lies in it, and puts names on the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

SUFFIX = ".trj"


class LogFile(NamedTuple):
    """A file with the name of a log, or a folder that cannot be searched.

    Attributes:
        size: Its size in bytes, 0 if unknown.
        mtime_ns: The time of its last change, 0 if unknown.
        problem: Why it cannot be opened, as far as its name and place show it; "" otherwise.
    """

    size: int = 0
    mtime_ns: int = 0
    problem: str = ""


def find_logs(folder: Path) -> dict[str, LogFile]:
    """Return the logs of a folder at any depth, by their relative path with forward slashes.

    Symbolic links to folders are not followed. An inner folder that cannot be searched is listed
    like a log, with its problem.

    Raises:
        OSError: The folder itself cannot be searched.
    """
    files: dict[str, LogFile] = {}
    pending = [""]
    while pending:
        relative = pending.pop()
        try:
            with os.scandir(folder / relative) as entries:
                for entry in entries:
                    name = f"{relative}/{entry.name}" if relative else entry.name
                    if _is_folder(entry):
                        pending.append(name)
                    elif entry.name.endswith(SUFFIX):
                        _add(files, folder, name)
        except FileNotFoundError:
            # Deleted since its parent was searched; the corpus itself has to be there.
            if not relative:
                raise
        except OSError as exc:
            if not relative:
                raise
            reason = f"the folder cannot be searched: {exc.strerror or exc}"
            files[_text(relative)] = LogFile(problem=reason)
    return dict(sorted(files.items()))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _add(files: dict[str, LogFile], folder: Path, name: str) -> None:
    """Add a file with the name of a log."""
    text = _text(name)
    if text != name:
        files[text] = LogFile(problem="its name is not UTF-8; rename it")
        return
    path = folder / name
    try:
        status = os.stat(path)
    except OSError as exc:
        # A file that was deleted meanwhile is none; a link that leads nowhere stays.
        if not isinstance(exc, FileNotFoundError) or os.path.islink(path):
            files[name] = LogFile(problem=f"cannot be read: {exc.strerror or exc}")
        return
    files[name] = LogFile(status.st_size, status.st_mtime_ns)


def _text(name: str) -> str:
    """Return a name as a text that can be stored: bytes that are not UTF-8 are written out."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def sync_folder(folder: Path) -> None:
    """Put the names of a folder on the disk; Windows cannot open folders."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
