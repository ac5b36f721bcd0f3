"""Puts a rewritten log into the place of an old one, so that no crash can lose either.

The new log is written to a temporary file beside the old one, which one process has at a time. It
is complete and on the disk before one rename puts it into the old log's place. So at each moment
the path names a whole log: the old one or the new one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trajrec.errors import LogError
from trajrec.log.exclusive import exclusive_file
from trajrec.log.folder import sync_folder

SUFFIX_OF_DAMAGED = ".damaged"
"""The end of the name of a damaged log that `recover` has replaced; the second is `.damaged.2`."""


class Rewrite:
    """The right to replace a log, and the file that is to replace it.

    Attributes:
        path: The log. If a symbolic link named it, this is the file that the link names.
        temporary: The file that is to replace it.
        file: The same file, open for writing. It has the mode and the owner of the log.
    """

    def __init__(self, path: Path, temporary: Path, file: BinaryIO) -> None:
        self.path = path
        self.temporary = temporary
        self.file = file
        self._old = os.stat(path)
        _copy_attributes(path, self._old, file.fileno())

    def keep_old(self) -> Path:
        """Keep the old log under another name beside it; return the name.

        The old log stays in its place as well. No file is overwritten. If an earlier run was killed
        after it had kept the log, its copy is used.

        Raises:
            LogError: The log cannot be kept.
        """
        try:
            for number in range(1, 1 << 20):
                name = damaged_name(self.path, number)
                if _is_copy(name, self.path) or self._claim(name):
                    sync_folder(self.path.parent)
                    return name
        except OSError as exc:
            raise self._failure(exc) from exc
        raise LogError("it has too many damaged copies; move some of them away", path=self.path)

    def commit(self) -> None:
        """Put the new log into the place of the old one, durably.

        Raises:
            LogError: The new log cannot be put there, or the old one has changed meanwhile.
        """
        try:
            self.file.flush()
            # On the disk before the rename: a power cut must not leave an empty file.
            os.fsync(self.file.fileno())
            now = os.stat(self.path)
            if _identity(now) != _identity(self._old):
                raise LogError(
                    "the log was changed while it was rewritten, so it was left as it is; try again",
                    path=self.path,
                )
            if os.name == "nt":
                # Windows renames no open file.
                self.file.close()
            os.replace(self.temporary, self.path)
            sync_folder(self.path.parent)
        except OSError as exc:
            raise self._failure(exc) from exc

    def _claim(self, name: Path) -> bool:
        """Give the old log a further name; return False if another file has it."""
        try:
            os.link(self.path, name)
        except FileExistsError:
            return False
        except OSError:
            # The file system has no hard links, or does not allow them for files of others.
            return self._copy(name)
        return True

    def _copy(self, name: Path) -> bool:
        """Copy the old log to a name; return False if another file has it."""
        temporary = self.temporary.with_name(self.temporary.name + ".copy")
        temporary.unlink(missing_ok=True)
        shutil.copy2(self.path, temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        try:
            # An empty file holds the name until the copy replaces it.
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            temporary.unlink()
            return False
        os.replace(temporary, name)
        return True

    def _failure(self, exc: OSError) -> LogError:
        return LogError(
            f"cannot be rewritten: {exc.strerror or exc}; it is unchanged", path=self.path
        )


@contextlib.contextmanager
def rewriting(path: Path) -> Iterator[Rewrite]:
    """Lock a log for a rewrite, and open the file that is to replace it.

    A second process waits until the first is done. Temporary files of runs that were killed are
    taken over.

    Raises:
        LogError: The log, or a file beside it, cannot be opened, or another process rewrites the
            log for long.
    """
    real = path
    try:
        if os.path.islink(path):
            # A link must stay one: the file that it names is replaced.
            real = Path(os.path.realpath(path, strict=True))
        # Before anything is written beside it: a link may lead to /dev.
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise LogError("not a regular file", path=path)
    except OSError as exc:
        raise LogError(f"cannot be read: {exc.strerror or exc}", path=path) from exc
    temporary = temporary_name(real)
    with exclusive_file(temporary, log=path) as descriptor:
        temporary.with_name(temporary.name + ".copy").unlink(missing_ok=True)
        file = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - closed below
        try:
            rewrite = Rewrite(real, temporary, file)
            yield rewrite
        except OSError as exc:
            raise LogError(f"cannot be rewritten: {exc.strerror or exc}", path=path) from exc
        finally:
            # On a full disk it cannot write what it holds. `commit` has seen to the rest.
            with contextlib.suppress(OSError):
                file.close()


def temporary_name(path: Path) -> Path:
    """Return the name of the file that is to replace a log."""
    return path.with_name(f".{path.name}.tmp")


def damaged_name(path: Path, number: int) -> Path:
    """Return the name of a damaged log that was replaced, the first one with the number 1."""
    suffix = SUFFIX_OF_DAMAGED if number == 1 else f"{SUFFIX_OF_DAMAGED}.{number}"
    return path.with_name(path.name + suffix)


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _is_copy(name: Path, path: Path) -> bool:
    """Return whether a name has the bytes of a log, or is the log itself."""
    try:
        status = os.lstat(name)
        own = os.stat(path)
    except FileNotFoundError:
        return False
    if (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino):
        return True
    if status.st_size != own.st_size or not os.path.isfile(name) or os.path.islink(name):
        return False
    with open(name, "rb") as a, open(path, "rb") as b:
        while piece := a.read(1 << 20):
            if piece != b.read(1 << 20):
                return False
    return True


def _copy_attributes(path: Path, status: os.stat_result, descriptor: int) -> None:
    """Give an open file the owner, the mode and the extended attributes of a log."""
    new = os.fstat(descriptor)
    if hasattr(os, "fchown") and (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
        # An error if it is not allowed: the file of another owner would be lost to them.
        os.fchown(descriptor, status.st_uid, status.st_gid)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, status.st_mode & 0o7777)
    if hasattr(os, "listxattr"):
        # Access lists are among them. Not every file system has them, nor may every process set
        # those of the system.
        with contextlib.suppress(OSError):
            for name in os.listxattr(path):
                with contextlib.suppress(OSError):
                    os.setxattr(descriptor, name, os.getxattr(path, name))
