"""What taps report, noted as they report it, and answers from such notes."""

from __future__ import annotations

import base64
import contextlib
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from trajrec.taps import hub, patching
from trajrec.taps.exceptions import is_cancellation, name_of, rebuild_error
from trajrec.wire.exchange import Headers, HttpAnswer, HttpRequest, header


class Miss(BaseException):
    """A request that the notes do not hold."""


class Note:
    """One exchange."""

    def __init__(self, request: HttpRequest, answer: HttpAnswer | None = None) -> None:
        self.request = request
        self.answer = answer
        self.sent_body: bytes | None = None
        self.sent_url: str | None = None
        self.status = 0
        self.headers: Headers = []
        self.chunks: list[bytes] = []
        self.error: BaseException | None = None
        self.n_ends = 0
        self.order: list[str] = []

    def responded(self, status: int, headers: Headers) -> None:
        assert not self.n_ends
        self.order.append("responded")
        self.status = status
        self.headers = headers

    def received(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if not self.n_ends:
            self.chunks.append(data)

    def ended(self, error: BaseException | None) -> None:
        self.order.append("ended")
        if not self.n_ends:
            self.error = error
        self.n_ends += 1

    @property
    def body(self) -> bytes:
        """The body, decoded."""
        whole = b"".join(self.chunks)
        # A body that was left or cut ends before its last byte.
        return zlib.decompressobj(wbits=31).decompress(whole) if self.is_encoded else whole

    @property
    def is_encoded(self) -> bool:
        """Whether the pieces are compressed."""
        return bool(header(self.headers, "content-encoding"))

    def plain(self) -> dict[str, Any]:
        """Return what a log would keep."""
        chunks = [self.body] if self.is_encoded else self.chunks
        dropped = ("content-encoding", "content-length", "transfer-encoding", "set-cookie")
        return {
            "path": urlsplit(self.request.url).path,
            "body": self.request.body.decode(),
            "status": self.status,
            "headers": [pair for pair in self.headers if pair[0] not in dropped],
            "chunks": [base64.b64encode(chunk).decode() for chunk in chunks],
            "error": None if self.error is None else [name_of(self.error), str(self.error)],
        }


@contextlib.contextmanager
def noting(
    edit: Callable[[bytes], bytes] | None = None, move: Callable[[str], str] | None = None
) -> Iterator[list[Note]]:
    """Note all exchanges of a block.

    They send what `edit` makes of their bodies, to what `move` makes of their addresses.
    """
    notes: list[Note] = []

    def begin(request: HttpRequest) -> Note:
        notes.append(Note(request))
        if edit is not None:
            notes[-1].sent_body = edit(request.body)
        if move is not None:
            notes[-1].sent_url = move(request.url)
        return notes[-1]

    with _taps(begin):
        yield notes


@contextlib.contextmanager
def answering(kept: list[dict[str, Any]]) -> Iterator[list[Note]]:
    """Answer all exchanges of a block from notes; a `Miss` is raised for others.

    Raises:
        AssertionError: Some notes were not asked for.
    """
    left = list(kept)
    notes: list[Note] = []

    def begin(request: HttpRequest) -> Note:
        path = urlsplit(request.url).path
        for plain in left:
            if plain["path"] == path and plain["body"] == request.body.decode():
                left.remove(plain)
                notes.append(Note(request, answer_of(plain)))
                return notes[-1]
        raise Miss(path, request.body)

    with _taps(begin):
        yield notes
    assert not left


def answer_of(plain: dict[str, Any]) -> HttpAnswer:
    """Return the answer that a note holds."""
    error = plain["error"] and rebuild_error(*plain["error"])
    return HttpAnswer(
        plain["status"],
        [(name, quick(name, value)) for name, value in plain["headers"]],
        [base64.b64decode(chunk) for chunk in plain["chunks"]],
        error,
        error is not None and is_cancellation(plain["error"][0]),
    )


def quick(name: str, value: str) -> str:
    """Return the value of a header, with short waits."""
    return {"retry-after-ms": "1", "retry-after": "0.001"}.get(name, value)


def save(notes: list[Note], path: Path) -> list[dict[str, Any]]:
    """Write notes to a file, and return them."""
    kept = [note.plain() for note in notes]
    path.write_text(json.dumps(kept))
    return kept


@contextlib.contextmanager
def _taps(begin: Any) -> Iterator[None]:
    """Have the taps report to a function."""
    with mock.patch.object(hub, "begin_exchange", begin):
        patching.install()
        try:
            yield
        finally:
            patching.uninstall()
    assert patching.capture_faults == 0
