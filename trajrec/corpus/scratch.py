"""Files and folders that are written beside their place, and take it when they are whole."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trajrec.errors import CorpusError
from trajrec.log.locks import is_running


@contextlib.contextmanager
def replacing(path: Path, *, replaces_folder: bool = False) -> Iterator[Path]:
    """Yield a path beside a path, for a file or a folder that takes its place if no error comes.

    What exports that were killed have left for the same path is removed.

    Args:
        path: The file or folder.
        replaces_folder: Whether a folder with files may be replaced.

    Raises:
        CorpusError: The file cannot be written.
    """
    with scratch_beside(path) as temporary:
        yield temporary
        if replaces_folder and path.is_dir() and not path.is_symlink():
            # No system call that Python has replaces a folder with files.
            with scratch_beside(path.with_name(f"{path.name}.old")) as old:
                try:
                    os.replace(path, old)
                    os.replace(temporary, path)
                except BaseException:
                    # Also an interrupt: the old folder would be removed, and the new one too.
                    if old.exists() and not path.exists():
                        os.replace(old, path)
                    raise
        else:
            os.replace(temporary, path)


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yield a path beside a path, for a file or a folder that is removed at the end.

    What exports that were killed have left for the same path is removed.

    Raises:
        CorpusError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        for left in _left(path):
            _remove(left)
        yield temporary
    except OSError as exc:
        raise CorpusError(f"{path}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        _remove(temporary)


def _left(path: Path) -> Iterator[Path]:
    """Yield the files and folders of exports to a path whose processes are gone."""
    if not path.parent.is_dir():
        return
    head = f".{path.name}."
    for entry in path.parent.iterdir():
        number = entry.name.removeprefix(head).removesuffix(".tmp")
        is_ours = entry.name == f"{head}{number}.tmp" and number.isdecimal()
        if is_ours and not is_running(number):
            yield entry


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
