"""Where a corpus lies: in a folder, or at an address that a folder on this machine stands for."""

from __future__ import annotations

from pathlib import Path

from trajrec.corpus.mirror import open_mirror
from trajrec.errors import CorpusError
from trajrec.log.folder import BAD_NAME, has_logs, name_text
from trajrec.log.remote import url_of


def locate(path: str | Path) -> Path:
    """Return the folder of a corpus; of one in an object storage, the folder that stands for it.

    Raises:
        CorpusError: There is no such folder, it has no logs, or it cannot be read.
        MissingPackageError: A package for such addresses is not installed.
    """
    url = url_of(path)
    folder = Path(path) if url is None else open_mirror(url)
    require_logs(folder)
    return folder


def refuse_address(folder: Path) -> None:
    """Refuse an address where the files themselves are needed.

    Raises:
        CorpusError: The path names an address.
    """
    url = url_of(folder)
    if url is not None:
        raise CorpusError(f"{url}: an address, and this needs a folder on this machine")


def require_logs(folder: Path) -> None:
    """Refuse a folder without logs.

    Raises:
        CorpusError: There is no such folder, it has no logs, or it cannot be read.
    """
    refuse_address(folder)
    shown = name_text(str(folder))
    if shown != str(folder):
        # DuckDB could not open an index in it.
        raise CorpusError(f"{shown}: {BAD_NAME}")
    if not folder.exists():
        raise CorpusError(f"{folder}: no such folder; record into it first")
    if not folder.is_dir():
        raise CorpusError(f"{folder}: not a folder; give the folder that the log lies in")
    try:
        is_empty = not has_logs(folder)
    except OSError as exc:
        name = exc.filename or folder
        raise CorpusError(f"{name}: cannot be read ({exc.strerror}); check permissions") from exc
    if is_empty:
        raise CorpusError(f"{folder}: no logs (*.trj) in this folder; record into it first")
