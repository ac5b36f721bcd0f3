"""Uploads a corpus to an object storage, from where it is read by ranges."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from trajrec.corpus.corpus import open as open_corpus
from trajrec.corpus.index.file import copy_index, update_index
from trajrec.corpus.location import require_logs
from trajrec.corpus.mirror import (
    MANIFEST_NAME,
    Manifest,
    RemoteLog,
    asking,
    index_name,
    read_manifest,
)
from trajrec.corpus.removal import emptied_logs
from trajrec.errors import CorpusError, LogError
from trajrec.log.folder import INDEX_FOLDER, find_logs
from trajrec.log.frames import log_id_bytes
from trajrec.log.identity import read_identity
from trajrec.log.remote import file_system, is_placeholder, url_of
from trajrec.log.source import FileSource

# A push that is broken off is continued from its last manifest.
_MANIFEST_S = 30.0

# A log that takes the place of another form of it is unreadable until the manifest names it.
_REPLACED_S = 1.0

# A push looks this long after its manifest whether another one has replaced it, which reads the
# manifest and writes it in about a tenth of that.
_SETTLE_S = 0.5
_TRIES = 5

# Kinds of storage that have folders. An object storage has none: there, to make one would make a
# bucket that is missing.
_FOLDERS = {"file", "local", "memory", "sftp", "ssh", "smb", "hdfs"}


@dataclass
class Push:
    """The result of `push`.

    Attributes:
        uploaded: The logs that were uploaded, by relative path.
        n_known: The number of logs that the storage had already.
        left: Logs that were not uploaded, each with the reason: those that are not sealed, for
            instance since they are being written, and those that cannot be read.
        deleted: The logs that were deleted there.
    """

    uploaded: list[str] = field(default_factory=list)
    n_known: int = 0
    left: dict[str, str] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)


def push(
    folder: str | Path,
    url: str,
    *,
    delete: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Push:
    """Upload the sealed logs of a folder that an object storage lacks, and their index.

    A log is known by its id and its contents, so a second call uploads nothing, and one that was
    killed is made again. Readers see a log once it is there whole. The folder stays as it is.
    Episodes that `trajrec rm` has removed from the folder go from the storage too: their logs are
    replaced or deleted, and so are all indexes that name them.

    Args:
        folder: The corpus.
        url: Where it goes, for instance "s3://bucket/runs".
        delete: Whether to delete all logs there that the folder does not have.
        progress: Called with (bytes uploaded, bytes to upload).

    Raises:
        CorpusError: The folder has no logs, the storage has another form of a log or another log
            in its place, or it cannot be written.
        MissingPackageError: A package for such addresses is not installed.
        ValueError: The url is no address.

    Example:
        >>> push("runs/", "s3://bucket/runs")  # doctest: +SKIP
        Push(uploaded=['5c0e.trj'], n_known=0, left={}, deleted=[])
    """
    if url_of(url) is None:
        raise ValueError(f"url must be an address such as s3://bucket/runs, got {url!r}")
    folder = Path(folder)
    require_logs(folder)
    upload = _Upload(folder, url.rstrip("/"), progress)
    upload.look()
    upload.send()
    upload.delete(upload.others() if delete else upload.removed())
    upload.finish()
    return upload.result


class _Upload:
    """One push: its steps in order."""

    def __init__(self, folder: Path, url: str, progress: Callable[[int, int], None] | None) -> None:
        self.result = Push()
        self._folder = folder
        self._url = url
        self._progress = progress
        self._manifest = read_manifest(url) or Manifest()
        self._added: dict[str, RemoteLog] = {}
        self._own: set[str] = set()
        self._own_ids: set[str] = set()
        self._new: dict[str, RemoteLog] = {}
        self._replaces = False
        # Indexes that come later are those of other pushes, which may be about to name them.
        self._indexes = self._find_indexes()

    def look(self) -> None:
        """Find the logs that the storage lacks; refuse before anything is uploaded."""
        for name, file in find_logs(self._folder).items():
            path = self._folder / name
            self._own.add(name)
            if file.problem:
                self.result.left[name] = file.problem
                continue
            try:
                log = _describe(path)
            except LogError as exc:
                self.result.left[name] = exc.what
                continue
            known = self._manifest.logs.get(name)
            if log is not None:
                self._own_ids.add(log.log_id)
            if log is None:
                # It stands for a log of a storage, and is no log itself.
                if known is None:
                    self.result.left[name] = "lies in an object storage; push it from where it was"
                else:
                    self.result.n_known += 1
            elif not log.seal:
                self.result.left[name] = (
                    f"not sealed: close its recorder, or run `trajrec recover {path}`"
                )
            elif known is not None and (known.log_id, known.seal) == (log.log_id, log.seal):
                self.result.n_known += 1
            else:
                self._check(name, log, known)
                self._new[name] = log

    def _check(self, name: str, log: RemoteLog, known: RemoteLog | None) -> None:
        if known is None:
            return
        if known.log_id != log.log_id:
            raise CorpusError(
                f"{self._url}/{name}: another log is in this place; rename {self._folder / name}"
            )
        if known.generation >= log.generation:
            raise CorpusError(
                f"{self._url}/{name}: the storage has a form of this log that was rewritten as "
                f"often as {self._folder / name} or more (by `trajrec compact` or `rm`); "
                "keep one of them, and push again"
            )
        self._replaces = True

    def send(self) -> None:
        """Upload the logs."""
        n_bytes = sum(log.size for log in self._new.values())
        n_sent = 0
        noted = time.monotonic()
        known = self._manifest.logs.keys()
        # Those that take another's place last, shortly before the manifest.
        for name, log in sorted(self._new.items(), key=lambda item: item[0] in known):
            path = self._folder / name
            self._put(path, name)
            if _describe(path) != log:
                raise CorpusError(f"{path}: was changed while it was uploaded; push again")
            self._added[name] = log
            self.result.uploaded.append(name)
            n_sent += log.size
            if self._progress is not None:
                self._progress(n_sent, n_bytes)
            if time.monotonic() - noted > (_REPLACED_S if self._replaces else _MANIFEST_S):
                self._put_manifest()
                noted = time.monotonic()
        if self._replaces:
            # Before the index, which takes longer.
            self._put_manifest()

    def others(self) -> list[str]:
        """Return the logs there that the folder does not have."""
        return sorted(self._manifest.logs.keys() - self._own)

    def removed(self) -> list[str]:
        """Return those of which `trajrec rm` has left nothing in the folder."""
        others = self.others()
        if not others:
            return []
        with open_corpus(self._folder) as corpus:
            logs = corpus.sql("SELECT DISTINCT log FROM removals").fetchall()
        emptied = {
            log_id_bytes(log_id).hex()
            for (log,) in logs
            for log_id in emptied_logs(self._folder / log)
        }
        gone = emptied - self._own_ids
        return [name for name in others if self._manifest.logs[name].log_id in gone]

    def delete(self, names: list[str]) -> None:
        """Delete logs there; readers miss them first."""
        if not names:
            return
        self.result.deleted = names
        # The index names them too.
        self._manifest.index = None
        self._put_manifest()
        self._remove(names)

    def finish(self) -> None:
        """Upload the index, and the manifest that names it."""
        update_index(self._folder)
        old = self._manifest.index
        beside = self._folder / INDEX_FOLDER
        # A folder that may only be read has no index, or one that somebody else made.
        can_write = beside.is_dir() and os.access(beside, os.W_OK)
        with tempfile.TemporaryDirectory(dir=beside if can_write else None) as temporary:
            copy = Path(temporary) / "index.duckdb"
            if copy_index(self._folder, copy):
                with copy.open("rb") as file:
                    self._manifest.index = index_name(file)
                if self._manifest.index != old:
                    self._put(copy, f"{INDEX_FOLDER}/{self._manifest.index}")
            elif self._replaces:
                # The old one may have episodes that were removed since.
                self._manifest.index = None
        if self._added or self.result.deleted or self._manifest.index != old:
            self._put_manifest()
        if self._added or self.result.deleted:
            self._confirm()
        self._remove_old_indexes()

    def _remove_old_indexes(self) -> None:
        # Not even the one of before stays: it may have episodes that were removed since. A reader
        # that misses it asks for the manifest again.
        stale = self._indexes - {self._manifest.index}
        if stale:
            now = read_manifest(self._url) or Manifest()
            self._remove([f"{INDEX_FOLDER}/{name}" for name in sorted(stale - {now.index})])

    def _find_indexes(self) -> set[str]:
        with asking(self._url):
            system, root = file_system(self._url)
            paths = system.find(f"{root}/{INDEX_FOLDER}")
        return {os.path.basename(path) for path in paths if path.endswith(".duckdb")}

    def _put(self, path: Path, name: str) -> None:
        with asking(f"{self._url}/{name}"):
            system, root = file_system(self._url)
            if _FOLDERS & set(_names_of(system)):
                system.makedirs(os.path.dirname(f"{root}/{name}"), exist_ok=True)
            system.put_file(os.fspath(path), f"{root}/{name}")

    def _put_manifest(self) -> None:
        # What another push has added meanwhile stays.
        now = read_manifest(self._url) or Manifest()
        logs = {
            name: log
            for name, log in {**now.logs, **self._added}.items()
            if name not in self.result.deleted
        }
        self._manifest = Manifest(logs=logs, index=self._manifest.index)
        with asking(f"{self._url}/{MANIFEST_NAME}"):
            system, root = file_system(self._url)
            data = msgspec.json.encode(self._manifest, order="sorted")
            system.pipe_file(f"{root}/{MANIFEST_NAME}", data)

    def _confirm(self) -> None:
        """Write the manifest again if another push has replaced it by one without these changes."""
        for _ in range(_TRIES):
            time.sleep(_SETTLE_S)
            now = (read_manifest(self._url) or Manifest()).logs
            has_added = self._added.items() <= now.items()
            if has_added and now.keys().isdisjoint(self.result.deleted):
                return
            self._put_manifest()
        raise CorpusError(
            f"{self._url}/{MANIFEST_NAME}: other pushes keep replacing this list; push again when they are done"
        )

    def _remove(self, names: list[str]) -> None:
        for name in names:
            with asking(f"{self._url}/{name}"):
                system, root = file_system(self._url)
                with contextlib.suppress(FileNotFoundError):
                    system.rm_file(f"{root}/{name}")


def _names_of(system: Any) -> tuple[str, ...]:
    """Return the names of a kind of storage."""
    names = system.protocol
    return (names,) if isinstance(names, str) else tuple(names)


def _describe(path: Path) -> RemoteLog | None:
    """Return what the manifest says of a log, None if the file stands for one.

    Raises:
        LogError: It is no log, or cannot be read.
    """
    with contextlib.closing(FileSource(path)) as source:
        if is_placeholder(source):
            return None
    # The time first: a file that is replaced meanwhile has a later one.
    status = path.stat()
    identity = read_identity(path)
    return RemoteLog(
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        log_id=identity.log,
        seal=identity.seal,
        generation=identity.generation,
    )
