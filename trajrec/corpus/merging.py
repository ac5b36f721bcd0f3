"""Merges folders of logs: copies into one folder the logs that it lacks."""

from __future__ import annotations

import contextlib
import os
import shutil
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trajrec.corpus.corpus import open as open_corpus
from trajrec.corpus.location import require_logs
from trajrec.errors import CorpusError
from trajrec.log.folder import find_logs, has_logs, sync_folder
from trajrec.log.identity import Identity, read_identity

_SHOWN = 3


@dataclass(frozen=True)
class Merge:
    """The result of `merge`.

    Attributes:
        copied: The logs that were copied, by path relative to the folder that took them.
        n_known: The logs that the folder had before, whatever their names.
    """

    copied: list[str]
    n_known: int


def merge(sources: Sequence[str | Path], target: str | Path) -> Merge:
    """Copy into a folder the logs of others that it lacks; the sources stay as they are.

    A log is known by its id and its contents, whatever its name, so a second call copies nothing,
    and a call that was killed can be made again: a log is in the folder whole, or not at all.

    Args:
        sources: Folders of logs.
        target: The folder that takes them, made if it is missing.

    Raises:
        CorpusError: A source has no logs, a log is not sealed, two logs of one id have different
            contents, or one of the folders has removed episodes that another one still has.
        LogError: A log cannot be read.
    """
    folder = Path(target)
    # All is looked at before anything is copied.
    found = [item for source in sources for item in _logs_of(Path(source))]
    known: dict[str, Identity] = {}
    together = list(map(Path, sources))
    if _takes_more(folder):
        known = {identity.log: identity for _, _, identity in _logs_of(folder)}
        together.append(folder)
    _check_removed(together)
    new: dict[str, Path] = {}
    taken: set[str] = set()
    n_known = 0
    for path, name, identity in found:
        other = known.get(identity.log)
        if other is not None and other.seal != identity.seal:
            raise CorpusError(
                f"{path}: another form of a log that {folder} or another source has (one was "
                "compacted, or had episodes removed); keep one of them, and merge again"
            )
        if other is not None:
            n_known += 1
            continue
        known[identity.log] = identity
        free_name = _free_name(folder, name, path, taken)
        taken.add(_plain(free_name))
        new[free_name] = path
    for name, path in new.items():
        _copy(path, folder / name)
    return Merge(sorted(new), n_known)


def _takes_more(folder: Path) -> bool:
    """Return whether a target has logs already: it may be empty, as a killed merge leaves it.

    Raises:
        CorpusError: It is no folder, or cannot be read.
    """
    if folder.is_dir():
        with contextlib.suppress(OSError):
            return has_logs(folder)
    if folder.exists():
        require_logs(folder)
    return False


def _logs_of(folder: Path) -> Iterator[tuple[Path, str, Identity]]:
    """Yield path, name and identity of the logs of a folder.

    Raises:
        CorpusError: It has none, or one is not sealed or not readable.
    """
    if not folder.exists() or not has_logs(folder):
        require_logs(folder)
    for name, file in find_logs(folder).items():
        path = folder / name
        if file.problem:
            raise CorpusError(f"{path}: {file.problem}")
        identity = read_identity(path)
        if not identity.seal:
            raise CorpusError(
                f"{path}: not sealed: close its recorder, or run `trajrec recover {path}`"
            )
        yield path, name, identity


def _check_removed(folders: Sequence[Path]) -> None:
    """Refuse folders of which one has episodes that another one has removed."""
    if len(folders) < 2:
        return
    removals = {folder: _ids(folder, "removals") for folder in folders}
    for folder in folders:
        for remover, removed in removals.items():
            if remover == folder or not removed:
                continue
            left = _ids(folder, "all_episodes", removed)
            if left:
                raise CorpusError(
                    f"{folder}: has {len(left)} episodes that were removed from {remover} "
                    f"({', '.join(left[:_SHOWN])}); run `trajrec rm` there too, or do not merge the "
                    "two"
                )


def _ids(folder: Path, table: str, among: Sequence[str] | None = None) -> list[str]:
    """Return the episodes that a table of a folder names, all or those among some."""
    condition = "true" if among is None else "episode_id IN (SELECT unnest($ids))"
    with open_corpus(folder) as corpus:
        rows = corpus.sql(
            f"SELECT DISTINCT episode_id FROM {table} WHERE {condition} ORDER BY episode_id",
            params=None if among is None else {"ids": list(among)},
        ).fetchall()
    return [row[0] for row in rows]


def _free_name(folder: Path, name: str, path: Path, taken: Collection[str]) -> str:
    """Return the name of a log in the folder: its own, or one with the name of its source.

    Args:
        folder: The folder.
        name: The name in the source.
        path: The log.
        taken: The names of logs that will be copied, as `_plain` has them.
    """
    candidate = name
    number = 1
    while _plain(candidate) in taken or (folder / candidate).exists():
        root = path.parents[len(Path(name).parts) - 1].name
        candidate = f"{root}-{number}/{name}"
        number += 1
    return candidate


def _plain(name: str) -> str:
    """Return a name as file systems have it that tell neither cases nor forms of letters apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _copy(source: Path, target: Path) -> None:
    """Copy a log, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copyfile(source, temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        sync_folder(target.parent)
    except OSError as exc:
        raise CorpusError(f"{target}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        # Also of a call that Ctrl-C ended.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
