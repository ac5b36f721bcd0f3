"""Files and folders that may be trajectories, as the formats look at them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from trajrec.errors import ImportFileError
from trajrec.exchange.account import Account
from trajrec.exchange.env_records import EnvRecordings
from trajrec.exchange.reading import (
    MAX_LINE_BYTES,
    object_lines,
    parse_json,
    read_json,
    sha256_of,
    shown,
)
from trajrec.exchange.records import ImportedEpisode
from trajrec.types import JsonObject, Value

HEAD_BYTES = 1 << 16

MAX_BAD = 5
"""Damaged lines or items before the first whole one, by which the format is told."""

_UNREAD = object()


class Candidate:
    """A file, or a folder that is one trajectory.

    Args:
        path: The file or folder.

    Attributes:
        path: The same.
        name: Its name.
        json_error: Why its JSON could not be read, "" if it could, or was not looked at.
        refusal: Why it is not looked at at all, "" if it may be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self.is_folder = path.is_dir()
        self._document: object = _UNREAD
        self._head: bytes | None = None
        self._long_line: bytes | None = None
        self.json_error = ""
        self.refusal = ""

    @property
    def head(self) -> bytes:
        """The first bytes of a file; b"" for a folder.

        Raises:
            ImportFileError: It cannot be read.
        """
        if self._head is None:
            self._head = b""
            if not self.is_folder:
                try:
                    with self.path.open("rb") as file:
                        self._head = file.read(HEAD_BYTES)
                except OSError as exc:
                    raise ImportFileError(
                        f"cannot be read: {exc.strerror or exc}", path=self.path
                    ) from exc
        return self._head

    @property
    def is_json(self) -> bool:
        """Whether it looks like JSON, or lines of JSON, in UTF-8: other encodings have zeros."""
        head = self.head.lstrip(b"\xef\xbb\xbf \t\r\n")
        return head[:1] in (b"{", b"[") and b"\0" not in head[:8]

    @property
    def document(self) -> Value:
        """The value of a JSON file; None if it is none, or has a value a line."""
        if self._document is _UNREAD:
            self._document = None
            if self.is_json and not self._has_lines:
                try:
                    self._document = read_json(self.path)
                except ImportFileError as exc:
                    self.json_error = exc.what
        return self._document

    @property
    def fields(self) -> JsonObject:
        """The document if it is an object, else {}."""
        document = self.document
        return document if type(document) is dict else {}

    @property
    def first_record(self) -> JsonObject:
        """The document, its first item, or that of the lines of a file; {} if it is no object."""
        records = self.records(1)
        return records[0] if records else {}

    @property
    def _has_lines(self) -> bool:
        """Whether the first line is a whole object, and no other line belongs to it."""
        first, _, rest = self.head.lstrip().partition(b"\n")
        if not rest.strip() and len(self.head) < HEAD_BYTES:
            return False
        if not first.strip().endswith(b"}"):
            return False
        return type(_object_or_none(first, self.path)) is dict

    def _first_line(self) -> bytes:
        if self._long_line is None:
            with self.path.open("rb") as file:
                self._long_line = file.readline(MAX_LINE_BYTES)
        return self._long_line

    def records(self, n: int) -> list[JsonObject]:
        """Return the first objects of a file: its document, or those of its list or its lines.

        A few items or lines before them may be damaged, and of lines the head has the whole.
        """
        if type(self.document) is dict:
            return [self.document]
        if type(self.document) is list:
            return [item for item in self.document[: n + MAX_BAD] if type(item) is dict][:n]
        objects: list[JsonObject] = []
        if not self.is_json or self.document is not None:
            return objects
        n_bad = 0
        lines = self.head.split(b"\n")
        if len(self.head) == HEAD_BYTES:
            # The last line of the head is cut; a first line that is longer is read whole.
            lines = lines[:-1] or [self._first_line()]
        for line in filter(None, map(bytes.strip, lines)):
            if len(objects) == n:
                break
            value = _object_or_none(line, self.path)
            if value is not None:
                objects.append(value)
                continue
            n_bad += 1
            if n_bad > MAX_BAD:
                break
        return objects


def _object_or_none(line: bytes, path: Path) -> JsonObject | None:
    """Return the object of a line, None if it has none."""
    value: Value = None
    with contextlib.suppress(ImportFileError):
        value = parse_json(line.removeprefix(b"\xef\xbb\xbf"), path=path)
    return value if type(value) is dict else None


def records_of(
    candidate: Candidate, account: Account, name: str
) -> Iterator[tuple[str, JsonObject]]:
    """Yield the position and the object of a document, of each item of a list, or of each line.

    An item or a line that is no object is dropped with a reason.

    Args:
        candidate: The file.
        account: Counts what is dropped.
        name: The noun for an item, e.g. "a row".

    Raises:
        ImportFileError: The file cannot be read.
    """
    if type(candidate.document) is dict:
        # The first of lines that may follow, or a document.
        yield "line 1" if candidate.path.suffix == ".jsonl" else "document", candidate.document
        return
    if type(candidate.document) is list:
        for number, item in enumerate(candidate.document):
            if type(item) is dict:
                yield f"item {number}", item
            else:
                account.drop_part(f"item {number}: {name} must be an object, got {shown(item)}")
        return
    for number, record in object_lines(candidate.path, account, name):
        yield f"line {number}", record


class Format(NamedTuple):
    """A format.

    Attributes:
        name: Its name, e.g. "atif".
        title: Its name as people write it.
        matches: Returns whether a candidate is of the format.
        read: Yields the episodes of a candidate, or returns the recordings of an environment, and
            counts its fields.
        files: Returns the files that a candidate consists of.
        is_session: Whether its files are a person's own sessions, which are redacted by default.
    """

    name: str
    title: str
    matches: Callable[[Candidate], bool]
    read: Callable[[Candidate, Account], Iterator[ImportedEpisode] | EnvRecordings]
    files: Callable[[Candidate], list[Path]] = lambda candidate: [candidate.path]
    is_session: bool = False


class SourceFile(NamedTuple):
    """A file of a candidate, as it was imported.

    Attributes:
        name: Its path relative to the candidate, or to the folder of a candidate that is a file.
        size: Its bytes.
        sha256: Their digest.
    """

    name: str
    size: int
    sha256: str


def source_files(candidate: Candidate, files: list[Path]) -> list[SourceFile]:
    """Return the files that a candidate consists of, in order.

    Raises:
        ImportFileError: One cannot be read.
    """
    base = candidate.path if candidate.is_folder else candidate.path.parent
    return [
        SourceFile(path.relative_to(base).as_posix(), *sha256_of(path)) for path in sorted(files)
    ]


def why_not_read(path: Path, root: Path) -> str:
    """Return why a file is not read, "" if it may be: folders of others may hold links and pipes.

    Args:
        path: The file.
        root: The resolved folder that an import searches.
    """
    try:
        if not path.resolve().is_relative_to(root):
            return (
                "is a link that leads outside of the folder, and is not followed: import the file "
                "itself, or a copy of the folder (cp -rL)"
            )
        return "" if path.is_file() else "is no regular file"
    except (OSError, RuntimeError) as exc:
        return f"cannot be read: {exc}"


def digest_of(files: list[SourceFile]) -> str:
    """Return the SHA-256 of a candidate: that of its file, or of the digests of its files."""
    if len(files) == 1:
        return files[0].sha256
    digest = hashlib.sha256()
    for file in files:
        line = f"{file.name}\0{file.sha256}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def has_grown(candidate: Candidate, earlier: list[SourceFile]) -> bool:
    """Return whether the files of a candidate begin with those of an earlier import.

    A session that goes on is such a candidate. A file with other contents is another one.
    """
    base = candidate.path if candidate.is_folder else candidate.path.parent
    for file in earlier:
        path = base / file.name
        try:
            if path.stat().st_size < file.size:
                return False
            if sha256_of(path, file.size)[1] != file.sha256:
                return False
        except (OSError, ImportFileError):
            return False
    return bool(earlier)
