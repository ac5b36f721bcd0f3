"""Opens a corpus in an object storage: makes the mirror that stands for it on this machine.

`trajrec.corpus.push` uploads logs, the index, and a manifest that names them. To open the corpus
takes one request for the manifest, and one for the index if there is another one than last time.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trajrec.errors import CorpusError, TrajrecError
from trajrec.log.folder import INDEX_FOLDER, find_logs, is_inside
from trajrec.log.locks import try_hold
from trajrec.log.remote import (
    MIRROR_NAME,
    PLACEHOLDER,
    Mirror,
    file_system,
    is_placeholder,
    mirrors_folder,
)
from trajrec.log.source import FileSource

MANIFEST_NAME = f"{INDEX_FOLDER}/manifest.json"

_INDEX_NAME = re.compile(r"index-[0-9a-f]{32}\.duckdb")

# A larger object is no log: readers would believe a size that no storage has.
_MAX_SIZE = 1 << 50

# Pause between two tries to lock a mirror: the other process may fetch an index.
_PAUSE_S = 0.05


class RemoteLog(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A log in an object storage.

    Attributes:
        size: Its size in bytes.
        mtime_ns: The time of the last change of its file, ns since 1970 UTC.
        log_id: The log's id as it stands in frames, as hex digits.
        seal: The digest of its contents, as hex digits.
        generation: The number of times that it was rewritten.
    """

    size: int
    mtime_ns: int
    log_id: str
    seal: str
    generation: int


class Manifest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a corpus in an object storage holds.

    Attributes:
        logs: Its logs, by relative path.
        index: The name of its index in the folder `.trajrec`; None before one was uploaded.
        version: The version of this file.
    """

    logs: dict[str, RemoteLog] = {}
    index: str | None = None
    version: int = 1


def read_manifest(url: str) -> Manifest | None:
    """Return the manifest of a corpus in an object storage, None if there is none.

    Raises:
        CorpusError: It cannot be read.
        MissingPackageError: A package for such addresses is not installed.
    """
    data = _manifest_bytes(url)
    return None if isinstance(data, FileNotFoundError) else _manifest_of(url, data)


def _manifest_bytes(url: str) -> bytes | FileNotFoundError:
    """Return the manifest as it is stored, or what the storage says is missing."""
    with asking(url):
        system, root = file_system(url)
        try:
            data: bytes = system.cat_file(f"{root}/{MANIFEST_NAME}")
        except FileNotFoundError as exc:
            return exc
    return data


def _manifest_of(url: str, data: bytes) -> Manifest:
    try:
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise CorpusError(
            f"{url}/{MANIFEST_NAME}: no manifest of this version of trajrec ({exc}); "
            "a newer one may have written it"
        ) from exc
    _check(url, manifest)
    return manifest


@contextlib.contextmanager
def asking(url: str) -> Iterator[None]:
    """Tell of any error of an object storage with its address."""
    try:
        yield
    except TrajrecError:
        raise
    # Each kind of storage has errors of its own.
    except Exception as exc:
        raise CorpusError(
            f"{url}: {type(exc).__name__}: {exc}; check the address, the credentials and the network"
        ) from exc


def open_mirror(url: str) -> Path:
    """Return the folder that stands for a corpus in an object storage, brought up to date.

    Logs that are recorded beside its placeholders, such as forks, are only on this machine.

    Raises:
        CorpusError: There is no corpus at the address, or it cannot be read.
        MissingPackageError: A package for such addresses is not installed.
    """
    url = url.rstrip("/")
    manifest = _require_manifest(url)
    digest = hashlib.blake2b(url.encode(), digest_size=16).hexdigest()
    folder = mirrors_folder() / digest
    (folder / INDEX_FOLDER).mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        # A push may have replaced the index since the manifest was read. If the index is missing
        # all the same, its rows are read from the logs.
        if not _bring_up_to_date(folder, url, manifest):
            _bring_up_to_date(folder, url, _require_manifest(url))
    return folder


def _require_manifest(url: str) -> Manifest:
    data = _manifest_bytes(url)
    if isinstance(data, FileNotFoundError):
        raise CorpusError(
            f"{url}: no corpus, since there is no {MANIFEST_NAME} ({data}); "
            f"upload one with `trajrec push FOLDER {url}`"
        )
    return _manifest_of(url, data)


def index_name(file: io.BufferedReader) -> str:
    """Return the name of an index in a storage, which follows from its contents."""
    digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    return f"index-{digest}.duckdb"


def _check(url: str, manifest: Manifest) -> None:
    """Refuse a manifest of a later version, or one that has files written out of its mirror."""
    if manifest.version != 1:
        raise CorpusError(
            f"{url}/{MANIFEST_NAME}: version {manifest.version}, and this trajrec reads version 1; "
            "upgrade trajrec"
        )
    for name, log in manifest.logs.items():
        parts = name.split("/")
        is_plain = is_inside(name) and "\\" not in name and "\0" not in name
        if not is_plain or INDEX_FOLDER in parts or "" in parts or not 0 <= log.size <= _MAX_SIZE:
            raise CorpusError(f"{url}/{MANIFEST_NAME}: names {name!r}, which can be no log")
    if manifest.index is not None and not _INDEX_NAME.fullmatch(manifest.index):
        raise CorpusError(f"{url}/{MANIFEST_NAME}: names {manifest.index!r}, which can be no index")


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time change a mirror."""
    descriptor = os.open(folder / INDEX_FOLDER / "mirror.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # None: a file system without locks.
        while try_hold(descriptor) is False:
            time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(descriptor)


def _bring_up_to_date(folder: Path, url: str, manifest: Manifest) -> bool:
    """Make a mirror what a manifest says, and return whether the storage has its index."""
    state = _read_state(folder, url)
    digest = hashlib.blake2b(msgspec.json.encode(manifest, order="sorted")).hexdigest()
    if state.manifest == digest:
        return True
    # Before any placeholder: it would stand for nothing.
    _write(folder / MIRROR_NAME, msgspec.json.encode(Mirror(url=url, index=state.index)))
    for name, file in find_logs(folder).items():
        if name not in manifest.logs and not file.problem and _is_placeholder(folder / name):
            (folder / name).unlink()
    for name, log in manifest.logs.items():
        _place(folder / name, log)
    if manifest.index is not None and manifest.index != state.index:
        if not _fetch_index(folder, url, manifest.index):
            return False
        state.index = manifest.index
    # Last: if this is broken off, it is done again.
    state.manifest = digest
    _write(folder / MIRROR_NAME, msgspec.json.encode(state))
    return True


def _read_state(folder: Path, url: str) -> Mirror:
    try:
        state = msgspec.json.decode((folder / MIRROR_NAME).read_bytes(), type=Mirror)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return Mirror(url=url)
    return state if state.url == url else Mirror(url=url)


def _is_placeholder(path: Path) -> bool:
    with contextlib.closing(FileSource(path)) as source:
        return is_placeholder(source)


def _place(path: Path, log: RemoteLog) -> None:
    """Put a placeholder in the place of a log, unless this machine has a log there."""
    if path.exists():
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (log.size, log.mtime_ns):
            return
        if not _is_placeholder(path):
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(PLACEHOLDER)
    # A hole takes no room on the disk.
    os.truncate(temporary, log.size)
    os.utime(temporary, ns=(log.mtime_ns, log.mtime_ns))
    os.replace(temporary, path)


def _fetch_index(folder: Path, url: str, name: str) -> bool:
    """Put an index of the storage into a mirror, and return whether the storage has it."""
    temporary = folder / INDEX_FOLDER / f"{name}.tmp"
    try:
        with asking(url):
            system, root = file_system(url)
            try:
                system.get_file(f"{root}/{INDEX_FOLDER}/{name}", os.fspath(temporary))
            except FileNotFoundError:
                return False
        with temporary.open("rb") as file:
            fetched = index_name(file)
        if fetched != name:
            raise CorpusError(
                f"{url}/{INDEX_FOLDER}/{name}: is not the index that its name says, since its "
                f"contents are those of {fetched}; try again, and if it stays so, delete "
                f"{url}/{INDEX_FOLDER} and push the corpus again"
            )
        for old in ("index.duckdb.wal", "ids.bin"):
            (folder / INDEX_FOLDER / old).unlink(missing_ok=True)
        os.replace(temporary, folder / INDEX_FOLDER / "index.duckdb")
        return True
    finally:
        # A later index has another name, and would leave the part of this one for ever.
        temporary.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
